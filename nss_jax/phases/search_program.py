"""The search as a program: arch steps and weight steps on two halves."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.data.streaming import Batch
from nss_jax.errors import UserError
from nss_jax.phases import schedules
from nss_jax.phases.program import (
  LoopState,
  Program,
  Schedule,
  base_keys,
  check_batch,
  make_dispatch,
  make_schedule,
  training_fn,
)
from nss_jax.phases.training import batch_fn
from nss_jax.phases.work import search_work
from nss_jax.runtime import sharding
from nss_jax.spaces import constraints, distribution
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.steps import (
  estimators,
  losses,
  optimizers,
  penalties,
  search_step,
  weight_step,
)
from nss_jax.supernet import masks, network

METRICS = (
  "train_loss",
  "train_accuracy",
  "validation_loss",
  "validation_accuracy",
  "sampled_cost",
  "penalty",
)
# Over the target, and the penalty without its weight.
OF_EACH_BUDGET = ("sampled_cost", "penalty")


def build(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
  search_space: SearchSpace | None = None,
) -> Program:
  """Puts a search together; nothing is compiled yet.

  Args:
    config: of the search.
    dataset: the images.
    mesh: the devices.
    search_space: to be searched; that of the config, checked against its
      target, by default.

  Raises:
    UserError, UserError: if config and data do not make a search.
  """
  check_data(config, dataset, mesh)
  if search_space is None:
    _, height, width, channels = dataset.train_images.shape
    shape = height, width, channels
    search_space = config_lib.search_space(config, shape, dataset.num_classes)
    config_lib.validate_target(config, search_space)
  halves = data.split_halves(
    len(dataset.train_labels),
    config.data.validation_fraction,
    config.data.split_seed,
    config.search.batch_size,
    labels=dataset.train_labels if config.data.balanced_split else None,
  )
  schedule = make_schedule(
    min(map(len, halves)),
    batch_size=config.search.batch_size,
    epochs=config.search.epochs,
    warmup_epochs=config.search.warmup_epochs,
    steps_per_dispatch=config.search.steps_per_dispatch,
  )
  temperature = schedules.temperature(
    config.search.temperature_start,
    config.search.temperature_end,
    schedule.num_steps,
  )
  weight_opt = optimizers.weight_optimizer(
    **config.weights, num_steps=schedule.num_steps
  )
  logit_opt = optimizers.logit_optimizer(**config.logits)
  keys = base_keys(config.seed)
  budgets = config_lib.constraints(config)

  def init() -> LoopState:
    params = jax.jit(network.init_weights, static_argnums=1)(
      keys["init"], search_space
    )
    return LoopState(
      weights=weight_step.init_weight_state(params, weight_opt),
      search=search_step.init_search_state(
        distribution.init_logits(search_space), logit_opt
      ),
      sums={
        name: jnp.zeros((len(budgets),) if name in OF_EACH_BUDGET else ())
        for name in METRICS
      },
    )

  loss_fn = losses.single_loss(
    training_fn(config, search_space, mesh),
    data.class_weights(
      config.data.class_weights, dataset.train_labels, search_space.num_classes
    ),
  )
  steps = _make_steps(
    config,
    search_space,
    losses.microbatched(loss_fn, config.supernet.microbatches),
    budgets,
    schedule,
    temperature,
    weight_opt,
    logit_opt,
  )
  make_batch = batch_fn(config, dataset, keys["augment"])
  dispatch = make_dispatch(
    functools.partial(_pair_of_steps, steps, make_batch, keys),
    dataset,
    dict(zip(("train", "validation"), halves, strict=True)),
    schedule=schedule,
    batch_size=config.search.batch_size,
    mesh=mesh,
    order_key=lambda state: keys["order"],
    idle_in_warmup=("validation",),
  )
  measure = functools.partial(
    _measure, search_space, budgets, schedule, temperature
  )
  return Program(
    search_space=search_space,
    schedule=schedule,
    mesh=mesh,
    batch_size=config.search.batch_size,
    work=search_work(config, search_space, schedule),
    init=init,
    dispatch=dispatch,
    measure=measure,
  )


def _make_steps(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  loss_fn: losses.LossFn,
  budgets: tuple[constraints.Constraint, ...],
  schedule: Schedule,
  temperature: Callable[[Any], Any],
  weight_opt: optax.GradientTransformation,
  logit_opt: optax.GradientTransformation,
) -> dict[str, Callable]:
  """The steps with all but state, batches and key bound."""
  known = estimators.ESTIMATORS[config.search.estimator]
  archs = mixed = masks.arch_sampler(search_space)
  if known.draws != "archs":
    hard = known.draws == "hard"
    mixed = masks.gumbel_sampler(search_space, temperature, hard=hard)
  warmup_steps = max(schedule.warmup_steps, 1)
  warmup = masks.warmup_sampler(
    search_space, lambda step: 1 - step / warmup_steps
  )
  train = functools.partial(
    weight_step.weight_step,
    loss_fn=loss_fn,
    optimizer=weight_opt,
    axis_name=sharding.AXIS,
    own_draws=config.supernet.draws == "per_device",
  )
  search = functools.partial(
    search_step.search_step,
    loss_fn=loss_fn,
    cost_fn=functools.partial(constraints.mean_costs, search_space, budgets),
    sample_fn=mixed,
    optimizer=logit_opt,
    target=np.asarray([one.target for one in budgets]),
    cost_weight=schedules.penalty_weight(
      np.asarray([one.weight for one in budgets]),
      config.search.penalty_growth,
      schedule.warmup_steps,
      schedule.num_steps,
    ),
    penalty_fn=lambda costs, _: constraints.penalties(budgets, costs),
    expected_penalty_fn=(
      penalties.expected_penalty(search_space, budgets)
      if config.objective.penalty == "expected"
      else None
    ),
    estimator=known.make(config.search.num_score_archs),
    entropy_fn=schedules.entropy_weight(
      config.search.entropy_start,
      config.search.entropy_end,
      schedule.warmup_steps,
      schedule.num_steps,
    ),
    axis_name=sharding.AXIS,
    own_draws=config.supernet.draws == "per_device",
  )
  return {
    "warmup": functools.partial(train, sample_fn=warmup),
    # Only soft masks need every channel; hard ones are an arch.
    "train": functools.partial(
      train, sample_fn=mixed if known.draws == "soft" else archs
    ),
    "search": search,
  }


def _pair_of_steps(
  steps: dict[str, Callable],
  make_batch: Callable,
  keys: dict[str, jax.Array],
  state: LoopState,
  halves: Batch,
  indices: dict[str, jax.Array],
  positions: jax.Array,
  *,
  warmup: bool,
) -> tuple[LoopState, jax.Array]:
  """An arch step on the validation half, then a weight step on the other."""
  step = state.weights.step
  weights, search = state.weights, state.search
  if warmup:
    arch_metrics = {}
    search = search.replace(step=search.step + 1)
  else:
    batch = make_batch(
      halves["validation"], indices["validation"], positions, 1, step
    )
    search, arch_metrics = steps["search"](
      search, weights.params, batch, keys["search"]
    )
  batch = make_batch(halves["train"], indices["train"], positions, 0, step)
  weights, metrics = steps["warmup" if warmup else "train"](
    weights, search.logits, batch, keys["weight"]
  )
  seen = _epoch_metrics(metrics, arch_metrics, state.sums)
  sums = {name: state.sums[name] + seen[name] for name in METRICS}
  both = jnp.stack([seen["train_loss"], seen["validation_loss"]])
  return LoopState(weights, search, sums), both


def _epoch_metrics(
  metrics: losses.Metrics,
  arch_metrics: losses.Metrics,
  sums: Mapping[str, jax.Array],
) -> losses.Metrics:
  """The metrics of a pair of steps, by the names of the log."""
  seen: dict[str, Any] = {
    "train_loss": metrics["loss"],
    "train_accuracy": metrics["accuracy"],
    **{f"validation_{name}": x for name, x in arch_metrics.items()},
    **{name: arch_metrics.get(name) for name in OF_EACH_BUDGET},
  }
  # In warmup there is no arch step.
  return {
    name: jnp.zeros_like(sums[name]) if seen.get(name) is None else seen[name]
    for name in METRICS
  }


def _measure(
  search_space: SearchSpace,
  budgets: tuple[constraints.Constraint, ...],
  schedule: Schedule,
  temperature: Callable[[Any], Any],
  state: LoopState,
  step: int,
  means: dict[str, Any],
) -> dict[str, Any]:
  """Entropy in nats, summed over stages; costs over the target.

  Costs and penalty are of the first budget; `constraints` has those of all.
  What the frozen logits of warmup do not have is null.
  """
  if step <= schedule.warmup_steps:
    means = {
      name: value if name.startswith("train") else None
      for name, value in means.items()
    }
  logits = jax.device_get(state.search.logits)
  entropy = distribution.entropy(logits)
  chances = jax.tree.map(np.asarray, distribution.probabilities(logits))
  costs = constraints.mean_costs(search_space, budgets, chances)
  of_each = {}
  for index, one in enumerate(budgets):
    of_each[one.name] = {
      name: means[name] and means[name][index] for name in OF_EACH_BUDGET
    }
    of_each[one.name]["expected_cost"] = float(costs[index]) / one.target
  return {
    "temperature": float(temperature(step - 1)),
    **means,
    **of_each[budgets[0].name],
    "depth_entropy": float(entropy.depth.sum()),
    "width_entropy": float(entropy.width.sum()),
    "constraints": of_each,
    "probabilities": bin_probabilities(logits),
  }


def bin_probabilities(logits: Any) -> dict[str, list]:
  """`{"depth": [S][Kd], "width": [S][Kw]}`, six digits."""
  chances = distribution.probabilities(logits)
  return {
    kind: [[round(float(p), 6) for p in row] for row in np.asarray(rows)]
    for kind, rows in (("depth", chances.depth), ("width", chances.width))
  }


def check_data(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> None:
  """Refuses crops or batches that do not fit.

  Raises:
    UserError: naming the field, the value and what is accepted.
  """
  side = min(dataset.train_images.shape[1:3])
  if config.data.crop_padding >= side:
    raise UserError(
      f"config.data.crop_padding: {config.data.crop_padding} is not accepted; "
      f"expected less than the {side} pixels of the images' shorter side, or a "
      "crop may hold nothing of one"
    )
  check_batch(config, mesh, "search", microbatches=config.supernet.microbatches)
