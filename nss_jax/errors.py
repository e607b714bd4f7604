"""What the command answers in one line instead of a traceback."""

from collections.abc import Sequence


class UserError(ValueError):
  """What was given cannot be used: one line, and exit code 2.

  The line is safe to print, whatever a file put into it.

  Attributes:
    details: further lines, such as one for each bad image, to be shown before.
  """

  def __init__(self, message: str, details: Sequence[str] = ()):
    super().__init__(one_line(message))
    self.details = tuple(details)


class NotWritten(Exception):
  """A file cannot be written; there may be space next time. Exit code 74."""


class Interrupted(Exception):
  """SIGTERM came and the state is saved; run again to go on. Exit code 75."""


class Diverged(RuntimeError):
  """A loss is not finite; names the step and the checkpoint. Exit code 1."""


def one_line(text: str, limit: int = 1000) -> str:
  """Returns text that is safe to print on one line."""
  text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  return text if len(text) <= limit else f"{text[: limit - 3]}..."
