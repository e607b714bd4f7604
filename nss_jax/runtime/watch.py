"""All that shows how a loop gets on: lines or a bar, TensorBoard, a trace."""

import contextlib
import pathlib
from collections.abc import Collection, Hashable
from typing import Any, NamedTuple

import numpy as np
import rich.console

from nss_jax.runtime import processes
from nss_jax.runtime.log import Progress
from nss_jax.runtime.profile import Profile
from nss_jax.runtime.tensorboard import Scalars


class Viewing(NamedTuple):
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


DEFAULT_VIEWING = Viewing()


class Watch(contextlib.ExitStack):
  """Watches one loop, from a context manager around it.

  Args:
    viewing: what is wanted.
    console: for lines and the bar.
    folder: of the loop's files.
    work: of every step, see `Progress`.
    step: where the loop begins.
    kinds: of the calls from there on.
  """

  def __init__(
    self,
    viewing: Viewing,
    console: rich.console.Console,
    folder: pathlib.Path,
    work: np.ndarray,
    step: int,
    kinds: Collection[Hashable],
  ):
    super().__init__()
    shown = processes.is_first()
    self._progress = Progress(console, work, step, log_every=viewing.log_every)
    self._profile = Profile(folder if viewing.profile and shown else None)
    self._scalars = Scalars(
      folder if viewing.tensorboard and shown else None, step
    )
    self._to_compile = set(kinds)
    self._compiles = False

  def __enter__(self) -> "Watch":
    super().__enter__()
    self.enter_context(self._progress)
    self.callback(self._scalars.close)
    self.callback(self._profile.stop)
    return self

  def before_call(self, kind: Hashable) -> None:
    """Right before a call of the device; the first of a kind compiles."""
    self._compiles = kind in self._to_compile
    self._to_compile.discard(kind)
    if not self._compiles:
      self._profile.before_call()

  def after_call(self, step: int, text: str) -> None:
    """When a call has ended, with where the loop is now."""
    self._profile.after_call()
    self._progress.update(
      step,
      text,
      compiled=self._compiles,
      compilations=len(self._to_compile),
    )

  def epoch(self, line: dict[str, Any], text: str) -> None:
    """At the end of an epoch, with its line of `metrics.jsonl`."""
    self._scalars.write(line)
    self._progress.line(text)
