"""Arrays in files: IDX, the format of MNIST and its successors, and .npz."""

import gzip
import math
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from nss_jax.data.dataset import (
  Part,
  Parts,
  allocate,
  check_memory,
  given_path,
)
from nss_jax.data.split import draws_test

# Where Debian's package dataset-fashion-mnist puts them.
_DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_UINT8 = 8
# Names in .npz of images and labels of training, and of what may be their test:
# of Keras, of MedMNIST, and of sets without test.
_NAMES = (
  (("x_train", "y_train"), (("x_test", "y_test"), ("x_val", "y_val"))),
  (
    ("train_images", "train_labels"),
    (("test_images", "test_labels"), ("val_images", "val_labels")),
  ),
  (("x", "y"), ()),
  (("images", "labels"), ()),
)
_CONVERT = "config.data.convert_arrays=True"
# Images converted at a time.
_CHUNK = 1000
ACCEPTED_IDX = (
  "a folder with the four IDX files of MNIST's names, gzip or plain "
  "(Fashion-MNIST: Debian package dataset-fashion-mnist), or with the two of "
  "train and config.data.test_fraction"
)
ACCEPTED_NPZ = (
  "a .npz file of numbers with x_train, y_train, x_test, y_test or "
  "train_images, train_labels, test_images, test_labels (val for test too), or "
  "with those of training alone and config.data.test_fraction"
)


def load_fashion_mnist(*, path: str, test_fraction: float) -> Parts:
  """Reads Fashion-MNIST as `load_idx` does, by default of Debian's package."""
  return load_idx(path=path or _DEBIAN_FOLDER, test_fraction=test_fraction)


def load_idx(*, path: str, test_fraction: float) -> Parts:
  """Reads the four files of MNIST's names in a folder, or the two of train."""
  folder = given_path(path)
  there = _find(folder, "t10k-images-idx3-ubyte")
  if draws_test(test_fraction, there.name if there else ""):
    return Parts(_read_part(folder, "train"))
  return Parts(_read_part(folder, "train"), _read_part(folder, "t10k"))


def _read_part(folder: pathlib.Path, part: str) -> Part:
  images = _read_idx(folder, f"{part}-images-idx3-ubyte", 3)[..., None]
  return images, _read_idx(folder, f"{part}-labels-idx1-ubyte", 1)


def _find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """Returns the file of that name, gzip or plain."""
  files = (folder / f"{name}.gz", folder / name)
  return next((file for file in files if file.is_file()), None)


def _read_idx(folder: pathlib.Path, name: str, dimensions: int) -> np.ndarray:
  """Reads uint8 in so many dimensions from the file of that name.

  A file is big-endian: two zero bytes, the type (8 is uint8), the number of
  dimensions, each of them as 4 bytes, and the numbers.
  """
  file = _find(folder, name)
  if not file:
    raise ValueError(f"holds no {name}.gz")
  content = file.read_bytes()
  if file.suffix == ".gz":
    try:
      content = gzip.decompress(content)
    except Exception as error:
      raise ValueError(f"{file.name} is damaged: {error}") from error
  header = struct.calcsize(f">{dimensions + 1}I")
  if len(content) > header:
    magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
    whole = len(content) - header == math.prod(shape)
    if magic == _UINT8 << 8 | dimensions and whole:
      return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
  raise ValueError(
    f"{file.name} has {len(content)} bytes that begin with "
    f"{content[:4].hex()!r}; accepted is an IDX file of uint8 in {dimensions} "
    "dimensions, whole"
  )


def load_npz(*, path: str, convert_arrays: bool, test_fraction: float) -> Parts:
  """Reads images and labels from a .npz file; nothing in it is executed.

  Images are uint8 `[N, H, W, C]` or grey `[N, H, W]`, labels are integers `[N]`
  or `[N, 1]`, and `class_names`, if there, texts `[classes]`; other arrays
  are not read. If asked, booleans and floats in [0, 1] are scaled to 0..255 and
  rounded, and labels may be one-hot.
  """
  file = given_path(path)
  # A pipe or a device would block or never end.
  if not file.is_file() or not zipfile.is_zipfile(file):
    raise ValueError("is no file in the format .npz")
  # Opened here, since numpy leaves a damaged file open.
  with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
    parts, notes = _choose(arrays, test_fraction)
    names = [name for part in parts for name in part]
    sizes = {x.filename: x.file_size for x in arrays.zip.infolist()}
    # A small file can unpack to more than there is memory.
    needed = sum(sizes.get(f"{x}.npy", sizes.get(x, 0)) for x in names)
    check_memory("holds", needed)
    found = {name: arrays[name] for name in names}
    class_names = _class_names(arrays)
  for name, array in found.items():
    # numpy gives a member that is in another format as its bytes.
    if not isinstance(array, np.ndarray):
      raise ValueError(f"holds {name!r}, which is no array")
  train, *test = [
    (
      _images(images, found[images], convert_arrays),
      _labels(labels, found[labels], convert_arrays),
    )
    for images, labels in parts
  ]
  notes = [f"config.data.path={path!r}: {note}" for note in notes]
  return Parts(
    train,
    test[0] if test else None,
    num_classes=len(class_names) or None,
    class_names=class_names,
    notes=notes,
  )


def _class_names(arrays: Mapping[str, Any]) -> list[str]:
  """Returns the texts of the array `class_names`, if there is one."""
  if "class_names" not in arrays:
    return []
  names = arrays["class_names"]
  if names.ndim != 1 or names.dtype.kind != "U" or not names.size:
    raise ValueError(
      f"class_names is {names.dtype} of shape {names.shape}; accepted are "
      "texts of shape [classes]"
    )
  return [str(name)[:40] for name in names]


def _choose(
  arrays: Mapping[str, Any], test_fraction: float
) -> tuple[list[tuple[str, str]], list[str]]:
  """Returns names of images and labels of each part, and notes on others."""
  for train, tests in _NAMES:
    if not all(name in arrays for name in train):
      continue
    there = [test for test in tests if all(name in arrays for name in test)]
    if draws_test(test_fraction, there[0][0] if there else ""):
      return [train], []
    if there:
      notes = [f"{other[0]} is not read" for other in there[1:]]
      return [train, there[0]], notes
  listed = ", ".join(repr(name[:40]) for name in sorted(arrays)[:8])
  raise ValueError(f"holds the arrays {listed or 'none'}")


def _images(name: str, array: np.ndarray, convert: bool) -> np.ndarray:
  """Adds a missing channel axis, and converts numbers in [0, 1] if asked."""
  array = array[..., None] if array.ndim == 3 else array
  is_unit = array.dtype == bool or np.issubdtype(array.dtype, np.floating)
  if not is_unit or array.ndim != 4 or not array.size:
    return array  # uint8, or refused with all others
  claim = f"{name} is {array.dtype} of shape {array.shape}"
  if not convert:
    raise ValueError(
      f"{claim}; accepted is uint8 of shape [N, H, W, C], or {_CONVERT} for "
      "floats in [0, 1] and booleans"
    )
  low, high = array.min(), array.max()
  if not (low >= 0 and high <= 1):  # NaN is neither
    raise ValueError(
      f"{claim} from {float(low):g} to {float(high):g}; accepted are floats in "
      f"[0, 1] with {_CONVERT}"
    )
  made = allocate(claim, array.shape)
  for start in range(0, len(array), _CHUNK):
    part = slice(start, start + _CHUNK)
    made[part] = np.rint(array[part].astype(np.float64) * 255)
  return made


def _labels(name: str, array: np.ndarray, convert: bool) -> np.ndarray:
  """Returns `[N]` of labels in a column, as in MedMNIST, or one-hot."""
  if array.ndim != 2 or array.shape[1] == 1:
    return array[:, 0] if array.ndim == 2 else array
  is_number = array.dtype.kind in "biuf"  # texts have no sum
  is_one_hot = is_number and np.isin(array, (0, 1)).all()
  if is_one_hot and (array.sum(1) == 1).all() and convert:
    return array.argmax(1)
  raise ValueError(
    f"{name} is {array.dtype} of shape {array.shape}; accepted are integers of "
    f"shape [N], or {_CONVERT} for one-hot labels"
  )
