"""Standard streams and warnings, as the command needs them everywhere."""

import io
import os
import sys
import warnings

# Those of which Python says nothing, unless it is asked to.
_SILENT = (
  DeprecationWarning,
  PendingDeprecationWarning,
  ImportWarning,
  ResourceWarning,
)


def prepare() -> None:
  """Makes streams that take any text, and warnings that end nothing.

  A stream that was closed (`>&-`) becomes one of the null device: its number
  would else be that of the next file, where all that libraries print would go.
  What a locale cannot write is written as `\\xf6`. Filters that make errors of
  warnings, such as PYTHONWARNINGS=error, are meant for a program under test.
  Here they would end every run at what some library deprecates, so if there is
  one, all filters become those that Python begins with.
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
  # tensorstore's threads say this for each array of a save that has failed.
  if str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)
