"""The jitted loop of a search: many steps per call, over all devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec as P

from nss_jax import config as config_lib
from nss_jax.runtime import augment, data, optimizers, sharding
from nss_jax.spaces import cost, distribution
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.steps import losses, search_step, weight_step
from nss_jax.supernet import masks, network

# One stream of randomness each, from one base key. Never reorder: a resumed
# run must draw what the interrupted one would have drawn.
STREAMS = ("init", "order", "augment", "weight", "search", "elite")

METRICS = (
  "train_loss",
  "train_accuracy",
  "validation_loss",
  "validation_accuracy",
  "sampled_cost",
  "penalty",
)


@struct.dataclass
class LoopState:
  """All that changes during a search; what a checkpoint holds.

  Attributes:
    weights: supernet and optimizer.
    search: logits and optimizer; its step counts warmup too.
    sums: metrics summed since the epoch began, `{name: scalar}`.
  """

  weights: weight_step.WeightState
  search: search_step.SearchState
  sums: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Steps, epochs and dispatches.

  Attributes:
    steps_per_epoch: pairs of an arch step and a weight step.
    epochs: of the whole search.
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
  """A search, ready to run.

  Attributes:
    search_space: what is searched.
    schedule: steps and epochs.
    mesh: the devices.
    init: `() -> LoopState` at step 0.
    dispatch: `(state, epoch, first, length, warmup) -> (state, losses)`;
      losses `[length, 2]`: of the weight step and of the arch step.
    temperature: step -> temperature.
    target: multiply-adds to be met.
  """

  search_space: SearchSpace
  schedule: Schedule
  mesh: jax.sharding.Mesh
  init: Callable[[], LoopState]
  dispatch: Callable[..., tuple[LoopState, jax.Array]]
  temperature: Callable[[Any], Any]
  target: float


def make_schedule(
  config: ml_collections.ConfigDict, num_train: int, num_validation: int
) -> Schedule:
  """Epochs as long as the smaller half allows, cut into even dispatches.

  At most two lengths of dispatch occur, so at most two programs compile.
  """
  search = config.search
  steps = min(num_train, num_validation) // search.batch_size
  pieces = -(-steps // search.steps_per_dispatch)
  lengths = [len(part) for part in np.array_split(np.arange(steps), pieces)]
  starts = np.cumsum([0, *lengths[:-1]]).tolist()
  return Schedule(
    steps_per_epoch=steps,
    epochs=search.epochs,
    warmup_epochs=search.warmup_epochs,
    dispatches=tuple(zip(starts, lengths, strict=True)),
  )


def base_keys(seed: int) -> dict[str, jax.Array]:
  """The key of every stream of randomness."""
  base = jax.random.key(seed)
  return {name: jax.random.fold_in(base, i) for i, name in enumerate(STREAMS)}


def temperature_schedule(
  start: float, end: float, num_steps: int
) -> Callable[[Any], Any]:
  """Linear from the first step to the last (paper 6.4.1)."""
  last = max(num_steps - 1, 1)
  return lambda step: start + (end - start) * (step / last)


def build(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Program:
  """Puts a search together; nothing is compiled yet.

  Raises:
    ConfigError, DataError: if config and data do not make a search.
  """
  search_space = config_lib.search_space(config, dataset.train_images.shape[1:])
  _check(config, dataset, mesh)
  config_lib.validate_target(config, search_space)
  halves = data.split_halves(
    len(dataset.train_labels),
    config.data.validation_fraction,
    config.data.split_seed,
    config.search.batch_size,
  )
  schedule = make_schedule(config, *map(len, halves))
  temperature = temperature_schedule(
    config.search.temperature_start,
    config.search.temperature_end,
    schedule.num_steps,
  )
  weight_opt = optimizers.weight_optimizer(
    **config.weights, num_steps=schedule.num_steps
  )
  logit_opt = optimizers.logit_optimizer(**config.logits)
  keys = base_keys(config.seed)

  def init() -> LoopState:
    params = jax.jit(network.init_weights, static_argnums=1)(
      keys["init"], search_space
    )
    state = LoopState(
      weights=weight_step.init_weight_state(params, weight_opt),
      search=search_step.init_search_state(
        distribution.init_logits(search_space), logit_opt
      ),
      sums={name: jnp.zeros(()) for name in METRICS},
    )
    return sharding.replicate(state, mesh)

  steps = _make_steps(
    config, search_space, schedule, temperature, weight_opt, logit_opt
  )
  images = sharding.replicate(
    {
      name: (dataset.train_images[half], dataset.train_labels[half])
      for name, half in zip(("train", "validation"), halves, strict=True)
    },
    mesh,
  )
  scan = _make_scan(config, dataset, mesh, steps, keys)

  def dispatch(state, epoch, first, length, warmup):
    return scan(state, images, epoch, first, length=length, warmup=warmup)

  return Program(
    search_space,
    schedule,
    mesh,
    init,
    dispatch,
    temperature,
    config.objective.target_flops,
  )


def _make_steps(
  config, search_space, schedule, temperature, weight_opt, logit_opt
):
  """The two steps with all but state, batches and key bound."""
  axis = sharding.AXIS
  sync_axis = axis if config.search.sync_batch_norm else None

  def loss_fn(weights, drawn, batch):
    images, labels = batch
    outputs = network.apply_masked(
      search_space, weights, images, drawn, axis_name=sync_axis
    )
    return losses.cross_entropy(outputs, labels)

  hard = config.search.estimator == "straight_through"
  sampler = masks.gumbel_sampler(search_space, temperature, hard=hard)
  warmup_steps = max(schedule.warmup_steps, 1)
  warmup = masks.warmup_sampler(
    search_space, lambda step: 1 - step / warmup_steps
  )
  train = functools.partial(
    weight_step.weight_step,
    loss_fn=loss_fn,
    optimizer=weight_opt,
    axis_name=axis,
  )
  search = functools.partial(
    search_step.search_step,
    loss_fn=loss_fn,
    cost_fn=functools.partial(cost.mean_macs, search_space),
    sample_fn=sampler,
    optimizer=logit_opt,
    target=config.objective.target_flops,
    cost_weight=config.objective.cost_weight,
    cost_from=config.objective.cost_from,
    axis_name=axis,
  )
  return {
    "warmup": functools.partial(train, sample_fn=warmup),
    "train": functools.partial(train, sample_fn=sampler),
    "search": search,
  }


def _make_scan(config, dataset, mesh, steps, keys):
  """`(state, images, epoch, first, *, length, warmup)`, jitted and sharded."""
  batch_size = config.search.batch_size
  augment_fn = augment.make_augment(
    crop_padding=config.data.crop_padding, flip=config.data.flip
  )

  def make_batch(half, indices, positions, stream, step):
    images, labels = half
    rng = jax.random.fold_in(jax.random.fold_in(keys["augment"], stream), step)
    picked = augment.augment_batch(rng, positions, images[indices], augment_fn)
    picked = augment.normalize(picked, dataset.mean, dataset.std)
    return picked, labels[indices]

  def one_step(state, images, indices, positions, *, warmup):
    step = state.weights.step
    weights, search = state.weights, state.search
    if warmup:
      arch_metrics = {}
      search = search.replace(step=search.step + 1)
    else:
      batch = make_batch(
        images["validation"], indices["validation"], positions, 1, step
      )
      search, arch_metrics = steps["search"](
        search, weights.params, batch, keys["search"]
      )
    batch = make_batch(images["train"], indices["train"], positions, 0, step)
    weights, metrics = steps["warmup" if warmup else "train"](
      weights, search.logits, batch, keys["weight"]
    )
    seen = _epoch_metrics(metrics, arch_metrics)
    sums = {name: state.sums[name] + seen[name] for name in METRICS}
    both = jnp.stack([seen["train_loss"], seen["validation_loss"]])
    return LoopState(weights, search, sums), both

  @functools.partial(jax.jit, static_argnames=("length", "warmup"))
  def scan(state, images, epoch, first, *, length, warmup):
    indices = {
      name: _epoch_indices(
        jax.random.fold_in(keys["order"], stream),
        epoch,
        images[name][1].shape[0],
        first,
        (length, batch_size),
      )
      for stream, name in enumerate(("train", "validation"))
    }
    fresh = jax.tree.map(jnp.zeros_like, state.sums)
    state = state.replace(
      sums=jax.tree.map(
        lambda zero, old: jnp.where(first == 0, zero, old), fresh, state.sums
      )
    )

    def on_device(state, images, indices, positions):
      def body(state, picked):
        return one_step(state, images, picked, positions, warmup=warmup)

      return jax.lax.scan(body, state, indices)

    rows = P(None, sharding.AXIS)
    run = jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(P(), P(), rows, P(sharding.AXIS)),
      out_specs=P(),
      check_vma=False,
    )
    return run(state, images, indices, jnp.arange(batch_size))

  return scan


def _epoch_indices(rng, epoch, num_images, first, shape):
  """`[length, B]` of this dispatch, from the permutation of its epoch."""
  length, batch_size = shape
  order = jax.random.permutation(jax.random.fold_in(rng, epoch), num_images)
  taken = jax.lax.dynamic_slice(
    order, (first * batch_size,), (length * batch_size,)
  )
  return taken.reshape(shape)


def _epoch_metrics(metrics, arch_metrics):
  """The metrics of a pair of steps, by the names of the log."""
  zero = jnp.zeros(())
  return {
    "train_loss": metrics["loss"],
    "train_accuracy": metrics["accuracy"],
    "validation_loss": arch_metrics.get("loss", zero),
    "validation_accuracy": arch_metrics.get("accuracy", zero),
    "sampled_cost": arch_metrics.get("sampled_cost", zero),
    "penalty": arch_metrics.get("penalty", zero),
  }


def _check(config, dataset, mesh) -> None:
  if dataset.num_classes > config.space.num_classes:
    raise config_lib.ConfigError(
      f"config.space.num_classes: {config.space.num_classes} is not accepted; "
      f"expected at least the {dataset.num_classes} classes in the labels of "
      f"{dataset.name}"
    )
  if config.search.batch_size % mesh.size:
    raise config_lib.ConfigError(
      f"config.search.batch_size: {config.search.batch_size} is not accepted; "
      f"expected a multiple of the {mesh.size} devices"
    )
