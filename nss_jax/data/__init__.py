"""Image data sets, whole or read in use, from one table of sources."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from nss_jax.data import (
  cifar,
  digits,
  folder,
  idx,
  npz,
  synthetic,
  tfds,
)
from nss_jax.data.archives import ARCHIVES, Archive
from nss_jax.data.dataset import DataError, Dataset, host_memory
from nss_jax.data.split import (
  balanced_weights,
  draw_balanced,
  split_halves,
)
from nss_jax.data.stream import (
  StreamedImages,
  is_streamed,
  read_ahead,
)
from nss_jax.data.synthetic import Synthetic

__all__ = [
  "ARCHIVES",
  "OPTIONS",
  "SOURCES",
  "Archive",
  "DataError",
  "Dataset",
  "StreamedImages",
  "Synthetic",
  "balanced_weights",
  "draw_balanced",
  "host_memory",
  "load",
  "read_ahead",
  "split_halves",
]

# A source takes the arguments of `load` and names those that it uses.
SOURCES: dict[str, Callable[..., Dataset]] = {
  "digits": digits.load,
  "cifar10_binary": functools.partial(cifar.load, "cifar10_binary"),
  "cifar100_binary": functools.partial(cifar.load, "cifar100_binary"),
  "cifar10_python": functools.partial(cifar.load, "cifar10_python"),
  "cifar100_python": functools.partial(cifar.load, "cifar100_python"),
  "fashion_mnist": functools.partial(idx.load, "fashion_mnist"),
  "idx": functools.partial(idx.load, "idx"),
  "npz": npz.load,
  "folder": folder.load,
  "tfds": tfds.load,
  "synthetic": synthetic.load,
}


def load(
  source: str,
  *,
  path: str = "",
  name: str = "",
  cache_dir: str = "",
  image_size: int = 0,
  channels: int = 0,
  background: int = 255,
  skip_bad: bool = False,
  test_fraction: float = 0.0,
  test_seed: int = 0,
  convert_arrays: bool = False,
  synthetic: Synthetic | None = None,
  stream: str = "auto",
  memory: int | None = None,
  progress: bool = True,
  fetch: bool = True,
) -> Dataset:
  """Reads a data set whole into host memory, or opens it to be streamed.

  Of a streamed set, `folder` and `tfds` read images as they are used; the other
  sources hold all in host memory, and batches leave it for the devices.

  Args:
    source: a name in `SOURCES`. `digits` and `synthetic` need no file and no
      network.
    path: CIFAR: the official archive or a folder that holds it, empty to
      fetch it once; fashion_mnist, idx: the folder of the four IDX files,
      empty for that of Debian's package of Fashion-MNIST; npz: the file;
      folder: what holds `train` and `test`; tfds: the data folder, empty for
      its default.
    name: tfds: name of the data set.
    cache_dir: CIFAR: where to keep a fetched archive, empty for the user's
      cache folder.
    image_size: pixels of a side; folder, tfds: 0 to leave images as they are;
      synthetic: 0 for 32.
    channels: 1 grey, 3 RGB; folder, tfds: 0 for those of the files; synthetic:
      0 for 3.
    background: folder, tfds: grey level behind what is transparent, 255 for
      white.
    skip_bad: folder: leave out images that cannot be read, with a note for
      each.
    test_fraction: folder, npz, idx, fashion_mnist, tfds: share of every class
      for test, if there are no test images; 0: there are.
    test_seed: of the draw of these.
    convert_arrays: npz: scale float images in [0, 1] and booleans to 0..255,
      and take one-hot labels.
    synthetic: numbers and seed of the made-up data set; None for its defaults.
    stream: `always`, `never`, or `auto`: if the training images take more than
      a quarter of the memory.
    memory: bytes, for `auto`; None: those of the host.
    progress: CIFAR: whether to show a bar while fetching.
    fetch: whether what would be fetched is; else the set is of its shapes and
      classes, without content, and nothing is read or written.

  Returns:
    Images `[N, H, W, C]` uint8 and labels `[N]` int32 for training and test.
    The training images of a streamed set are `StreamedImages`.

  Raises:
    DataError: in one line, if the source is unknown or has no use for an
      argument that is given, its data cannot be had, or they are not what they
      should be.
  """
  if source not in SOURCES:
    raise DataError(
      f"config.data.source={source!r} is unknown; accepted are "
      f"{', '.join(SOURCES)}"
    )
  options = {
    "path": path,
    "name": name,
    "image_size": image_size,
    "channels": channels,
    "background": background,
    "skip_bad": skip_bad,
    "test_fraction": test_fraction,
    "test_seed": test_seed,
    "convert_arrays": convert_arrays,
    "synthetic": synthetic or Synthetic(),
  }
  _check_used(source, options)
  streams = functools.partial(is_streamed, stream, memory or host_memory())
  dataset = SOURCES[source](
    **options,
    cache_dir=cache_dir,
    streams=streams,
    progress=progress,
    fetch=fetch,
  )
  images = dataset.train_images
  if isinstance(images, np.ndarray) and streams(images.nbytes):
    images = StreamedImages(
      images, images.shape, f"config.data.source={source!r}"
    )
  return dataclasses.replace(dataset, train_images=images)


# Fields of `config.data` that `load` takes as they are.
OPTIONS = (
  *("path", "name", "cache_dir", "image_size", "channels", "background"),
  *("skip_bad", "test_fraction", "test_seed", "convert_arrays", "stream"),
)


def _check_used(source: str, options: dict[str, Any]) -> None:
  """Refuses what is given and would have no effect.

  A cache is a place for what may be fetched, and may be named always.
  """
  defaults = inspect.signature(load).parameters
  for field, value in options.items():
    default = Synthetic() if field == "synthetic" else defaults[field].default
    users = [
      name
      for name, function in SOURCES.items()
      if field in inspect.signature(function).parameters
    ]
    if value != default and source not in users:
      raise DataError(
        f"config.data.{field}={value!r} is not accepted with "
        f"config.data.source={source!r}, which does not use it; accepted is "
        f"{default!r}, or a source of {', '.join(users)}"
      )
