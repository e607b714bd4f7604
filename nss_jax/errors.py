"""What the command answers in one line instead of a traceback."""

from collections.abc import Sequence


class UserError(ValueError):
  """Says in one line why what was given cannot be used. Exit code 2.

  The line is safe to print, whatever a file put into it.

  Attributes:
    details: more lines to show before it, such as one for each bad image.
  """

  def __init__(self, message: str, details: Sequence[str] = ()):
    super().__init__(one_line(message))
    self.details = tuple(details)


class NotWritten(Exception):
  """Says that a file cannot be written now; space may come. Exit code 74."""


class Interrupted(Exception):
  """Says that SIGTERM came and the state was saved. Exit code 75."""


class Diverged(RuntimeError):
  """Says which loss is not finite, at which step. Exit code 1."""


def one_line(text: str, limit: int = 1000) -> str:
  """Returns text that is safe to print on one line."""
  text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  return text if len(text) <= limit else f"{text[: limit - 3]}..."
