"""How an Elite Space meets a constraint."""

from typing import Annotated

from nss_jax.results import fields
from nss_jax.results.artifact import Artifact
from nss_jax.spaces.constraints import MODES, amount
from nss_jax.spaces.metrics import UNITS

_MODES = {"equal": "the target of", "at_most": "the most of"}
# Names of metrics, of which more may be registered.
MetricName = Annotated[
  str,
  fields.Kind(
    lambda x: isinstance(x, str) and x in UNITS, f"one of {', '.join(UNITS)}"
  ),
]


class MetConstraint(Artifact):
  """How the Elite Space meets one of the constraints."""

  metric: MetricName
  mode: Annotated[str, fields.one_of(*MODES)]
  target: fields.Positive
  weight: fields.NonNegative
  mean_cost: fields.NonNegative
  deviation: fields.Number

  def words(self) -> str:
    """Returns `mean 1.88 MF, -1.9 % from the target of 1.92 MF`."""
    return (
      f"mean {amount(self.metric, self.mean_cost)}, "
      f"{100 * self.deviation:+.1f} % from {_MODES[self.mode]} "
      f"{amount(self.metric, self.target)}"
    )
