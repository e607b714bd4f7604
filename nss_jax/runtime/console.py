"""What the command says, line by line, and remembers for when it dies."""

import collections

import rich.console
import rich.text

from nss_jax.runtime import processes

# What was said last, also by a quiet process, which has not shown it. After a
# loop that an exception has ended, the last line says where it was.
LAST_LINES: collections.deque[str] = collections.deque(maxlen=8)


class _Console(rich.console.Console):
  """Leaves it to `main` what happens when nobody reads the output."""

  def on_broken_pipe(self) -> None:
    # rich would exit with 1, which is the code of a divergence.
    raise BrokenPipeError("standard output")


def make_console() -> rich.console.Console:
  """Returns a console on standard output; it never wraps what a file receives.

  Of the processes of a run only the first speaks. When nobody reads what it
  says (`| head -1`), it raises BrokenPipeError.
  """
  quiet = not processes.is_first()
  return _Console(highlight=False, soft_wrap=True, quiet=quiet)


def say(console: rich.console.Console, text: str) -> None:
  """Prints a line as it is: it is not searched for markup or commands."""
  text = "".join(c if c.isprintable() else " " for c in text)
  if text:
    LAST_LINES.append(text)
  try:
    console.print(rich.text.Text(text))
  except OSError as error:
    error.filename = "standard output"  # whose disk may be another
    raise
