"""What the constraints allow: told before a run spends hours on them."""

from collections.abc import Iterator

import numpy as np

from nss_jax.phases.job import Job
from nss_jax.spaces.cost import arch_cost
from nss_jax.spaces.metrics import UNITS
from nss_jax.spaces.sampling import sample_uniform_archs
from nss_jax.spaces.search_space import Arch

_DRAWS = 20_000
# Of costs that are to be equal: what counts as meeting them.
_NEAR = 0.1
_ASKED = {"at_most": "at most", "equal": f"within {_NEAR:.0%} of"}


def describe(job: Job) -> Iterator[str]:
  """Tells the smallest, median and largest network in each constraint.

  And of uniform draws the share that meets all of them together, to a tenth
  where a cost is to be equal.
  """
  if not job.constraints:
    return
  space, ends = job.search_space, []
  for take in (np.min, np.max):
    depth, width = (
      np.array([take(stage) for stage in bins]) for bins in space.bins.values()
    )
    ends.append(Arch(depth=depth, width=width))
  drawn = sample_uniform_archs(np.random.default_rng(0), space, _DRAWS)
  meets = np.ones(_DRAWS, bool)
  for one in job.constraints:
    low, high = (float(arch_cost(space, one.metric, arch)) for arch in ends)
    costs = np.asarray(arch_cost(space, one.metric, drawn))
    allowed = costs <= one.target
    if one.mode == "equal":
      allowed = np.abs(costs / one.target - 1) <= _NEAR
    meets &= allowed
    yield (
      f"networks   {low:.3g} to {high:.3g} {UNITS[one.name]}, median "
      f"{np.median(costs):.3g}; {_share(allowed)} are {_ASKED[one.mode]} "
      f"{one.target:.4g}"
    )
  if len(job.constraints) > 1:
    yield f"           {_share(meets)} meet all of these together"


def _share(met: np.ndarray) -> str:
  if not met.any():
    return f"none of {len(met):,} draws"
  return f"{100 * met.mean():.2g} % of {len(met):,} draws"
