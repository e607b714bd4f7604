"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nss_jax.runtime.data import images as images_lib
from nss_jax.runtime.data.dataset import (
  DataError,
  Dataset,
  allocate,
  make,
)

# No namespace ("huggingface:...") and no keyword arguments: those would run
# other loaders.
_NAME = re.compile(r"\w+(/\w[\w.-]*)?(:[\d.*]+)?", re.ASCII)


def load(
  *, path: str, name: str, image_size: int, channels: int, **_: Any
) -> Dataset:
  """Reads the split `train`, and `test` or else `validation`.

  Images and labels are what the data set declares as its supervised keys, or
  else `image` and `label`.

  Args:
    path: data folder of TensorFlow Datasets, empty for its default.
    name: `name`, `name/config` or `name:1.2.3`.
    image_size: pixels of a side; an image of another form is cut to its
      central square and resized. 0: images have one size and keep it.
    channels: 1 for grey, 3 for RGB; 0: as they are.

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

  folder = path or None
  try:
    found = tfds.builder(name, data_dir=folder).info.splits
    splits = ["train", "test"]
    # Where labels of the test images are secret, there is no such split.
    if "test" not in found and "validation" in found:
      splits = ["train", "validation"]
    sources = tfds.data_source(
      name, split=splits, data_dir=folder, download=False
    )
    keys, num_classes = _keys(name, sources[0].dataset_info)
    parts = [
      _read(name, source, keys, image_size, channels) for source in sources
    ]
  except DataError:
    raise
  # Unknown, unprepared, half-prepared and unreadable data sets raise errors
  # of at least five unrelated types, AssertionError among them.
  except Exception as error:
    raise DataError(_unprepared(name, path, error)) from error
  field = f"config.data.name={name!r}"
  # The classes are those that the data set declares, seen or not.
  return make(name, *parts, num_classes, field=field, unused_classes=True)


def _keys(name: str, info: Any) -> tuple[tuple[str, str], int]:
  """Keys of image and label in an example, and the number of classes."""
  features = dict(info.features)
  declared = info.supervised_keys
  for keys in (declared, ("image", "label")):
    if not (isinstance(keys, tuple) and len(keys) == 2):
      continue
    if not all(isinstance(key, str) and key in features for key in keys):
      continue
    found = getattr(features[keys[1]], "num_classes", None)
    if len(features[keys[0]].shape or ()) == 3 and found:
      return keys, int(found)
  raise DataError(
    f"config.data.name={name!r} has the features "
    f"{', '.join(sorted(features))}; accepted are data sets with an image and "
    "a class label"
  )


def _read(
  name: str,
  source: Sequence[Any],
  keys: tuple[str, str],
  image_size: int,
  channels: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, H, W, C]` uint8 and labels `[N]` int64 of one split."""
  if not len(source):
    raise DataError(
      f"config.data.name={name!r} has no images; accepted is at least 1"
    )

  def read(index: int) -> tuple[np.ndarray, int]:
    example = source[index]
    image, label = (example[key] for key in keys)
    is_picture = image.dtype == np.uint8 and image.shape[-1:] in ((1,), (3,))
    if (image_size or channels) and is_picture and image.ndim == 3:
      image = images_lib.resize(image, image_size, channels)
    return image, label

  first, _ = read(0)
  if first.dtype != np.uint8:
    raise DataError(
      f"config.data.name={name!r} has images of {first.dtype}; accepted is "
      "uint8"
    )
  field = f"config.data.name={name!r}"
  images = allocate(field, len(source), first.shape)
  labels = np.empty(len(source), np.int64)
  for index in range(len(source)):
    image, label = read(index)
    if image.shape != first.shape or image.dtype != first.dtype:
      raise DataError(
        f"config.data.name={name!r} has images of {first.shape} and "
        f"{image.shape}; accepted are uint8 images of one size, or "
        "config.data.image_size to resize"
      )
    images[index], labels[index] = image, label
  return images, labels


def _unprepared(name: str, path: str, error: Exception) -> str:
  lines = str(error).strip().splitlines() or [""]
  folder = f", data_dir={path!r}" if path else ""
  # The command `tfds build` needs apache_beam as well, whatever is built.
  return (
    f"config.data.name={name!r} cannot be read from config.data.path={path!r} "
    f"({type(error).__name__}: {lines[0][:160]}); accepted are data sets "
    'prepared once, where TensorFlow is installed, by: python -c "import '
    f"tensorflow_datasets as tfds; tfds.builder({name!r}{folder}, "
    "file_format='array_record').download_and_prepare()\""
  )
