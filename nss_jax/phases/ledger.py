"""Scores of archs that are remembered in `scores.csv`, for runs that resume."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np

from nss_jax.errors import Interrupted, UserError
from nss_jax.phases import scoring, supernet
from nss_jax.phases.job import Job
from nss_jax.results import scores
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.progress import Progress
from nss_jax.spaces.sampling import take
from nss_jax.spaces.search_space import Arch, SearchSpace

# `(archs [n, S], by) -> (error [n], loss [n])`; see `scoring.Split`.
ScoreFn = Callable[..., tuple[np.ndarray, np.ndarray]]


class Ledger:
  """Scores archs in an order that a resumed run repeats; never one twice.

  Rows of `scores.csv` are served first, to who asks for the same archs in the
  same order; what is missing is computed, by `score_fn` in the calls that
  `choose_fn` cuts as many archs into, and appended. `on_progress` hears how
  many rows there are, and whether the last of them were computed by a program
  that was compiled already.
  """

  def __init__(
    self,
    path: pathlib.Path,
    search_space: SearchSpace,
    score_fn: ScoreFn,
    *,
    choose_fn: Callable[[int], scoring.Split],
    preemption: Preemption,
    on_progress: Callable[[int, bool], None] = lambda done, timed: None,
  ):
    self._path = path
    self._search_space = search_space
    self._score_fn = score_fn
    self._choose_fn = choose_fn
    self._preemption = preemption
    self._on_progress = on_progress
    self._known = scores.resume_scores(path, search_space)
    self._served: dict[str, int] = {}
    self._done = 0
    self._compiled: set[scoring.Split] = set()

  def score(
    self, source: str, archs: Arch, space: np.ndarray | int = scores.NO_SPACE
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns error and loss `[N]` of archs `[N, S]`, asked for a source.

    Raises UserError if the file has other archs in their place, and Interrupted
    after SIGTERM, when all that was scored is on disk.
    """
    self._preemption.tell(lambda: f"{self._done} archs are scored")
    count = len(archs.depth)
    space = np.broadcast_to(space, count)
    start = self._served.get(source, 0)
    known = self._known.group(source)
    known = known.select(np.arange(len(known))[start : start + count])
    self._check(source, known, archs)
    parts = [(known.error, known.loss)]
    self._advance(source, len(known), timed=False)
    # Not from how many are missing: a resumed run does as the first.
    split = self._choose_fn(count)
    archs = jax.tree.map(np.asarray, archs)
    for rows, error, loss in scoring.score_calls(
      self._score_fn, archs, split, len(known)
    ):
      scored = scores.make_scores(
        *(self._search_space, source, take(archs, rows)),
        error=error,
        loss=loss,
        space=space[rows],
      )
      scores.append_scores(self._path, self._search_space, scored)
      parts.append((scored.error, scored.loss))
      self._advance(source, len(rows), timed=split in self._compiled)
      self._compiled.add(split)
      if self._preemption.requested():
        raise Interrupted(f"{self._done} archs are scored")
    error, loss = (np.concatenate(part) for part in zip(*parts, strict=True))
    return error, loss

  def _advance(self, source: str, count: int, *, timed: bool) -> None:
    self._served[source] = self._served.get(source, 0) + count
    self._done += count
    self._on_progress(self._done, timed)

  def _check(self, source: str, known: scores.Scores, archs: Arch) -> None:
    count = len(known)
    for field in ("depth", "width"):
      wanted = np.asarray(getattr(archs, field))[:count]
      if not np.array_equal(getattr(known, field), wanted):
        raise UserError(
          f"{self._path}: the archs of {source!r} are not those of this run; "
          "move the file away to score anew"
        )


@contextlib.contextmanager
def open_ledger(
  job: Job,
  params: Any,
  path: pathlib.Path,
  total: int,
  num_images: int | None = None,
) -> Generator[Ledger]:
  """Opens a ledger of scores by the weights of a supernet, with its progress.

  In all `total` archs will be asked for. They are scored on `num_images` of
  those that are held out, or on all of them.
  """
  images = scoring.held_out_images(job, num_images)
  score_fn = scoring.make_score_fn(job, images)
  job.say(f"scoring {total} archs")
  with Progress(job.console, np.ones(total), options=job.progress) as progress:
    yield Ledger(
      path,
      job.search_space,
      functools.partial(score_fn, params),
      choose_fn=scoring.splitter(job, num_images),
      preemption=job.preemption,
      on_progress=lambda done, timed: progress.move_to(
        done, "scoring archs", compiled=not timed
      ),
    )


def score_groups(
  job: Job, path: pathlib.Path, groups: dict[str, Arch]
) -> scores.Scores:
  """Scores archs `[N, S]` of each group by the stand-alone supernet, and
  returns the table of them all."""
  params = supernet.train_supernet(job)
  total = sum(len(archs.depth) for archs in groups.values())
  with open_ledger(job, params, path, total) as ledger:
    for name, archs in groups.items():
      ledger.score(name, archs)
  return scores.read_scores(path, job.search_space)
