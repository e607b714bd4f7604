"""What a run is going to do: printed before it starts and by `--dry_run`."""

from collections.abc import Iterator

from nss_jax import data
from nss_jax.phases import allowance, memory, registry, search, work
from nss_jax.phases.job import Job
from nss_jax.runtime import sharding
from nss_jax.spaces import cost, metrics
from nss_jax.spaces.feasible import feasible_spaces
from nss_jax.spaces.text import format_macs


def describe(job: Job) -> Iterator[str]:
  """Tells the plan of a job, line by line."""
  space, dataset, mesh = job.search_space, job.dataset, job.mesh
  schedule = search.schedule_of(job)
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
  yield from _describe_constraints(job, largest)
  yield from allowance.describe(job)
  yield (
    f"steps      {schedule.epochs} epochs ({schedule.warmup_epochs} of warmup)"
    f" of {schedule.steps_per_epoch} steps, {schedule.num_steps} in all"
  )
  macs = work.search_work(job, schedule).sum() * job.config.search.batch_size
  yield f"compute    {macs:.3g} multiply-adds in all, about"
  for phase in map(registry.find, job.phases):
    if phase.plan is not None:
      yield f"{phase.name:10} {phase.plan(job)}"
  platform = sharding.platform(mesh)
  needed = memory.estimate(job.config, space, mesh.size, platform)
  if not isinstance(dataset.train_images, data.StreamedImages):
    needed += dataset.train_images.size  # they live on the devices
  yield f"memory     about {needed / 2**30:.2g} GiB per device (estimate)"
  kinds = sorted({device.device_kind for device in mesh.devices.flat})
  yield (f"devices    {mesh.size} x {', '.join(kinds)} ({platform})")


def _describe_constraints(job: Job, largest: float) -> Iterator[str]:
  """Tells the target, and each constraint where there are others."""
  if job.target is not None:
    share = 100 * job.target / largest
    target = format_macs(job.target)
    yield f"target     {target}: {share:.2g} % of the largest network"
  if not (job.config.objective.constraints and job.has_all_constraints):
    return
  space, settings = job.search_space, job.config.search
  for one in job.constraints:
    low, high = cost.cost_range(space, cost.cost_tables(space, one.metric))
    yield (
      f"constraint {one.name}, {one.mode.replace('_', ' ')} {one.target:.4g} "
      f"{metrics.UNITS[one.name]}, weight {one.weight:g}; spaces of "
      f"{low:.3g} to {high:.3g} mean"
    )
  if settings.elite == "scored":
    tolerance = settings.elite_tolerance
    count = int(feasible_spaces(space, job.constraints, tolerance).sum())
    yield (
      f"elite      {count} of these spaces meet all constraints, to "
      f"{100 * tolerance:g} %; one of the most probable is taken"
    )
