"""What a run is going to do: printed before it starts and by `--dry_run`."""

from collections.abc import Iterator, Sequence

import ml_collections

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.phases import complexity, evaluate, memory
from nss_jax.phases.program import Program
from nss_jax.runtime import sharding
from nss_jax.spaces import cost, metrics
from nss_jax.spaces.feasible import feasible_spaces
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_macs


def describe(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  program: Program,
  phases: Sequence[str] = ("search",),
) -> Iterator[str]:
  """The plan of the phases, line by line."""
  space, schedule = program.search_space, program.schedule
  low, high = cost.macs_range(space)
  largest = cost.largest_macs(space)
  shape = "x".join(map(str, space.image_shape))
  streamed = isinstance(dataset.train_images, data.StreamedImages)
  yield (
    f"data       {dataset.name}: {len(dataset.train_labels)} training images "
    f"of {shape}, {dataset.num_classes} classes"
    f"{', streamed' if streamed else ''}"
  )
  yield from dataset.notes
  if space.num_classes > dataset.num_classes:
    yield (
      f"warning: config.space.num_classes={space.num_classes}: the data have "
      f"{dataset.num_classes} classes, so other outputs are never right; 0 "
      "takes as many"
    )
  yield (
    f"space      {space.num_spaces} spaces, {space.num_archs:.3g} archs; "
    f"depths to {space.max_depth}, widths to {space.max_width}, "
    f"{space.num_stages} stages"
  )
  yield (
    f"cost       spaces of {format_macs(low)} to {format_macs(high)} mean; "
    f"largest network {format_macs(largest)}"
  )
  if tuple(phases) != ("latency_table",):  # whose budgets may not be known yet
    yield from _plan_target(config, largest)
    yield from _plan_constraints(config, space)
  yield (
    f"steps      {schedule.epochs} epochs ({schedule.warmup_epochs} of warmup)"
    f" of {schedule.steps_per_epoch} steps, {schedule.num_steps} in all"
  )
  macs = program.work.sum() * program.batch_size
  yield f"compute    {macs:.3g} multiply-adds in all, about"
  for phase in phases:
    if phase in _PLANS:
      yield f"{phase:10} {_PLANS[phase](config, space)}"
  platform = sharding.platform(program.mesh)
  needed = memory.estimate(config, space, program.mesh.size, platform)
  if not isinstance(dataset.train_images, data.StreamedImages):
    needed += dataset.train_images.size  # they live on the devices
  yield f"memory     about {needed / 2**30:.2g} GiB per device (estimate)"
  kinds = sorted({device.device_kind for device in program.mesh.devices.flat})
  yield (f"devices    {program.mesh.size} x {', '.join(kinds)} ({platform})")


def _plan_target(
  config: ml_collections.ConfigDict, largest: float
) -> Iterator[str]:
  """A line, if the FLOPs are a budget."""
  target = config_lib.flops_target(config)
  if target is not None:
    yield (
      f"target     {format_macs(target)}: {100 * target / largest:.2g} % of "
      "the largest network"
    )


def _plan_constraints(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> Iterator[str]:
  """A line for each budget, unless the FLOPs are the only one."""
  if not config.objective.constraints:
    return
  budgets = config_lib.constraints(config)
  for one in budgets:
    low, high = cost.cost_range(space, cost.cost_tables(space, one.metric))
    yield (
      f"budget     {one.name}, {one.mode.replace('_', ' ')} {one.target:.4g} "
      f"{metrics.UNITS[one.name]}, weight {one.weight:g}; spaces of "
      f"{low:.3g} to {high:.3g} mean"
    )
  if config.search.elite == "scored":
    tolerance = config.search.elite_tolerance
    count = int(feasible_spaces(space, budgets, tolerance).sum())
    yield (
      f"elite      {count} of these spaces meet all budgets, to "
      f"{100 * tolerance:g} %; one of the most probable is taken"
    )


def _plan_evaluate(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> str:
  return (
    f"a supernet of its own, {config.evaluate.epochs} epochs; then "
    f"{evaluate.num_archs(config, space)} archs"
  )


def _plan_rank_check(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> str:
  settings = config.rank_check
  return (
    f"{settings.num_archs} + {settings.num_near_archs} archs alone, "
    f"{settings.num_seeds} seeds, {settings.epochs} epochs each"
    if not settings.truths
    else f"the archs of {settings.truths}, by the supernet"
  )


def _plan_principles(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> str:
  return (
    f"up to 10 times {config.principles.num_archs} archs, on the evaluate "
    "phase's supernet"
  )


def _plan_nas(config: ml_collections.ConfigDict, space: SearchSpace) -> str:
  settings = config.nas
  if settings.method == "evaluator":
    return (
      f"archs that meet the budgets to {100 * settings.tolerance:g} %, by the "
      f"supernet; the best {settings.num_finalists} trained alone, "
      f"{settings.race_epochs} epochs a round"
    )
  rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
  return (
    f"in the Elite Space and in all of it, {config.nas.epochs} epochs each, "
    f"learning rates {rates}"
  )


def _plan_complexity(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> str:
  spaces = complexity.search_spaces(config, space)
  return (
    f"{len(spaces)} searches of one arch, {config.nas.epochs} epochs each: "
    f"{', '.join(spaces)}"
  )


def _plan_train(config: ml_collections.ConfigDict, space: SearchSpace) -> str:
  return (
    f"every arch alone, {config.train.epochs} epochs, "
    f"{config.train.num_seeds} seeds"
  )


def _plan_latency_table(
  config: ml_collections.ConfigDict, space: SearchSpace
) -> str:
  settings = config.latency_table
  return (
    f"blocks of {settings.num_widths} widths a stage, {settings.repeats} calls "
    f"each, {settings.batch_size} images a call; then "
    f"{settings.num_networks} networks"
  )


def _plan_sweep(config: ml_collections.ConfigDict, space: SearchSpace) -> str:
  targets = ", ".join(map(format_macs, config.sweep.targets))
  return f"{', '.join(config.sweep.phases)} for {targets}"


# What each phase beside the search will do, in words.
_PLANS = {
  "evaluate": _plan_evaluate,
  "rank_check": _plan_rank_check,
  "principles": _plan_principles,
  "nas": _plan_nas,
  "complexity": _plan_complexity,
  "train": _plan_train,
  "sweep": _plan_sweep,
  "latency_table": _plan_latency_table,
}
