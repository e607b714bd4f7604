"""How long a loop still takes."""

import numpy as np
import scipy.optimize

# How little is enough to say that a step costs nothing beside its multiply-adds
# where what was seen cannot tell.
_DOUBT = 1e-3


class TimeLeft:
  """Seconds that a loop still takes, from those it has taken so far.

  A call of the device is taken to last `a * steps + b * work`, with a and b not
  negative and fitted by least squares. So steps to come may cost more or less
  than those so far, as they do where a warmup ends.

  Args:
    work: of every step of the loop, `[N]`, in any unit.
  """

  def __init__(self, work: np.ndarray):
    work = np.asarray(work, np.float64)
    # Both columns of the fit are of the same size.
    self._until = np.concatenate([[0.0], np.cumsum(work / work.mean())])
    self._rows: list[tuple[float, float]] = []
    self._seconds: list[float] = []
    self._compiled: list[tuple[float, float, float]] = []

  def add(self, first: int, end: int, seconds: float) -> None:
    """Steps `first` to `end` have taken so long, compilation aside."""
    self._rows.append(self._columns(first, end))
    self._seconds.append(seconds)

  def add_compiled(self, first: int, end: int, seconds: float) -> None:
    """As `add`, with what was compiled for these steps."""
    self._compiled.append((*self._columns(first, end), seconds))

  def seconds(self, step: int, compilations: int = 0) -> float | None:
    """From a step to the end; None before anything is known.

    Args:
      step: that is done.
      compilations: still to come, each taken to be as long as those seen.
    """
    if not self._rows:
      return None
    rates = self._rates()
    left = float(rates @ self._columns(step, len(self._until) - 1))
    if compilations and self._compiled:
      *columns, seconds = np.asarray(self._compiled).T
      compiled = np.maximum(seconds - rates @ columns, 0.0)
      left += compilations * float(compiled.mean())
    return left

  def _rates(self) -> np.ndarray:
    """Seconds of a step, and of a unit of work, `[2]`."""
    rows = np.asarray(self._rows)
    doubt = _DOUBT * np.abs(rows).max()
    rates, _ = scipy.optimize.nnls(
      np.vstack([rows, [doubt, 0.0]]), np.asarray([*self._seconds, 0.0])
    )
    return rates

  def _columns(self, first: int, end: int) -> tuple[float, float]:
    return float(end - first), float(self._until[end] - self._until[first])


# A unit and what it is rounded to: a tenth of it, about.
_UNITS = (
  ("d", 86400, "h", 3600, 3600),
  ("h", 3600, "min", 60, 600),
  ("min", 60, "s", 1, 10),
)


def format_seconds(seconds: float) -> str:
  """In words, about: `40 s`, `2 min 30 s`, `12 min`, `3 h 20 min`."""
  for name, size, smaller, smaller_size, step in _UNITS:
    if seconds < size:
      continue
    if seconds >= 10 * size:
      return f"{round(seconds / size)} {name}"
    whole, rest = divmod(step * round(seconds / step), size)
    return f"{whole} {name}" + (
      f" {rest // smaller_size} {smaller}" if rest else ""
    )
  return f"{round(seconds)} s"
