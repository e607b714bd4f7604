"""Image data sets, whole or read while devices work, from one table of sources.

A reader raises whatever goes wrong, and `load` alone makes one line of it. No
step, network or config lives here.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nss_jax.data import arrays, builtin, cifar, folder, tfds
from nss_jax.data import dataset as dataset_lib
from nss_jax.data.builtin import Synthetic
from nss_jax.data.cifar import ARCHIVES, Archive
from nss_jax.data.dataset import (
  Dataset,
  Images,
  Part,
  Parts,
  host_memory,
  refusing,
)
from nss_jax.data.images import BadImage, ImageError
from nss_jax.data.reading import StreamedImages, streams_in
from nss_jax.data.split import (
  class_weights,
  draw_balanced,
  draw_test,
  draws_test,
  split_halves,
)
from nss_jax.errors import UserError

__all__ = [
  "ARCHIVES",
  "SOURCES",
  "Archive",
  "Dataset",
  "Parts",
  "StreamedImages",
  "Synthetic",
  "UserError",
  "class_weights",
  "draw_balanced",
  "host_memory",
  "load",
  "load_settings",
  "register_source",
  "split_halves",
]

# The fields of `config.data` that `load` takes as they are.
_OPTIONS = (
  *("path", "name", "cache_dir", "image_size", "channels", "background"),
  *("skip_bad", "test_fraction", "test_seed", "convert_arrays", "stream"),
)

_FIELDS = (*_OPTIONS, "synthetic", "progress", "fetch")
_MADE_UP = Synthetic()


class Source(NamedTuple):
  """Reads one kind of data; `register_source` says how."""

  load: Callable[..., Parts | Dataset | tuple[Part, Part]]
  accepted: str = ""

  @property
  def options(self) -> set[str]:
    """Returns the fields that have an effect."""
    options = {*inspect.signature(self.load).parameters}
    return options | ({"test_seed"} if "test_fraction" in options else set())


SOURCES: dict[str, Source] = {
  "digits": Source(builtin.load_digits),
  **{
    name: Source(functools.partial(cifar.load, name), archive.accepted)
    for name, archive in ARCHIVES.items()
  },
  "fashion_mnist": Source(arrays.load_fashion_mnist, arrays.ACCEPTED_IDX),
  "idx": Source(arrays.load_idx, arrays.ACCEPTED_IDX),
  "npz": Source(arrays.load_npz, arrays.ACCEPTED_NPZ),
  "folder": Source(folder.load, folder.ACCEPTED),
  "tfds": Source(tfds.load),
  "synthetic": Source(builtin.load_synthetic),
}
_OWN = frozenset(SOURCES)


def register_source(
  name: str,
  load: Callable[..., Parts | Dataset | tuple[Part, Part]],
  accepted: str = "",
) -> None:
  """Makes a name known to `config.data.source` that reads data of another kind.

  Every process must do so; a config file, which is Python, is a good place. The
  same name can be registered again, as when a cell of a notebook is run again.

  Args:
    name: the value of `config.data.source`.
    load: takes, by name, the fields of `config.data` that it uses; giving any
      other is refused. It returns a pair of images `[N, H, W, C]` uint8 and
      integer labels `[N]` for training and another for test, or `Parts`, which
      can say more. Instead of an array, images can be any object with a length
      that gives an image `[H, W, C]` for an index, which is then read when it
      is used. If `load` takes `test_fraction`, it may leave out the test part
      where that is not 0. It may raise any error; a `ValueError` of one line is
      shown as it is.
    accepted: what it reads, to end the line about an error.

  Raises:
    ValueError: if the name is one of ours, or an argument is no field.
  """
  if name in _OWN:
    raise ValueError(f"the source {name!r} is there already")
  made = Source(load, accepted)
  if unknown := made.options - {*_FIELDS}:
    raise ValueError(f"{min(unknown)!r} is no field of a source: {_FIELDS}")
  SOURCES[name] = made


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
  synthetic: Synthetic = _MADE_UP,
  stream: str = "auto",
  memory: int | None = None,
  progress: bool = True,
  fetch: bool = True,
) -> Dataset:
  """Reads a data set into host memory, or opens it to be streamed.

  When streamed, `folder` and `tfds` read images as they are used; the other
  sources hold all images in host memory and send batches to the devices. An
  argument that the source has no use for is refused.

  Args:
    source: a name in `SOURCES`. `digits` and `synthetic` need no file and no
      network.
    path: file or folder; empty where the source fetches its files, or knows
      where they lie.
    name: name of a data set of TensorFlow Datasets.
    cache_dir: where to keep what is fetched; empty for the user's cache folder.
    image_size: pixels of a side; 0 for those of the files, or 32 if made up.
    channels: 1 for grey, 3 for RGB; 0 for those of the files, or 3 if made up.
    background: grey level behind transparent pixels, 255 for white.
    skip_bad: whether to leave out images that cannot be read, with a note for
      each.
    test_fraction: share of every class to set aside for test, where the source
      has no test images; 0 where it has.
    test_seed: seed of that draw.
    convert_arrays: whether to scale float images in [0, 1] and booleans to
      0..255, and to take one-hot labels.
    synthetic: numbers and seed of made-up images.
    stream: `always`, `never`, or `auto`, which streams training images that
      take more than a quarter of the memory.
    memory: bytes of memory for `auto`; None for those of the host.
    progress: whether to show a bar while fetching.
    fetch: whether to fetch what is not there; if not, the data set has the
      right shapes and classes but no content, and nothing is read or written.

  Returns:
    Images `[N, H, W, C]` uint8 and labels `[N]` int32 for training and test.
    The training images of a streamed set are `StreamedImages`.

  Raises:
    UserError: in one line, if the data cannot be read or are no data set.
  """
  given = dict(locals())
  if source not in SOURCES:
    raise UserError(
      f"config.data.source={source!r} is unknown; accepted are "
      f"{', '.join(SOURCES)}"
    )
  options = _options(source, given)
  field = next((x for x in ("name", "path") if x in options), "source")
  where = f"config.data.{field}={given[field]!r}"
  streams = functools.partial(streams_in, stream, memory or host_memory())
  opened: list[Part] = []
  try:
    with refusing(f"{where}: ", SOURCES[source].accepted):
      found = SOURCES[source].load(**options)
      if isinstance(found, Dataset):
        images = found.train_images
        images = _hold(images, streams(images.size), where)
        return dataclasses.replace(found, train_images=images)
      parts = found if isinstance(found, Parts) else Parts(found[0], found[1])
      opened = _open(parts, where, test_fraction, test_seed)
      is_streamed = streams(opened[0][0].size)
      train, test = ((_hold(x, is_streamed, where), y) for x, y in opened)
      parts = parts._replace(train=train, test=test)
      return dataset_lib.make(name or source, where, parts)
  except UserError as error:
    is_image = isinstance(error.__cause__, ImageError)
    if opened and is_image and "skip_bad" in options:
      raise _list_bad(error, opened) from error
    raise


def load_settings(settings: Mapping[str, Any], **more: Any) -> Dataset:
  """Reads the data set of `config.data`; `more` are arguments of `load`."""
  options = {name: settings[name] for name in _OPTIONS}
  made_up = Synthetic(**settings["synthetic"])
  return load(settings["source"], **options, synthetic=made_up, **more)


def _options(source: str, given: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments of a source, and refuses those without effect.

  A folder of the cache and a way to stream may always be given.
  """
  fields = inspect.signature(load).parameters
  for field in (*_OPTIONS, "synthetic"):
    default = fields[field].default
    if field in ("cache_dir", "stream") or given[field] == default:
      continue
    users = [name for name in SOURCES if field in SOURCES[name].options]
    if source not in users:
      raise UserError(
        f"config.data.{field}={given[field]!r} is not accepted with "
        f"config.data.source={source!r}, which does not use it; accepted is "
        f"{default!r}, or a source of {', '.join(users)}"
      )
  taken = inspect.signature(SOURCES[source].load).parameters
  return {field: value for field, value in given.items() if field in taken}


def _open(parts: Parts, where: str, fraction: float, seed: int) -> list[Part]:
  """Returns both parts, each in an array or streamed; may draw the test."""
  opened = [
    (images, labels)
    if isinstance(images, np.ndarray | StreamedImages)
    else (StreamedImages.of(images, where), labels)
    for images, labels in filter(None, (parts.train, parts.test))
  ]
  if parts.test is not None:
    draws_test(fraction, "a test part")
    return opened
  images, labels = opened[0]
  dataset_lib.check_part("train", images, labels)
  take = images.__getitem__ if isinstance(images, np.ndarray) else images.take
  rows = draw_test(labels, fraction, seed)
  return [(take(part), labels[part]) for part in rows]


def _hold(images: Images, is_streamed: bool, where: str) -> Images:
  """Returns images in memory, or streamed."""
  if isinstance(images, np.ndarray):
    streamed = StreamedImages(images, images.shape, where)
    return streamed if is_streamed else images
  return images if is_streamed else images[:]


def _list_bad(error: UserError, opened: list[Part]) -> UserError:
  """Adds to the error of one image a line for each that is to be mended."""
  faults = [fault for images, _ in opened for fault in images.faults()]
  lines = [fault for fault in faults if fault]
  text = str(error)
  if isinstance(error.__cause__, BadImage):
    text += ", or config.data.skip_bad=True to leave it out"
  if len(lines) > 1:
    text += f"; and {len(lines) - 1} more of the {len(faults)} images"
  return UserError(text, lines if len(lines) > 1 else ())
