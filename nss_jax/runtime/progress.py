"""How a loop gets on: a bar or lines, the time left, TensorBoard, a trace."""

import importlib.util
import pathlib
import time
from collections.abc import Callable, Collection, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import rich.console
import rich.progress
import scipy.optimize

from nss_jax.errors import UserError
from nss_jax.runtime import processes
from nss_jax.runtime.console import LAST_LINES, say

if TYPE_CHECKING:
  import tensorboardX

# Below the folder of a phase.
TENSORBOARD, PROFILE = "tensorboard", "profile"
# The calls that are traced, of those that compile nothing: few, to be read.
_FIRST_TRACED, _LAST_TRACED = 2, 4
# How little is enough to say that a step costs nothing beside its multiply-adds
# where what was seen cannot tell.
_DOUBT = 1e-3


class ProgressOptions(NamedTuple):
  """What is shown of a run while it runs; no result depends on it.

  Attributes:
    log_every: seconds between lines where there is no terminal; 0: a line at
      the end of each epoch only.
    tensorboard: whether to write for TensorBoard.
    profile: whether to trace a few calls of each loop.
  """

  log_every: float = 60.0
  tensorboard: bool = False
  profile: bool = False


DEFAULT_OPTIONS = ProgressOptions()


class Progress:
  """Shows one loop, from a context manager around it.

  On a terminal it is a bar; elsewhere (files, CI, schedulers) there are lines.
  Both say the time left, by the work of every step; see `TimeLeft`. The loop
  begins at `step`. `kinds` are those of the calls to come: the first of each
  compiles. Without a folder there is no TensorBoard and no trace.
  """

  def __init__(
    self,
    console: rich.console.Console,
    work: np.ndarray,
    step: int = 0,
    *,
    options: ProgressOptions = DEFAULT_OPTIONS,
    folder: pathlib.Path | None = None,
    kinds: Collection[Hashable] = (),
    clock: Callable[[], float] = time.monotonic,
  ):
    self._console, self._clock, self._options = console, clock, options
    self._left = TimeLeft(work)
    self._step, self._text = step, ""
    self._at = self._line_at = clock()
    self._to_compile, self._compiles = set(kinds), False
    self._folder = folder if processes.is_first() else None
    self._calls, self._is_tracing = 0, False
    self._scalars: tensorboardX.SummaryWriter | None = None
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(bar_width=20),
      rich.progress.TaskProgressColumn(),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(
      "compiling", total=len(work), completed=step
    )

  def __enter__(self) -> "Progress":
    if self._folder is not None and self._options.tensorboard:
      # What an earlier process has written beyond the step is hidden.
      self._scalars = _open_tensorboard(self._folder, self._step + 1)
    self._bar.start()
    return self

  def __exit__(self, kind: object = None, *_: object) -> None:
    self._bar.stop()
    self._stop_trace()
    if self._scalars is not None:
      self._scalars.close()
    if kind is not None and self._text:
      LAST_LINES.append(f"step {self._step}: {self._text}")

  def before_call(self, kind: Hashable) -> bool:
    """Prepares for a call of the device; returns whether it compiles."""
    self._compiles = kind in self._to_compile
    self._to_compile.discard(kind)
    if not self._compiles:
      self._calls += 1
      wanted = self._options.profile and self._calls == _FIRST_TRACED
      if wanted and self._folder is not None:
        jax.profiler.start_trace(str(self._folder / PROFILE))
        self._is_tracing = True
    return self._compiles

  def after_call(self, step: int, text: str) -> None:
    """Moves on to the step where a call has ended, with words for it."""
    if self._calls == _LAST_TRACED:
      self._stop_trace()
    self.move_to(step, text, compiled=self._compiles)

  def end_epoch(self, line: dict[str, Any], text: str) -> None:
    """Shows the end of an epoch, with its line of `metrics.jsonl`."""
    if self._scalars is not None:
      for name, value in line.items():
        if isinstance(value, (int, float)) and name != "step":
          self._scalars.add_scalar(name, value, line["step"])
      self._scalars.flush()
    self._write_line(text)

  def move_to(self, step: int, text: str, *, compiled: bool = False) -> None:
    """Moves on to where so many steps are done, with words for it.

    `compiled` says that something was compiled since the move before, so that
    the time is not that of steps alone.
    """
    now = self._clock()
    if step > self._step:
      self._left.add(self._step, step, now - self._at, compiled=compiled)
    self._step, self._text, self._at = step, text, now
    self._bar.update(
      self._task, completed=step, description=self._with_time_left(text)
    )
    every = self._options.log_every
    if every and now - self._line_at >= every:
      self._write_line(text)

  def _write_line(self, text: str) -> None:
    """Writes a line that stays, where there is no bar."""
    self._line_at = self._clock()
    if not self._console.is_terminal:
      say(self._console, self._with_time_left(text))

  def _with_time_left(self, text: str) -> str:
    seconds = self._left.seconds(self._step, len(self._to_compile))
    if not seconds:  # nothing is known, or nothing is left
      return text
    return f"{text}  left {format_seconds(seconds)}"

  def _stop_trace(self) -> None:
    if self._is_tracing:
      jax.profiler.stop_trace()
      self._is_tracing = False


class TimeLeft:
  """Estimates the seconds that a loop still takes from those it has taken.

  A call of the device is taken to last `a * steps + b * work`, with a and b not
  negative and fitted by least squares. So steps to come may cost more or less
  than those so far, as they do where a warmup ends. `work` is that of every
  step of the loop, `[N]`, in any unit.
  """

  def __init__(self, work: np.ndarray):
    work = np.asarray(work, np.float64)
    # Both columns of the fit are of the same size.
    self._until = np.concatenate([[0.0], np.cumsum(work / work.mean())])
    self._timed: list[tuple[float, float, float]] = []
    self._compiled: list[tuple[float, float, float]] = []

  def add(
    self, first: int, end: int, seconds: float, *, compiled: bool = False
  ) -> None:
    """Learns what steps `first` to `end` took, and whether with compilation."""
    rows = self._compiled if compiled else self._timed
    rows.append((*self._columns(first, end), seconds))

  def seconds(self, step: int, compilations: int = 0) -> float | None:
    """Returns the seconds that remain after a step; None if nothing is known.

    Compilations still to come are taken to be as long as those seen.
    """
    if not self._timed:
      return None
    *columns, seconds = np.asarray(self._timed).T
    rows = np.stack(columns, -1)
    doubt = [_DOUBT * np.abs(rows).max(), 0.0]
    rates, _ = scipy.optimize.nnls(
      np.vstack([rows, doubt]), np.append(seconds, 0.0)
    )
    left = float(rates @ self._columns(step, len(self._until) - 1))
    if compilations and self._compiled:
      *columns, seconds = np.asarray(self._compiled).T
      compiled = np.maximum(seconds - rates @ columns, 0.0)
      left += compilations * float(compiled.mean())
    return left

  def _columns(self, first: int, end: int) -> tuple[float, float]:
    return float(end - first), float(self._until[end] - self._until[first])


# A unit and what it is rounded to: a tenth of it, about.
_UNITS = (
  ("d", 86400, "h", 3600, 3600),
  ("h", 3600, "min", 60, 600),
  ("min", 60, "s", 1, 10),
)


def format_seconds(seconds: float) -> str:
  """Returns about how long in words: `40 s`, `2 min 30 s`, `3 h 20 min`."""
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


def check_tensorboard() -> None:
  """Raises UserError if the package that writes for TensorBoard is missing."""
  if importlib.util.find_spec("tensorboardX") is None:
    raise UserError(
      "--tensorboard: needs tensorboardX, which is not installed; try pip "
      "install 'nss_jax[tensorboard]'"
    )


def write_pictures(folder: pathlib.Path) -> None:
  """Shows the pictures of a phase that has ended in TensorBoard."""
  from PIL import Image

  paths = sorted(folder.glob("*.png"))
  if not paths:
    return
  writer = _open_tensorboard(folder)
  for path in paths:
    with Image.open(path) as picture:
      pixels = np.asarray(picture.convert("RGB"))
    writer.add_image(path.stem, pixels, dataformats="HWC")
  writer.close()


def _open_tensorboard(
  folder: pathlib.Path, purge_step: int | None = None
) -> "tensorboardX.SummaryWriter":
  import tensorboardX

  return tensorboardX.SummaryWriter(
    str(folder / TENSORBOARD), purge_step=purge_step, write_to_disk=True
  )
