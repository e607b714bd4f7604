"""`principles/scores.csv`: which populations it compares, and their EDFs.

The `source` of a row is `<population>_<kind>`, such as `elite_trend_any_cost`.
"""

from nss_jax.runtime.scores import Scores
from nss_jax.spaces.principles import error_edf, match_costs

# Archs in the order of the design principles and in that of the Elite Spaces,
# and the two search spaces of RegNet that the former comes from.
PRINCIPLES, TREND = "design_principles", "elite_trend"
POPULATIONS = (PRINCIPLES, TREND, "regnet", "anynet")

# Archs in a window of multiply-adds, of any cost, and pairs of equal cost of
# the latter.
IN_WINDOW, ANY_COST, MATCHED = "in_window", "any_cost", "matched"
SOURCES = tuple(f"{n}_{k}" for k in (IN_WINDOW, ANY_COST) for n in POPULATIONS)


def matched(scores: Scores) -> dict[str, Scores]:
  """The pairs of equal cost of the two trends, row by row; maybe none."""
  names = PRINCIPLES, TREND
  both = [scores.group(f"{name}_{ANY_COST}") for name in names]
  rows = match_costs(*(group.flops for group in both))
  return {n: g.select(r) for n, g, r in zip(names, both, rows, strict=True)}


def error_edfs(scores: Scores) -> dict[str, dict[str, tuple]]:
  """`{kind: {population: (errors, shares)}}`; who has no row has no curve."""
  groups = {
    kind: {name: scores.group(f"{name}_{kind}") for name in POPULATIONS}
    for kind in (IN_WINDOW, ANY_COST)
  }
  groups[MATCHED] = matched(scores)
  return {
    kind: {n: error_edf(g.error) for n, g in found.items() if len(g)}
    for kind, found in groups.items()
  }
