"""Constraints: any number of budgets, each a target for one metric of cost."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.cost import (
  cost_tables,
  flops_penalty,
  mean_cost,
)
from nss_jax.spaces.metrics import METRICS, Metric
from nss_jax.spaces.search_space import Array, SearchSpace

Mode = Literal["equal", "at_most"]
MODES: tuple[Mode, ...] = ("equal", "at_most")
UNITS = {
  "flops": "multiply-adds",
  "params": "parameters",
  "activations": "activations",
  "latency": "seconds",
}


class Constraint(NamedTuple):
  """A budget.

  Attributes:
    name: of the metric.
    metric: what is counted.
    target: the cost to be met, in the units of the metric.
    weight: of the penalty in the search's objective.
    mode: "equal": the cost is to be the target; "at_most": or less.
  """

  name: str
  metric: Metric
  target: float
  weight: float = 1.0
  mode: Mode = "equal"


# A number alone is the multiply-adds to be met.
Target = float | Sequence[Constraint]


def as_constraints(target: Target) -> tuple[Constraint, ...]:
  """A number of multiply-adds, or constraints, as constraints.

  Raises:
    ValueError: for no constraints at all.
  """
  if not isinstance(target, Sequence):
    return (Constraint("flops", METRICS["flops"], target),)
  if not target:
    raise ValueError("there must be at least one constraint; got none")
  return tuple(target)


def penalty(cost: Array, target: float, mode: Mode = "equal") -> Array:
  """`|cost / target - 1|`; at most: the same above the target, else zero."""
  if mode == "equal":
    return flops_penalty(cost, target)
  over = cost / (1.0 * target) - 1
  return over * (over > 0)


def penalties(constraints: Sequence[Constraint], costs: Array) -> Array:
  """The penalty of each constraint: costs `[..., C]` -> `[..., C]`."""
  backend = np if isinstance(costs, np.ndarray) else jnp
  return backend.stack(
    [
      penalty(costs[..., i], one.target, one.mode)
      for i, one in enumerate(constraints)
    ],
    axis=-1,
  )


def mean_costs(
  search_space: SearchSpace, constraints: Sequence[Constraint], weights: Any
) -> Array:
  """Mean costs of a space whose bins are weighted: `[C]` (see `mean_cost`)."""
  backend = np if isinstance(weights.width, np.ndarray) else jnp
  return backend.stack(
    [
      mean_cost(search_space, cost_tables(search_space, one.metric), weights)
      for one in constraints
    ]
  )


def worst_penalty(
  constraints: Sequence[Constraint], costs: Sequence[np.ndarray]
) -> np.ndarray:
  """The largest penalty, from one array of costs for each constraint."""
  return _largest(
    penalty(cost, one.target, one.mode)
    for one, cost in zip(constraints, costs, strict=True)
  )


def excess(
  constraints: Sequence[Constraint],
  costs: Sequence[np.ndarray],
  tolerance: float,
) -> np.ndarray:
  """How far the worst constraint is from being met: 0 or less where all are.

  The tolerance, relative, is for costs that are to be equal; a cost that may be
  at most the target may not be above it.
  """
  return _largest(
    penalty(cost, one.target, one.mode)
    - (tolerance if one.mode == "equal" else 0)
    for one, cost in zip(constraints, costs, strict=True)
  )


def describe(constraints: Sequence[Constraint]) -> str:
  """`6e+08 multiply-adds and at most 2e+05 parameters`."""
  return " and ".join(
    f"{'at most ' if one.mode == 'at_most' else ''}{one.target:.6g} "
    f"{UNITS.get(one.name, one.name)}"
    for one in constraints
  )


def _largest(tables: Iterable[Array]) -> np.ndarray:
  return cast(np.ndarray, functools.reduce(np.maximum, tables))
