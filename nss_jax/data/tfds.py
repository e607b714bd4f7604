"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import contextlib
import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nss_jax.data import images as images_lib
from nss_jax.data.dataset import (
  DataError,
  Dataset,
  allocate,
  make,
)
from nss_jax.data.stream import (
  StreamedImages,
  read_ahead,
  split_test,
)

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
  background: int,
  test_fraction: float,
  test_seed: int,
  streams: Callable[[int], bool],
  **_: Any,
) -> Dataset:
  """Reads the split `train`, and `test` or else `validation`.

  Images and labels are what the data set declares as its supervised keys, or
  else `image` and `label`. Encoded images are decoded as those of a folder are.
  The labels of a streamed set are read at the start, by a pass over its files
  that decodes no image.

  Args:
    path: data folder of TensorFlow Datasets, empty for its default.
    name: `name`, `name/config` or `name:1.2.3`.
    image_size: pixels of a side; an image of another form is cut to its
      central square and resized. 0: images have one size and keep it.
    channels: 1 for grey, 3 for RGB; 0: as they are.
    background: grey level behind what is transparent.
    test_fraction: of every class of `train`, for test, if there is no other
      split; 0: there is one.
    test_seed: of the draw of these.
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

  folder, builder = path or None, None
  field = f"config.data.name={name!r}"
  try:
    builder = tfds.builder(name, data_dir=folder)
    splits = _splits(field, list(builder.info.splits), test_fraction)
    keys, num_classes = _keys(name, builder.info)
    feature = builder.info.features[keys[0]]
    # Undecoded: TFDS would cut 16 bits, and take palettes for grey.
    encoded = isinstance(feature, tfds.features.Image)
    encoded = encoded and feature.np_dtype == np.uint8
    sources = tfds.data_source(
      name,
      split=splits,
      data_dir=folder,
      download=False,
      decoders={keys[0]: tfds.decode.SkipDecoding()} if encoded else None,
    )
    if encoded and not channels:
      channels = 1 if feature.shape[-1] == 1 else 3
    form = images_lib.Form(image_size, channels, background)
    opened = [_open(name, source, keys, form) for source in sources]
    parts: list[Any] = [
      (part, _read_labels(source, keys[1]))
      if streams(opened[0].size)
      else _read_whole(part)
      for part, source in zip(opened, sources, strict=True)
    ]
  except DataError:
    raise
  # Unknown, unprepared, half-prepared and unreadable data sets raise errors
  # of at least five unrelated types, AssertionError among them.
  except Exception as error:
    raise DataError(_unprepared(name, path, builder, error)) from error
  if test_fraction:
    images, labels = parts[0]
    parts = split_test(field, images, labels, test_fraction, test_seed)
  # The classes are those that the data set declares, seen or not.
  train, test = parts
  return make(name, train, test, num_classes, field=field, unused_classes=True)


def _splits(field: str, found: list[str], test_fraction: float) -> list[str]:
  """Names of the splits to be read, of those that there are, if it is known."""
  # Where labels of the test images are secret, there is no split of them.
  tests = [name for name in ("test", "validation") if name in found]
  if test_fraction and tests:
    raise DataError(
      f"config.data.test_fraction={test_fraction} is not accepted where there "
      f"is a split {tests[0]}, in {field}; accepted is 0"
    )
  if test_fraction:
    return ["train"]
  if found and not tests:
    raise DataError(
      f"{field} has the splits {', '.join(found)[:200]}; accepted are data "
      "sets with test or validation, or config.data.test_fraction"
    )
  return ["train", *(tests[:1] or ["test"])]


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
    form: images_lib.Form,
  ):
    self._field, self._source, self._keys = field, source, keys
    self._form = form
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
    if isinstance(image, bytes):
      where = f"{self._field}: example {index} of {len(self)}"
      return images_lib.decode(io.BytesIO(image), where, self._form), label
    is_picture = image.dtype == np.uint8 and image.shape[-1:] in ((1,), (3,))
    wanted = self._form.size or self._form.channels
    if wanted and is_picture and image.ndim == 3:
      image = images_lib.bring_to(image, self._form)
    return image, label


def _open(
  name: str,
  source: Sequence[Any],
  keys: tuple[str, str],
  form: images_lib.Form,
) -> StreamedImages:
  """The images of a split; reads the first one."""
  field = f"config.data.name={name!r}"
  if not len(source):
    raise DataError(f"{field} has no images; accepted is at least 1")
  images = _Images(field, source, keys, form)
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


def _unprepared(name: str, path: str, builder: Any, error: Exception) -> str:
  """What is wrong with a data set that cannot be opened, in one line.

  Args:
    name: of the data set.
    path: data folder; empty: the default one.
    builder: of the data set; None: there is none.
    error: that was raised.
  """
  lines = str(error).strip().splitlines() or [""]
  reason = f"{type(error).__name__}: {lines[0][:160]}"
  if path and not os.path.isdir(path):
    reason = "there is no such folder"
  elif builder is not None and not builder.data_path.exists():
    reason = f"there is no folder {str(builder.data_path)!r}"
  elif builder is not None and not os.listdir(builder.data_path):
    reason = f"the folder {str(builder.data_path)!r} is empty"
  folder = f", data_dir={path!r}" if path else ""
  # The command `tfds build` needs apache_beam as well, whatever is built.
  return (
    f"config.data.name={name!r} cannot be read from config.data.path={path!r} "
    f"({reason}); accepted are data sets "
    'prepared once, where TensorFlow is installed, by: python -c "import '
    f"tensorflow_datasets as tfds; tfds.builder({name!r}{folder}, "
    "file_format='array_record').download_and_prepare()\""
  )
