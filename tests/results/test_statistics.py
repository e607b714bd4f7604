"""Numbers of populations: pairs of equal cost and distributions of errors."""

import jax.numpy as jnp
import numpy as np
import pytest

from nss_jax.results.statistics import error_edf, match_costs


def test_matched_costs_by_hand():
  rows, columns = match_costs([100, 300, 200], [205, 1000, 101, 199, 304])
  assert rows.tolist() == [0, 2, 1]
  assert columns.tolist() == [2, 3, 4]
  # The most pairs come first, then the least distance.
  rows, columns = match_costs([100, 103], [101.5, 104.5], tolerance=0.02)
  assert (rows.tolist(), columns.tolist()) == ([0, 1], [0, 1])
  rows, columns = match_costs([100], [103.0])
  assert rows.size == columns.size == 0
  for macs, tolerance, message in (
    ([1.0, 0.0], 0.1, r"positive and finite; got \[1\. 0\.\]"),
    ([np.nan], 0.1, r"positive and finite; got \[nan\]"),
    ([1.0], -0.1, r"tolerance must be at least 0, finite; got -0\.1"),
  ):
    with pytest.raises(ValueError, match=message):
      match_costs([1.0], macs, tolerance=tolerance)


def test_error_edf_by_hand():
  x, share = error_edf(jnp.asarray([7.5, 5.0, 6.0, 5.0]))
  assert x.tolist() == [5.0, 6.0, 7.5]
  assert share.tolist() == [0.5, 0.75, 1.0]
  for errors, message in (([], "got 0, 0"), ([1.0, np.nan], "got 2, 1 of")):
    with pytest.raises(ValueError, match=message):
      error_edf(errors)
