"""CIFAR-10 and CIFAR-100 from their official archives, binary or for Python.

The archive is never extracted: its members are read in memory, those with the
known names at their sizes, and nothing else is trusted. A folder that someone
has unpacked is read in the same way. Pickles are not executed.
"""

import functools
import gzip
import hashlib
import io
import os
import pathlib
import tarfile
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

import numpy as np

from nss_jax.data import pickled
from nss_jax.data.archives import ARCHIVES, PIXELS, Archive
from nss_jax.data.dataset import (
  DataError,
  Dataset,
  given_path,
  make,
)
from nss_jax.runtime import processes

_SHAPE = (3, 32, 32)
# What the archive holds besides the data, headers included.
_MAX_EXTRA = 2**20
_CHUNK = 2**16


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
    path: the archive, or a folder that holds it under its official name, or
      the folder that it was unpacked to; empty to fetch it: of many processes
      the first does, before the others.
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
    if file.is_dir():
      parts = _read_folder(archive, file)
    else:
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

  def part(counts: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    count = sum(counts.values())
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
  """The archive at `path` or in that folder, or the folder it has become."""
  accepted = f"{archive.filename}, its folder, or {archive.folder}/"
  given = given_path(path, accepted)
  file = given / archive.filename if _is(os.path.isdir, given) else given
  # A pipe or a device would block or never end.
  others = {name: one for name, one in ARCHIVES.items() if one != archive}
  is_other = file.name in [other.filename for other in others.values()]
  if _is(os.path.isfile, file) and not is_other:
    return file
  for folder in (given / archive.folder, given):
    first = next(iter(archive.train))
    if _is(os.path.isfile, folder / first):
      return folder
  hints = "".join(
    f"; there is what config.data.source={name!r} reads"
    for name, other in others.items()
    if given.name in (other.folder, other.filename)
    or _is(os.path.isdir, given / other.folder)
    or _is(os.path.isfile, given / other.filename)
  )
  raise _refused(
    given, f"holds no {archive.filename}; accepted is {accepted}{hints}"
  )


def _is(kind: Callable[[pathlib.Path], bool], path: pathlib.Path) -> bool:
  try:
    return kind(path)
  except (OSError, ValueError):  # a name too long, a null byte
    return False


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
  limit = sum(archive.sizes(name)[1] for name in archive.members)
  limit += 2 * _MAX_EXTRA
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
  is_known = member.name in archive.members
  least, most = archive.sizes(member.name) if is_known else (0, _MAX_EXTRA)
  if names[0] != archive.folder or ".." in names or not plain:
    reason = f"plain files in {archive.folder}/"
  elif member.name in parts:
    reason = "one member of that name"
  elif not least <= member.size <= most or (is_known and not member.isreg()):
    reason = f"{_in_words(least, most)} of it"
  else:
    return
  raise _refused(
    file,
    f"holds the member {member.name[:80]!r} of {member.size:,} bytes and "
    f"type {member.type!r}; accepted is {reason}",
  )


def _in_words(least: int, most: int) -> str:
  return f"{least:,} bytes" if least == most else f"{least:,} to {most:,} bytes"


def _read_member(
  archive: Archive,
  file: pathlib.Path,
  tar: tarfile.TarFile,
  member: tarfile.TarInfo,
) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, 32, 32, 3]` uint8 and labels `[N]` of a member."""
  stream = tar.extractfile(member)
  data = stream.read(member.size + 1) if stream else b""
  if len(data) != member.size:
    raise _refused(
      file,
      f"ends early: {member.name!r} has {len(data):,} bytes; accepted is "
      f"{member.size:,}",
    )
  return _decode(archive, file, member.name, data)


def _read_folder(
  archive: Archive, folder: pathlib.Path
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """As `_read`, of files that someone has unpacked."""
  parts = {}
  for name in archive.members:
    file = folder / name.rpartition("/")[2]
    if not _is(os.path.isfile, file):
      raise _refused(
        folder, f"lacks {file.name!r}; accepted is all of {archive.folder}/"
      )
    least, most = archive.sizes(name)
    with file.open("rb") as raw:
      data = raw.read(most + 1)
    if not least <= len(data) <= most:
      size = os.path.getsize(file)
      raise _refused(
        folder,
        f"holds {file.name!r} of {size:,} bytes; accepted is "
        f"{_in_words(least, most)}",
      )
    parts[name] = _decode(archive, folder, name, data)
  return parts


def _decode(
  archive: Archive, file: pathlib.Path, name: str, data: bytes
) -> tuple[np.ndarray, np.ndarray]:
  """Images `[N, 32, 32, 3]` uint8 and labels `[N]` of the bytes of a file."""
  count = archive.members[name]
  if archive.label_key:
    pixels, labels = _unpickle(archive, file, name, data)
  else:
    records = np.frombuffer(data, np.uint8).reshape(count, -1)
    pixels = records[:, archive.label_bytes :]
    labels = records[:, archive.label_bytes - 1].copy()
  # Planar, each plane row by row, to channels last.
  images = pixels.reshape(count, *_SHAPE).transpose(0, 2, 3, 1)
  return np.ascontiguousarray(images), labels


def _unpickle(
  archive: Archive, file: pathlib.Path, name: str, data: bytes
) -> tuple[np.ndarray, np.ndarray]:
  """Pixels `[N, 3072]` uint8 and labels `[N]` int64 of a file for Python."""
  count = archive.members[name]
  try:
    found = pickled.read(data)
    pixels, labels = found["data"], found[archive.label_key]
    if not isinstance(pixels, np.ndarray) or pixels.shape != (count, PIXELS):
      raise ValueError(f"no data of shape {(count, PIXELS)}")
    if not isinstance(labels, list) or {*map(type, labels)} != {int}:
      raise ValueError(f"{archive.label_key} are no integers")
    if len(labels) != count:
      raise ValueError(f"{len(labels)} {archive.label_key} of {count} images")
    return pixels, np.array(labels, np.int64)
  # Hostile programs end in errors of many types.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise _refused(
      file,
      f"holds {name!r}, which is damaged or another program ({reason}); "
      f"accepted is that of {archive.filename}",
    ) from error
