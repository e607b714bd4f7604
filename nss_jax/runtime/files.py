"""Files that outlive a run: written whole or not at all, read with suspicion.

One writer per file. A reader never sees half a file: contents go to a
temporary name in the same folder and are renamed once they are on disk. Files
of lines, which grow, may lose their last line to a crash and nothing else.

Where a run has many processes all call what writes, except `write_bytes` and
`fsync`, and the first does it; when the call returns, all can read the file.
"""

import contextlib
import errno
import io
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import processes

Path = str | os.PathLike[str]

# What reading a hostile file can raise: bad JSON, bad UTF-8, a number of too
# many digits and a null byte in the path are ValueError; deep nesting is
# RecursionError.
_UNREADABLE = (OSError, ValueError, RecursionError)


class LineFormat(NamedTuple):
  """What a file of lines is made of.

  Attributes:
    decode: the object of a line, which comes with its end unless that is torn;
      ValueError or RecursionError if it is none.
    header: what the file begins with.
  """

  decode: Callable[[bytes], Any]
  header: bytes = b""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[pathlib.Path]:
  """A temporary path for libraries that write files themselves.

  Args:
    path: the file to be written; its folder must exist.

  Yields:
    A path in the same folder, with the same suffix. It is renamed to `path`
    when the block ends, or removed when the block raises. In all processes
    but the first it is thrown away.

  Raises:
    OSError: if the file can not be written; `path` is as it was.
  """
  path = pathlib.Path(path)
  if processes.are_many() and not processes.is_first():
    with tempfile.TemporaryDirectory() as folder:
      yield pathlib.Path(folder, path.name)
    return
  # A random name: the leftover of a killed process is never written to again.
  temporary = path.with_name(
    f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}"
  )
  try:
    yield temporary
    fsync(temporary)
    os.replace(temporary, path)
  except BaseException as error:
    with contextlib.suppress(OSError):  # of a disk that went read-only
      temporary.unlink(missing_ok=True)
    _name_file(error, path, temporary)
    raise
  fsync(path.parent)


def _name_file(error: BaseException, path: Path, temporary: Path = "") -> None:
  """A write that fails says why and not where, or a temporary name."""
  names = (None, os.fspath(temporary))
  if isinstance(error, OSError) and error.filename in names:
    error.filename = os.fspath(path)


def fsync(path: Path) -> None:
  """Waits until a file, or the list of names of a folder, is on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    # Some file systems can not do it for folders, and say so.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def make_folder(path: Path) -> None:
  """Makes a folder and those above it, if need be.

  Raises:
    OSError: if it can not be made.
  """
  processes.run_once(lambda: os.makedirs(path, exist_ok=True))


def write_bytes(path: Path, data: bytes) -> None:
  """Replaces a file at once: a crash leaves the old content or the new.

  Raises:
    OSError: if the file can not be written; the old content stays.
  """
  with atomic_path(path) as temporary:
    temporary.write_bytes(data)


def write_json(path: Path, obj: Any) -> None:
  """Writes JSON atomically; equal objects give equal bytes.

  Args:
    path: the file.
    obj: what `json` takes, and numpy or jax numbers and arrays.

  Raises:
    ValueError: if there is a NaN or an infinity, which JSON does not have.
    TypeError: if there is anything that is no JSON.
    OSError: if the file can not be written; the old content stays.
  """
  data = encode_json(obj)
  processes.run_once(lambda: write_bytes(path, data))


def encode_json(obj: Any) -> bytes:
  """What `write_json` writes.

  Raises:
    ValueError, TypeError: as `write_json`.
  """
  return _encode(obj, indent=2)


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    UserError: if the file is missing, is not JSON or is not an object.
  """
  try:
    return _decode(pathlib.Path(path).read_bytes())
  except FileNotFoundError as error:
    raise UserError(f"{path}: no such file") from error
  except _UNREADABLE as error:
    raise UserError(f"{path}: {reason(error)}") from error


def append_line(path: Path, obj: Any) -> None:
  """Appends one JSON object as a line; it is on disk when this returns.

  After a crash call `trim_lines` first: a line is not appended to the torn
  end of another.

  Raises:
    ValueError: if there is a NaN or an infinity, which JSON does not have.
    TypeError: if there is anything that is no JSON.
    OSError: if the line can not be written; the lines before stay.
  """
  append_bytes(path, _encode(obj))


def append_bytes(path: Path, data: bytes) -> None:
  """Appends to a file; what was appended is on disk when this returns.

  Raises:
    OSError: if it can not be written; the file stays as it was.
  """
  processes.run_once(lambda: _append(path, data))


def _append(path: Path, data: bytes) -> None:
  is_new = not os.path.exists(path)
  # Unbuffered, so that a failed write leaves nothing to be written by close.
  with open(path, "ab", buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    try:
      written = 0
      while written < len(data):
        written += file.write(data[written:])
      os.fsync(file.fileno())
    except BaseException as error:
      with contextlib.suppress(OSError):
        file.truncate(end)  # half a line would be garbage in the middle later
      _name_file(error, path)
      raise
  if is_new:
    fsync(pathlib.Path(path).parent)


def read_lines(path: Path, form: LineFormat | None = None) -> list[Any]:
  """Reads lines, of JSON by default. A torn last line is dropped.

  Raises:
    UserError: if the file is missing or has another header, or a line
      before the last is not an object; names the line.
  """
  return [obj for _, obj in _lines(path, form)]


def trim_lines(
  path: Path, keep: Callable[[Any], bool], form: LineFormat | None = None
) -> None:
  """Cuts lines, atomically, before the first that is not to be kept.

  A torn last line goes too and a torn header is made whole, so that appending
  can go on. Nothing happens if there is no file.

  Args:
    path: the file.
    keep: whether a line stays; not asked again after the first False.
    form: of the lines; JSON objects by default.

  Raises:
    UserError: if the header is another, or a line between those kept is
      not an object.
    OSError: if the file can not be written; the old content stays.
  """
  processes.run_once(lambda: _trim(path, keep, form))


def _trim(
  path: Path, keep: Callable[[Any], bool], form: LineFormat | None
) -> None:
  if not os.path.exists(path):
    return
  kept = [form.header if form else b""]
  for line, obj in _lines(path, form):
    if not keep(obj):
      break
    kept.append(line.removesuffix(b"\n") + b"\n")
  data = b"".join(kept)
  if data != pathlib.Path(path).read_bytes():
    write_bytes(path, data)


def reason(error: Exception) -> str:
  """What was wrong with a file, in words."""
  match error:
    case RecursionError():
      return "nested too deeply"
    case UnicodeDecodeError() | json.JSONDecodeError():
      return f"not JSON: {error}"
    case OSError():
      return error.strerror or str(error)
  return str(error)


def _encode(obj: Any, indent: int | None = None) -> bytes:
  text = json.dumps(
    obj, indent=indent, sort_keys=False, allow_nan=False, default=_plain
  )
  return f"{text}\n".encode()


def _plain(value: Any) -> Any:
  """numpy and jax values as plain numbers and lists."""
  if hasattr(value, "__array__"):
    return np.asarray(value).tolist()
  raise TypeError(f"{type(value).__name__} is no JSON: {value!r}")


def _decode(data: bytes) -> dict[str, Any]:
  """One JSON object; ValueError or RecursionError if it is anything else."""
  obj = json.loads(data.decode(), parse_constant=_refuse_constant)
  if not isinstance(obj, dict):
    raise ValueError(f"expected a JSON object, got {type(obj).__name__}")
  return obj


def _refuse_constant(name: str) -> NoReturn:
  raise ValueError(f"{name} is no JSON")


def _lines(path: Path, form: LineFormat | None) -> Iterator[tuple[bytes, Any]]:
  """Each line with its end, and its object; lazily, see `trim_lines`."""
  decode, header = form or LineFormat(_decode)
  try:
    data = pathlib.Path(path).read_bytes()
  except FileNotFoundError as error:
    raise UserError(f"{path}: no such file") from error
  except _UNREADABLE as error:
    raise UserError(f"{path}: {reason(error)}") from error
  # A crash may have torn the header as well.
  if not data.startswith(header) and not header.startswith(data):
    found = data.partition(b"\n")[0].decode(errors="replace")
    raise UserError(
      f"{path}: line 1: expected {header.decode().strip()}; got {found[:200]}"
    )
  lines = list(io.BytesIO(data[len(header) :]))
  first = 1 + header.count(b"\n")
  for number, line in enumerate(lines, first):
    try:
      # No part of a JSON object is an object: what decodes is not torn.
      obj = decode(line)
    except (ValueError, RecursionError) as error:
      if number + 1 == first + len(lines):
        return
      raise UserError(f"{path}: line {number}: {reason(error)}") from error
    yield line, obj
