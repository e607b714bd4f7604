"""Single archs at a target: the best of those that meet it, and the nearest.

The functions take a search space whose bins have size one, as
`SearchSpace.refine` makes it: then every space is an arch, its mean cost the
exact cost, and what is known of spaces holds for archs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.spaces.constraints import (
  Target,
  as_constraints,
  needed_tolerance,
  worst_penalty,
)
from nss_jax.spaces.cost import arch_cost
from nss_jax.spaces.evolution import evolve_spaces
from nss_jax.spaces.feasible import (
  feasible_spaces,
  sample_uniform_archs,
)
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.table import MAX_SPACES, all_space_costs, spaces_at

# Where there are too many archs to list, the nearest of so many uniform draws.
_DRAWS = 2**20


class ScoredArchs(NamedTuple):
  """Archs in the order of their scores, best first.

  Attributes:
    archs: numpy int32 fields `[n, S]`, all different.
    scores: `[n]` float64, lower is better.
  """

  archs: Arch
  scores: np.ndarray


def num_meeting(
  search_space: SearchSpace, target: Target, tolerance: float
) -> int | None:
  """How many archs meet the target; None where they are too many to list."""
  if search_space.num_spaces > MAX_SPACES:
    return None
  return int(feasible_spaces(search_space, target, tolerance).sum())


def best_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  score_fn: Callable[[Arch], Any],
  *,
  target: Target,
  tolerance: float,
  num_scored: int,
) -> ScoredArchs:
  """Scores archs that meet the target: all of them where they are few.

  Else they are found by evolution; of a million uniform draws, where there are
  too many archs to list. A function of `rng` and the scores alone, see
  `evolve_spaces`.

  Args:
    rng: random key, consumed.
    search_space: with bins of size one.
    score_fn: archs, fields `[n, S]` -> scores `[n]`, lower is better.
    target: multiply-adds, or constraints, all of which are to be met.
    tolerance: largest `|cost / target - 1|` accepted, of the exact cost.
    num_scored: number of archs to score, at most.

  Returns:
    None at all, if no arch meets the target or none was drawn.

  Raises:
    ValueError: if target or tolerance are out of range.
  """
  meeting = num_meeting(search_space, target, tolerance)
  if meeting:
    found = evolve_spaces(
      rng,
      search_space,
      lambda spaces: score_fn(archs_of(search_space, spaces)),
      target=target,
      tolerance=tolerance,
      num_scored=num_scored,
    )
    return ScoredArchs(archs_of(search_space, found.spaces), found.scores)
  constraints = as_constraints(target)
  drawn = sample_uniform_archs(
    rng, search_space, _DRAWS if meeting is None else 0
  )
  costs = [arch_cost(search_space, one.metric, drawn) for one in constraints]
  meets = needed_tolerance(constraints, costs) <= tolerance
  both = np.concatenate([drawn.depth, drawn.width], -1)[meets]
  _, first = np.unique(both, axis=0, return_index=True)
  both = both[np.sort(first)[:num_scored]]
  archs = Arch(*np.split(both, 2, axis=-1))
  scores = np.asarray(score_fn(archs) if len(both) else [], np.float64)
  order = np.argsort(scores, kind="stable")
  return ScoredArchs(jax.tree.map(lambda x: x[order], archs), scores[order])


def nearest_arch(
  rng: jax.Array, search_space: SearchSpace, target: Target, tolerance: float
) -> Arch:
  """The arch `[S]` nearest to the target by exact cost.

  One that meets all constraints comes before one that does not. Of equally near
  ones the first; where there are too many archs to list, the nearest of a
  million uniform draws.

  Args:
    rng: random key, consumed.
    search_space: with bins of size one.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` that meets it.
  """
  constraints = as_constraints(target)
  if search_space.num_spaces <= MAX_SPACES:
    costs = [
      all_space_costs(search_space, one.metric).ravel() for one in constraints
    ]
    index = _nearest(constraints, costs, tolerance)
    return archs_of(search_space, spaces_at(search_space, index))
  archs = sample_uniform_archs(rng, search_space, _DRAWS)
  costs = [arch_cost(search_space, one.metric, archs) for one in constraints]
  index = _nearest(constraints, costs, tolerance)
  return jax.tree.map(lambda x: x[index], archs)


def _nearest(
  constraints: tuple, costs: list[np.ndarray], tolerance: float
) -> np.ndarray:
  needed = needed_tolerance(constraints, costs)
  over = np.where(needed <= tolerance, 0, needed)
  distances = worst_penalty(constraints, costs)
  return np.asarray(np.lexsort((distances, over))[0])


def archs_of(search_space: SearchSpace, spaces: Space) -> Arch:
  """The archs `[..., S]` that spaces of bins of size one are."""
  fields = {}
  for kind, bins in (
    ("depth", search_space.depth_bins),
    ("width", search_space.width_bins),
  ):
    index = np.asarray(getattr(spaces, kind))
    columns = [
      np.asarray(stage, np.int32)[index[..., place], 0]
      for place, stage in enumerate(bins)
    ]
    fields[kind] = np.stack(columns, axis=-1)
  return Arch(**fields)
