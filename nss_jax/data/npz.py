"""Arrays in one .npz file, under the names of Keras or of MedMNIST."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from nss_jax.data.dataset import (
  DataError,
  Dataset,
  allocate,
  check_memory,
  given_path,
  make,
)
from nss_jax.data.stream import split_test

# Names of images and labels of training, and of what may be their test.
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


def load(
  *,
  path: str,
  convert_arrays: bool,
  test_fraction: float,
  test_seed: int,
  **_: Any,
) -> Dataset:
  """Reads images and labels from a .npz file; nothing in it is executed.

  Args:
    path: the file. It holds x_train, y_train, x_test and y_test, or other
      names of `_NAMES`: images uint8
      `[N, H, W, C]` or grey `[N, H, W]`, integer labels `[N]` or `[N, 1]` from
      0 on; other arrays are not read.
    convert_arrays: whether images may also be booleans or floats in [0, 1],
      which are scaled to 0..255 and rounded, and labels one-hot `[N, classes]`.
    test_fraction: of every class, for test, if the file has training arrays
      alone; 0: it has test arrays.
    test_seed: of the draw of these.

  Returns:
    As many classes as the training labels have.

  Raises:
    DataError: if the file is missing, damaged, or holds other arrays.
  """
  file = given_path(path, _accepted())
  where = f"config.data.path={str(file)!r}"
  arrays, notes = _read(file, test_fraction)
  parts: list[Any] = [
    (
      _images(where, *images, convert=convert_arrays),
      _labels(where, *labels, convert=convert_arrays),
    )
    for images, labels in zip(arrays[::2], arrays[1::2], strict=True)
  ]
  if test_fraction:
    images, labels = parts[0]
    parts = split_test(where, images, labels, test_fraction, test_seed)
  return make("npz", parts[0], parts[1], field=where, notes=notes)


def _read(
  file: pathlib.Path, test_fraction: float
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
  """Names and arrays of images and labels, of training and then of test."""
  try:
    # A pipe or a device would block or never end.
    found = file.is_file() and zipfile.is_zipfile(file)
  except (OSError, ValueError):
    found = False
  if not found:
    raise _refused(file, "is no file in the format .npz")
  try:
    with np.load(file, allow_pickle=False) as arrays:
      names, notes = _choose(file, arrays, test_fraction)
      _check_size(file, arrays.zip, names)
      found = [arrays[name] for name in names]
  except DataError:
    raise
  # Hostile headers and streams make zipfile, zlib and numpy raise errors of
  # many types, MemoryError and SyntaxError among them.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise _refused(file, f"is damaged or holds objects ({reason})") from error
  for name, array in zip(names, found, strict=True):
    # numpy gives a member that is in another format as its bytes.
    if not isinstance(array, np.ndarray):
      raise _refused(file, f"holds {name!r}, which is no array")
  return list(zip(names, found, strict=True)), notes


def _check_size(
  file: pathlib.Path, members: zipfile.ZipFile, names: list[str]
) -> None:
  """A small file can unpack to more than there is memory."""
  needed = sum(
    member.file_size
    for member in members.infolist()
    if member.filename.removesuffix(".npy") in names
  )
  check_memory(f"config.data.path={str(file)!r} holds", needed)


def _choose(
  file: pathlib.Path, arrays: Mapping[str, Any], test_fraction: float
) -> tuple[list[str], list[str]]:
  """Names of the arrays that are read, and notes on others."""
  for train, tests in _NAMES:
    if not all(name in arrays for name in train):
      continue
    there = [test for test in tests if all(name in arrays for name in test)]
    if test_fraction and there:
      raise DataError(
        f"config.data.test_fraction={test_fraction} is not accepted where "
        f"there is {there[0][0]}, in {str(file)!r}; accepted is 0"
      )
    if test_fraction:
      return [*train], []
    if there:
      notes = [
        f"config.data.path={str(file)!r}: {other[0]} is not read"
        for other in there[1:]
      ]
      return [*train, *there[0]], notes
  listed = ", ".join(repr(name[:40]) for name in sorted(arrays)[:8])
  raise _refused(file, f"holds the arrays {listed or 'none'}")


def _refused(file: pathlib.Path, reason: str) -> DataError:
  return DataError(
    f"config.data.path={str(file)!r} {reason}; accepted is {_accepted()}"
  )


def _accepted() -> str:
  names = " or ".join(
    ", ".join((*train, *tests[0])) for train, tests in _NAMES if tests
  )
  return (
    f"a .npz file of numbers with {names} (val for test too), or with those of "
    "training alone and config.data.test_fraction"
  )


def _images(
  where: str, name: str, array: np.ndarray, *, convert: bool
) -> np.ndarray:
  """`[N, H, W, C]`, uint8 if it was or is converted."""
  array = array[..., None] if array.ndim == 3 else array
  is_unit = array.dtype == bool or np.issubdtype(array.dtype, np.floating)
  if not is_unit or array.ndim != 4 or not array.size:
    return array  # uint8, or refused with all others
  where = f"{where}: {name} is {array.dtype} of shape {array.shape}"
  if not convert:
    raise DataError(
      f"{where}; accepted is uint8 of shape [N, H, W, C], or {_CONVERT} for "
      "floats in [0, 1] and booleans"
    )
  low, high = array.min(), array.max()
  if not (low >= 0 and high <= 1):  # NaN is neither
    raise DataError(
      f"{where} from {float(low):g} to {float(high):g}; accepted are floats in "
      f"[0, 1] with {_CONVERT}"
    )
  made = allocate(where, len(array), array.shape[1:])
  for start in range(0, len(array), _CHUNK):
    part = slice(start, start + _CHUNK)
    made[part] = np.rint(array[part].astype(np.float64) * 255)
  return made


def _labels(
  where: str, name: str, array: np.ndarray, *, convert: bool
) -> np.ndarray:
  # Keras and MedMNIST keep them as a column.
  if array.ndim != 2 or array.shape[1] == 1:
    return array[:, 0] if array.ndim == 2 else array
  is_number = array.dtype.kind in "biuf"  # texts have no sum
  is_one_hot = is_number and np.isin(array, (0, 1)).all()
  if is_one_hot and (array.sum(1) == 1).all() and convert:
    return array.argmax(1)
  raise DataError(
    f"{where}: {name} is {array.dtype} of shape {array.shape}; accepted are "
    f"integers of shape [N], or {_CONVERT} for one-hot labels"
  )
