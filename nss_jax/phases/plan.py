"""What a run is going to do: printed before it starts and by `--dry_run`."""

from collections.abc import Iterator

import jax
import ml_collections

from nss_jax.phases.program import Program
from nss_jax.runtime import data
from nss_jax.runtime.log import format_macs
from nss_jax.spaces import cost
from nss_jax.spaces.search_space import SearchSpace

# One image through the network and back: the two gradients of a convolution
# cost as much as the convolution each.
_PASSES = 3


def describe(
  config: ml_collections.ConfigDict, dataset: data.Dataset, program: Program
) -> Iterator[str]:
  """The plan of a search, line by line."""
  space, schedule = program.search_space, program.schedule
  low, high = cost.macs_range(space)
  largest = cost.largest_macs(space)
  target = config.objective.target_flops
  shape = "x".join(map(str, space.image_shape))
  yield (
    f"data       {dataset.name}: {len(dataset.train_labels)} training images "
    f"of {shape}, {dataset.num_classes} classes"
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
  yield f"compute    {search_macs(config, program):.3g} multiply-adds in all"
  memory = memory_estimate(space, config.search.batch_size // program.mesh.size)
  yield f"memory     about {memory / 2**30:.2g} GiB per device (estimate)"
  kinds = sorted({device.device_kind for device in program.mesh.devices.flat})
  yield (
    f"devices    {program.mesh.size} x {', '.join(kinds)} "
    f"({jax.default_backend()})"
  )


def search_macs(config: ml_collections.ConfigDict, program: Program) -> float:
  """Multiply-adds of the whole search: masked steps pay for the largest."""
  schedule = program.schedule
  searched = schedule.epochs - schedule.warmup_epochs
  steps = schedule.steps_per_epoch * (schedule.epochs + searched)
  images = steps * config.search.batch_size
  return float(images) * _PASSES * cost.largest_macs(program.search_space)


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
