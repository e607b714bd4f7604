"""Parts of the training images, drawn evenly or class by class."""

import numpy as np

from nss_jax.errors import UserError


def split_halves(
  num_images: int,
  validation_fraction: float,
  seed: int,
  batch_size: int,
  *,
  labels: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Splits image indices into a training and a validation part, shuffled.

  The same seed gives the same split everywhere. With labels `[N]`, every class
  is split in the same share; without, images are drawn whatever their class.
  """
  if not 0 < validation_fraction < 1:
    raise UserError(
      f"config.data.validation_fraction={validation_fraction} is out of range; "
      "accepted is more than 0 and less than 1"
    )
  num_validation = round(num_images * validation_fraction)
  sizes = num_images - num_validation, num_validation
  if min(sizes) < max(batch_size, 1):
    raise UserError(
      f"config.data.validation_fraction={validation_fraction} splits "
      f"{num_images} images into {sizes[0]} and {sizes[1]}; accepted is what "
      f"leaves either part at least one batch of {batch_size}"
    )
  if labels is not None:
    validation, train = draw_balanced(labels, num_validation, seed)
    return train, validation
  order = np.random.default_rng(seed).permutation(num_images)
  return order[num_validation:], order[:num_validation]


def draw_balanced(
  labels: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws images so that every class gives the same share of its own.

  A class of n of the N images gives `n * count / N`, rounded down or up: up
  where the rounding takes most, until there are `count`. Returns shuffled
  indices, of those drawn and of those left.
  """
  classes, places, sizes = np.unique(
    labels, return_inverse=True, return_counts=True
  )
  quotas = _quotas(sizes, count)
  for label, quota, size in zip(classes, quotas, sizes, strict=True):
    if not 0 < quota < size:
      raise UserError(
        f"config.data.balanced_split=True leaves class {label} with {quota} "
        f"and {size - quota} of its {size} images in the two parts; accepted "
        "are at least one in either"
      )
  return _draw(places, sizes, quotas, seed)


def draws_test(fraction: float, there: str) -> bool:
  """Returns whether to draw test images, and refuses to where some are there.

  `there` is the name of those that are, or empty.
  """
  if fraction and there:
    raise ValueError(
      f"config.data.test_fraction={fraction} is not accepted where there is "
      f"{there}; accepted is 0"
    )
  return fraction > 0


def draw_test(
  labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Splits off the same share of every class for test.

  A class that is too small gives none; all keep some. Returns sorted indices
  for training and for test.
  """
  _, places, sizes = np.unique(labels, return_inverse=True, return_counts=True)
  count = round(len(labels) * fraction)
  quotas = np.minimum(_quotas(sizes, count), sizes - 1)
  if not quotas.sum():
    raise UserError(
      f"config.data.test_fraction={fraction} draws no test image of "
      f"{len(labels)}; accepted is what draws at least one"
    )
  test, train = _draw(places, sizes, quotas, seed)
  return np.sort(train), np.sort(test)


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
  """Returns how many of `count` each class gives, in proportion to its size."""
  # Integers: a share must not depend on how a product is rounded.
  quotas, remainders = np.divmod(sizes * count, sizes.sum())
  lacking = count - quotas.sum()
  quotas[np.argsort(-remainders, kind="stable")[:lacking]] += 1
  return quotas


def _draw(
  places: np.ndarray, sizes: np.ndarray, quotas: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Draws the quota of each class; returns shuffled indices, drawn and left.

  `places` says of which class each image is, by an index of sizes and quotas.
  """
  order = np.random.default_rng(seed).permutation(len(places))
  # Of the shuffled images of a class, its first ones are drawn.
  by_class = order[np.argsort(places[order], kind="stable")]
  starts = np.cumsum(sizes) - sizes
  ranks = np.arange(len(places)) - np.repeat(starts, sizes)
  is_drawn = np.zeros(len(places), bool)
  is_drawn[by_class[ranks < np.repeat(quotas, sizes)]] = True
  return order[is_drawn[order]], order[~is_drawn[order]]


def class_weights(
  mode: str, labels: np.ndarray, num_classes: int
) -> np.ndarray | None:
  """Returns the weight of each class in losses, `[num_classes]` float32.

  In the mode `balanced` all classes count alike: a weight is one over the
  images of a class, scaled so that the mean over all images is 1, and 0 for a
  class without images. In the mode `none` there are no weights.
  """
  if mode == "none":
    return None
  sizes = np.bincount(labels, minlength=num_classes)
  weights = len(labels) / (np.maximum(sizes, 1) * np.count_nonzero(sizes))
  return np.where(sizes > 0, weights, 0).astype(np.float32)
