"""A trace of a few calls of the device, for a profiler."""

import pathlib

import jax

FOLDER = "profile"
# Those of the loop that are traced: after compilation, few enough to be read.
_FIRST, _LAST = 2, 4


class Profile:
  """Traces the calls 2 to 4 of a loop that compile nothing.

  Args:
    folder: of the phase; None traces nothing.
  """

  def __init__(self, folder: pathlib.Path | None):
    self._folder = folder
    self._calls = 0
    self._is_on = False

  def before_call(self) -> None:
    """Starts before the first call that is traced."""
    self._calls += 1
    if self._folder is not None and self._calls == _FIRST:
      jax.profiler.start_trace(str(self._folder / FOLDER))
      self._is_on = True

  def after_call(self) -> None:
    """Stops after the last one."""
    if self._calls == _LAST:
      self.stop()

  def stop(self) -> None:
    """Writes what was traced, if there were too few calls."""
    if self._is_on:
      jax.profiler.stop_trace()
      self._is_on = False
