"""What can be counted of a network, by name, and what can be measured of it.

FLOPs are multiply-adds (MACs): convolutions and fully connected layers with
their biases; nothing for batch normalisation, ReLU, additions and pooling. That
is the convention of the paper and of RegNet, and it gives the published counts
(ResNet-20: 40,813,194).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nss_jax.spaces.blocks import (
  block_cost,
  conv_cost,
  find_block,
  linear_cost,
)
from nss_jax.spaces.search_space import SearchSpace

# The metric of timed blocks, known only by its table: see `latency_metric`.
LATENCY = "latency"


class Metric(NamedTuple):
  """What to count, by functions of broadcast int64 numpy arrays of widths.

  Those of `COUNTS` also take floats, and Python integers where int64 would
  overflow. Yours are given int64, and should return floats where it would.

  The cost of an arch is `sum over stages of first + (depth - 1) * rest`, and
  `ends`. It is exact where the functions return integers.

  Attributes:
    first: `(search_space, stage, before, width)`: of a stage's first block;
      `before` is the width of the stage before, or of the stem.
    rest: `(search_space, stage, width)`: of each further block.
    ends: `(search_space, width)`: of stem and head, by the last stage's width.
  """

  first: Callable[[SearchSpace, int, np.ndarray, np.ndarray], np.ndarray]
  rest: Callable[[SearchSpace, int, np.ndarray], np.ndarray]
  ends: Callable[[SearchSpace, np.ndarray], np.ndarray]


def stage_shapes(search_space: SearchSpace) -> list[tuple[int, int]]:
  """Returns height and width of what leaves the stem, and then each stage."""
  height, width, _ = search_space.image_shape
  shapes = []
  for stride in (search_space.stem_stride, *search_space.strides):
    height, width = -(-height // stride), -(-width // stride)
    shapes.append((height, width))
  return shapes


def _projects(
  search_space: SearchSpace, stage: int, before: np.ndarray, width: np.ndarray
) -> np.ndarray:
  """Says where the shape changes, so that the identity does not fit."""
  return (before != width) | (search_space.strides[stage] != 1)


def _count(metric: str) -> Metric:
  """Returns the metric of what `block_cost` counts by that name."""

  def first(search_space, stage, before, width):
    shapes = stage_shapes(search_space)
    return block_cost(
      find_block(search_space.block),
      metric,
      before,
      width,
      (math.prod(shapes[stage]), math.prod(shapes[stage + 1])),
      project=_projects(search_space, stage, before, width),
    )

  def rest(search_space, stage, width):
    pixels = math.prod(stage_shapes(search_space)[stage + 1])
    block = find_block(search_space.block)
    return block_cost(block, metric, width, width, (pixels, pixels))

  def ends(search_space, width):
    shape, channels = (
      stage_shapes(search_space)[0],
      search_space.image_shape[-1],
    )
    stem = search_space.stem_width
    head: Any = linear_cost(metric, width, search_space.num_classes)
    return conv_cost(metric, math.prod(shape), 3, channels, stem) + head

  return Metric(first, rest, ends)


COUNTS = {name: _count(name) for name in ("flops", "params", "activations")}
# All that a constraint can name, and the units in which its target is given.
METRICS = dict(COUNTS)
UNITS = {
  "flops": "multiply-adds",
  "params": "parameters",
  "activations": "activations",
  LATENCY: "seconds",
}


def register_metric(name: str, metric: Metric, unit: str) -> None:
  """Makes a metric known, so that a constraint of a config can name it.

  Do so in every process; a config file is Python and is a good place. What has
  been registered may be again, as a file or a cell is run again.

  Args:
    name: of the metric, a word.
    metric: what is counted.
    unit: of its targets, in words.

  Raises:
    ValueError: if the name is one of ours, or no word.
    TypeError: if it is no `Metric`.
  """
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(f"the name of a metric must be a word; got {name!r}")
  if name in COUNTS or name == LATENCY:
    raise ValueError(f"the metric {name!r} is there already")
  if not isinstance(metric, Metric):
    raise TypeError(f"metric {name}: must be a Metric; got {metric!r}")
  METRICS[name], UNITS[name] = metric, unit


class LatencyTable(NamedTuple):
  """Seconds of the forward passes of blocks, of each stage.

  They are measured elsewhere. Between the widths of the grid they are linear in
  each width, and linear in the depth.

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
  """Returns the metric of the seconds of one forward pass."""

  def first(search_space, stage, before, width):
    values = table.first[stage]
    low, high, share = _place(table.before[stage], before)
    left, right, part = _place(table.widths[stage], width)
    start, end = (
      (1 - share) * values[low, at] + share * values[high, at]
      for at in (left, right)
    )
    return np.where(
      _projects(search_space, stage, before, width),
      (1 - part) * start + part * end,
      rest(search_space, stage, width),
    )

  def rest(search_space, stage, width):
    return np.interp(width, table.widths[stage], table.rest[stage])

  def ends(search_space, width):
    return np.interp(width, table.widths[-1], table.ends)

  return Metric(first, rest, ends)


def _place(grid: np.ndarray, x: np.ndarray) -> tuple:
  """Returns the places in the grid on both sides of x, and how far x is."""
  place = np.interp(x, grid, np.arange(len(grid)))
  low = np.minimum(place.astype(np.int64), max(len(grid) - 2, 0))
  return low, np.minimum(low + 1, len(grid) - 1), place - low
