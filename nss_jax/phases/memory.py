"""Estimates what a search takes of a device's memory."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.config import Config
from nss_jax.spaces import blocks, cost, metrics
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.steps.estimators import ESTIMATORS

# Temporaries of a pair of an arch step and a weight step, 6 MB to 20 GB, as XLA
# on CPU compiles them (jax 0.12.0.1), by the type of the activations. Per byte
# of all convolutions' outputs, and per byte of the largest block's:
_KEPT = {
  "masked": {"float32": (4.85, 0.0), "bfloat16": (5.0, 9.0)},
  "masked and sliced": {"float32": (4.1, 3.0), "bfloat16": (4.7, 3.0)},
}
# Where blocks are computed again for the gradient: per byte of what all blocks
# put out, and per byte of all that the largest computes; and what a block that
# computes much more than it puts out takes by itself.
_AGAIN = {
  "masked, remat": {"float32": (2.8, 5.0, 12.2), "bfloat16": (2.75, 10.5, 0.0)},
  "sliced": {"float32": (2.8, 5.3, 17.5), "bfloat16": (2.75, 8.0, 0.0)},
}
# XLA on CPU gives the two masked steps memory of their own; in microbatches the
# second reuses that of the first.
_IN_SEQUENCE = 0.62
# So it does on accelerators, where blocks keep outputs of convolutions only. By
# two programs of the paper's size that were compiled for a v5e, in bfloat16.
_ON_ACCELERATORS = {"masked": 0.308, "masked, remat": 0.445}
# Weights and momentum, which are updated in place, and the gradient; and that
# of all devices together.
_COPIES, _SHARED = 3, 1


def estimate(
  config: Config,
  space: SearchSpace,
  num_devices: int = 1,
  platform: str | None = None,
) -> float:
  """Estimates the bytes on each device: state, and what a gradient takes.

  The estimate is within 15 % of what XLA on CPU says of the compiled steps, in
  the cases of `tests/phases/test_memory.py`, of a small size and of the
  paper's. On accelerators it is within 9 % of seven programs of the paper's
  soft search: for a v5e-1, with and without `remat`, a v5e-8, a v6e-1, an H100,
  an A100 and a T4; it was fitted to three of them. Sliced inverted residuals
  were seen up to a third off. jax 0.10 needs up to 1.8 times as much for
  bfloat16 on CPU, jax 0.12 does not. The images are not counted.
  """
  settings = config.supernet
  parts = num_devices * settings.microbatches
  images = max(config.search.batch_size // parts, 1)
  image_bytes = images * jnp.dtype(settings.activations).itemsize
  largest = cost.largest_arch(space)
  kind = _kind(config)
  block_bytes = largest_block(space) * image_bytes
  if kind in _KEPT:
    of_all, of_block = _KEPT[kind][settings.activations]
    outputs = int(cost.arch_activations(space, largest)) * image_bytes
    needed = of_all * outputs + of_block * block_bytes
  else:
    of_all, of_block, alone = _AGAIN[kind][settings.activations]
    ends = _ends_of_blocks(space) * image_bytes
    needed = max(of_all * ends + of_block * block_bytes, alone * block_bytes)
  platform, copies = platform or jax.default_backend(), _COPIES
  if platform != "cpu" and num_devices > 1:
    copies += _SHARED
  if platform != "cpu" and kind.startswith("masked"):
    needed *= _ON_ACCELERATORS.get(kind, _IN_SEQUENCE)
  elif settings.microbatches > 1 and kind.startswith("masked"):
    needed *= _IN_SEQUENCE
  return 4.0 * copies * int(cost.arch_params(space, largest)) + needed


def what_helps(
  config: Config, space: SearchSpace, num_devices: int
) -> Iterator[str]:
  """Lists fields by which a search takes less, each by itself."""
  settings = config.supernet
  for name, value in (
    ("activations", "bfloat16"),
    ("remat", True),
    ("microbatches", 2 * settings.microbatches),
  ):
    changed = config.vary({f"supernet.{name}": value})
    before, after = (
      estimate(one, space, num_devices, "accelerator")
      for one in (config, changed)
    )
    if after < before:
      yield f"supernet.{name}={value} {after / 2**30:.1f} GiB"


def _kind(config: Config) -> str:
  """Tells what the two steps run: see `search.make_iteration`."""
  draws = ESTIMATORS[config.search.estimator].draws
  if config.supernet.engine == "sliced" and draws != "soft":
    return {"archs": "sliced", "hard": "masked and sliced"}[draws]
  return "masked, remat" if config.supernet.remat else "masked"


def _ends_of_blocks(space: SearchSpace) -> int:
  """Counts what all blocks of the largest network put out of one image."""
  return sum(
    math.prod(shape) * width * depth
    for shape, width, depth in zip(
      metrics.stage_shapes(space)[1:],
      space.max_widths,
      space.max_depths,
      strict=True,
    )
  )


def largest_block(space: SearchSpace) -> int:
  """Counts the most that the layers of one block give of one image.

  Without its shortcut, as where the bytes were measured.
  """
  block = blocks.find_block(space.block)
  stem, *shapes = metrics.stage_shapes(space)
  entering, before = math.prod(stem), space.stem_width
  found = []
  for shape, width in zip(shapes, space.max_widths, strict=True):
    leaving = math.prod(shape)
    for channels, pixels in ((before, entering), (width, leaving)):
      found.append(
        blocks.block_cost(
          block,
          "activations",
          np.asarray(channels),
          np.asarray(width),
          (pixels, leaving),
        )
      )
    entering, before = leaving, width
  return int(max(found))
