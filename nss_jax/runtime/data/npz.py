"""Arrays in one .npz file, under the names of Keras or of MedMNIST."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from nss_jax.runtime.data.dataset import (
  DataError,
  Dataset,
  check_memory,
  given_path,
  make,
)

# Training images, training labels, test images, test labels.
NAMES = (
  ("x_train", "y_train", "x_test", "y_test"),
  ("train_images", "train_labels", "test_images", "test_labels"),
)


def load(*, path: str, **_: Any) -> Dataset:
  """Reads images and labels from a .npz file; nothing in it is executed.

  Args:
    path: the file. It holds all four of one row of `NAMES`: images uint8
      `[N, H, W, C]` or grey `[N, H, W]`, integer labels `[N]` or `[N, 1]` from
      0 on; other arrays are not read.

  Returns:
    As many classes as the training labels have.

  Raises:
    DataError: if the file is missing, damaged, or holds other arrays.
  """
  file = given_path(path, _accepted())
  arrays = _read(file)
  train, test = ((_images(arrays[i]), _labels(arrays[i + 1])) for i in (0, 2))
  return make("npz", train, test, field=f"config.data.path={str(file)!r}")


def _read(file: pathlib.Path) -> list[np.ndarray]:
  """The four arrays, in the order of `NAMES`."""
  try:
    # A pipe or a device would block or never end.
    found = file.is_file() and zipfile.is_zipfile(file)
  except (OSError, ValueError):
    found = False
  if not found:
    raise _refused(file, "is no file in the format .npz")
  try:
    with np.load(file, allow_pickle=False) as arrays:
      names = _choose(file, arrays)
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
  return found


def _check_size(
  file: pathlib.Path, members: zipfile.ZipFile, names: tuple[str, ...]
) -> None:
  """A small file can unpack to more than there is memory."""
  needed = sum(
    member.file_size
    for member in members.infolist()
    if member.filename.removesuffix(".npy") in names
  )
  check_memory(f"config.data.path={str(file)!r} holds", needed)


def _choose(file: pathlib.Path, arrays: Mapping[str, Any]) -> tuple[str, ...]:
  for names in NAMES:
    if all(name in arrays for name in names):
      return names
  listed = ", ".join(repr(name[:40]) for name in sorted(arrays)[:8])
  raise _refused(file, f"holds the arrays {listed or 'none'}")


def _refused(file: pathlib.Path, reason: str) -> DataError:
  return DataError(
    f"config.data.path={str(file)!r} {reason}; accepted is {_accepted()}"
  )


def _accepted() -> str:
  names = " or ".join(", ".join(row) for row in NAMES)
  return f"a .npz file of numbers with {names}"


def _images(array: np.ndarray) -> np.ndarray:
  return array[..., None] if array.ndim == 3 else array


def _labels(array: np.ndarray) -> np.ndarray:
  # Keras and MedMNIST keep them as a column.
  return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
