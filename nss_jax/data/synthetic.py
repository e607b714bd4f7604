"""Made-up images of any shape and number, for benchmarks and smoke runs.

They can be learned: an image is the coarse pattern of its class, the same in
training and test images, under noise of about the same strength.
"""

import dataclasses
from typing import Any

import numpy as np

from nss_jax.data.dataset import DataError, Dataset, allocate, make

# Patterns are this many blocks wide and high.
_BLOCKS = 4
# Patterns lie in 64..191 and noise in -64..64, so that sums are pixels.
_NOISE = 64
# Images made at a time: bounds the memory of what is not yet uint8.
_CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """What is to be made.

  Attributes:
    num_classes: number of classes.
    num_train: training images, as many of each class, or one more.
    num_test: test images, likewise.
    seed: of patterns, noise and order.
  """

  num_classes: int = 10
  num_train: int = 10_000
  num_test: int = 2_000
  seed: int = 0


def load(
  *, image_size: int, channels: int, synthetic: Synthetic, **_: Any
) -> Dataset:
  """Makes images and labels; the same arguments give the same bytes.

  Args:
    image_size: pixels of a side; 0: 32.
    channels: 1 grey, 3 RGB; 0: 3.
    synthetic: numbers and seed.

  Raises:
    DataError: if there are fewer images than classes.
  """
  for field in ("num_train", "num_test"):
    count = getattr(synthetic, field)
    if count < max(synthetic.num_classes, 1):
      raise DataError(
        f"config.data.synthetic.{field}={count} is too few; accepted is at "
        f"least one image of each of the {synthetic.num_classes} classes"
      )
  side, channels = image_size or 32, channels or 3
  # All memory first: it bounds that of the patterns and labels too.
  train, test = (
    allocate(
      f"config.data.synthetic.{field}={getattr(synthetic, field)}",
      getattr(synthetic, field),
      (side, side, channels),
    )
    for field in ("num_train", "num_test")
  )
  rng = np.random.default_rng(synthetic.seed)
  shape = synthetic.num_classes, _BLOCKS, _BLOCKS, channels
  coarse = rng.integers(_NOISE, 256 - _NOISE, shape, np.uint8)
  blocks = np.arange(side) * _BLOCKS // side
  patterns = coarse[:, blocks][:, :, blocks]
  parts = [(images, _fill(images, patterns, rng)) for images in (train, test)]
  return make("synthetic", parts[0], parts[1], synthetic.num_classes)


def _fill(
  images: np.ndarray, patterns: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Makes images `[N, H, W, C]` in place, and returns their labels `[N]`."""
  labels = rng.permutation(len(images)) % len(patterns)
  for start in range(0, len(images), _CHUNK):
    chosen = patterns[labels[start : start + _CHUNK]]
    noise = rng.integers(-_NOISE, _NOISE + 1, chosen.shape, np.int8)
    images[start : start + _CHUNK] = chosen + noise.astype(np.int16)
  return labels
