"""The budgets of a run in words, and how an Elite Space meets them."""

from collections.abc import Mapping, Sequence
from typing import Any

from nss_jax.spaces.constraints import UNITS, Constraint
from nss_jax.spaces.text import format_macs

_MODES = {"equal": "the target of", "at_most": "the most of"}
_LARGE = 1000


def amount(metric: str, value: float) -> str:
  """A cost with its unit: `1.92 MF`, `94,000 parameters`."""
  if metric == "flops":
    return format_macs(value)
  number = f"{value:,.0f}" if value >= _LARGE else f"{value:.4g}"
  return f"{number} {UNITS[metric]}"


def targets(budgets: Sequence[Constraint]) -> str:
  """What was asked for: `1.92 MF and at most 94,000 parameters`."""
  return " and ".join(
    f"{'at most ' if one.mode == 'at_most' else ''}"
    f"{amount(one.name, one.target)}"
    for one in budgets
  )


def met(elite: Mapping[str, Any]) -> list[str]:
  """Of the content of `elite_space.json`: a text for each active budget.

  `mean 1.88 MF, -1.9 % from the target of 1.92 MF`
  """
  return [
    f"mean {amount(one['metric'], one['mean_cost'])}, "
    f"{100 * one['deviation']:+.1f} % from {_MODES[one['mode']]} "
    f"{amount(one['metric'], one['target'])}"
    for one in of_elite(elite)
  ]


def of_elite(elite: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
  """Its active budgets."""
  return elite["constraints"]


def how_sure(elite: Mapping[str, Any]) -> str:
  """`probability 0.88, the most probable space`, or where in the list it is,
  and what the most probable one is."""
  mode, rank = elite["argmax_space"], elite["rank"]
  words = f"probability {elite['probability']:.2g}"
  if mode["space"] == elite["space"]:
    return f"{words}, the most probable space"
  place = "" if rank is None else f", number {rank:,} by probability"
  return (
    f"{words}{place}; the most probable space has {mode['probability']:.2g}, "
    f"{from_targets(entry_deviations(mode, elite))}"
  )


def entry_deviations(
  entry: Mapping[str, Any], elite: Mapping[str, Any]
) -> Mapping[str, Any]:
  """What `from_targets` takes, of another space in `elite_space.json`."""
  return {
    "deviations": {
      one["metric"]: entry["costs"][one["metric"]] / one["target"] - 1
      for one in elite["constraints"]
    }
  }


def from_targets(found: Mapping[str, Any]) -> str:
  """How far a network is off: `-1.9 % from the target`, or of each budget."""
  each = deviations(found)
  if [*each] == ["flops"]:
    return f"{100 * each['flops']:+.1f} % from the target"
  shares = ", ".join(f"{name} {100 * x:+.1f} %" for name, x in each.items())
  return f"{shares} from the target" + "s" * (len(each) > 1)


def deviations(found: Mapping[str, Any]) -> Mapping[str, float]:
  """Of a network, as signed shares of its targets; old files have one."""
  return found.get("deviations") or {"flops": found["deviation"]}
