"""Populations held against the design principles, by hand."""

import numpy as np
import pytest
import score_tables
from score_tables import join

from nss_jax.results import edfs, trends
from nss_jax.results.statistics import share_of_pairs_won


def test_matched_pairs_are_compared(tmp_path):
  """Two cheap networks that agree in cost, and one that does not."""
  source = ["design_principles_any_cost"] * 3 + ["elite_trend_any_cost"] * 3
  error = np.array([0.5, 0.4, 0.1, 0.3, 0.2, 0.0])
  flops = [100, 200, 900, 101, 199, 400]
  table = join(
    *(
      score_tables.table(x, [e], flops=[f])
      for x, e, f in zip(source, error, flops, strict=True)
    )
  )
  order = trends.OwnOrder(stages=None, note="none")
  found = trends.summarize(
    table, window=(1.0, 2.0), own_order=order, missing={}
  )
  path = tmp_path / "summary.json"
  found.write(path)
  assert trends.Principles.read(path) == found
  result = found.to_json()
  curves = edfs.error_curves(table)
  matched = result["matched"]["elite_trend"]
  assert matched["pairs"] == 2
  assert matched["design_principles"]["mean_error"] == 0.45
  assert matched["elite_trend"]["mean_error"] == 0.25
  assert matched["mean_difference"] == pytest.approx(-0.2)
  assert matched["pairs_won"] == 1.0
  titles = [title for title, _ in curves]
  assert titles == ["at any cost", "pairs of equal cost"]
  errors, shares = curves[1][1]["elite_trend"]
  assert errors.tolist() == [0.2, 0.3]
  assert shares.tolist() == [0.5, 1.0]
  against = result["against_principles"]["elite_trend_any_cost"]
  # Of nine pairs it loses (0.3, 0.1) and (0.2, 0.1).
  assert against["pairs_won"] == pytest.approx(7 / 9)
  # The signed area between the EDFs, by the steps of both.
  both = [error[3:], error[:3]]
  grid = np.sort(error)
  trend, reference = (
    [(x <= e).mean() for e in grid[:-1]] for x in map(np.array, both)
  )
  area = np.sum(np.subtract(reference, trend) * np.diff(grid))
  assert against["mean_difference"] == pytest.approx(area)


def test_ties_are_half_a_win():
  won = share_of_pairs_won(np.array([0.1, 0.3]), np.array([0.3]))
  assert won == 0.75
