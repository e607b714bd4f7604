"""Images that are read when they are asked for, by threads of grain."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np

from nss_jax.data.dataset import DataError, allocate
from nss_jax.data.split import draw_test

# Of memory, that images may take before `auto` streams them: the parts of a
# phase are copies, on the host and then on the devices, and phases add up.
SHARE = 0.25
# grain's own number; more than cores, since some of them wait for a disk.
_MAX_THREADS = 16
# Images, and numbers in them, that a thread reads at a time.
_CHUNK = 32
_CHUNK_NUMBERS = 2**18


class Source(Protocol):
  """What grain calls a RandomAccessDataSource, of images or of batches.

  Threads ask for its parts in any order, several at a time.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int, /) -> Any: ...


class Reader(Protocol):
  """An iterator to be closed."""

  def __iter__(self) -> Iterator[Any]: ...

  def __next__(self) -> Any: ...

  def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
  """Stands for an array of images `[N, H, W, C]` uint8 and reads its rows.

  Attributes:
    source: of images `[H, W, C]` uint8; an array is one.
    shape: `(N, H, W, C)`.
    field: the config field and value that gave them, for messages.
  """

  source: Source
  shape: tuple[int, ...]
  field: str

  def __len__(self) -> int:
    return self.shape[0]

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  @property
  def ndim(self) -> int:
    return len(self.shape)

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
    """Reads `[n, H, W, C]` into memory, by several threads.

    Args:
      rows: indices `[n]`, or a slice.

    Raises:
      DataError: at an image that cannot be read, or if they are larger than
        the memory of the machine.
    """
    if isinstance(self.source, np.ndarray):
      return self.source[rows]
    if isinstance(rows, slice):
      rows = np.arange(len(self))[rows]
    images = allocate(self.field, len(rows), self.shape[1:])
    size = _CHUNK_NUMBERS // math.prod(self.shape[1:])
    chunks = _Chunks(self, rows, min(max(size, 1), _CHUNK))
    buffer, start = 2 * _num_threads(), 0
    with contextlib.closing(read_ahead(chunks, buffer)) as parts:
      for part in parts:
        images[start : start + len(part)] = part
        start += len(part)
    return images

  def take(self, rows: np.ndarray) -> "StreamedImages":
    """Some of the images, `[n]` of them, still to be read."""
    shape = len(rows), *self.shape[1:]
    return StreamedImages(_Rows(self.source, rows), shape, self.field)

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Reads `[n, H, W, C]` by the thread that asks, which may be one of many.

    Raises:
      DataError: at an image that cannot be read.
    """
    if isinstance(self.source, np.ndarray):
      return self.source[rows]
    images = np.empty((len(rows), *self.shape[1:]), np.uint8)
    for place, row in enumerate(rows):
      images[place] = self.source[int(row)]
    return images


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
  """Some of the images of a source."""

  source: Source
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> np.ndarray:
    return self.source[int(self.rows[index])]


@dataclasses.dataclass(frozen=True)
class _Chunks:
  """Rows of images, so many at a time."""

  images: StreamedImages
  rows: np.ndarray
  size: int

  def __len__(self) -> int:
    return -(-len(self.rows) // self.size)

  def __getitem__(self, index: int) -> np.ndarray:
    start = index * self.size
    return self.images.read(self.rows[start : start + self.size])


Part = tuple[np.ndarray | StreamedImages, np.ndarray]


def split_test(
  where: str,
  images: np.ndarray | StreamedImages,
  labels: np.ndarray,
  fraction: float,
  seed: int,
) -> list[Part]:
  """Images and labels for training and for test, of a set without test.

  Args:
    where: the config field and value that gave them, for messages.
    images: `[N, H, W, C]`.
    labels: `[N]`.
    fraction: share of every class for test.
    seed: of the draw.

  Raises:
    DataError: if these are no labels of the images, or none would be drawn.
  """
  if labels.ndim != 1 or not 0 < len(labels) == len(images):
    raise DataError(
      f"{where}: {images.shape} images and {labels.shape} labels; accepted are "
      "[N, H, W, C] and [N], at least one"
    )
  rows = draw_test(labels, fraction, seed)
  if isinstance(images, np.ndarray):
    return [(images[part], labels[part]) for part in rows]
  return [(images.take(part), labels[part]) for part in rows]


def _num_threads() -> int:
  return min(_MAX_THREADS, 2 * (os.cpu_count() or 1))


def read_ahead(source: Source, buffer: int) -> Reader:
  """All parts of a source in order, read by threads before they are asked for.

  Args:
    source: of anything but None.
    buffer: parts that are read ahead, at most.

  Returns:
    An iterator to be closed: what has not begun is then never read. An error of
    the source is raised in the place of its part.
  """
  # Imported here: `import nss_jax` loads no data-set library.
  import grain

  options = grain.ReadOptions(
    num_threads=min(_num_threads(), buffer), prefetch_buffer_size=buffer
  )
  dataset = grain.MapDataset.source(cast(Any, source))
  return iter(dataset.to_iter_dataset(options))


def is_streamed(mode: str, memory: int, num_bytes: int) -> bool:
  """Whether images of so many bytes are read when they are asked for.

  Args:
    mode: `auto`, `always` or `never`.
    memory: bytes of the host, or of a device if it has less.
    num_bytes: of the training images, decoded.
  """
  if mode == "auto":
    return num_bytes > SHARE * memory
  return mode == "always"
