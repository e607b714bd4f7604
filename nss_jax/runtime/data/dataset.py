"""The form that every source delivers, and the check that it is kept."""

import dataclasses
import math

import numpy as np

# Images summed at a time: bounds the memory of the statistics.
_CHUNK = 1000


class DataError(ValueError):
  """A data set that cannot be had or used; the message is one line.

  It names the field, its value and what is accepted.
  """


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set in host memory.

  Attributes:
    name: name of the data set, for logs.
    train_images: `[N, H, W, C]` uint8.
    train_labels: `[N]` int32, in `0..num_classes - 1`.
    test_images: `[M, H, W, C]` uint8.
    test_labels: `[M]` int32.
    num_classes: number of classes.
    mean: `[C]` mean of the training images, in units of pixel / 255.
    std: `[C]` their standard deviation; 1 for a constant channel, never 0.
  """

  name: str
  train_images: np.ndarray
  train_labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]


def make(
  name: str,
  train: tuple[np.ndarray, np.ndarray],
  test: tuple[np.ndarray, np.ndarray],
  num_classes: int,
) -> Dataset:
  """Checks images and labels and adds the statistics.

  Args:
    name: name of the data set.
    train: images `[N, H, W, C]` uint8 and integer labels `[N]`.
    test: images `[M, H, W, C]` uint8 and integer labels `[M]`.
    num_classes: number of classes.

  Raises:
    DataError: if the arrays are not a data set (see `_check`).
  """
  dataset = Dataset(name, *train, *test, num_classes, mean=(), std=())
  _check(dataset)
  mean, std = _statistics(dataset.train_images)
  # Labels are cast after the check, so that a wild one cannot wrap around.
  return dataclasses.replace(
    dataset,
    train_labels=dataset.train_labels.astype(np.int32),
    test_labels=dataset.test_labels.astype(np.int32),
    mean=mean,
    std=std,
  )


def _check(dataset: Dataset) -> None:
  """Raises `DataError` unless the arrays form a data set."""
  where = f"data {dataset.name!r}"
  for part in ("train", "test"):
    images = getattr(dataset, f"{part}_images")
    labels = getattr(dataset, f"{part}_labels")
    if images.dtype != np.uint8 or images.ndim != 4:
      raise DataError(
        f"{where}: {part} images are {images.dtype} of shape {images.shape}; "
        "accepted is uint8 of shape [N, H, W, C]"
      )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
      raise DataError(
        f"{where}: {part} labels are {labels.dtype} of shape {labels.shape}; "
        "accepted are integers of shape [N]"
      )
    if len(images) != len(labels) or images.size == 0:
      raise DataError(
        f"{where}: {part} has {len(images)} images of shape "
        f"{images.shape[1:]} and {len(labels)} labels; accepted are equal "
        "numbers, at least one"
      )
    if labels.min() < 0 or labels.max() >= dataset.num_classes:
      raise DataError(
        f"{where}: {part} labels lie in {labels.min()}..{labels.max()}; "
        f"accepted is 0..{dataset.num_classes - 1}"
      )
  shapes = dataset.train_images.shape[1:], dataset.test_images.shape[1:]
  if shapes[0] != shapes[1]:
    raise DataError(
      f"{where}: train images are {shapes[0]} and test images {shapes[1]}; "
      "accepted is one size"
    )
  extra = np.setdiff1d(dataset.test_labels, dataset.train_labels)
  if extra.size:
    raise DataError(
      f"{where}: test has classes that train lacks, {extra[:10].tolist()}; "
      "accepted are classes of train"
    )


def _statistics(
  images: np.ndarray,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation per channel, in units of pixel / 255.

  Sums are of integers, so the result is exact and the same everywhere.

  Args:
    images: `[N, H, W, C]` uint8.
  """
  count = math.prod(images.shape[:-1])
  sums = np.zeros((2, images.shape[-1]), np.uint64)
  for start in range(0, len(images), _CHUNK):
    chunk = images[start : start + _CHUNK].astype(np.uint32)
    # Over the images first, which is fast and fits: 1000 * 255**2 < 2**32.
    for row, values in enumerate((chunk, chunk * chunk)):
      over_images = values.sum(0, dtype=np.uint32)
      sums[row] += over_images.sum((0, 1), dtype=np.uint64)
  # Python's integers do not overflow in count * squares.
  totals, squares = sums.tolist()
  mean = tuple(total / count / 255 for total in totals)
  std = tuple(
    math.sqrt(count * square - total**2) / count / 255 or 1.0
    for total, square in zip(totals, squares, strict=True)
  )
  return mean, std
