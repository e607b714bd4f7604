"""What a run is going to do: printed before it starts and by `--dry_run`."""

from collections.abc import Iterator, Sequence

import jax
import ml_collections
import numpy as np

from nss_jax.phases import complexity, evaluate
from nss_jax.phases.program import Program
from nss_jax.runtime import data
from nss_jax.runtime.log import format_macs
from nss_jax.spaces import cost, distribution
from nss_jax.spaces.search_space import SearchSpace

# The two gradients of a convolution cost as much as the convolution each.
_PASSES = 3


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
  target = config.objective.target_flops
  shape = "x".join(map(str, space.image_shape))
  streamed = isinstance(dataset.train_images, data.StreamedImages)
  yield (
    f"data       {dataset.name}: {len(dataset.train_labels)} training images "
    f"of {shape}, {dataset.num_classes} classes"
    f"{', streamed' if streamed else ''}"
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
  yield (
    f"target     {format_macs(target)}: {100 * target / largest:.2g} % of the "
    "largest network"
  )
  yield (
    f"steps      {schedule.epochs} epochs ({schedule.warmup_epochs} of warmup)"
    f" of {schedule.steps_per_epoch} steps, {schedule.num_steps} in all"
  )
  macs = search_macs(config, program)
  yield f"compute    {macs:.3g} multiply-adds in all, about"
  for phase in phases:
    if phase in _PLANS:
      yield f"{phase:10} {_PLANS[phase](config, space)}"
  parts = program.mesh.size * config.supernet.microbatches
  memory = memory_estimate(space, config.search.batch_size // parts)
  yield f"memory     about {memory / 2**30:.2g} GiB per device (estimate)"
  kinds = sorted({device.device_kind for device in program.mesh.devices.flat})
  yield (
    f"devices    {program.mesh.size} x {', '.join(kinds)} "
    f"({jax.default_backend()})"
  )


def _plan_evaluate(config, space) -> str:
  return (
    f"a supernet of its own, {config.evaluate.epochs} epochs; then "
    f"{evaluate.num_archs(config, space)} archs"
  )


def _plan_rank_check(config, space) -> str:
  settings = config.rank_check
  return (
    f"{settings.num_archs} + {settings.num_near_archs} archs alone, "
    f"{settings.epochs} epochs each"
  )


def _plan_principles(config, space) -> str:
  return (
    f"up to 10 times {config.principles.num_archs} archs, on the evaluate "
    "phase's supernet"
  )


def _plan_nas(config, space) -> str:
  rates = ", ".join(f"{rate:g}" for rate in config.nas.learning_rates)
  return (
    f"in the Elite Space and in all of it, {config.nas.epochs} epochs each, "
    f"learning rates {rates}"
  )


def _plan_complexity(config, space) -> str:
  spaces = complexity.search_spaces(config, space)
  return (
    f"{len(spaces)} searches of one arch, {config.nas.epochs} epochs each: "
    f"{', '.join(spaces)}"
  )


def _plan_train(config, space) -> str:
  return (
    f"every arch alone, {config.train.epochs} epochs, "
    f"{config.train.num_seeds} seeds"
  )


def _plan_sweep(config, space) -> str:
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
}


def search_macs(config: ml_collections.ConfigDict, program: Program) -> float:
  """Multiply-adds of the whole search, about.

  A masked step pays for the largest network, a sliced one for what it draws:
  after warmup that is counted as the target, which the draws are led to.
  """
  space, schedule = program.search_space, program.schedule
  largest = cost.largest_macs(space)
  sliced = config.supernet.engine == "sliced"
  soft = config.search.estimator == "soft"
  scored = config.search.estimator == "score"
  target = config.objective.target_flops
  warmup = _warmup_macs(space) if sliced else largest
  train = target if sliced and not soft else largest
  search = (target if sliced else largest) / _PASSES
  search = search * config.search.num_score_archs if scored else largest
  searched = schedule.num_steps - schedule.warmup_steps
  images = schedule.warmup_steps * warmup + searched * (train + search)
  return float(images) * _PASSES * config.search.batch_size


def _warmup_macs(space: SearchSpace) -> float:
  """Mean of the draws of warmup, whose coins fall linearly from 1 to 0."""
  uniform = distribution.probabilities(distribution.init_logits(space))
  drawn = cost.mean_moments(space, jax.tree.map(np.asarray, uniform))
  whole = cost.arch_moments(space, cost.largest_arch(space))
  means = [
    cost.macs(
      space,
      cost.Moments(
        *(p * w + (1 - p) * d for w, d in zip(whole, drawn, strict=True))
      ),
    )
    for p in np.linspace(1, 0, 21)
  ]
  return float(np.mean(means))


def memory_estimate(search_space: SearchSpace, batch_size: int) -> float:
  """Bytes of a step on one device: parameters and saved activations.

  Parameters count five times (old and new, momentum of both, gradient). Per
  convolution about three float32 tensors of its output's size stay for the
  backward pass.
  """
  largest = cost.largest_arch(search_space)
  numbers = int(cost.arch_params(search_space, largest))
  activations = int(cost.arch_activations(search_space, largest))
  return 4.0 * (5 * numbers + 3 * activations * batch_size)
