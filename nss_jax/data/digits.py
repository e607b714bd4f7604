"""The 1,797 handwritten digits inside scikit-learn: no file, no network."""

from typing import Any, cast

import numpy as np

from nss_jax.data.dataset import Dataset, make

# About a fifth of the 1,797 images.
_NUM_TEST = 360


def load(**_: Any) -> Dataset:
  """8x8x1 images of ten classes, a fixed class-balanced fifth for test."""
  # Imported here: `import nss_jax` loads no data-set library.
  from sklearn.datasets import load_digits
  from sklearn.model_selection import train_test_split

  digits = cast(Any, load_digits())
  # Pixels are 0..16 there.
  images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None]
  labels = digits.target.astype(np.int32)
  train, test = train_test_split(
    np.arange(len(labels)),
    test_size=_NUM_TEST,
    stratify=labels,
    random_state=0,
  )
  return make(
    "digits",
    (images[train], labels[train]),
    (images[test], labels[test]),
    num_classes=10,
  )
