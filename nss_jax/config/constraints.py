"""`objective.constraints`: the budgets of a config."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from nss_jax.errors import UserError
from nss_jax.runtime import latency_file
from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.cost import cost_range, cost_tables
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.metrics import LATENCY, METRICS, UNITS, Metric
from nss_jax.spaces.search_space import SearchSpace


def constraints(config: ml_collections.ConfigDict) -> tuple[Constraint, ...]:
  """The budgets of a valid config, at least one.

  The first is `target_flops`, with the weight `cost_weight`; if that is 0 and
  there are others, they stand alone.
  """
  objective = config.objective
  flops = Constraint(
    "flops",
    METRICS["flops"],
    float(objective.target_flops),
    float(objective.cost_weight),
  )
  given = [_constraint(config, x) for x in objective.constraints]
  return (flops, *given) if flops.weight or not given else tuple(given)


def flops_target(config: ml_collections.ConfigDict) -> float | None:
  """Multiply-adds to be met; None where no budget is of them."""
  objective = config.objective
  # Not by `constraints`, which needs the latency table where there is one.
  if objective.cost_weight or not objective.constraints:
    return float(objective.target_flops)
  found = [x["target"] for x in objective.constraints if x["metric"] == "flops"]
  return float(found[0]) if found else None


def refused_phases(config: ml_collections.ConfigDict) -> list[str]:
  """Phases that know targets of multiply-adds only, where there is none."""
  refused = []
  if flops_target(config) is None:
    refused += ["principles", "complexity"]
  if not config.objective.cost_weight and config.objective.constraints:
    refused.append("sweep")  # of target_flops, which is no budget
  return refused


def check_phases(
  config: ml_collections.ConfigDict, phases: Sequence[str]
) -> None:
  """Refuses phases that could not follow the budgets.

  Raises:
    UserError: naming them, and the phases that can.
  """
  refused = refused_phases(config)
  wrong = [name for name in phases if name in refused]
  if wrong:
    rest = [name for name in phases if name not in wrong] or ["search"]
    raise UserError(
      f"--phases: {', '.join(wrong)} with config.objective.cost_weight 0 is "
      "not accepted: multiply-adds are the only targets known there, and "
      "target_flops is no budget of this config; expected others, "
      f"--phases={','.join(rest)}"
    )


def wants_latency(config: ml_collections.ConfigDict) -> bool:
  """Whether a budget needs a latency table."""
  return any(x["metric"] == LATENCY for x in config.objective.constraints)


def validate_target(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> None:
  """Refuses targets that no space can meet.

  Raises:
    UserError: with the range that can be met, or the nearest cost to it; or if
      the latency table is missing, broken, or of other blocks.
  """
  if wants_latency(config):
    latency_file.read_metric(config.objective.latency_table, search_space)
  budgets = constraints(config)
  for one in budgets:
    tables = cost_tables(search_space, one.metric)
    low, high = cost_range(search_space, tables)
    if low <= one.target and (one.target <= high or one.mode == "at_most"):
      continue
    raise UserError(
      f"config.objective.{_field(config, one)}: {one.target:g} is not accepted;"
      f" expected {low:.6g} to {high:.6g} {UNITS[one.name]}, the mean costs "
      "that a space of this search space can have"
    )
  if config.search.elite == "scored":
    try:
      feasible_indices(search_space, budgets, config.search.elite_tolerance)
    except ValueError as error:
      raise UserError(f"config.search.elite_tolerance: {error}") from None


def _constraint(
  config: ml_collections.ConfigDict, fields: Mapping[str, Any]
) -> Constraint:
  name = fields["metric"]
  return Constraint(
    name,
    _metric(config, name),
    float(fields["target"]),
    float(fields.get("weight", 1.0)),
    fields.get("mode", "equal"),
  )


def _metric(config: ml_collections.ConfigDict, name: str) -> Metric:
  if name == LATENCY:
    return latency_file.read_metric(config.objective.latency_table, None)
  return METRICS[name]


def _field(config: ml_collections.ConfigDict, constraint: Constraint) -> str:
  """Where the config has a budget."""
  for index, fields in enumerate(config.objective.constraints):
    if fields["metric"] == constraint.name:
      return f"constraints[{index}].target"
  return "target_flops"
