"""Images that are read when they are asked for, by threads."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from nss_jax.data.dataset import allocate, refusing
from nss_jax.data.images import BadImage, ImageError
from nss_jax.errors import UserError

T = TypeVar("T")
# Of memory, that images may take before `auto` streams them: the parts of a
# phase are copies, on the host and then on the devices, and phases add up.
SHARE = 0.25
# More than cores, since some of them wait for a disk.
_MAX_THREADS = 16
# Images, and numbers in them, that a thread reads at a time.
_CHUNK = 32
_CHUNK_NUMBERS = 2**18


def streams_in(mode: str, memory: int, num_bytes: int) -> bool:
  """Returns whether images of so many bytes are read when they are asked for.

  In the mode `auto` they are if they take much of the memory in bytes.
  """
  if mode == "auto":
    return num_bytes > SHARE * memory
  return mode == "always"


def map_chunks(
  function: Callable[[range], T], count: int, size: int
) -> list[T]:
  """Calls a function with the ranges of a chunk each, by several threads.

  Returns:
    What it returns, in order. The first error in that order ends all.
  """
  chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
  with futures.ThreadPoolExecutor(num_threads()) as pool:
    return list(pool.map(function, chunks))


def num_threads() -> int:
  return min(_MAX_THREADS, 2 * (os.cpu_count() or 1))


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
  """Stands for an array of images `[N, H, W, C]` uint8 and reads its rows.

  Attributes:
    source: gives images `[H, W, C]` uint8 by their index, to several threads at
      a time; an array does. What a message calls an image is its `name(index)`,
      if it has that.
    shape: `(N, H, W, C)`.
    where: the config field and value that gave them, for messages.
    rows: of the source, that are the images, `[N]`; None: all.
  """

  source: Any
  shape: tuple[int, ...]
  where: str
  rows: np.ndarray | None = None

  @classmethod
  def of(cls, source: Any, where: str) -> "StreamedImages":
    """Returns all images of a source, in the form of the first good one.

    Of none: each will be refused when it is read.
    """
    for index in range(len(source)):
      with _naming(source, index, where), contextlib.suppress(BadImage):
        return cls(source, (len(source), *source[index].shape), where)
    return cls(source, (len(source), 1, 1, 1), where)

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
    """Reads `[n, H, W, C]` into memory, by several threads.

    Raises:
      UserError: at an image that cannot be read, or if they are larger than
        the memory of the machine.
    """
    rows = np.arange(len(self))[rows]
    if isinstance(self.source, np.ndarray):
      return self.read(rows)
    with refusing(self.where):
      images = allocate("in memory", (len(rows), *self.shape[1:]))

    def fill(chunk: range) -> None:
      part = slice(chunk.start, chunk.stop)
      images[part] = self.read(rows[part])

    map_chunks(fill, len(rows), self._chunk)
    return images

  def take(self, rows: np.ndarray) -> "StreamedImages":
    """Returns some of the images, `[n]` of them, still to be read."""
    shape = len(rows), *self.shape[1:]
    return dataclasses.replace(self, shape=shape, rows=self._places(rows))

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Reads `[n, H, W, C]` by the thread that asks, which may be one of many.

    Raises:
      UserError: at an image that cannot be read.
    """
    if isinstance(self.source, np.ndarray):
      return self.source[self._places(rows)]
    images = np.empty((len(rows), *self.shape[1:]), np.uint8)
    for index, place in enumerate(self._places(rows)):
      images[index] = self._read_one(int(place))
    return images

  def faults(self, kind: type[Exception] = ImageError) -> list[str]:
    """Reads all images; returns of each what is wrong, or an empty string."""

    def fault(row: int) -> str:
      try:
        self._read_one(int(self._places(np.array(row))))
      except UserError as error:
        if isinstance(error.__cause__, kind):
          text = str(error).removeprefix(f"{self.where}: ")
          return text.partition("; accepted")[0]
      return ""

    chunks = map_chunks(lambda x: [*map(fault, x)], len(self), self._chunk)
    return [text for chunk in chunks for text in chunk]

  @property
  def _chunk(self) -> int:
    return min(max(_CHUNK_NUMBERS // math.prod(self.shape[1:]), 1), _CHUNK)

  def _places(self, rows: np.ndarray) -> np.ndarray:
    return rows if self.rows is None else self.rows[rows]

  def _read_one(self, place: int) -> np.ndarray:
    """Reads an image of the source; what is wrong is told with its name."""
    try:
      image, shape = self.source[place], self.shape[1:]
      if image.shape != shape or image.dtype != np.uint8:
        raise ImageError(
          f"is {image.dtype} of shape {image.shape} and the first image of "
          f"{shape}; accepted is uint8 of one shape, or config.data.image_size "
          "(pixels of a side) and config.data.channels (1 grey, 3 RGB) for all"
        )
    except Exception:
      with _naming(self.source, place, self.where):
        raise
    return image


def _naming(
  source: Any, index: int, where: str
) -> contextlib.AbstractContextManager[None]:
  """Refuses what is raised inside with the name of an image."""
  name = getattr(source, "name", "image {}".format)(index)
  return refusing(f"{where}: {name}", joint=" ")
