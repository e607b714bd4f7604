"""The spaces and archs that meet a target: which, draws, the best one.

A target is a number of multiply-adds, or constraints: then all are to be met.

It is work for the host, done once per search. Random keys seed a numpy
generator: jax would compile anew for each number of spaces, and that differs
from target to target.
"""

from typing import NamedTuple

import jax
import numpy as np

from nss_jax.spaces.constraints import (
  Constraint,
  Target,
  arch_costs,
  as_constraints,
  describe,
  needed_tolerance,
  worst_penalty,
)
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.sampling import (
  check_at_least_one,
  collect_archs,
  host_rng,
  sample_uniform_archs,
  take,
)
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.table import (
  all_space_costs,
  space_log_probabilities,
  spaces_at,
)

# Log-probabilities closer than this are equal: far above the rounding of their
# sums, so that rounding never decides, and far below what a search can mean.
TIE = 1e-9

# The search has turned down a space whose probability is less than this share
# of the mode's.
LEAST_SHARE = 1 / 3

# How far beyond the nearest probable space a tolerance widens.
_WIDER = 1.25
_ARCHS_PER_BATCH = 2**16


class Candidates(NamedTuple):
  """What `elite_candidates` found, the most probable first.

  Attributes:
    spaces: numpy int32 fields `[n, S]`.
    costs: their mean costs, `[n, C]`, one for each constraint.
    log_probabilities: `[n]` under softmax(logits), in nats.
    ranks: `[n]`, how many spaces of any cost are more probable.
    tolerance: within which they meet the target: that asked for, or as much
      wider as it took.
  """

  spaces: Space
  costs: np.ndarray
  log_probabilities: np.ndarray
  ranks: np.ndarray
  tolerance: float


def num_feasible(
  search_space: SearchSpace, target: Target, tolerance: float
) -> int:
  """Counts the spaces whose mean costs meet the target; there may be none."""
  needed = _needed(search_space, as_constraints(target), tolerance)
  return int((needed <= tolerance).sum())


def feasible_indices(
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  *,
  without_lowest_width: bool = False,
) -> np.ndarray:
  """Returns flat table indices of the spaces that meet the target, ascending.

  Their mean costs are within the tolerance, the largest `|cost / target - 1|`
  accepted (none for a cost that is to be at most the target). There is at least
  one, or it is an error that names the nearest cost there is.

  Without the lowest width, spaces that take the lowest width bin in any stage
  are excluded too (all spaces, if a stage has no other): their archs can
  squeeze all information through a channel or two.
  """
  constraints = as_constraints(target)
  needed = _needed(search_space, constraints, tolerance)
  which = ""
  if without_lowest_width:
    which = " without a lowest width bin"
    for stage in range(search_space.num_stages):
      widths = np.moveaxis(needed, search_space.num_stages + stage, 0)
      widths[0] = np.nan
  indices = np.flatnonzero(needed <= tolerance)
  if indices.size:
    return indices
  if np.isnan(needed).all():
    raise ValueError(f"there is no space{which}")
  tables = all_costs(search_space, constraints)
  off = np.where(np.isnan(needed), np.inf, worst_penalty(constraints, tables))
  costs = [f"{table.ravel()[off.argmin()]:.6g}" for table in tables]
  raise ValueError(
    f"no space{which} has a mean cost within {tolerance:.3g} of "
    f"{describe(constraints)}; the nearest has {' and '.join(costs)}"
  )


def sample_feasible_spaces(
  rng: jax.Array,
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  count: int,
  *,
  without_lowest_width: bool = False,
) -> Space:
  """Draws different spaces uniformly from the feasible ones.

  Args:
    rng: random key, consumed.
    search_space: the bins.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted.
    count: n, the number of spaces; no space is drawn twice.
    without_lowest_width: also excludes every space that takes the lowest width
      bin in any stage (all spaces, if a stage has no other).

  Returns:
    A `Space` with numpy int32 fields `[n, S]`.

  Raises:
    ValueError: if fewer than `count` spaces are feasible.
  """
  check_at_least_one("count", count)
  indices = feasible_indices(
    search_space, target, tolerance, without_lowest_width=without_lowest_width
  )
  if indices.size < count:
    raise ValueError(
      f"{count} different spaces within {tolerance:.3g} of "
      f"{describe(as_constraints(target))} were asked for; there are "
      f"{indices.size}"
    )
  drawn = host_rng(rng).choice(indices, count, replace=False)
  return spaces_at(search_space, drawn)


def sample_feasible_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  count: int,
  *,
  max_draws: int = 2**24,
) -> Arch:
  """Draws archs uniformly from those of a cost within `tolerance` of a target.

  Every arch of the search space whose own multiply-adds lie in the window is
  equally likely, and the draws are independent (an arch can come twice). They
  are drawn by rejection from the uniform distribution over all archs, in which
  a space counts by the number of its archs; so where bins are of equal size,
  that is a uniform space and a uniform arch in it, conditioned on the cost.

  Args:
    rng: random key, consumed.
    search_space: the bins.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted, of the arch.
    count: N.
    max_draws: give up after so many archs, accepted or not.

  Returns:
    An `Arch` with numpy int32 fields `[N, S]`.

  Raises:
    ValueError: if `max_draws` did not suffice.
  """
  constraints = as_constraints(target)
  check_window(constraints, tolerance)
  check_at_least_one("count", count)
  generator = host_rng(rng)

  def draw_fn(size: int) -> Arch:
    archs = sample_uniform_archs(generator, search_space, size)
    costs = arch_costs(search_space, constraints, archs)
    return take(archs, needed_tolerance(constraints, costs) <= tolerance)

  return collect_archs(
    draw_fn,
    count,
    max_draws,
    _ARCHS_PER_BATCH,
    f"archs within {tolerance:.3g} of {describe(constraints)}",
  )


def elite_candidates(
  search_space: SearchSpace,
  logits: SpaceLogits,
  target: Target,
  tolerance: float,
  *,
  num_candidates: int = 8,
  least_share: float = LEAST_SHARE,
) -> Candidates:
  """Finds the most probable spaces near the target that were not turned down.

  They are found exactly: the distribution factorises and the cost is in closed
  form, so every space is looked at. A space counts if its probability is at
  least a share of the mode's, that of the most probable space of any cost. If
  no such space is within the tolerance, it widens to a little beyond the
  nearest: a space somewhat off the target is worth more than one that the
  search has turned down. Spaces above an "at_most" never count; if all that
  remain are less probable than the share, the most probable of them is taken.

  Args:
    search_space: the bins.
    logits: the searched distribution, `[S, Kd]` and `[S, Kw]`.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted at first.
    num_candidates: at most so many; of equally probable ones (to `TIE`) those
      closest to the target (by the worst constraint), then the first in
      enumeration order.
    least_share: of the probability of the mode, above 0 and at most 1.

  Raises:
    ValueError: naming the nearest cost there is, if no space is within the
      tolerance; or if logits are not finite or not of the search space.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> logits = nss.init_logits(search_space)
    >>> logits = logits.replace(width=logits.width.at[:, 9].set(3.0))
    >>> found = elite_candidates(search_space, logits, 100e6, 0.02)
    >>> best = jax.tree.map(lambda x: x[0], found.spaces)
    >>> nss.format_space(search_space, best)
    'd3:3-3:3-2:2_w37:40-37:40-37:40'
    >>> round(float(found.costs[0, 0]) / 1e6, 1), found.ranks[0].item()
    (99.5, 0)
  """
  check_at_least_one("num_candidates", num_candidates)
  if not 0 < least_share <= 1:
    raise ValueError(f"least_share must be in (0, 1]; got {least_share}")
  constraints = as_constraints(target)
  check_window(constraints, tolerance)
  costs = [t.ravel() for t in all_costs(search_space, constraints)]
  logs = space_log_probabilities(search_space, logits).ravel()
  rows = np.flatnonzero(logs >= logs.max() + np.log(least_share) - TIE)
  needed = needed_tolerance(constraints, [c[rows] for c in costs])
  wide = tolerance
  if np.isfinite(needed).any():
    if needed.min() > tolerance:
      wide = _WIDER * needed.min()
    rows = rows[needed <= wide]
  else:
    rows = feasible_indices(search_space, target, tolerance)
    rows = rows[logs[rows] >= logs[rows].max() - TIE]
  off = needed_tolerance(constraints, [c[rows] for c in costs])
  # Ties as whole steps of `TIE`: rounding never decides.
  steps = np.round((logs[rows] - logs.max()) / TIE)
  rows = rows[np.lexsort((rows, off, -steps))[:num_candidates]]
  return Candidates(
    spaces=spaces_at(search_space, rows),
    costs=np.stack([c[rows] for c in costs], -1),
    log_probabilities=logs[rows],
    ranks=np.asarray([(logs > one + TIE).sum() for one in logs[rows]]),
    tolerance=float(wide),
  )


def _needed(
  search_space: SearchSpace,
  constraints: tuple[Constraint, ...],
  tolerance: float,
) -> np.ndarray:
  """Returns a table of the tolerance that each space needs."""
  check_window(constraints, tolerance)
  return needed_tolerance(constraints, all_costs(search_space, constraints))


def all_costs(
  search_space: SearchSpace, constraints: tuple[Constraint, ...]
) -> list[np.ndarray]:
  """Returns a table of mean costs for each constraint."""
  return [all_space_costs(search_space, one.metric) for one in constraints]


def check_window(constraints: tuple[Constraint, ...], tolerance: float) -> None:
  """Refuses targets and tolerances that are no window of costs."""
  for target in (one.target for one in constraints):
    if not (0 < target < np.inf and 0 <= tolerance < np.inf):
      raise ValueError(
        "target must be positive, tolerance at least 0 and both finite; got "
        f"{target} and {tolerance}"
      )
