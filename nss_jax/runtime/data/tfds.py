"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nss_jax.runtime.data.dataset import DataError, Dataset, make

# No namespace ("huggingface:...") and no keyword arguments: those would run
# other loaders.
_NAME = re.compile(r"\w+(/\w[\w.-]*)?(:[\d.*]+)?", re.ASCII)


def load(*, path: str, name: str, **_: Any) -> Dataset:
  """Reads the splits `train` and `test` of a prepared data set.

  Args:
    path: data folder of TensorFlow Datasets, empty for its default.
    name: `name`, `name/config` or `name:1.2.3`.

  Raises:
    DataError: if the name is wrong, the data set is not prepared, or its
      examples are not an image and a class label.
  """
  if not _NAME.fullmatch(name):
    raise DataError(
      f"config.data.name={name!r} is no name of a data set; accepted are names "
      "like cifar10, imagenet_resized/32x32 or cifar10:3.0.2"
    )
  # Imported here: `import nss_jax` loads no data-set library.
  import tensorflow_datasets as tfds

  try:
    train, test = tfds.data_source(
      name, split=["train", "test"], data_dir=path or None, download=False
    )
    num_classes = _num_classes(name, train)
    parts = [_read(name, source) for source in (train, test)]
  except DataError:
    raise
  # Unknown, unprepared, half-prepared and unreadable data sets raise errors
  # of at least five unrelated types, AssertionError among them.
  except Exception as error:
    raise DataError(_unprepared(name, path, error)) from error
  field = f"config.data.name={name!r}"
  # The classes are those that the data set declares, seen or not.
  return make(name, *parts, num_classes, field=field, unused_classes=True)


def _num_classes(name: str, source: Any) -> int:
  features = source.dataset_info.features
  found = getattr(dict(features).get("label"), "num_classes", None)
  if "image" not in features or not found:
    raise DataError(
      f"config.data.name={name!r} has the features "
      f"{', '.join(sorted(features))}; accepted are data sets with "
      "an image and a class label"
    )
  return int(found)


def _read(name: str, source: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, H, W, C]` uint8 and labels `[N]` int64 of one split."""
  if not len(source):
    raise DataError(
      f"config.data.name={name!r} has no images; accepted is at least 1"
    )
  first = source[0]["image"]
  images = np.empty((len(source), *first.shape), first.dtype)
  labels = np.empty(len(source), np.int64)
  for index in range(len(source)):
    example = source[index]
    image = example["image"]
    if image.shape != first.shape or image.dtype != first.dtype:
      raise DataError(
        f"config.data.name={name!r} has images of {first.shape} and "
        f"{image.shape}; accepted are uint8 images of one size"
      )
    images[index], labels[index] = image, example["label"]
  return images, labels


def _unprepared(name: str, path: str, error: Exception) -> str:
  lines = str(error).strip().splitlines() or [""]
  folder = f" --data_dir={path}" if path else ""
  return (
    f"config.data.name={name!r} cannot be read from config.data.path={path!r} "
    f"({type(error).__name__}: {lines[0][:160]}); accepted are data sets "
    "prepared once, where TensorFlow is installed, by: "
    f"tfds build {name} --file_format=array_record{folder}"
  )
