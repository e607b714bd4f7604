"""Images and labels in IDX files, the format of MNIST and its successors.

A file is big-endian: two zero bytes, the type (8 is uint8), the number of
dimensions, each of them as 4 bytes, and the numbers. gzip or plain.
"""

import gzip
import math
import pathlib
import struct
import zlib
from typing import Any

import numpy as np

from nss_jax.data.dataset import (
  DataError,
  Dataset,
  given_path,
  make,
)
from nss_jax.data.stream import split_test

# Where Debian's package dataset-fashion-mnist puts them.
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_UINT8 = 8
_PARTS = ("train", "t10k")


def load(
  source: str, *, path: str, test_fraction: float, test_seed: int, **_: Any
) -> Dataset:
  """Reads the four files of MNIST's names from a folder.

  Args:
    source: name of the data set; `fashion_mnist` has a folder of its own.
    path: the folder; empty for that of Debian's package.
    test_fraction: of every class, for test, if the folder has the two files of
      training alone; 0: it has all four.
    test_seed: of the draw of these.

  Returns:
    Images `[N, H, W, 1]` in as many classes as the training labels have.

  Raises:
    DataError: if a file is missing or is not what it should be.
  """
  if source == "fashion_mnist":
    path = path or DEBIAN_FOLDER
  folder = given_path(path, "a folder with the four IDX files of MNIST's names")
  where = f"config.data.path={path!r}"
  if test_fraction and (file := _find(folder, "t10k-images-idx3-ubyte")):
    raise DataError(
      f"config.data.test_fraction={test_fraction} is not accepted where there "
      f"is {file.name}, in {where}; accepted is 0"
    )
  parts: list[Any] = [
    (
      _read(source, folder, f"{part}-images-idx3-ubyte", 3)[..., None],
      _read(source, folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int32),
    )
    for part in (_PARTS[:1] if test_fraction else _PARTS)
  ]
  if test_fraction:
    images, labels = parts[0]
    parts = split_test(where, images, labels, test_fraction, test_seed)
  return make(source, parts[0], parts[1], field=where)


def _read(
  source: str, folder: pathlib.Path, name: str, dimensions: int
) -> np.ndarray:
  """The uint8 array in the file of that name, gzip or plain."""
  if file := _find(folder, name):
    try:
      content = file.read_bytes()
      if file.suffix == ".gz":
        content = gzip.decompress(content)
    # OSError covers gzip's own, EOFError is a file that was cut short.
    except (OSError, EOFError, zlib.error) as error:
      reason = " ".join(str(error).split())[:160]
      raise DataError(
        f"config.data.path: {str(file)!r} cannot be read ({reason}); accepted "
        "is a whole IDX file, gzip or plain"
      ) from error
    return _decode(file, content, dimensions)
  raise DataError(
    f"config.data.path={str(folder)!r} holds no {name}.gz, which "
    f"config.data.source={source!r} needs; accepted is a folder with the four "
    "IDX files (Fashion-MNIST: Debian package dataset-fashion-mnist), or with "
    "the two of train and config.data.test_fraction"
  )


def _find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  """The file of that name, gzip or plain."""
  files = (folder / f"{name}.gz", folder / name)
  return next(filter(_is_file, files), None)


def _is_file(file: pathlib.Path) -> bool:
  try:
    return file.is_file()
  except (OSError, ValueError):  # a name too long, a null byte
    return False


def _decode(file: pathlib.Path, content: bytes, dimensions: int) -> np.ndarray:
  """The array, if the content is exactly one of so many dimensions."""
  header = struct.calcsize(f">{dimensions + 1}I")
  if len(content) >= header:
    magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
    whole = len(content) - header == math.prod(shape)
    if magic == _UINT8 << 8 | dimensions and whole and content[header:]:
      return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
  raise DataError(
    f"config.data.path: {str(file)!r} has {len(content)} bytes that begin with "
    f"{content[:4].hex()!r}; accepted is an IDX file of uint8 in {dimensions} "
    "dimensions, whole"
  )
