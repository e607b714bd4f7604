"""What a person sees while a phase runs."""

import collections
import time
from collections.abc import Callable

import numpy as np
import rich.console
import rich.progress
import rich.text

from nss_jax.runtime import processes
from nss_jax.runtime.time_left import TimeLeft, format_seconds

# Those that a quiet process did not show too, for when it dies.
_LAST_LINES: collections.deque[str] = collections.deque(maxlen=8)


class Progress:
  """A bar on a terminal; lines elsewhere (files, CI, schedulers).

  A context manager. Both say the time left.

  Args:
    console: to be written to.
    work: of every step, `[N]`, in any unit; see `TimeLeft`.
    done: steps that an earlier process has taken.
    log_every: seconds after which there is a line at the next step, where there
      is no bar; 0: only those that are asked for.
    clock: seconds, from any start.
  """

  def __init__(
    self,
    console: rich.console.Console,
    work: np.ndarray,
    done: int = 0,
    *,
    log_every: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._console, self._clock, self._log_every = console, clock, log_every
    self._left = TimeLeft(work)
    self._step, self._at = done, clock()
    self._compilations = 0
    self._line_at = self._at
    self._description = ""
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(bar_width=20),
      rich.progress.TaskProgressColumn(),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(
      "compiling", total=len(work), completed=done
    )

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, kind: object = None, *_: object) -> None:
    self._bar.stop()
    if kind is not None and self._description:
      _LAST_LINES.append(f"step {self._step}: {self._description}")

  def update(
    self,
    step: int,
    description: str,
    *,
    compiled: bool = False,
    compilations: int = 0,
  ) -> None:
    """Moves on to a step.

    Args:
      step: that is done.
      description: of where the loop is.
      compiled: whether something was compiled since the step before, so that
        the time is not that of steps alone.
      compilations: still to come.
    """
    now = self._clock()
    if step > self._step:
      add = self._left.add_compiled if compiled else self._left.add
      add(self._step, step, now - self._at)
    self._compilations = compilations
    self._description = description
    self._step, self._at = step, now
    self._bar.update(
      self._task, completed=step, description=self._with_left(description)
    )
    if self._log_every and now - self._line_at >= self._log_every:
      self.line(description)

  def line(self, text: str) -> None:
    """A line that stays, where there is no bar."""
    self._line_at = self._clock()
    if not self._console.is_terminal:
      say(self._console, self._with_left(text))

  def _with_left(self, text: str) -> str:
    seconds = self._left.seconds(self._step, self._compilations)
    if not seconds:  # nothing is known, or nothing is left
      return text
    return f"{text}  left {format_seconds(seconds)}"


class _Console(rich.console.Console):
  """rich's own ends the process with the code of a divergence."""

  def on_broken_pipe(self) -> None:
    raise BrokenPipeError("standard output")


def make_console() -> rich.console.Console:
  """A console on standard output; never wraps what a file receives.

  Of many processes of a run only the first speaks. When nobody reads what it
  says (`| head -1`), it raises BrokenPipeError.
  """
  quiet = not processes.is_first()
  return _Console(highlight=False, soft_wrap=True, quiet=quiet)


def say(console: rich.console.Console, text: str) -> None:
  """Prints a line as it is: no markup and no commands are read from it."""
  text = "".join(c if c.isprintable() else " " for c in text)
  if text:
    _LAST_LINES.append(text)
  try:
    console.print(rich.text.Text(text))
  except OSError as error:
    error.filename = "standard output"  # whose disk may be another
    raise


def last_lines() -> list[str]:
  """What `say` was last given, by a process that may not be the one to speak.

  After a loop that an exception has ended, the last is where it was.
  """
  return list(_LAST_LINES)
