"""A training loop on the device: many steps per call, over all devices."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P

from nss_jax import data
from nss_jax.data.batches import epoch_indices
from nss_jax.data.streaming import Batch, Feed
from nss_jax.errors import UserError
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.supernet import engine, sliced

# One stream of randomness each, from one base key. Never reorder: a resumed
# run must draw what the interrupted one would have drawn.
STREAMS = (
  "init",
  "order",
  "augment",
  "weight",
  "search",
  "elite",
  "evaluate",
  "nas",
)


@struct.dataclass
class LoopState:
  """All that changes during a loop; what a checkpoint holds.

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
  """A function that runs a program, and hands the program out.

  Attributes:
    call: runs it.
    lower: to be compiled for devices that need not be there; `lowered` of jax.
  """

  call: Callable[..., Any]
  lower: Callable[..., jax.stages.Lowered]

  def __call__(self, *args: Any) -> Any:
    return self.call(*args)


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Steps, epochs and dispatches.

  Attributes:
    steps_per_epoch: steps, or pairs of an arch step and a weight step.
    epochs: of the whole loop.
    warmup_epochs: of those, the first ones with frozen logits.
    dispatches: `(first, length)` of the device calls of one epoch, in steps.
  """

  steps_per_epoch: int
  epochs: int
  warmup_epochs: int
  dispatches: tuple[tuple[int, int], ...]

  @property
  def num_steps(self) -> int:
    return self.steps_per_epoch * self.epochs

  @property
  def warmup_steps(self) -> int:
    return self.steps_per_epoch * self.warmup_epochs

  def kinds(self, step: int) -> set[tuple[int, bool]]:
    """`(length, warmup)` of the calls from a step on: a program for each."""
    done, first = divmod(step, self.steps_per_epoch)
    return {
      (length, epoch < self.warmup_epochs)
      for epoch in range(done, self.epochs)
      for length in self.lengths(first if epoch == done else 0)
    }

  def lengths(self, first: int) -> list[int]:
    """Of the calls from a step of an epoch to its end.

    The first call is shorter if a run with other calls has stopped within it.
    """
    ends = [start + length for start, length in self.dispatches]
    ends = [end for end in ends if end > first]
    return np.diff([first, *ends]).tolist()


@dataclasses.dataclass(frozen=True)
class Program:
  """A loop, ready to run.

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


def make_schedule(
  num_images: int,
  *,
  batch_size: int,
  epochs: int,
  warmup_epochs: int,
  steps_per_dispatch: int,
) -> Schedule:
  """Epochs of whole batches, cut into even dispatches.

  Every length is a program to compile: so all have one, if that is more than
  half of what they may have, and else there are two.
  """
  steps = num_images // batch_size
  pieces = -(-steps // steps_per_dispatch)
  alike = range(pieces, -(-2 * steps // steps_per_dispatch))
  pieces = next((n for n in alike if steps % n == 0), pieces)
  lengths = [len(part) for part in np.array_split(np.arange(steps), pieces)]
  starts = np.cumsum([0, *lengths[:-1]]).tolist()
  return Schedule(
    steps_per_epoch=steps,
    epochs=epochs,
    warmup_epochs=warmup_epochs,
    dispatches=tuple(zip(starts, lengths, strict=True)),
  )


def check_batch(
  config: ml_collections.ConfigDict,
  mesh: jax.sharding.Mesh,
  group: str,
  *,
  microbatches: int = 1,
) -> None:
  """Refuses a `batch_size` that devices and microbatches cannot share.

  Args:
    config: of the run.
    mesh: the devices.
    group: of the config that has the field, such as `search`.
    microbatches: of each device's share.

  Raises:
    UserError: naming the field, the value and what is accepted.
  """
  batch = config[group].batch_size
  if batch % (mesh.size * microbatches):
    parts = f"the {mesh.size} devices"
    if microbatches > 1:
      parts += f" times {microbatches} microbatches"
    raise UserError(
      f"config.{group}.batch_size: {batch} is not accepted; expected a "
      f"multiple of {parts}"
    )


def base_keys(seed: int) -> dict[str, jax.Array]:
  """The key of every stream of randomness."""
  base = jax.random.key(seed)
  return {name: jax.random.fold_in(base, i) for i, name in enumerate(STREAMS)}


def training_fn(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  mesh: jax.sharding.Mesh,
) -> Callable[[Any, jax.Array, Any], jax.Array]:
  """`(weights, images, choice) -> logits` of training steps."""
  shares = config.supernet.bucket_shares
  return engine.make_apply(
    search_space,
    config.supernet.engine,
    buckets=sliced.default_buckets(search_space, shares),
    axis_name=sharding.AXIS if config.search.sync_batch_norm else None,
    remat=config.supernet.remat,
    platform=sharding.platform(mesh),
  )


def make_dispatch(
  step_fn: Callable,
  dataset: data.Dataset,
  rows: Mapping[str, np.ndarray],
  *,
  schedule: Schedule,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  order_key: Callable[[LoopState], jax.Array],
  idle_in_warmup: Collection[str] = (),
) -> Lowerable:
  """`Program.dispatch`: a jitted `lax.scan` of steps under `shard_map`.

  The images stay on the devices, all of them on each; those of a streamed set
  come in time for the call that takes them. Both ways give the same numbers.

  Args:
    step_fn: `(state, parts, indices, positions, *, warmup) -> (state, losses)`
      on one device; `indices` has those of its images in each part, `positions`
      their places in the global batch.
    dataset: has the training images.
    rows: `{name: [n]}`, which of them are in each part.
    schedule: steps and epochs.
    batch_size: of all devices together.
    mesh: the devices.
    order_key: the key of the order of images, from the state, which may hold
      the seed.
    idle_in_warmup: parts that `step_fn` does not look at in warmup.
  """

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
    return _streamed(scan, feed, schedule, batch_size, mesh, order_key)
  parts = {
    name: (dataset.train_images[part], dataset.train_labels[part])
    for name, part in rows.items()
  }
  parts = sharding.replicate(parts, mesh)
  return _resident(scan, parts, batch_size, order_key)


def _resident(
  scan: Callable,
  parts: Batch,
  batch_size: int,
  order_key: Callable[[LoopState], jax.Array],
) -> Lowerable:
  """A dispatch that picks from images on the devices."""

  # The old state makes room for the new one.
  @functools.partial(
    jax.jit, static_argnames=("length", "warmup"), donate_argnames="state"
  )
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
  batch_size: int,
  mesh: jax.sharding.Mesh,
  order_key: Callable[[LoopState], jax.Array],
) -> Lowerable:
  """A dispatch that is given its images, each device its own."""

  # The old state makes room for the new one.
  @functools.partial(
    jax.jit, static_argnames=("length", "warmup"), donate_argnames="state"
  )
  def run(state, window, first, *, length, warmup):
    share = batch_size // mesh.size
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
