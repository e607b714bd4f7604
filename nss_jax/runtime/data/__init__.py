"""Image data sets as host arrays, from one table of sources."""

import functools
from collections.abc import Callable

from nss_jax.runtime.data import cifar, digits, idx, tfds
from nss_jax.runtime.data.cifar import ARCHIVES, Archive
from nss_jax.runtime.data.dataset import DataError, Dataset
from nss_jax.runtime.data.split import split_halves

__all__ = [
  "ARCHIVES",
  "SOURCES",
  "Archive",
  "DataError",
  "Dataset",
  "load",
  "split_halves",
]

# A source takes path, name, cache_dir and progress and uses what it needs.
SOURCES: dict[str, Callable[..., Dataset]] = {
  "digits": digits.load,
  "cifar10_binary": functools.partial(cifar.load, "cifar10_binary"),
  "cifar100_binary": functools.partial(cifar.load, "cifar100_binary"),
  "fashion_mnist": functools.partial(idx.load, "fashion_mnist"),
  "tfds": tfds.load,
}


def load(
  source: str,
  *,
  path: str = "",
  name: str = "",
  cache_dir: str = "",
  progress: bool = True,
) -> Dataset:
  """Reads a data set whole into host memory.

  Args:
    source: a name in `SOURCES`. `digits` needs no file and no network.
    path: CIFAR: the official archive or a folder that holds it, empty to
      fetch it once; fashion_mnist: the folder of its four IDX files, empty for
      that of Debian's package; tfds: the data folder, empty for its default.
    name: tfds: name of the data set.
    cache_dir: CIFAR: where to keep a fetched archive, empty for the user's
      cache folder.
    progress: CIFAR: whether to show a bar while fetching.

  Returns:
    Images `[N, H, W, C]` uint8 and labels `[N]` int32 for training and test.

  Raises:
    DataError: in one line, if the source is unknown, its data cannot be had,
      or the data are not what they should be.
  """
  if source not in SOURCES:
    raise DataError(
      f"config.data.source={source!r} is unknown; accepted are "
      f"{', '.join(SOURCES)}"
    )
  return SOURCES[source](
    path=path, name=name, cache_dir=cache_dir, progress=progress
  )
