"""CIFAR-10 and CIFAR-100 from their official archives, binary or for Python.

An archive must have the official sha256. It is never extracted: its members are
read in memory. A folder that someone has unpacked is read in the same way.
Pickles are not executed.
"""

import dataclasses
import functools
import hashlib
import pathlib
import pickletools
import tarfile
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from nss_jax.data.dataset import Dataset, Part, Parts, refusing
from nss_jax.errors import UserError
from nss_jax.runtime import processes

_PIXELS = 3 * 32 * 32
# Instructions that add numbers to a list, or do nothing.
_IN_LIST = {"EMPTY_LIST", "MARK", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT"}
_NUMBERS = {"BININT", "BININT1", "BININT2"}


@dataclasses.dataclass(frozen=True)
class Archive:
  """Holds what is known of an official archive."""

  url: str  # its last part is the name of the file
  sha256: str
  folder: str  # the one folder in the archive
  # How many images each file has, in order.
  train: Mapping[str, int]
  test: Mapping[str, int]
  num_classes: int
  label_bytes: int = 1  # before the pixels of a record; the last is the label
  label_key: str = ""  # of the labels in a file for Python; empty: it is binary

  @property
  def filename(self) -> str:
    """Returns the name of the file."""
    return self.url.rpartition("/")[2]

  @property
  def accepted(self) -> str:
    """Says what `config.data.path` may be."""
    return (
      f"{self.filename}, the folder that it is in, or what it was unpacked to, "
      f"{self.folder}/"
    )


_URL = "https://www.cs.toronto.edu/~kriz/cifar-{}-{}.tar.gz"
ARCHIVES: dict[str, Archive] = {
  "cifar10_binary": Archive(
    _URL.format(10, "binary"),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
    train={f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
    test={"test_batch.bin": 10_000},
    num_classes=10,
  ),
  "cifar100_binary": Archive(
    _URL.format(100, "binary"),
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    folder="cifar-100-binary",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    num_classes=100,
    label_bytes=2,  # the coarse label, then the fine one
  ),
  # What torchvision and Keras fetch and unpack.
  "cifar10_python": Archive(
    _URL.format(10, "python"),
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
    train={f"data_batch_{i}": 10_000 for i in range(1, 6)},
    test={"test_batch": 10_000},
    num_classes=10,
    label_key="labels",
  ),
  "cifar100_python": Archive(
    _URL.format(100, "python"),
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
    train={"train": 50_000},
    test={"test": 10_000},
    num_classes=100,
    label_key="fine_labels",
  ),
}


def load(
  source: str, *, path: str, cache_dir: str, progress: bool, fetch: bool
) -> Parts | Dataset:
  """Reads the archive of `source`, and fetches it first if no path is given.

  The path is that of the archive, of a folder that holds it under its official
  name, or of the folder it was unpacked to. Of several processes the first one
  fetches while the others wait. CIFAR-100 has its fine labels.
  """
  archive = ARCHIVES[source]
  if path:
    place = _find(archive, pathlib.Path(path).expanduser())
  elif not fetch:
    return _blank(source, archive)
  else:
    fetch_it = functools.partial(_fetch, archive, cache_dir, progress)
    # The others find it there; or fetch it too, to a disk of their own.
    place = processes.run_once(fetch_it) or fetch_it()
  files = {**archive.train, **archive.test}
  read = {}
  for name, content in _contents(archive, place, files):
    prefix = f"config.data.path={str(place)!r}: {name}: "
    with refusing(prefix, archive.accepted):
      read[name] = _decode(archive, files[name], content)
  train, test = (
    [np.concatenate(x) for x in zip(*map(read.pop, part), strict=True)]
    for part in (archive.train, archive.test)
  )
  return Parts((train[0], train[1]), (test[0], test[1]), archive.num_classes)


def _blank(source: str, archive: Archive) -> Dataset:
  """Makes a data set of the same shapes and classes, without its content."""
  count, num_test = (sum(x.values()) for x in (archive.train, archive.test))
  labels = np.arange(count, dtype=np.int32) % archive.num_classes
  images = np.broadcast_to(np.uint8(0), (count, 32, 32, 3))  # takes no memory
  test = images[:num_test], labels[:num_test]
  numbers = archive.num_classes, (0.0,) * 3, (1.0,) * 3
  return Dataset(source, images, labels, *test, *numbers)


def _find(archive: Archive, given: pathlib.Path) -> pathlib.Path:
  """Finds the archive, or the folder it was unpacked to, at or in a path."""
  # A pipe or a device would block or never end.
  for file in (given, given / archive.filename):
    if file.is_file():
      return file
  for folder in (given / archive.folder, given):
    if (folder / next(iter(archive.train))).is_file():
      return folder
  raise ValueError(f"holds no {archive.filename}")


def _fetch(archive: Archive, cache_dir: str, progress: bool) -> pathlib.Path:
  """Fetches the archive once, checks its sha256, and returns its path."""
  # Imported here: `import nss_jax` loads no data-set library.
  import pooch

  folder = pathlib.Path(cache_dir or pooch.os_cache("nss_jax")).expanduser()
  try:
    file = pooch.retrieve(
      archive.url,
      known_hash=f"sha256:{archive.sha256}",
      fname=archive.filename,
      path=folder,
      progressbar=progress,
    )
  # OSError covers the network (requests) and the folder, ValueError the hash.
  except (OSError, ValueError) as error:
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"config.data.path='': could not fetch {archive.url} to "
      f"config.data.cache_dir={str(folder)!r} ({type(error).__name__}: "
      f"{reason}); fetch it by hand and pass --config.data.path=FILE_OR_FOLDER"
    ) from error
  return pathlib.Path(file)


def _contents(
  archive: Archive, place: pathlib.Path, names: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
  """Yields the name and content of each file, packed or unpacked."""
  if place.is_dir():
    for name in names:
      if not (place / name).is_file():
        raise ValueError(f"lacks {name}")
      yield name, (place / name).read_bytes()
    return
  with place.open("rb") as raw:
    found = hashlib.file_digest(raw, "sha256").hexdigest()
    if found != archive.sha256:
      raise ValueError(
        f"is damaged or not {archive.filename}: its sha256 is {found}; "
        f"accepted is {archive.sha256}"
      )
    raw.seek(0)
    with tarfile.open(fileobj=raw, mode="r:gz") as tar:
      for name in names:
        member = tar.extractfile(f"{archive.folder}/{name}")
        assert member is not None
        yield name, member.read()


def _decode(archive: Archive, count: int, content: bytes) -> Part:
  """Reads images `[N, 32, 32, 3]` uint8 and labels `[N]` of a file."""
  if archive.label_key:
    pixels, labels = read_pickle(content, archive.label_key, count)
  else:
    size = count * (archive.label_bytes + _PIXELS)
    if len(content) != size:
      raise ValueError(f"has {len(content):,} bytes; accepted are {size:,}")
    records = np.frombuffer(content, np.uint8).reshape(count, -1)
    pixels = records[:, archive.label_bytes :]
    labels = records[:, archive.label_bytes - 1].copy()
  # Planar, each plane row by row, to channels last.
  images = pixels.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)
  return np.ascontiguousarray(images), labels


def read_pickle(content: bytes, key: str, count: int) -> Part:
  """Finds pixels `[N, 3072]` uint8 and labels `[N]` in what Python has pickled.

  Such a file is a program, and Python's reader runs what it names. Here nothing
  is run. Of its instructions, only two things are read: the numbers after the
  key of the labels, and the one string that is as long as all pixels, which
  stands after the order of its axes.
  """
  labels: list[int] = []
  pixels, order, before, is_labels = b"", "C", "", False
  for opcode, argument, _ in pickletools.genops(content):
    name = opcode.name
    if isinstance(argument, str):  # the strings of Python 2 are read so
      argument = argument.encode("latin-1", "replace")
    if is_labels and isinstance(argument, int) and name in _NUMBERS:
      labels.append(argument)
    elif name not in _IN_LIST:
      is_labels = argument == key.encode() and not labels
    if isinstance(argument, bytes) and len(argument) == count * _PIXELS:
      pixels, order = argument, "F" if before == "NEWTRUE" else "C"
    before = name
  if not pixels or len(labels) != count:
    raise ValueError(
      f"has {len(labels)} {key} and {len(pixels)} pixels; accepted are those "
      f"of {count:,} images"
    )
  flat = np.frombuffer(pixels, np.uint8)
  return flat.reshape((count, _PIXELS), order=order), np.array(labels)
