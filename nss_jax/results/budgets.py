"""The budgets of a run in words, and how a space or a network meets them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from nss_jax.results.artifact import (
  Artifact,
  Kind,
  NonNegative,
  Number,
  Positive,
  one_of,
)
from nss_jax.runtime.log import format_macs
from nss_jax.spaces.constraints import MODES, UNITS, Constraint

_MODES = {"equal": "the target of", "at_most": "the most of"}
_LARGE = 1000
# Names of metrics, of which more may be registered.
MetricName = Annotated[
  str,
  Kind(
    lambda x: isinstance(x, str) and x in UNITS, f"one of {', '.join(UNITS)}"
  ),
]


class Budget(Artifact):
  """How the Elite Space meets one of the budgets."""

  metric: MetricName
  mode: Annotated[str, one_of(*MODES)]
  target: Positive
  weight: NonNegative
  mean_cost: NonNegative
  deviation: Number

  def words(self) -> str:
    """Returns `mean 1.88 MF, -1.9 % from the target of 1.92 MF`."""
    return (
      f"mean {amount(self.metric, self.mean_cost)}, "
      f"{100 * self.deviation:+.1f} % from {_MODES[self.mode]} "
      f"{amount(self.metric, self.target)}"
    )


def amount(metric: str, value: float) -> str:
  """Returns a cost with its unit: `1.92 MF`, `94,000 parameters`."""
  if metric == "flops":
    return format_macs(value)
  number = f"{value:,.0f}" if value >= _LARGE else f"{value:.4g}"
  return f"{number} {UNITS[metric]}"


def target_words(budgets: Sequence[Constraint]) -> str:
  """Returns what was asked for: `1.92 MF and at most 94,000 parameters`."""
  return " and ".join(
    f"{'at most ' if one.mode == 'at_most' else ''}"
    f"{amount(one.name, one.target)}"
    for one in budgets
  )


def from_targets(deviations: Mapping[str, float]) -> str:
  """Returns `-1.9 % from the target`, or how far off each budget is."""
  if [*deviations] == ["flops"]:
    return f"{100 * deviations['flops']:+.1f} % from the target"
  shares = (f"{name} {100 * x:+.1f} %" for name, x in deviations.items())
  return f"{', '.join(shares)} from the target{'s' * (len(deviations) > 1)}"
