"""Constraints, each a target for one metric of cost, and their words."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.cost import arch_cost, cost_tables, mean_cost
from nss_jax.spaces.metrics import METRICS, UNITS, Metric
from nss_jax.spaces.search_space import Arch, Array, SearchSpace
from nss_jax.spaces.text import format_macs

Mode = Literal["equal", "at_most"]
MODES = get_args(Mode)
# A cost above an "at_most" is penalised by this at once, and by how far it is
# above besides: so a search settles below the target, not around it.
OVER = 0.1
# Costs from here on are told in whole numbers.
_LARGE = 1000


class Constraint(NamedTuple):
  """What a cost is to be, or to be at most.

  Attributes:
    name: of the metric.
    metric: what is counted.
    target: the cost to be met, in the units of the metric.
    weight: of the penalty in the search's objective.
    mode: "equal": the cost is to be the target; "at_most": or less, but where
      every constraint is so, one of them is to be used up (see `penalties`).
  """

  name: str
  metric: Metric
  target: float
  weight: float = 1.0
  mode: Mode = "equal"


# A number alone is the multiply-adds to be met.
Target = float | Sequence[Constraint]


def as_constraints(target: Target) -> tuple[Constraint, ...]:
  """Returns a number of multiply-adds, or constraints, as constraints."""
  if not isinstance(target, Sequence):
    return (Constraint("flops", METRICS["flops"], target),)
  if not target:
    raise ValueError("there must be at least one constraint; got none")
  return tuple(target)


def flops_penalty(cost: Array, target: Any) -> Any:
  """Returns the FLOPs loss, `|cost / target - 1|` (Eq. 4, paper 3.4).

  Example:
    >>> round(flops_penalty(540e6, 600e6), 6)
    0.1
  """
  # jax takes a Python integer for int32, and 3.2 GF are more than that holds.
  return abs(cost / (1.0 * target) - 1)


def penalties(constraints: Sequence[Constraint], costs: Array) -> Array:
  """Says how far each constraint is from being met: `[..., C]` of such costs.

  "equal": `|cost / target - 1|` (Eq. 4). "at_most": the same above the target
  and `OVER` more, else zero. Where all are "at_most", the best that meets them
  is wanted, and that uses one of them up: the constraint of the largest
  `cost / target`, the *binding* one, is then to be equal from below.

  Example:
    >>> from nss_jax.spaces.metrics import METRICS
    >>> constraints = [
    ...   Constraint(name, METRICS[name], 100.0, mode="at_most")
    ...   for name in ("flops", "params")
    ... ]
    >>> costs = np.asarray([[90.0, 20.0], [90.0, 110.0]])
    >>> penalties(constraints, costs).round(3).tolist()
    [[0.1, 0.0], [0.0, 0.2]]
  """
  backend = np if isinstance(costs, np.ndarray) else jnp
  ratios = backend.stack(
    [costs[..., i] / (1.0 * one.target) for i, one in enumerate(constraints)],
    axis=-1,
  )
  equal = np.asarray([one.mode == "equal" for one in constraints])
  off = abs(ratios - 1)
  if not equal.any():
    equal = (ratios >= ratios.max(-1, keepdims=True)) & (ratios <= 1)
  return backend.where(equal, off, (off + OVER) * (ratios > 1))


def mean_costs(
  search_space: SearchSpace, constraints: Sequence[Constraint], weights: Any
) -> Array:
  """Returns mean costs `[C]` of a space with weighted bins, see `mean_cost`."""
  backend = np if isinstance(weights.width, np.ndarray) else jnp
  return backend.stack(
    [
      mean_cost(search_space, cost_tables(search_space, one.metric), weights)
      for one in constraints
    ]
  )


def arch_costs(
  search_space: SearchSpace, constraints: Sequence[Constraint], archs: Arch
) -> list[np.ndarray]:
  """Returns exact costs of archs, an array for each constraint."""
  return [arch_cost(search_space, one.metric, archs) for one in constraints]


def worst_penalty(
  constraints: Sequence[Constraint], costs: Sequence[np.ndarray]
) -> np.ndarray:
  """Returns the largest penalty, from an array of costs for each constraint."""
  each = penalties(constraints, np.stack([*costs], -1).astype(np.float64))
  return np.asarray(each).max(-1)


def needed_tolerance(
  constraints: Sequence[Constraint], costs: Sequence[np.ndarray]
) -> np.ndarray:
  """Returns the least relative tolerance within which all constraints are met.

  Costs that are to be equal need it, and where all are "at_most" the binding
  one does. It is infinite where a cost is above what it is to be at most.
  """
  above = [
    (cost > one.target) & (one.mode == "at_most")
    for one, cost in zip(constraints, costs, strict=True)
  ]
  off = worst_penalty(constraints, costs)
  return np.where(np.any(above, axis=0), np.inf, off)


def nearest(
  constraints: Sequence[Constraint],
  costs: Sequence[np.ndarray],
  tolerance: float,
  rank: np.ndarray | float = 0.0,
) -> np.ndarray:
  """Returns the index of what meets all constraints, or comes nearest to it.

  Of those within the tolerance it is the one of the lowest rank, of equals the
  one whose worst constraint is met best.
  """
  needed = needed_tolerance(constraints, costs)
  over = np.where(needed <= tolerance, 0, needed)
  off = worst_penalty(constraints, costs)
  # The last key counts first.
  return np.lexsort((off, np.broadcast_to(rank, off.shape), over))[0]


def describe(constraints: Sequence[Constraint]) -> str:
  """Says `6e+08 multiply-adds and at most 2e+05 parameters`."""
  return " and ".join(
    f"{'at most ' if one.mode == 'at_most' else ''}{one.target:.6g} "
    f"{UNITS.get(one.name, one.name)}"
    for one in constraints
  )


def amount(name: str, value: float) -> str:
  """Returns a cost with its unit: `1.92 MF`, `94,000 parameters`."""
  if name == "flops":
    return format_macs(value)
  number = f"{value:,.0f}" if value >= _LARGE else f"{value:.4g}"
  return f"{number} {UNITS[name]}"


def describe_targets(constraints: Sequence[Constraint]) -> str:
  """Says what was asked for: `1.92 MF and at most 94,000 parameters`."""
  return " and ".join(
    f"{'at most ' if one.mode == 'at_most' else ''}"
    f"{amount(one.name, one.target)}"
    for one in constraints
  )


def from_targets(deviations: Mapping[str, float]) -> str:
  """Says how far costs are off: `-1.9 % from the target`, or of each metric.

  Deviations are signed shares of the targets, by the names of the metrics.
  """
  if [*deviations] == ["flops"]:
    return f"{100 * deviations['flops']:+.1f} % from the target"
  each = ", ".join(f"{name} {100 * x:+.1f} %" for name, x in deviations.items())
  return f"{each} from the target{'s' * (len(deviations) > 1)}"
