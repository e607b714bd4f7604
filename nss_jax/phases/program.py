"""A training loop on the device: many steps per call, over all devices."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P

from nss_jax import data
from nss_jax.data.batches import epoch_indices, make_batch_fn
from nss_jax.data.streaming import Feed
from nss_jax.errors import UserError
from nss_jax.phases.job import Job
from nss_jax.phases.schedules import Schedule
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.supernet import engine, sliced

_METRICS = {"train_loss": "loss", "train_accuracy": "accuracy"}


@struct.dataclass
class LoopState:
  """Holds all that changes during a loop, as a checkpoint does.

  Attributes:
    weights: supernet and optimizer.
    search: logits and optimizer; its step counts warmup too.
    sums: metrics summed since the epoch began, `{name: scalar}`.
  """

  weights: Any
  search: Any
  sums: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Lowerable:
  """Runs a program as a function does, by `call`; `lower` hands it out, to be
  compiled for devices that need not be there."""

  call: Callable[..., Any]
  lower: Callable[..., jax.stages.Lowered]

  def __call__(self, *args: Any) -> Any:
    return self.call(*args)


@dataclasses.dataclass(frozen=True)
class Program:
  """Holds a loop that is ready to run.

  Attributes:
    search_space: what the supernet spans.
    schedule: steps and epochs.
    mesh: the devices.
    batch_size: images of a step, on all devices together.
    work: multiply-adds of one image in each step, about, `[num_steps]`.
    init: `() -> LoopState` at step 0.
    dispatch: `(state, epoch, first, length, warmup) -> (state, losses)`;
      losses `[length, 2]`: of the weight step and of the arch step. The state
      that is given is used up: the new one is in its place. Its `lower`
      takes `(state, length, warmup)`, where shapes of the state are enough.
    measure: `(state, step, means) -> line`: what the log says of a state, from
      the means of its epoch's metrics.
  """

  search_space: SearchSpace
  schedule: Schedule
  mesh: jax.sharding.Mesh
  batch_size: int
  work: np.ndarray
  init: Callable[..., LoopState]
  dispatch: Lowerable
  measure: Callable[[LoopState, int, dict], dict]


def check_batch(job: Job, section: str, *, microbatches: int = 1) -> None:
  """Refuses a `batch_size`, in a section of the config such as `search`, that
  devices, and microbatches of each, cannot share."""
  batch = getattr(job.config, section).batch_size
  if batch % (job.mesh.size * microbatches):
    parts = f"the {job.mesh.size} devices"
    if microbatches > 1:
      parts += f" times {microbatches} microbatches"
    raise UserError(
      f"config.{section}.batch_size: {batch} is not accepted; expected a "
      f"multiple of {parts}"
    )


def training_fn(job: Job) -> Callable[[Any, jax.Array, Any], jax.Array]:
  """Returns `(weights, images, choice) -> logits` of training steps."""
  settings = job.config.supernet
  return engine.make_apply(
    job.search_space,
    settings.engine,
    buckets=sliced.default_buckets(job.search_space, settings.bucket_shares),
    axis_name=sharding.AXIS if job.config.search.sync_batch_norm else None,
    remat=settings.remat,
    platform=sharding.platform(job.mesh),
  )


def batch_fn(job: Job, key: jax.Array, *, cutout: int = 0) -> Callable:
  """Returns `make_batch_fn` of a job: its crops, flips and types."""
  return make_batch_fn(
    job.dataset,
    key,
    crop_padding=job.config.data.crop_padding,
    flip=job.config.data.flip,
    dtype=job.config.supernet.activations,
    cutout=cutout,
  )


def class_weights(job: Job) -> np.ndarray | None:
  """Returns how much images count by their class, in every loss."""
  return data.class_weights(
    job.config.data.class_weights,
    job.dataset.train_labels,
    job.search_space.num_classes,
  )


def make_training(
  job: Job,
  schedule: Schedule,
  *,
  batch_size: int,
  init_fn: Callable[..., tuple[Any, Any]],
  update_fn: Callable,
  rows: np.ndarray,
  order_key: Callable[[LoopState], jax.Array],
) -> Program:
  """Returns a program with one update a step, all of the same work.

  It trains on `rows` `[n]` of the training images. From `init_fn(*args)` come
  the weights, and what is `LoopState.search`, which stays as it is; from
  `update_fn(state, part, indices, positions)`, on one device, new weights and
  metrics, where `part` is images and labels.
  """

  def init(*args) -> LoopState:
    weights, given = init_fn(*args)
    sums = {name: jnp.zeros(()) for name in _METRICS}
    return LoopState(weights, given, sums)

  def step_fn(state, parts, indices, positions, *, warmup):
    weights, metrics = update_fn(
      state, parts["train"], indices["train"], positions
    )
    sums = {n: state.sums[n] + metrics[key] for n, key in _METRICS.items()}
    return LoopState(weights, state.search, sums), metrics["loss"][None]

  return Program(
    search_space=job.search_space,
    schedule=schedule,
    mesh=job.mesh,
    batch_size=batch_size,
    work=np.ones(schedule.num_steps),
    init=init,
    dispatch=make_dispatch(
      job,
      step_fn,
      {"train": rows},
      schedule=schedule,
      batch_size=batch_size,
      order_key=order_key,
    ),
    measure=lambda state, step, means: means,
  )


def make_dispatch(
  job: Job,
  step_fn: Callable,
  rows: Mapping[str, np.ndarray],
  *,
  schedule: Schedule,
  batch_size: int,
  order_key: Callable[[LoopState], jax.Array],
  idle_in_warmup: Collection[str] = (),
) -> Lowerable:
  """Returns `Program.dispatch`: a jitted scan of steps under `shard_map`.

  The images stay on the devices, all of them on each; those of a streamed set
  come in time for the call that takes them. Both ways give the same numbers.

  On one device `step_fn(state, parts, indices, positions, *, warmup)` returns
  the next state and losses: `rows` say which images are in each part, `indices`
  those of the step, and `positions` their places in the global batch. From the
  state, which may hold the seed, `order_key` gives the key of the order of
  images. In warmup nobody looks at the parts that are `idle_in_warmup`.
  """
  dataset, mesh = job.dataset, job.mesh

  def scan(state, parts, spec, indices, first, warmup):
    state = state.replace(
      sums=jax.tree.map(lambda old: jnp.where(first == 0, 0.0, old), state.sums)
    )

    def on_device(state, parts, indices, positions):
      def body(state, picked):
        return step_fn(state, parts, picked, positions, warmup=warmup)

      return jax.lax.scan(body, state, indices)

    run = jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(P(), spec, P(None, sharding.AXIS), P(sharding.AXIS)),
      out_specs=P(),
      check_vma=False,
    )
    return run(state, parts, indices, jnp.arange(batch_size))

  if isinstance(dataset.train_images, data.StreamedImages):
    feed = Feed(
      dataset,
      rows,
      schedule=schedule,
      batch_size=batch_size,
      mesh=mesh,
      idle_in_warmup=idle_in_warmup,
    )
    share = batch_size // mesh.size
    return _streamed(scan, feed, schedule, share, batch_size, order_key)
  parts = {
    name: (dataset.train_images[part], dataset.train_labels[part])
    for name, part in rows.items()
  }
  return _resident(scan, sharding.replicate(parts, mesh), batch_size, order_key)


# The old state makes room for the new one.
_jit = functools.partial(
  jax.jit, static_argnames=("length", "warmup"), donate_argnames="state"
)


def _resident(
  scan: Callable,
  parts: dict[str, tuple[Any, Any]],
  batch_size: int,
  order_key: Callable[[LoopState], jax.Array],
) -> Lowerable:
  """Returns a dispatch that picks from images on the devices."""

  @_jit
  def run(state, parts, epoch, first, *, length, warmup):
    key = order_key(state)
    indices = {
      name: epoch_indices(
        jax.random.fold_in(key, stream),
        epoch,
        labels.shape[0],
        first,
        (length, batch_size),
      )
      for stream, (name, (_, labels)) in enumerate(sorted(parts.items()))
    }
    return scan(state, parts, P(), indices, first, warmup)

  def dispatch(state, epoch, first, length, warmup):
    return run(state, parts, epoch, first, length=length, warmup=warmup)

  def lower(state, length, warmup):
    return run.lower(state, parts, 0, 0, length=length, warmup=warmup)

  return Lowerable(dispatch, lower)


def _streamed(
  scan: Callable,
  feed: Feed,
  schedule: Schedule,
  share: int,
  batch_size: int,
  order_key: Callable[[LoopState], jax.Array],
) -> Lowerable:
  """Returns a dispatch that is given its images, each device its share."""

  @_jit
  def run(state, window, first, *, length, warmup):
    # Of the images of a device, those of a step are together.
    places = jnp.arange(length)[:, None] * share
    places = places + (jnp.arange(batch_size) % share)[None]
    indices = dict.fromkeys(window, places)
    return scan(state, window, P(sharding.AXIS), indices, first, warmup)

  key_data = jax.jit(lambda state: jax.random.key_data(order_key(state)))

  def dispatch(state, epoch, first, length, warmup):
    step = epoch * schedule.steps_per_epoch + first
    window = feed.take(np.asarray(key_data(state)), step, length)
    return run(state, window, first, length=length, warmup=warmup)

  def lower(state, length, warmup):
    window = feed.shapes(length, warmup=warmup)
    return run.lower(state, window, 0, length=length, warmup=warmup)

  return Lowerable(dispatch, lower)
