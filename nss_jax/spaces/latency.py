"""Latency as a metric of cost: block times on a grid of widths, interpolated.

The times are measured elsewhere and come as plain arrays. Between the widths of
the grid they are linear in each width, and linear in the depth.
"""

import functools
from typing import NamedTuple

import numpy as np

from nss_jax.spaces.metrics import Metric
from nss_jax.spaces.search_space import SearchSpace


class LatencyTable(NamedTuple):
  """Seconds of the forward passes of blocks, of each stage.

  Attributes:
    before: `[S]` grids `[G']` of ascending widths of the stage before (the
      first stage: of the stem, one).
    widths: `[S]` grids `[G]` of ascending widths of the stage.
    first: `[S]` tables `[G', G]`: of the first block, with a projection.
    rest: `[S]` tables `[G]`: of each further block; also of a first block that
      needs no projection, which is the same block.
    ends: `[G]`, by the last stage's width: of stem, head and the call.
  """

  before: tuple[np.ndarray, ...]
  widths: tuple[np.ndarray, ...]
  first: tuple[np.ndarray, ...]
  rest: tuple[np.ndarray, ...]
  ends: np.ndarray


def latency_metric(table: LatencyTable) -> Metric:
  """Seconds of one forward pass, as a metric."""
  return Metric(*(functools.partial(f, table) for f in (_first, _rest, _ends)))


def _first(
  table: LatencyTable,
  search_space: SearchSpace,
  stage: int,
  before: np.ndarray,
  width: np.ndarray,
) -> np.ndarray:
  values = table.first[stage]
  low, high, share = _place(table.before[stage], before)
  left, right, part = _place(table.widths[stage], width)
  rows = (
    (1 - share) * values[low, at] + share * values[high, at]
    for at in (left, right)
  )
  start, end = rows
  project = (before != width) | (search_space.strides[stage] != 1)
  return np.where(
    project,
    (1 - part) * start + part * end,
    _rest(table, search_space, stage, width),
  )


def _rest(
  table: LatencyTable, search_space: SearchSpace, stage: int, width: np.ndarray
) -> np.ndarray:
  return np.interp(width, table.widths[stage], table.rest[stage])


def _ends(
  table: LatencyTable, search_space: SearchSpace, width: np.ndarray
) -> np.ndarray:
  return np.interp(width, table.widths[-1], table.ends)


def _place(grid: np.ndarray, x: np.ndarray) -> tuple:
  """The places in the grid on both sides of x, and how far it is from one to
  the other."""
  place = np.interp(x, grid, np.arange(len(grid)))
  low = np.minimum(place.astype(np.int64), max(len(grid) - 2, 0))
  return low, np.minimum(low + 1, len(grid) - 1), place - low
