"""Scores of archs by the weights of a trained supernet."""

import functools
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nss_jax.data.batches import normalize
from nss_jax.phases.job import Job
from nss_jax.phases.program import Lowerable, class_weights
from nss_jax.phases.supernet import split as split_images
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import Arch
from nss_jax.steps.score_step import Counts, evaluate_archs, evaluate_images
from nss_jax.supernet import engine, sharing, sliced

# Archs of one call on each device: enough that a call costs nothing beside
# them, few enough that SIGTERM is heard and little is lost.
_ARCHS_PER_CALL = 16


class Images(NamedTuple):
  """Holds indices of training images: `[n]` whose batch statistics count, and
  batches `[K, B]` that are scored."""

  seen: np.ndarray
  batches: np.ndarray


class Split(NamedTuple):
  """Says what the devices share of a call of so many archs: each device has
  archs of its own, and all images, or batches of its own, and all archs."""

  by: Literal["archs", "images"]
  num_archs: int


def choose_split(count: int, num_batches: int, num_devices: int) -> Split:
  """Returns the split that leaves less idle, of places for archs and batches.

  Example:
    >>> choose_split(1000, num_batches=10, num_devices=8)
    Split(by='archs', num_archs=128)
    >>> choose_split(40, num_batches=10, num_devices=8)
    Split(by='images', num_archs=16)
  """

  def places(split: Split) -> int:
    parts = num_devices if split.by == "images" else 1
    return _fill(count, split.num_archs) * _fill(num_batches, parts)

  by_archs = Split("archs", _ARCHS_PER_CALL * num_devices)
  return min(by_archs, Split("images", _ARCHS_PER_CALL), key=places)


def _fill(count: int, part: int) -> int:
  """Returns the next multiple of a part."""
  return -(-count // part) * part


def splitter(job: Job, num_images: int | None = None) -> Callable[[int], Split]:
  """Returns `choose_split` for the held-out images and the devices of a run."""
  images = held_out_images(job, num_images)
  return functools.partial(
    choose_split,
    num_batches=len(images.batches),
    num_devices=job.mesh.size,
  )


def leaves_images(job: Job, num_images: int) -> bool:
  """Tells whether scores on so many images leave some that are held out."""
  some, all_ = (held_out_images(job, count) for count in (num_images, None))
  return some.batches.size < all_.batches.size


def make_score_fn(job: Job, images: Images | None = None) -> Lowerable:
  """Returns `(params, archs [n, S], by) -> (error [n], loss [n])`.

  It scores on training images, by default those that are held out from the
  evaluator, and is compiled once for each `Split`; by archs, n is a multiple of
  the devices. Either way a batch stays whole, and every device sees all images
  of calibration: the statistics are those of one device.
  """
  mesh, images = job.mesh, images or held_out_images(job)
  apply_fn, seen = _calibrated(job, images.seen)
  weights = class_weights(job)

  def on_device(by, params, archs, seen, batches):
    counts = evaluate_archs(
      params,
      archs,
      batches,
      apply_fn=functools.partial(apply_fn, seen),
      class_weights=weights,
    )
    if by == "images":
      counts = jax.lax.psum(counts, sharding.AXIS)
    return counts.correct, counts.loss, counts.total

  @functools.cache
  def program(by):
    archs, shared = P(sharding.AXIS), P()
    if by == "images":
      archs, shared = shared, archs
    run = jax.jit(
      jax.shard_map(
        functools.partial(on_device, by),
        mesh=mesh,
        in_specs=(P(), archs, P(), shared),
        out_specs=(archs, archs, P()),
        check_vma=False,
      ),
      out_shardings=NamedSharding(mesh, P()),  # every process needs all scores
    )
    place = sharding.split if by == "images" else sharding.replicate
    parts = mesh.size if by == "images" else 1
    batches = place(_filled(job, images.batches, parts), mesh)
    return run, sharding.replicate(seen, mesh), batches

  def arguments(params, archs, by):
    place = sharding.split if by == "archs" else sharding.replicate
    return params, place(archs, mesh), *program(by)[1:]

  def score(params, archs, by):
    run, *_ = program(by)
    counts = Counts(*jax.device_get(run(*arguments(params, archs, by))))
    # On the host, where all divide alike: each program rounds in its own way.
    return counts.error, counts.mean_loss

  def lower(params, archs, by):
    run, *_ = program(by)
    return run.lower(*arguments(params, archs, by))

  return Lowerable(score, lower)


def make_image_fn(job: Job) -> Callable:
  """Returns `(params, archs [n, S]) -> (error [I], loss [I])`: in the mean of
  the archs, of each image that is held out from the evaluator."""
  mesh, images = job.mesh, held_out_images(job)
  apply_fn, seen = _calibrated(job, images.seen)
  weights = class_weights(job)

  @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
  def run(params, archs, seen, batches):
    return evaluate_images(
      params,
      archs,
      batches,
      apply_fn=functools.partial(apply_fn, seen),
      class_weights=weights,
    )

  batches = _filled(job, images.batches, 1)
  fixed = sharding.replicate((seen, batches), mesh)
  return lambda params, archs: jax.device_get(
    run(params, sharding.replicate(archs, mesh), *fixed)
  )


def held_out_images(job: Job, num_images: int | None = None) -> Images:
  """Returns the images that the evaluator is not trained on, in whole batches:
  all, or about so many, from all over them."""
  train, held_out = split_images(job)
  count = len(held_out)
  batch = min(job.config.evaluate.score_batch_size, count)
  if num_images is not None:
    # Not the first ones: files may come class by class.
    wanted = min(_fill(num_images, batch), count)
    held_out = held_out[np.arange(wanted) * count // wanted]
  return Images(_calibration(job, train), held_out.reshape(-1, batch))


def validation_images(
  job: Job, train: np.ndarray, validation: np.ndarray
) -> Images:
  """Returns images of the search's own validation half, at most
  `search.num_choice_images`, with statistics of the half that it trains on."""
  validation = validation[: job.config.search.num_choice_images]
  batch = min(job.config.evaluate.score_batch_size, len(validation))
  whole = len(validation) // batch * batch
  return Images(_calibration(job, train), validation[:whole].reshape(-1, batch))


def _calibration(job: Job, train: np.ndarray) -> np.ndarray:
  """Draws whose batch statistics count: none where a batch has its own."""
  settings = job.config.evaluate
  if settings.batch_stats == "batch":
    return train[:0]
  rng = np.random.default_rng(settings.seed)
  count = min(settings.calibration_images, len(train))
  return rng.choice(train, count, replace=False)


def _calibrated(job: Job, chosen: np.ndarray) -> tuple[Callable, jax.Array]:
  """Returns `(seen, params, images, arch) -> logits`, and `seen`: whose
  statistics."""
  count, space = len(chosen), job.search_space
  shares = job.config.evaluate.score_bucket_shares
  apply = engine.make_apply(
    space,
    job.config.supernet.engine,
    buckets=sliced.default_buckets(space, shares),
    num_calibration=count or None,
    platform=sharding.platform(job.mesh),
  )

  def apply_fn(seen, params, images, arch):
    params = sharing.weights_of(space, params, arch)
    return apply(params, jnp.concatenate([seen, images]), arch)[count:]

  return apply_fn, _prepare(job, chosen)


def _filled(
  job: Job, rows: np.ndarray, parts: int
) -> tuple[jax.Array, jax.Array]:
  """Returns images and labels of batches, filled up to equal parts.

  The labels of what fills up are -1, and count nothing.
  """
  fill = np.arange(_fill(len(rows), parts))
  is_real = (fill < len(rows))[:, None]
  rows = rows[fill % len(rows)]
  labels = jnp.asarray(np.where(is_real, job.dataset.train_labels[rows], -1))
  images = _prepare(job, rows.reshape(-1))
  return images.reshape(*rows.shape, *images.shape[1:]), labels


def _prepare(job: Job, rows: np.ndarray) -> jax.Array:
  """Returns training images, normalised, in the type of the activations."""
  dataset = job.dataset
  images = normalize(dataset.train_images[rows], dataset.mean, dataset.std)
  return images.astype(job.config.supernet.activations)


def score_calls(
  score_fn: Callable, archs: Arch, split: Split, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Yields rows of archs `[N, S]`, from the first, their error and their loss.

  Every call is filled up: one shape, one program.
  """
  count = len(archs.depth)
  for start in range(first, count, split.num_archs):
    rows = np.arange(start, min(start + split.num_archs, count))
    fill = np.minimum(start + np.arange(split.num_archs), rows[-1])
    filled = jax.tree.map(
      lambda x, fill=fill: np.asarray(x)[fill].astype(np.int32), archs
    )
    error, loss = jax.device_get(score_fn(filled, split.by))
    yield rows, error[: len(rows)], loss[: len(rows)]
