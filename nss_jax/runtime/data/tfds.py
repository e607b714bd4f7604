"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from nss_jax.runtime.data import images as images_lib
from nss_jax.runtime.data.dataset import (
  DataError,
  Dataset,
  allocate,
  make,
)
from nss_jax.runtime.data.stream import StreamedImages, read_ahead

# No namespace ("huggingface:...") and no keyword arguments: those would run
# other loaders.
_NAME = re.compile(r"\w+(/\w[\w.-]*)?(:[\d.*]+)?", re.ASCII)


# Labels that a thread reads at a time.
_CHUNK = 256


def load(
  *,
  path: str,
  name: str,
  image_size: int,
  channels: int,
  streams: Callable[[int], bool],
  **_: Any,
) -> Dataset:
  """Reads the split `train`, and `test` or else `validation`.

  Images and labels are what the data set declares as its supervised keys, or
  else `image` and `label`. The labels of a streamed set are read at the start,
  by a pass over its files that decodes no image.

  Args:
    path: data folder of TensorFlow Datasets, empty for its default.
    name: `name`, `name/config` or `name:1.2.3`.
    image_size: pixels of a side; an image of another form is cut to its
      central square and resized. 0: images have one size and keep it.
    channels: 1 for grey, 3 for RGB; 0: as they are.
    streams: whether training images of so many bytes are streamed.

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
    keys, num_classes = _keys(name, cast(Any, sources)[0].dataset_info)
    form = keys, image_size, channels
    images = [_open(name, source, *form) for source in sources]
    if streams(images[0].size):
      # The same examples with images as they are stored: nothing is decoded.
      undecoded = tfds.data_source(
        name,
        split=splits,
        data_dir=folder,
        download=False,
        decoders={keys[0]: tfds.decode.SkipDecoding()},
      )
      labels = [_read_labels(source, keys[1]) for source in undecoded]
      parts = list(zip(images, labels, strict=True))
    else:
      parts = [_read_whole(part) for part in images]
  except DataError:
    raise
  # Unknown, unprepared, half-prepared and unreadable data sets raise errors
  # of at least five unrelated types, AssertionError among them.
  except Exception as error:
    raise DataError(_unprepared(name, path, error)) from error
  field = f"config.data.name={name!r}"
  # The classes are those that the data set declares, seen or not.
  train, test = parts
  return make(name, train, test, num_classes, field=field, unused_classes=True)


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


class _Images:
  """grain's random access to the images of a split."""

  def __init__(
    self,
    field: str,
    source: Sequence[Any],
    keys: tuple[str, str],
    size: int,
    channels: int,
  ):
    self._field, self._source, self._keys = field, source, keys
    self._size, self._channels = size, channels
    self.first, _ = self._read(0)
    if self.first.dtype != np.uint8:
      raise DataError(
        f"{field} has images of {self.first.dtype}; accepted is uint8"
      )

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> np.ndarray:
    return self.example(index)[0]

  def example(self, index: int) -> tuple[np.ndarray, int]:
    """An image `[H, W, C]` and its label.

    Raises:
      DataError: if it cannot be read, or is not as the first.
    """
    image, label = self._read(index)
    first = self.first
    if image.shape != first.shape or image.dtype != first.dtype:
      raise DataError(
        f"{self._field} has images of {first.shape} and {image.shape}; "
        "accepted are uint8 images of one size, or config.data.image_size to "
        "resize"
      )
    return image, label

  def _read(self, index: int) -> tuple[np.ndarray, int]:
    try:
      example = self._source[index]
    # Files that were cut or lost raise errors of many types.
    except Exception as error:
      reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
      raise DataError(
        f"{self._field}: example {index} of {len(self)} cannot be read "
        f"({reason}); accepted are the files of a prepared data set, whole"
      ) from error
    image, label = (example[key] for key in self._keys)
    is_picture = image.dtype == np.uint8 and image.shape[-1:] in ((1,), (3,))
    if (self._size or self._channels) and is_picture and image.ndim == 3:
      image = images_lib.resize(image, self._size, self._channels)
    return image, label


def _open(
  name: str, source: Sequence[Any], keys: tuple[str, str], *form: int
) -> StreamedImages:
  """The images of a split; reads the first one."""
  field = f"config.data.name={name!r}"
  if not len(source):
    raise DataError(f"{field} has no images; accepted is at least 1")
  images = _Images(field, source, keys, *form)
  return StreamedImages(images, (len(images), *images.first.shape), field)


def _read_whole(images: StreamedImages) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, H, W, C]` uint8 and labels `[N]` int64, in one pass."""
  source = images.source
  assert isinstance(source, _Images)
  whole = allocate(images.field, len(images), images.shape[1:])
  labels = np.empty(len(images), np.int64)
  for row in range(len(images)):
    whole[row], labels[row] = source.example(row)
  return whole, labels


class _Labels:
  """Labels of a split, `_CHUNK` at a time."""

  def __init__(self, source: Sequence[Any], key: str):
    self._source, self._key = source, key

  def __len__(self) -> int:
    return -(-len(self._source) // _CHUNK)

  def __getitem__(self, index: int) -> list[int]:
    stop = min((index + 1) * _CHUNK, len(self._source))
    rows = range(index * _CHUNK, stop)
    return [int(self._source[row][self._key]) for row in rows]


def _read_labels(source: Sequence[Any], key: str) -> np.ndarray:
  """`[N]` int64 of a split."""
  with contextlib.closing(read_ahead(_Labels(source, key), 16)) as parts:
    return np.array([label for part in parts for label in part], np.int64)


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
