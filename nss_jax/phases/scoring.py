"""Scores of archs from a trained supernet, remembered in `scores.csv`."""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nss_jax.phases import loop
from nss_jax.phases.job import Job
from nss_jax.phases.supernet_program import split
from nss_jax.runtime import augment, data, scores, sharding
from nss_jax.runtime.log import Progress, say
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.steps.evaluate import evaluate_archs
from nss_jax.supernet import engine, sliced

# Archs of one call on each device: enough that a call costs nothing beside
# them, few enough that SIGTERM is heard and little is lost.
_ARCHS_PER_CALL = 16


def make_score_fn(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Callable:
  """`(params, archs [n, S]) -> Counts` on the held-out training images.

  Compiled once: n is fixed, a multiple of the devices, and each takes its share
  of the archs.
  """
  settings = config.evaluate
  train, held_out = split(config, dataset.train_labels)
  shape = (-1, min(settings.score_batch_size, len(held_out)))
  prepare = functools.partial(
    augment.normalize, mean=dataset.mean, std=dataset.std
  )
  dtype = jnp.dtype(config.supernet.activations)
  images = prepare(dataset.train_images[held_out]).astype(dtype)
  labels = jnp.asarray(dataset.train_labels[held_out]).reshape(shape)
  images = images.reshape(*labels.shape, *images.shape[1:])
  calibration = settings.calibration_images
  if settings.batch_stats == "batch":
    calibration = 0
  shares = settings.score_bucket_shares
  apply = engine.make_apply(
    search_space,
    config.supernet.engine,
    buckets=sliced.default_buckets(search_space, shares),
    num_calibration=calibration or None,
  )
  chosen = np.random.default_rng(settings.seed).choice(
    train, calibration, replace=False
  )
  seen = prepare(dataset.train_images[chosen]).astype(dtype)

  def on_device(params, archs, seen, images, labels):
    def apply_fn(params, x, arch):
      # Whose statistics these are, come first.
      return apply(params, jnp.concatenate([seen, x]), arch)[calibration:]

    counts = evaluate_archs(params, archs, (images, labels), apply_fn=apply_fn)
    return counts.error, counts.mean_loss

  run = jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(P(), P(sharding.AXIS), P(), P(), P()),
      out_specs=P(sharding.AXIS),
      check_vma=False,
    ),
    out_shardings=NamedSharding(mesh, P()),  # every process needs all scores
  )
  fixed = sharding.replicate((seen, images, labels), mesh)
  return lambda params, archs: run(params, sharding.split(archs, mesh), *fixed)


class Ledger:
  """Scores archs in an order that a resumed run repeats; never one twice.

  Rows of `scores.csv` are served first, to who asks for the same archs in the
  same order; what is missing is computed and appended.

  Args:
    path: of the file.
    search_space: where the archs are from.
    score_fn: `archs [n, S] -> (error [n], loss [n])`.
    num_per_call: n.
    preemption: asked between calls.
    on_progress: called with the number of rows so far, and whether the last of
      them were computed by a program that was compiled already.
  """

  def __init__(
    self,
    path: pathlib.Path,
    search_space: SearchSpace,
    score_fn: Callable,
    *,
    num_per_call: int,
    preemption: Preemption,
    on_progress: Callable[[int, bool], None],
  ):
    self._path = path
    self._search_space = search_space
    self._score_fn = score_fn
    self._num_per_call = num_per_call
    self._preemption = preemption
    self._on_progress = on_progress
    self._known = scores.resume_scores(path, search_space)
    self._served: dict[str, int] = {}
    self._done = 0
    self._is_compiled = False

  def score(
    self, source: str, archs: Arch, space: np.ndarray | int = scores.NO_SPACE
  ) -> tuple[np.ndarray, np.ndarray]:
    """Error and loss `[N]` of archs `[N, S]` that are asked for a source.

    Raises:
      ArtifactError: if the file has other archs in their place.
      Interrupted: after SIGTERM; all that was scored is on disk.
    """
    count = len(archs.depth)
    space = np.broadcast_to(space, count)
    start = self._served.get(source, 0)
    known = self._known.group(source)
    known = known.select(np.arange(len(known))[start : start + count])
    self._check(source, known, archs)
    parts = [(known.error, known.loss)]
    self._advance(source, len(known), timed=False)
    for first in range(len(known), count, self._num_per_call):
      rows = np.arange(first, min(first + self._num_per_call, count))
      batch = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], archs)
      error, loss = self._compute(batch)
      scored = scores.make_scores(
        self._search_space,
        source,
        batch,
        error=error,
        loss=loss,
        space=space[rows],
      )
      scores.append_scores(self._path, self._search_space, scored)
      parts.append((scored.error, scored.loss))
      self._advance(source, len(rows), timed=self._is_compiled)
      self._is_compiled = True
      if self._preemption.requested():
        raise loop.Interrupted(f"{self._done} archs are scored")
    error, loss = (np.concatenate(part) for part in zip(*parts, strict=True))
    return error, loss

  def _compute(self, archs: Arch) -> tuple[np.ndarray, np.ndarray]:
    """The last call is filled up: one shape, one program."""
    count = len(archs.depth)
    fill = np.minimum(np.arange(self._num_per_call), count - 1)
    filled = jax.tree.map(lambda x: np.asarray(x[fill], np.int32), archs)
    error, loss = jax.device_get(self._score_fn(filled))
    return error[:count], loss[:count]

  def _advance(self, source: str, count: int, *, timed: bool) -> None:
    self._served[source] = self._served.get(source, 0) + count
    self._done += count
    self._on_progress(self._done, timed)

  def _check(self, source: str, known: scores.Scores, archs: Arch) -> None:
    count = len(known)
    for field in ("depth", "width"):
      wanted = np.asarray(getattr(archs, field))[:count]
      if not np.array_equal(getattr(known, field), wanted):
        raise scores.ArtifactError(
          f"{self._path}: the archs of {source!r} are not those of this run; "
          "move the file away to score anew"
        )


def num_per_call(mesh: jax.sharding.Mesh) -> int:
  """Archs that one call scores."""
  return _ARCHS_PER_CALL * mesh.size


@contextlib.contextmanager
def open_ledger(
  job: Job,
  params: Any,
  path: pathlib.Path,
  preemption: Preemption,
  total: int,
) -> Iterator[Ledger]:
  """A ledger of scores from the weights of a supernet, with its progress.

  Args:
    job: says the search space, the images and the devices.
    params: of the stand-alone supernet.
    path: of `scores.csv`.
    preemption: asked between calls.
    total: archs that will be asked for.
  """
  score_fn = make_score_fn(job.config, job.search_space, job.dataset, job.mesh)
  say(job.console, f"scoring {total} archs")
  with Progress(
    job.console, np.ones(total), log_every=job.viewing.log_every
  ) as progress:
    yield Ledger(
      path,
      job.search_space,
      lambda archs: score_fn(params, archs),
      num_per_call=num_per_call(job.mesh),
      preemption=preemption,
      on_progress=lambda done, timed: progress.update(
        done, "scoring archs", compiled=not timed
      ),
    )
