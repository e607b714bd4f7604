"""A network that was chosen for the constraints, as JSON tells of it."""

from typing import Any

import jax
import numpy as np

from nss_jax.phases.job import Job
from nss_jax.spaces import constraints
from nss_jax.spaces.archs import nearest_arch
from nss_jax.spaces.cost import arch_cost, arch_macs, arch_params
from nss_jax.spaces.search_space import Arch
from nss_jax.spaces.text import format_arch


def entry(
  job: Job, arch: Arch, num_samples: int, chosen: str
) -> dict[str, Any]:
  """Returns all that is told of one arch `[S]`, as JSON.

  It was chosen among `num_samples` archs, in words as `chosen` says.
  """
  space, target = job.search_space, job.target
  flops = int(arch_macs(space, arch))
  costs = costs_of(job, arch)
  each = {
    one.name: x.item() for one, x in zip(job.constraints, costs, strict=True)
  }
  return {
    "arch": format_arch(arch),
    "depth": arch.depth.tolist(),
    "width": arch.width.tolist(),
    "flops": flops,
    "params": int(arch_params(space, arch)),
    "target_flops": target,
    "deviation": None if target is None else flops / target - 1,
    "deviations": {
      one.name: each[one.name] / one.target - 1 for one in job.constraints
    },
    "off": float(constraints.worst_penalty(job.constraints, costs)),
    "costs": each,
    "within_tolerance": bool(is_near(job, arch)),
    "num_samples": int(num_samples),
    "chosen": chosen,
    "seed": job.config.seed,
  }


def or_nearest(job: Job, found: dict[str, Any]) -> dict[str, Any]:
  """Returns an entry, or that of the nearest arch where it misses a constraint.

  An arch that misses is never the answer if there is one that meets: what there
  is says the search space of the job, with bins of size one.
  """
  if found["within_tolerance"]:
    return found
  rng = jax.random.fold_in(job.keys["nas"], 2**31)
  window = job.constraints, job.config.nas.tolerance
  arch = nearest_arch(rng, job.search_space, *window)
  nearest = entry(job, arch, found["num_samples"], "")
  words = f"{found['chosen']} does not meet {within(job)}"
  if nearest["within_tolerance"]:
    words += ": the nearest arch by exact cost is taken instead"
  else:
    words += ", and no arch there does: the nearest by exact cost is taken"
  return {**found, **nearest, "chosen": words, "by_cost": True}


def within(job: Job) -> str:
  """Returns `every budget within 2 %`, as the files of runs have it."""
  return f"every budget within {100 * job.config.nas.tolerance:g} %"


def is_near(job: Job, archs: Arch) -> np.ndarray:
  """Tells whether archs meet every constraint, within `nas.tolerance`."""
  needed = constraints.needed_tolerance(job.constraints, costs_of(job, archs))
  return needed <= job.config.nas.tolerance


def costs_of(job: Job, archs: Arch) -> list[np.ndarray]:
  """Returns the exact cost of archs `[..., S]` in each constraint."""
  space = job.search_space
  return [arch_cost(space, one.metric, archs) for one in job.constraints]
