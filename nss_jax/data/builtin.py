"""Images that need no file: scikit-learn's digits, and made-up ones."""

import dataclasses
from typing import Any, cast

import numpy as np

from nss_jax.data.dataset import Parts, allocate

# About a fifth of the 1,797 digits.
_NUM_TEST = 360
# Made-up patterns are this many blocks wide and high.
_BLOCKS = 4
# They lie in 64..191 and noise in -64..64, so that sums are pixels.
_NOISE = 64
# Images made at a time: bounds the memory of what is not yet uint8.
_CHUNK = 1000


def load_digits() -> Parts:
  """Reads 8x8x1 images of ten classes, a balanced fifth of them for test."""
  # Imported here: `import nss_jax` loads no data-set library.
  from sklearn import datasets, model_selection

  digits = cast(Any, datasets.load_digits())
  # Pixels are 0..16 there.
  images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
  labels = digits.target
  rows = model_selection.train_test_split(
    np.arange(len(labels)),
    test_size=_NUM_TEST,
    stratify=labels,
    random_state=0,
  )
  train, test = ((images[part], labels[part]) for part in rows)
  return Parts(train, test, num_classes=10)


@dataclasses.dataclass(frozen=True)
class Synthetic:
  """Says how many images to make, and from which seed.

  Attributes:
    num_classes: number of classes.
    num_train: training images, spread over the classes as evenly as possible.
    num_test: test images, spread likewise.
    seed: seed of patterns, noise and order.
  """

  num_classes: int = 10
  num_train: int = 10_000
  num_test: int = 2_000
  seed: int = 0


def load_synthetic(
  *, image_size: int, channels: int, synthetic: Synthetic
) -> Parts:
  """Makes images and labels; the same arguments give the same bytes.

  They can be learned: an image is the coarse pattern of its class, which
  training and test images share, under noise of about the same strength. By
  default they have 32 pixels a side and three channels.
  """
  side, channels = image_size or 32, channels or 3
  made = []
  # All memory first: it bounds that of the patterns and labels too.
  for field in ("num_train", "num_test"):
    count = getattr(synthetic, field)
    claim = f"config.data.synthetic.{field}={count}"
    if count < max(synthetic.num_classes, 1):
      raise ValueError(
        f"{claim} is too few; accepted is at least one image of each of the "
        f"{synthetic.num_classes} classes"
      )
    made.append(allocate(claim, (count, side, side, channels)))
  rng = np.random.default_rng(synthetic.seed)
  shape = synthetic.num_classes, _BLOCKS, _BLOCKS, channels
  coarse = rng.integers(_NOISE, 256 - _NOISE, shape, np.uint8)
  blocks = np.arange(side) * _BLOCKS // side
  patterns = coarse[:, blocks][:, :, blocks]
  parts = []
  for images in made:
    labels = rng.permutation(len(images)) % len(patterns)
    for start in range(0, len(images), _CHUNK):
      chosen = patterns[labels[start : start + _CHUNK]]
      noise = rng.integers(-_NOISE, _NOISE + 1, chosen.shape, np.int8)
      images[start : start + _CHUNK] = chosen + noise.astype(np.int16)
    parts.append((images, labels))
  return Parts(*parts, num_classes=synthetic.num_classes)
