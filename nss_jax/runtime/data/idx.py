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

from nss_jax.runtime.data.dataset import DataError, Dataset, make

# Where Debian's package dataset-fashion-mnist puts them.
DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_UINT8 = 8
_PARTS = ("train", "t10k")


def load(source: str, *, path: str, **_: Any) -> Dataset:
  """Reads the four files of MNIST's names from a folder.

  Args:
    source: name of the data set.
    path: the folder; empty for that of Debian's package.

  Returns:
    Images `[N, H, W, 1]` in as many classes as the training labels have.

  Raises:
    DataError: if a file is missing or is not what it should be.
  """
  folder = pathlib.Path(path or DEBIAN_FOLDER)
  train, test = (
    (
      _read(source, folder, f"{part}-images-idx3-ubyte", 3)[..., None],
      _read(source, folder, f"{part}-labels-idx1-ubyte", 1).astype(np.int32),
    )
    for part in _PARTS
  )
  return make(source, train, test, num_classes=int(train[1].max()) + 1)


def _read(source, folder, name, dimensions) -> np.ndarray:
  for file in (folder / f"{name}.gz", folder / name):
    if not file.is_file():
      continue
    try:
      content = file.read_bytes()
      if file.suffix == ".gz":
        content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
      raise DataError(f"{file} cannot be read: {error}") from error
    return _decode(file, content, dimensions)
  raise DataError(
    f"data.source={source!r} needs {name}.gz in {folder}; accepted is "
    "--config.data.path=FOLDER with the four IDX files (Fashion-MNIST: Debian "
    "package dataset-fashion-mnist)"
  )


def _decode(file, content: bytes, dimensions: int) -> np.ndarray:
  header = struct.calcsize(f">{dimensions + 1}I")
  if len(content) >= header:
    magic, *shape = struct.unpack_from(f">{dimensions + 1}I", content)
    whole = len(content) - header == math.prod(shape)
    if magic == _UINT8 << 8 | dimensions and whole and content[header:]:
      return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
  raise DataError(
    f"{file}: {len(content)} bytes that begin with {content[:4].hex()}; "
    f"accepted is an IDX file of uint8 in {dimensions} dimensions"
  )
