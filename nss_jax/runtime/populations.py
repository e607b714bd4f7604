"""Populations of `principles/scores.csv`, and their error EDFs (paper 4.5).

A source is `<kind>_<cost>`: how the archs were drawn, and whether inside the
window of multiply-adds or at any cost.
"""

import numpy as np
from scipy import optimize, stats

from nss_jax.runtime.scores import Scores

PRINCIPLES, TREND, OWN = "design_principles", "elite_trend", "own_trend"
# In words, as tables and pictures have them.
NAMES = {
  PRINCIPLES: "design principles",
  TREND: "the paper's trend",
  "anynet_e": "AnyNetX E",
  "regnet": "RegNet",
  OWN: "this run's trend",
}
KINDS = tuple(NAMES)
# What is measured against the design principles at equal cost too.
TRENDS = (TREND, OWN)
IN_WINDOW, ANY_COST, MATCHED = "in_window", "any_cost", "matched"
COSTS = (IN_WINDOW, ANY_COST)

Curves = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def group_of(table: Scores, kind: str, cost: str) -> Scores:
  """The rows of one population; it may have none."""
  return table.group(f"{kind}_{cost}")


def match_principles(table: Scores, kind: str) -> tuple[Scores, Scores]:
  """Archs of the design principles, and of a kind, in pairs of equal cost.

  Without a window: what is left of the difference when the costs are the same.
  """
  pair = [group_of(table, name, ANY_COST) for name in (PRINCIPLES, kind)]
  rows = match_costs(*(group.flops for group in pair))
  first, second = (g.select(r) for g, r in zip(pair, rows, strict=True))
  return first, second


def error_curves(table: Scores) -> Curves:
  """The EDFs to draw, `{panel: {kind: (errors, shares)}}` (Fig. 6).

  A panel for each cost, and one of pairs of equal cost for each trend; what has
  no rows is left out.
  """
  curves = {}
  for cost in COSTS:
    groups = {kind: group_of(table, kind, cost) for kind in KINDS}
    curves[cost] = {k: error_edf(g.error) for k, g in groups.items() if len(g)}
  for kind in TRENDS:
    groups = dict(
      zip((PRINCIPLES, kind), match_principles(table, kind), strict=True)
    )
    if len(groups[kind]):
      curves[f"{MATCHED}_{kind}"] = {
        name: error_edf(group.error) for name, group in groups.items()
      }
  return {panel: found for panel, found in curves.items() if found}


def match_costs(
  references: np.ndarray, candidates: np.ndarray, *, tolerance: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs archs of two populations that cost the same, each used once.

  Error EDFs of two populations of different cost compare the costs as well
  (without a window, archs of the elite trend cost twice those of the design
  principles). The EDFs over the pairs do not: at every quantile their costs
  agree within the tolerance, a distance `|log(candidate / reference)|`. Of the
  pairings with the most pairs it is the one with the smallest sum of distances.
  It looks at costs only, so at a given cost the errors of a population are as
  before. Indices of both, `[P]` each, come in the order of cost.
  """
  macs = [np.asarray(x, np.float64).ravel() for x in (references, candidates)]
  for x in macs:
    if not ((x > 0) & (x < np.inf)).all():
      raise ValueError(f"multiply-adds must be positive and finite; got {x}")
  if not 0 <= tolerance < np.inf:
    raise ValueError(f"tolerance must be at least 0, finite; got {tolerance}")
  distance = np.abs(np.log(macs[1])[None] - np.log(macs[0])[:, None])
  near = distance <= tolerance
  # One pair too far apart is dearer than all others together.
  prices = np.where(near, distance, 1 + len(macs[0]) * tolerance)
  pairs = optimize.linear_sum_assignment(prices)
  kept = near[pairs]
  # In the order of cost no pair is farther apart than before.
  first, second = (
    i[kept][np.argsort(x[i[kept]], kind="stable")]
    for i, x in zip(pairs, macs, strict=True)
  )
  return first, second


def error_edf(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the steps of the distribution function of errors (RegNet 3.1).

  The share of archs with an error below e is `share[k]` from just above `x[k]`
  to `x[k + 1]`, and 0 up to `x[0]`: plot it with `drawstyle="steps-post"`.
  """
  errors = np.asarray(errors, np.float64).ravel()
  if not errors.size or np.isnan(errors).any():
    raise ValueError(
      f"an EDF needs errors that are numbers; got {errors.size}, "
      f"{np.isnan(errors).sum()} of them nan"
    )
  steps = stats.ecdf(errors).cdf
  return steps.quantiles, steps.probabilities


def share_of_pairs_won(errors: np.ndarray, others: np.ndarray) -> float:
  """The chance that one of `errors` is below one of `others`, ties half.

  The area under the curve of Mann and Whitney: 0.5 is no difference. What the
  area *between* two EDFs is, the difference of the means says.
  """
  ordered = np.sort(others)
  below = np.searchsorted(ordered, errors, side="left")
  up_to = np.searchsorted(ordered, errors, side="right")
  return float(1 - (below + up_to).mean() / (2 * len(others)))
