"""A training loop on the device: many steps per call, over all devices."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P

from nss_jax import config as config_lib
from nss_jax.phases.batches import epoch_indices
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
      losses `[length, 2]`: of the weight step and of the arch step.
    measure: `(state, step, means) -> line`: what the log says of a state, from
      the means of its epoch's metrics.
  """

  search_space: SearchSpace
  schedule: Schedule
  mesh: jax.sharding.Mesh
  batch_size: int
  work: np.ndarray
  init: Callable[[], LoopState]
  dispatch: Callable[..., tuple[LoopState, jax.Array]]
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

  At most two lengths of dispatch occur, so at most two programs compile.
  """
  steps = num_images // batch_size
  pieces = -(-steps // steps_per_dispatch)
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
    ConfigError: naming the field, the value and what is accepted.
  """
  batch = config[group].batch_size
  if batch % (mesh.size * microbatches):
    parts = f"the {mesh.size} devices"
    if microbatches > 1:
      parts += f" times {microbatches} microbatches"
    raise config_lib.ConfigError(
      f"config.{group}.batch_size: {batch} is not accepted; expected a "
      f"multiple of {parts}"
    )


def base_keys(seed: int) -> dict[str, jax.Array]:
  """The key of every stream of randomness."""
  base = jax.random.key(seed)
  return {name: jax.random.fold_in(base, i) for i, name in enumerate(STREAMS)}


def training_fn(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> Callable[[Any, jax.Array, Any], jax.Array]:
  """`(weights, images, choice) -> logits` of training steps."""
  shares = config.supernet.bucket_shares
  return engine.make_apply(
    search_space,
    config.supernet.engine,
    buckets=sliced.default_buckets(search_space, shares),
    axis_name=sharding.AXIS if config.search.sync_batch_norm else None,
    remat=config.supernet.remat,
  )


def make_dispatch(
  step_fn: Callable,
  parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
  *,
  batch_size: int,
  mesh: jax.sharding.Mesh,
  order_key: Callable[[LoopState], jax.Array],
) -> Callable[..., tuple[LoopState, jax.Array]]:
  """`Program.dispatch`: a jitted `lax.scan` of steps under `shard_map`.

  Args:
    step_fn: `(state, parts, indices, positions, *, warmup) -> (state, losses)`
      on one device; `indices` has those of its images in each part, `positions`
      their places in the global batch.
    parts: images and labels; they stay on the devices.
    batch_size: of all devices together.
    mesh: the devices.
    order_key: the key of the order of images, from the state, which may hold
      the seed.
  """

  @functools.partial(jax.jit, static_argnames=("length", "warmup"))
  def scan(state, parts, epoch, first, *, length, warmup):
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
      in_specs=(P(), P(), P(None, sharding.AXIS), P(sharding.AXIS)),
      out_specs=P(),
      check_vma=False,
    )
    return run(state, parts, indices, jnp.arange(batch_size))

  parts = sharding.replicate(dict(parts), mesh)

  def dispatch(state, epoch, first, length, warmup):
    return scan(state, parts, epoch, first, length=length, warmup=warmup)

  return dispatch
