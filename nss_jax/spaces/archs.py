"""Single archs at a target: the best of those that meet it, and the nearest.

The functions take a search space whose bins have size one, as
`SearchSpace.refine` makes it: every space is an arch then, its mean cost the
exact cost, and what is known of spaces holds for archs. A random key is
consumed; it seeds a numpy generator.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nss_jax.spaces.bins import edges_at
from nss_jax.spaces.constraints import (
  Target,
  arch_costs,
  as_constraints,
  nearest,
  needed_tolerance,
)
from nss_jax.spaces.evolution import evolve_spaces
from nss_jax.spaces.feasible import all_costs, num_feasible
from nss_jax.spaces.sampling import sample_uniform_archs, take
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.table import MAX_SPACES, spaces_at

# Where there are too many archs to list, the nearest of so many uniform draws.
NUM_DRAWS = 2**20


def num_meeting(
  search_space: SearchSpace, target: Target, tolerance: float
) -> int | None:
  """Counts archs that meet the target; None if there are too many to list."""
  if search_space.num_spaces > MAX_SPACES:
    return None
  return num_feasible(search_space, target, tolerance)


def best_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  score_fn: Callable[[Arch], Any],
  *,
  target: Target,
  tolerance: float,
  num_scored: int,
) -> tuple[Arch, np.ndarray]:
  """Scores up to `num_scored` archs that meet the target: all if they are few.

  Otherwise evolution finds them; where there are too many archs to list, they
  are the first of a million uniform draws. Returns different archs `[n, S]` and
  their scores `[n]`, the lowest first: none if no arch meets the target or none
  was drawn. They are a function of the key and the scores alone, see
  `evolve_spaces`.
  """
  meeting = num_meeting(search_space, target, tolerance)
  if meeting:
    spaces, scores = evolve_spaces(
      rng,
      search_space,
      lambda spaces: score_fn(archs_of(search_space, spaces)),
      target=target,
      tolerance=tolerance,
      num_scored=num_scored,
    )
    return archs_of(search_space, spaces), scores
  constraints = as_constraints(target)
  count = NUM_DRAWS if meeting is None else 0
  drawn = sample_uniform_archs(rng, search_space, count)
  costs = arch_costs(search_space, constraints, drawn)
  meets = needed_tolerance(constraints, costs) <= tolerance
  both = np.concatenate([drawn.depth, drawn.width], -1)[meets]
  _, first = np.unique(both, axis=0, return_index=True)
  both = both[np.sort(first)[:num_scored]]
  archs = Arch(*np.split(both, 2, axis=-1))
  scores = np.asarray(score_fn(archs) if len(both) else [], np.float64)
  order = np.argsort(scores, kind="stable")
  return take(archs, order), scores[order]


def nearest_arch(
  rng: jax.Array, search_space: SearchSpace, target: Target, tolerance: float
) -> Arch:
  """Returns the arch `[S]` nearest to the target by exact cost.

  One that meets all constraints, within the tolerance, comes before one that
  does not. Of equally near ones it is the first; where there are too many archs
  to list, the nearest of a million uniform draws.
  """
  constraints = as_constraints(target)
  if search_space.num_spaces <= MAX_SPACES:
    costs = [x.ravel() for x in all_costs(search_space, constraints)]
    index = nearest(constraints, costs, tolerance)
    return archs_of(search_space, spaces_at(search_space, index))
  archs = sample_uniform_archs(rng, search_space, NUM_DRAWS)
  costs = arch_costs(search_space, constraints, archs)
  return take(archs, nearest(constraints, costs, tolerance))


def archs_of(search_space: SearchSpace, spaces: Space) -> Arch:
  """Returns the archs `[..., S]` that spaces of bins of size one are."""
  return Arch(
    **{
      kind: edges_at(bins, getattr(spaces, kind))[0]
      for kind, bins in search_space.bins.items()
    }
  )
