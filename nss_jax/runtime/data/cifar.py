"""CIFAR-10 and CIFAR-100 from their official binary archives.

The archive is never extracted: its members are read in memory, those with
the known names at their exact sizes, and nothing else is trusted.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import os
import pathlib
import tarfile
from collections.abc import Mapping
from typing import IO, Any, cast

import numpy as np

from nss_jax.runtime import processes
from nss_jax.runtime.data.dataset import (
  DataError,
  Dataset,
  given_path,
  make,
)

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
# What the archive holds besides the data, headers included.
_MAX_EXTRA = 2**20
_CHUNK = 2**16


@dataclasses.dataclass(frozen=True)
class Archive:
  """What is known of an official archive.

  Attributes:
    url: official address; its last part is the name of the file.
    sha256: of the file, in hex.
    bytes: size of the file.
    folder: the one folder in the archive.
    train: `{name: bytes}` of the files of training records, in order.
    test: `{name: bytes}` of the files of test records, in order.
    label_bytes: bytes before the pixels of a record; the last is the label.
    num_classes: number of classes.
  """

  url: str
  sha256: str
  bytes: int
  folder: str
  train: Mapping[str, int]
  test: Mapping[str, int]
  label_bytes: int
  num_classes: int

  @property
  def filename(self) -> str:
    return self.url.rsplit("/", 1)[-1]

  @property
  def members(self) -> dict[str, int]:
    """`{name in the archive: bytes}` of all files that are read."""
    files = {**self.train, **self.test}
    return {f"{self.folder}/{name}": size for name, size in files.items()}


ARCHIVES: dict[str, Archive] = {
  "cifar10_binary": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    bytes=170_052_171,
    folder="cifar-10-batches-bin",
    train={f"data_batch_{i}.bin": 30_730_000 for i in range(1, 6)},
    test={"test_batch.bin": 30_730_000},
    label_bytes=1,
    num_classes=10,
  ),
  "cifar100_binary": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    bytes=168_513_733,
    folder="cifar-100-binary",
    train={"train.bin": 153_700_000},
    test={"test.bin": 30_740_000},
    # The coarse label, then the fine one.
    label_bytes=2,
    num_classes=100,
  ),
}


def load(
  source: str,
  *,
  path: str,
  cache_dir: str,
  progress: bool,
  fetch: bool,
  **_: Any,
) -> Dataset:
  """Reads the archive of `source`, fetching it first if no path is given.

  A fetched archive must have the official sha256. One given by path must
  have it only if it has the official size in bytes: a file of the same
  format with other content is accepted on its structure.

  Args:
    source: a key of `ARCHIVES`.
    path: the archive, or a folder that holds it under its official name;
      empty to fetch it: of many processes the first does, before the others.
    cache_dir: folder to fetch to; empty for the user's cache folder.
    progress: whether to show a bar while fetching.
    fetch: whether to; else no file and no network is looked at, and all images
      are black.

  Returns:
    32x32x3 images; CIFAR-100 with its fine labels.

  Raises:
    DataError: if the archive cannot be found, fetched or read, or is not
      what it should be.
  """
  archive = ARCHIVES[source]
  if path:
    file = _given(archive, path)
  elif not fetch:
    return _blank(source, archive)
  else:
    fetch_it = functools.partial(_fetch, archive, cache_dir, progress)
    # The others find it there; or fetch it too, to a disk of their own.
    file = processes.first(fetch_it) or fetch_it()
  try:
    with file.open("rb") as raw:
      _check_digest(archive, file, raw)
      parts = _read(archive, file, raw)
  except OSError as error:
    raise _refused(file, f"cannot be read ({error.strerror})") from error
  train, test = ([parts[n] for n in names] for names in _names(archive))
  return make(
    source,
    _join(train),
    _join(test),
    num_classes=archive.num_classes,
    field=f"config.data.path={str(file)!r}",
  )


def _blank(source: str, archive: Archive) -> Dataset:
  """As the archive, which has as many images of each class, without it."""

  def part(sizes: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    count = sum(sizes.values()) // (archive.label_bytes + _PIXELS)
    # Takes no memory.
    images = np.broadcast_to(np.uint8(0), (count, *_SHAPE[1:], _SHAPE[0]))
    return images, np.arange(count, dtype=np.int32) % archive.num_classes

  parts = *part(archive.train), *part(archive.test)
  return Dataset(source, *parts, archive.num_classes, (0.0,) * 3, (1.0,) * 3)


def _names(archive: Archive) -> tuple[list[str], list[str]]:
  """Names in the archive of the training and of the test files."""
  names = list(archive.members)
  return names[: len(archive.train)], names[len(archive.train) :]


def _join(
  parts: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  # A single part is returned as it is: a copy would double the peak memory.
  if len(parts) == 1:
    return parts[0]
  images, labels = zip(*parts, strict=True)
  return np.concatenate(images), np.concatenate(labels)


def _refused(file: pathlib.Path, reason: str) -> DataError:
  return DataError(f"config.data.path={str(file)!r} {reason}")


def _given(archive: Archive, path: str) -> pathlib.Path:
  """The archive at `path`, or in the folder `path`."""
  file = given_path(path, f"{archive.filename} or its folder")
  try:
    if file.is_dir():
      file = file / archive.filename
    # A pipe or a device would block or never end.
    found = file.is_file()
  except (OSError, ValueError):
    found = False
  if not found:
    raise _refused(
      file, f"is no file; accepted is {archive.filename} or its folder"
    )
  return file


def _fetch(archive: Archive, cache_dir: str, progress: bool) -> pathlib.Path:
  """Fetches the archive once, sha256 checked, and returns where it lies."""
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
    raise DataError(
      f"config.data.path='': could not fetch {archive.url} to "
      f"config.data.cache_dir={str(folder)!r} ({type(error).__name__}: "
      f"{reason}); fetch it by hand and pass --config.data.path=FILE_OR_FOLDER"
    ) from error
  return pathlib.Path(file)


def _check_digest(
  archive: Archive, file: pathlib.Path, raw: io.BufferedReader
) -> None:
  """Refuses a file of the official size and another sha256; rewinds it."""
  if os.fstat(raw.fileno()).st_size != archive.bytes:
    return
  found = hashlib.file_digest(raw, "sha256").hexdigest()
  raw.seek(0)
  if found != archive.sha256:
    raise _refused(
      file,
      f"is damaged: its sha256 is {found}; accepted is {archive.sha256} "
      f"for a file of {archive.bytes:,} bytes",
    )


class _Bounded:
  """Reads a file up to a limit, so that a gzip bomb ends early."""

  def __init__(self, file: gzip.GzipFile, limit: int):
    self._file, self._left = file, limit

  def read(self, size: int) -> bytes:
    data = self._file.read(size)
    self._left -= len(data)
    if self._left < 0:
      raise tarfile.ReadError("more data than the official archive")
    return data


def _read(
  archive: Archive, file: pathlib.Path, raw: io.BufferedReader
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Images and labels of every known member, by name."""
  parts = {}
  limit = sum(archive.members.values()) + 2 * _MAX_EXTRA
  try:
    with gzip.GzipFile(fileobj=raw) as unzipped:
      # tarfile calls nothing but `read` in this mode.
      stream = cast(IO[bytes], _Bounded(unzipped, limit))
      # "r|": one pass in order, no seeking back, no member visited twice.
      with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar:
        for member in tar:
          _check_member(archive, file, member, parts)
          if member.name in archive.members:
            parts[member.name] = _read_member(archive, file, tar, member)
      # Only the end of the file shows a truncated or altered one (its CRC).
      while stream.read(_CHUNK):
        pass
  except DataError:
    raise
  # Hostile headers and streams make gzip, zlib and tarfile raise errors of
  # many types, RecursionError and ValueError among them.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise _refused(
      file,
      f"is damaged or no archive ({reason}); accepted is {archive.filename}",
    ) from error
  missing = [name for name in archive.members if name not in parts]
  if missing:
    raise _refused(
      file, f"lacks {missing[0]!r}; accepted is {archive.filename}"
    )
  return parts


def _check_member(
  archive: Archive,
  file: pathlib.Path,
  member: tarfile.TarInfo,
  parts: Mapping[str, Any],
) -> None:
  """Refuses all but the known files once each and small company.

  Nothing is ever written, so a strange member could do no harm; but an
  archive that holds one is not the official archive.
  """
  names = member.name.split("/")
  plain = (member.isreg() and not member.issparse()) or member.isdir()
  size = archive.members.get(member.name)
  if names[0] != archive.folder or ".." in names or not plain:
    reason = f"plain files in {archive.folder}/"
  elif member.name in parts:
    reason = "one member of that name"
  elif size is None and not 0 <= member.size <= _MAX_EXTRA:
    reason = f"at most {_MAX_EXTRA:,} bytes of it"
  elif size is not None and (member.size != size or not member.isreg()):
    reason = f"{size:,} bytes of it"
  else:
    return
  raise _refused(
    file,
    f"holds the member {member.name[:80]!r} of {member.size:,} bytes and "
    f"type {member.type!r}; accepted is {reason}",
  )


def _read_member(
  archive: Archive,
  file: pathlib.Path,
  tar: tarfile.TarFile,
  member: tarfile.TarInfo,
) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, 32, 32, 3]` uint8 and labels `[N]` uint8 of a member."""
  size = archive.members[member.name]
  stream = tar.extractfile(member)
  data = stream.read(size + 1) if stream else b""
  if len(data) != size:
    raise _refused(
      file,
      f"ends early: {member.name!r} has {len(data):,} bytes; accepted is "
      f"{size:,}",
    )
  records = np.frombuffer(data, np.uint8)
  records = records.reshape(-1, archive.label_bytes + _PIXELS)
  # Planar, each plane row by row, to channels last.
  images = records[:, archive.label_bytes :].reshape(-1, *_SHAPE)
  images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
  return images, records[:, archive.label_bytes - 1].copy()
