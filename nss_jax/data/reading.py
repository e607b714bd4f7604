"""Images that are read when they are asked for, by several threads."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from nss_jax.data.dataset import allocate, refusing
from nss_jax.data.images import BadImage, ImageError
from nss_jax.errors import UserError

T = TypeVar("T")
# Share of memory that images may take before `auto` streams them: the parts of
# a phase are copies, on the host and then on the devices, and phases add up.
SHARE = 0.25
# More than cores, since some of them wait for a disk.
_MAX_THREADS = 16
# Images, and numbers in them, that a thread reads at a time.
_CHUNK = 32
_CHUNK_NUMBERS = 2**18


def streams_in(mode: str, memory: int, num_bytes: int) -> bool:
  """Returns whether to stream images of so many bytes in that memory."""
  if mode == "auto":
    return num_bytes > SHARE * memory
  return mode == "always"


def map_chunks(
  function: Callable[[range], T], count: int, size: int
) -> list[T]:
  """Returns what a function gives for each chunk of a range, in order.

  Several threads call it. The first error in that order ends all of them.
  """
  chunks = [range(i, min(i + size, count)) for i in range(0, count, size)]
  with futures.ThreadPoolExecutor(num_threads()) as pool:
    return list(pool.map(function, chunks))


def num_threads() -> int:
  """Returns how many threads read images."""
  return min(_MAX_THREADS, 2 * (os.cpu_count() or 1))


class Decoded:
  """Decodes items by their index, and names them for messages."""

  def __init__(
    self,
    items: Sequence[Any],
    decode: Callable[[Any], np.ndarray],
    name: Callable[[int], str],
  ):
    self._items, self._decode, self.name = items, decode, name

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, index: int) -> np.ndarray:
    return self._decode(self._items[index])


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
  """Stands for an array of images `[N, H, W, C]` uint8 and reads its rows.

  Attributes:
    source: an array, or any object that gives an image `[H, W, C]` uint8 for an
      index, to several threads at a time. If it has a method `name(index)`,
      messages call an image by that name.
    shape: `(N, H, W, C)`.
    where: the config field and value that gave them, for messages.
    rows: `[N]`, which images of the source these are; None for all.
  """

  source: Any
  shape: tuple[int, ...]
  where: str
  rows: np.ndarray | None = None

  @classmethod
  def of(cls, source: Any, where: str) -> "StreamedImages":
    """Returns all images of a source, in the shape of the first good one.

    Where none is good, each will be refused when it is read.
    """
    images = cls(source, (len(source), 1, 1, 1), where)
    for index in range(len(source)):
      with images._naming(index), contextlib.suppress(BadImage):
        shape = len(source), *source[index].shape
        return dataclasses.replace(images, shape=shape)
    return images

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(np.uint8)

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
    """Reads `[n, H, W, C]` into memory, by several threads, if they fit."""
    rows = np.arange(len(self))[rows]
    if isinstance(self.source, np.ndarray):
      return self.read(rows)
    with refusing(f"{self.where}: "):
      images = allocate("in memory", (len(rows), *self.shape[1:]))

    def fill(chunk: range) -> None:
      part = slice(chunk.start, chunk.stop)
      images[part] = self.read(rows[part])

    map_chunks(fill, len(rows), self._chunk)
    return images

  def take(self, rows: np.ndarray) -> "StreamedImages":
    """Returns some of the images, which are still to be read."""
    shape = len(rows), *self.shape[1:]
    return dataclasses.replace(self, shape=shape, rows=self._places(rows))

  def read(self, rows: np.ndarray) -> np.ndarray:
    """Reads `[n, H, W, C]` in the thread that asks; many may ask at a time."""
    if isinstance(self.source, np.ndarray):
      return self.source[self._places(rows)]
    images = np.empty((len(rows), *self.shape[1:]), np.uint8)
    for index, place in enumerate(self._places(rows)):
      images[index] = self._read_one(int(place))
    return images

  def faults(self, kind: type[Exception] = ImageError) -> list[str]:
    """Reads all images and returns what is wrong with each, or an empty string.

    Only errors of that kind count.
    """

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
    """Reads an image of the source, and names it in an error."""
    try:
      image, shape = self.source[place], self.shape[1:]
      if image.shape != shape or image.dtype != np.uint8:
        raise ImageError(
          f"is {image.dtype} of shape {image.shape} and the first image of "
          f"{shape}; accepted is uint8 of one shape, or config.data.image_size "
          "(pixels of a side) and config.data.channels (1 grey, 3 RGB) for all"
        )
    except Exception:
      with self._naming(place):
        raise
    return image

  def _naming(self, place: int) -> contextlib.AbstractContextManager[None]:
    """Refuses what is raised inside with the name of an image."""
    name = getattr(self.source, "name", "image {}".format)(place)
    return refusing(f"{self.where}: {name} ")
