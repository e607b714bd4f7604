"""What can be counted of a network: multiply-adds, parameters, activations.

FLOPs are multiply-adds (MACs): convolutions and fully connected layers with
their biases; nothing for batch normalisation, ReLU, additions and pooling. That
is the convention of the paper and of RegNet, and it gives the published counts
(ResNet-20: 40,813,194).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nss_jax.spaces.blocks import block_cost, conv_cost, find_block
from nss_jax.spaces.search_space import SearchSpace


class Metric(NamedTuple):
  """What to count, by functions of broadcast int64 numpy arrays of widths.

  Those of `METRICS` take other numbers too: floats, and Python integers where
  int64 would overflow. Yours should return floats where their own would.

  The cost of an arch is `sum over stages of first + (depth - 1) * rest`, and
  `ends`. Exact where the functions return integers.

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
  """Height and width of the images inside each stage."""
  height, width, _ = search_space.image_shape
  shapes = []
  for stride in search_space.strides:
    height, width = -(-height // stride), -(-width // stride)
    shapes.append((height, width))
  return shapes


def _first_cost(
  metric: str,
  search_space: SearchSpace,
  stage: int,
  before: np.ndarray,
  width: np.ndarray,
) -> np.ndarray:
  """Of a stage's first block."""
  entering = math.prod(search_space.image_shape[:2])
  if stage:
    entering = _pixels(search_space, stage - 1)
  return block_cost(
    find_block(search_space.block),
    metric,
    before,
    width,
    (entering, _pixels(search_space, stage)),
    # The identity fits where the shape stays.
    project=(before != width) | (search_space.strides[stage] != 1),
  )


def _rest_cost(
  metric: str, search_space: SearchSpace, stage: int, width: np.ndarray
) -> np.ndarray:
  """Of each further block of a stage."""
  pixels = (_pixels(search_space, stage),) * 2
  block = find_block(search_space.block)
  return block_cost(block, metric, width, width, pixels)


def _ends_cost(
  metric: str, search_space: SearchSpace, width: np.ndarray
) -> np.ndarray:
  """Of stem and head."""
  height, columns, channels = search_space.image_shape
  pixels, stem = height * columns, search_space.stem_width
  head = (0 if metric == "activations" else width) + np.ones_like(width)
  return (
    conv_cost(metric, pixels, 3, channels, stem)
    + head * search_space.num_classes
  )


def _pixels(search_space: SearchSpace, stage: int) -> int:
  height, width = stage_shapes(search_space)[stage]
  return height * width


METRICS = {
  name: Metric(
    *(functools.partial(f, name) for f in (_first_cost, _rest_cost, _ends_cost))
  )
  for name in ("flops", "params", "activations")
}
