"""Standard streams and warnings, as the command needs them everywhere."""

import io
import os
import sys
import warnings

# Of which Python says nothing, unless it is asked to.
_SILENT = (
  DeprecationWarning,
  PendingDeprecationWarning,
  ImportWarning,
  ResourceWarning,
)


def prepare() -> None:
  """Makes streams that take any text, and warnings that end nothing.

  A stream that is closed (`>&-`) is one of the null device: or its number would
  be that of the next file, and what libraries print would go there. What a
  locale cannot write is written as `\\xf6`. Filters that make errors of
  warnings, such as PYTHONWARNINGS=error, are meant for the program that is
  under test, and here would end every run at what some library deprecates; with
  one of them all are as Python has them.
  """
  sys.unraisablehook = _print_unraisable
  for name in ("stdout", "stderr"):
    stream = getattr(sys, name)
    if stream is None:
      setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    elif isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="backslashreplace")
  if any(action == "error" for action, *_ in warnings.filters):
    warnings.resetwarnings()
    for category in _SILENT:
      warnings.simplefilter("ignore", category)


def _print_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
  # What tensorstore's threads tell of each array of a save that has failed.
  if str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)
