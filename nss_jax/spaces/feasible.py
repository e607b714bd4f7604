"""The spaces and archs that meet a target: which, draws, the best one.

A target is a number of multiply-adds, or constraints: then all are to be met.

Work for the host, once per search. Random keys seed a numpy generator, which
needs no compilation for the numbers of spaces, other for every target.
"""

from typing import NamedTuple

import jax
import numpy as np

from nss_jax.spaces.constraints import (
  Constraint,
  Target,
  as_constraints,
  describe,
  excess,
  worst_penalty,
)
from nss_jax.spaces.cost import arch_cost
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.sampling import host_rng
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.table import (
  all_space_costs,
  space_log_probabilities,
  spaces_at,
)

# Log-probabilities closer than this are equal: far above the rounding of their
# sums, so that rounding never decides, and far below what a search can mean.
TIE = 1e-9

_ARCHS_PER_BATCH = 2**16


class ExactElite(NamedTuple):
  """What `exact_elite_space` found.

  Attributes:
    space: the Elite Space, numpy int32 fields `[S]`.
    cost: its mean multiply-adds, or what the first constraint counts.
    log_probability: its log-probability under softmax(logits), in nats.
    num_feasible: the number of spaces that it was chosen from.
  """

  space: Space
  cost: float
  log_probability: float
  num_feasible: int


def feasible_spaces(
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  *,
  without_lowest_width: bool = False,
) -> np.ndarray:
  """Which spaces have a mean cost within `tolerance` of the target.

  Args:
    search_space: the bins.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted; 0.1 is 10 %. None for a
      cost that is to be at most the target.
    without_lowest_width: also exclude every space that takes the lowest width
      bin in any stage (all spaces, if a stage has no other): spaces whose archs
      can squeeze all information through a channel or two.

  Returns:
    A table of bool. There may be no space at all.

  Raises:
    ValueError: if target or tolerance are out of range, or there are too many
      spaces.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> table = feasible_spaces(search_space, 100e6, 0.02)
    >>> int(table.sum()), table.size
    (3328, 262144)
  """
  return _excess(search_space, target, tolerance, without_lowest_width) <= 0


def feasible_indices(
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  *,
  without_lowest_width: bool = False,
) -> np.ndarray:
  """The flat table indices of the feasible spaces, ascending, at least one.

  Raises:
    ValueError: naming the nearest cost there is, if no space is feasible; and
      as `feasible_spaces`, whose arguments it takes.
  """
  over = _excess(search_space, target, tolerance, without_lowest_width)
  indices = np.flatnonzero(over <= 0)
  if not indices.size:
    which = " without a lowest width bin" if without_lowest_width else ""
    nearest = over.argmin()
    if np.isinf(over.ravel()[nearest]):
      raise ValueError(f"there is no space{which}")
    constraints = as_constraints(target)
    costs = [
      f"{table.ravel()[nearest]:.6g}"
      for table in _all_costs(search_space, constraints)
    ]
    raise ValueError(
      f"no space{which} has a mean cost within {tolerance:.3g} of "
      f"{describe(constraints)}; the nearest has {' and '.join(costs)}"
    )
  return indices


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
    without_lowest_width: see `feasible_spaces`.

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
  kept, missing, num_draws = [], count, 0
  while missing > 0 and num_draws < max_draws:
    size = min(_ARCHS_PER_BATCH, max_draws - num_draws)
    num_draws += size
    archs = _uniform_archs(generator, search_space, size)
    costs = [arch_cost(search_space, one.metric, archs) for one in constraints]
    rows = np.flatnonzero(excess(constraints, costs, tolerance) <= 0)[:missing]
    missing -= rows.size
    kept.append(jax.tree.map(lambda x, rows=rows: x[rows], archs))
  if missing > 0:
    raise ValueError(
      f"only {count - missing} of {count} archs within {tolerance:.3g} of "
      f"{describe(constraints)} in {num_draws} uniform draws"
    )
  return jax.tree.map(lambda *parts: np.concatenate(parts), *kept)


def sample_uniform_archs(
  rng: jax.Array, search_space: SearchSpace, count: int
) -> Arch:
  """Draws archs uniformly from the whole search space, numpy `[N, S]`."""
  return _uniform_archs(host_rng(rng), search_space, count)


def exact_elite_space(
  search_space: SearchSpace,
  logits: SpaceLogits,
  target: Target,
  tolerance: float,
) -> ExactElite:
  """The most probable space whose mean cost is within tolerance of the target.

  Found exactly: the distribution factorises and the cost is in closed form, so
  every space is scored. Replaces the draws of `elite_space` (paper 3.4), whose
  result varies from key to key. Of spaces that are equally probable (to `TIE`)
  the one closest to the target (by the worst constraint) wins, then the first
  in enumeration order.

  Args:
    search_space: the bins.
    logits: the searched distribution, `[S, Kd]` and `[S, Kw]`.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted.

  Raises:
    ValueError: naming the nearest cost there is, if no space is within the
      tolerance; or if logits are not finite or not of the search space.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> logits = nss.init_logits(search_space)
    >>> logits = logits.replace(width=logits.width.at[:, 9].set(3.0))
    >>> elite = exact_elite_space(search_space, logits, 100e6, 0.02)
    >>> nss.format_space(search_space, elite.space)
    'd3:3-3:3-2:2_w37:40-37:40-37:40'
    >>> round(elite.cost / 1e6, 1)
    99.5
  """
  constraints = as_constraints(target)
  costs = [t.ravel() for t in _all_costs(search_space, constraints)]
  indices = feasible_indices(search_space, target, tolerance)
  scores = space_log_probabilities(search_space, logits).ravel()[indices]
  indices = indices[scores >= scores.max() - TIE]
  distances = worst_penalty(constraints, [c[indices] for c in costs])
  best = indices[distances.argmin()]
  return ExactElite(
    space=spaces_at(search_space, best),
    cost=float(costs[0][best]),
    log_probability=float(scores.max()),
    num_feasible=int(scores.size),
  )


def check_at_least_one(name: str, count: int) -> None:
  """Raises ValueError, with the name, for a number below 1."""
  if count < 1:
    raise ValueError(f"{name} must be at least 1; got {count}")


def _excess(
  search_space: SearchSpace,
  target: Target,
  tolerance: float,
  without_lowest_width: bool,
) -> np.ndarray:
  """A table of `excess`; infinite for spaces that are excluded."""
  constraints = as_constraints(target)
  check_window(constraints, tolerance)
  over = excess(constraints, _all_costs(search_space, constraints), tolerance)
  if without_lowest_width:
    for stage in range(search_space.num_stages):
      widths = np.moveaxis(over, search_space.num_stages + stage, 0)
      widths[0] = np.inf
  return over


def _all_costs(
  search_space: SearchSpace, constraints: tuple[Constraint, ...]
) -> list[np.ndarray]:
  """A table of mean costs for each constraint."""
  return [all_space_costs(search_space, one.metric) for one in constraints]


def check_window(constraints: tuple[Constraint, ...], tolerance: float) -> None:
  for target in (one.target for one in constraints):
    if not (0 < target < np.inf and 0 <= tolerance < np.inf):
      raise ValueError(
        "target must be positive, tolerance at least 0 and both finite; got "
        f"{target} and {tolerance}"
      )


def _uniform_archs(
  generator: np.random.Generator, search_space: SearchSpace, count: int
) -> Arch:
  """Archs uniform over all of the search space, gaps between bins left out."""
  fields = {}
  for name, bins in (
    ("depth", search_space.depth_bins),
    ("width", search_space.width_bins),
  ):
    columns = []
    for stage in bins:
      values = np.concatenate([np.arange(a, b + 1) for a, b in stage])
      columns.append(generator.choice(values.astype(np.int32), count))
    fields[name] = np.stack(columns, axis=-1)
  return Arch(**fields)
