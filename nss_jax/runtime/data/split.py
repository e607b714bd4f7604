"""The two halves of the training images that a search works on."""

import numpy as np

from nss_jax.runtime.data.dataset import DataError


def split_halves(
  num_images: int, validation_fraction: float, seed: int, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits image indices into a training and a validation part.

  Args:
    num_images: images to split, N.
    validation_fraction: share V / N of the validation part.
    seed: of the shuffle; the same seed gives the same split everywhere.
    batch_size: images that either part must have at least.

  Returns:
    Shuffled disjoint indices, `[N - V]` for training, `[V]` for validation.

  Raises:
    DataError: if the fraction is not in (0, 1), or a part is smaller than a
      batch.
  """
  if not 0 < validation_fraction < 1:
    raise DataError(
      f"config.data.validation_fraction={validation_fraction} is out of range; "
      "accepted is more than 0 and less than 1"
    )
  num_validation = round(num_images * validation_fraction)
  sizes = num_images - num_validation, num_validation
  if min(sizes) < max(batch_size, 1):
    raise DataError(
      f"config.data.validation_fraction={validation_fraction} splits "
      f"{num_images} images into {sizes[0]} and {sizes[1]}; accepted is "
      f"what leaves either part at least one batch of {batch_size}"
    )
  order = np.random.default_rng(seed).permutation(num_images)
  return order[num_validation:], order[:num_validation]
