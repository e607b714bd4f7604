"""Files that outlive a run: replaced whole or not at all, read with suspicion.

A reader never sees half a file, and no crash leaves one: contents go to a
temporary name in the same folder, which is renamed once they are on disk. That
holds for files that grow, too; each addition replaces the file.

Where a run has many processes all of them call what writes, and the first does
it; when the call returns, all can read the file.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Generator
from typing import Any, NoReturn

import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import processes

Path = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_path(path: Path) -> Generator[pathlib.Path]:
  """Gives libraries that write files themselves a temporary path.

  It is in the same folder, which must exist, and has the same suffix. It is
  renamed to `path` when the block ends, or removed when the block raises. In
  all processes but the first it is thrown away.
  """
  path = pathlib.Path(path)
  if processes.are_many() and not processes.is_first():
    with tempfile.TemporaryDirectory() as folder:
      yield pathlib.Path(folder, path.name)
    return
  # A random name: the leftover of a killed process is never written to again.
  temporary = path.with_name(
    f".{path.name}.{secrets.token_hex(4)}.tmp{path.suffix}"
  )
  try:
    yield temporary
    fsync(temporary)
    os.replace(temporary, path)
  except BaseException as error:
    with contextlib.suppress(OSError):  # of a disk that went read-only
      temporary.unlink(missing_ok=True)
    # A write that fails says why and not where, or a temporary name.
    if isinstance(error, OSError) and error.filename in (None, str(temporary)):
      error.filename = str(path)
    raise
  fsync(path.parent)


def fsync(path: Path) -> None:
  """Waits until a file, or the list of names of a folder, is on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    # Some file systems cannot do it for folders, and say so.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(descriptor)


def make_folder(path: Path) -> None:
  """Makes a folder and those above it, where they are missing."""
  processes.run_once(lambda: os.makedirs(path, exist_ok=True))


def write_bytes(path: Path, data: bytes) -> None:
  """Replaces a file at once: a crash leaves the old content or the new."""

  def write():
    with atomic_path(path) as temporary:
      temporary.write_bytes(data)

  processes.run_once(write)


def append_bytes(path: Path, data: bytes, header: bytes = b"") -> None:
  """Adds to a file, which is replaced; a new one begins with the header."""

  def append():
    file = pathlib.Path(path)
    write_bytes(path, (file.read_bytes() if file.exists() else header) + data)

  processes.run_once(append)


def write_json(path: Path, obj: Any) -> None:
  """Writes JSON, of numpy and jax values too; equal objects give equal bytes.

  It raises ValueError for a NaN or an infinity, which JSON does not have, and
  TypeError for anything else that is no JSON.
  """
  write_bytes(path, _encode(obj, indent=2))


def write_lines(path: Path, objects: list[dict[str, Any]]) -> None:
  """Writes JSON objects, one a line, as `write_json` does."""
  write_bytes(path, b"".join(map(_encode, objects)))


def append_line(path: Path, obj: dict[str, Any]) -> None:
  """Adds a JSON object to a file of lines."""
  append_bytes(path, _encode(obj))


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object, or raises UserError if the file does not hold one."""
  return _decode(_read(path), _object, str(path))


def read_lines(
  path: Path,
  decode: Callable[[bytes], Any] | None = None,
  header: bytes = b"",
) -> list[Any]:
  """Reads a file of lines, or raises UserError that names the wrong line.

  The file has to begin with the header, if one is given. `decode` makes
  something of each line after it, and raises ValueError or RecursionError if it
  cannot; without it, lines are JSON objects.
  """
  data = _read(path)
  if not data.startswith(header):
    found = data.partition(b"\n")[0].decode(errors="replace")
    raise UserError(
      f"{path}: line 1: expected {header.decode().strip()}; got {found[:200]}"
    )
  first = 1 + header.count(b"\n")
  *lines, rest = data.removeprefix(header).split(b"\n")
  if rest:
    raise UserError(f"{path}: line {first + len(lines)}: the line has no end")
  return [
    _decode(line, decode or _object, f"{path}: line {number}")
    for number, line in enumerate(lines, first)
  ]


def reason(error: Exception) -> str:
  """Says in words what was wrong with a file."""
  match error:
    case RecursionError():
      return "nested too deeply"
    case UnicodeDecodeError() | json.JSONDecodeError():
      return f"not JSON: {error}"
    case OSError():
      return error.strerror or str(error)
  return str(error)


def _read(path: Path) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except FileNotFoundError as error:
    raise UserError(f"{path}: no such file") from error
  except (OSError, ValueError) as error:  # a path can hold a null byte
    raise UserError(f"{path}: {reason(error)}") from error


def _decode(data: bytes, decode: Callable[[bytes], Any], place: str) -> Any:
  # What hostile data can raise: bad JSON, bad UTF-8 and a number of too many
  # digits are ValueError; deep nesting is RecursionError.
  try:
    return decode(data)
  except (ValueError, RecursionError) as error:
    raise UserError(f"{place}: {reason(error)}") from error


def _object(data: bytes) -> dict[str, Any]:
  """Returns one JSON object; ValueError or RecursionError if it is none."""
  obj = json.loads(data.decode(), parse_constant=_refuse_constant)
  if not isinstance(obj, dict):
    raise ValueError(f"expected a JSON object, got {type(obj).__name__}")
  return obj


def _refuse_constant(name: str) -> NoReturn:
  raise ValueError(f"{name} is no JSON")


def _encode(obj: Any, indent: int | None = None) -> bytes:
  text = json.dumps(obj, indent=indent, allow_nan=False, default=_to_list)
  return f"{text}\n".encode()


def _to_list(value: Any) -> Any:
  """Makes plain numbers and lists of numpy and jax values."""
  if hasattr(value, "__array__"):
    return np.asarray(value).tolist()
  raise TypeError(f"{type(value).__name__} is no JSON: {value!r}")
