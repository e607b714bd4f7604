"""Files that outlive a run: written whole or not at all, read with suspicion.

One writer per file. A reader never sees half a file: contents go to a
temporary name in the same folder and are renamed once they are on disk. JSON
lines, which grow, may lose their last line to a crash and nothing else.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from nss_jax.spaces.search_space import SearchSpace, Space, space_from_ranges

Path = str | os.PathLike[str]

ELITE_SPACE = "elite_space.json"

# What reading a hostile file can raise: bad JSON, bad UTF-8, a number of too
# many digits and a null byte in the path are ValueError; deep nesting is
# RecursionError.
_UNREADABLE = (OSError, ValueError, RecursionError)

# What SearchSpace.from_dict and space_from_ranges raise for JSON of the right
# outline with anything inside: deep nesting is RecursionError, the rest is
# ValueError.
_INVALID = (ValueError, RecursionError)


class ArtifactError(ValueError):
  """A file is missing or is not what it should be; one line that names it."""

  def __init__(self, message: str):
    super().__init__(one_line(message))


def one_line(text: str, limit: int = 1000) -> str:
  """Text that is safe to print on one line, whatever a file put into it."""
  text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  return text if len(text) <= limit else f"{text[: limit - 3]}..."


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[pathlib.Path]:
  """A temporary path for libraries that write files themselves.

  Args:
    path: the file to be written; its folder must exist.

  Yields:
    A path in the same folder, with the same suffix. It is renamed to `path`
    when the block ends, or removed when the block raises.

  Raises:
    OSError: if the file can not be written; `path` is as it was.
  """
  path = pathlib.Path(path)
  # A random name: the leftover of a killed process is never written to again.
  temporary = path.with_name(
    f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}"
  )
  try:
    yield temporary
    fsync(temporary)
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  fsync(path.parent)


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
  write_bytes(path, _encode(obj, indent=2))


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON object.

  Raises:
    ArtifactError: if the file is missing, is not JSON or is not an object.
  """
  try:
    return _decode(pathlib.Path(path).read_bytes())
  except FileNotFoundError as error:
    raise ArtifactError(f"{path}: no such file") from error
  except _UNREADABLE as error:
    raise ArtifactError(f"{path}: {_reason(error)}") from error


def append_line(path: Path, obj: Any) -> None:
  """Appends one JSON object as a line; it is on disk when this returns.

  After a crash call `trim_lines` first: a line is not appended to the torn
  end of another.

  Raises:
    ValueError: if there is a NaN or an infinity, which JSON does not have.
    TypeError: if there is anything that is no JSON.
    OSError: if the line can not be written; the lines before stay.
  """
  line = _encode(obj)
  is_new = not os.path.exists(path)
  # Unbuffered, so that a failed write leaves nothing to be written by close.
  with open(path, "ab", buffering=0) as file:
    end = file.seek(0, os.SEEK_END)
    try:
      written = 0
      while written < len(line):
        written += file.write(line[written:])
      os.fsync(file.fileno())
    except BaseException:
      file.truncate(end)  # half a line would be garbage in the middle later
      raise
  if is_new:
    fsync(pathlib.Path(path).parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
  """Reads JSON lines. A last line that a crash has torn is dropped.

  Raises:
    ArtifactError: if the file is missing, or a line before the last is not a
      JSON object; names the line.
  """
  return [obj for _, obj in _lines(path)]


def trim_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
  """Cuts JSON lines, atomically, before the first that is not to be kept.

  A torn last line goes too, so `append_line` can go on. Nothing happens if
  there is no file.

  Args:
    path: the file.
    keep: whether a line stays; not asked again after the first False.

  Raises:
    ArtifactError: if a line between those kept is not a JSON object.
    OSError: if the file can not be written; the old content stays.
  """
  if not os.path.exists(path):
    return
  kept = []
  for line, obj in _lines(path):
    if not keep(obj):
      break
    kept.append(line + b"\n")
  data = b"".join(kept)
  if data != pathlib.Path(path).read_bytes():
    write_bytes(path, data)


def load_space(path: Path) -> tuple[SearchSpace, Space]:
  """Reads the Elite Space that a search has written.

  Args:
    path: an `elite_space.json`, the `search/` folder that holds it, or the
      work folder that holds that.

  Returns:
    The search space and the space in it.

  Raises:
    ArtifactError: one line with the file and the field, whatever is in it.
  """
  path = _find_elite_space(path)
  fields = read_json(path)
  try:
    search_space = _read_search_space(_object(fields, "search_space"))
  except _INVALID as error:
    raise ArtifactError(f"{path}: search_space: {_reason(error)}") from error
  try:
    ranges = _object(fields, "space")
    _check_ranges(ranges)
    space = space_from_ranges(search_space, ranges)
  except _INVALID as error:
    raise ArtifactError(f"{path}: space: {_reason(error)}") from error
  return search_space, space


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


def _reason(error: Exception) -> str:
  match error:
    case RecursionError():
      return "nested too deeply"
    case UnicodeDecodeError() | json.JSONDecodeError():
      return f"not JSON: {error}"
    case OSError():
      return error.strerror or str(error)
  return str(error)


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """Each line without its end, and its object; lazily, see `trim_lines`."""
  try:
    data = pathlib.Path(path).read_bytes()
  except FileNotFoundError as error:
    raise ArtifactError(f"{path}: no such file") from error
  except _UNREADABLE as error:
    raise ArtifactError(f"{path}: {_reason(error)}") from error
  lines = data.split(b"\n")
  if not lines[-1]:
    lines.pop()  # the end of the last line, or an empty file
  for number, line in enumerate(lines, start=1):
    try:
      # No part of an object is an object: what decodes is not torn.
      obj = _decode(line)
    except (ValueError, RecursionError) as error:
      if number == len(lines):
        return
      raise ArtifactError(f"{path}: line {number}: {_reason(error)}") from error
    yield line, obj


def _find_elite_space(path: Path) -> pathlib.Path:
  if not os.path.isdir(path):
    return pathlib.Path(path)
  folder = pathlib.Path(path)
  for candidate in (folder / ELITE_SPACE, folder / "search" / ELITE_SPACE):
    if os.path.exists(candidate):
      return candidate
  raise ArtifactError(
    f"{folder}: no {ELITE_SPACE} in it nor in its folder search; has the "
    "search ended?"
  )


def _object(fields: dict[str, Any], name: str) -> dict[str, Any]:
  if name not in fields:
    raise ValueError("this field is missing")
  if not isinstance(fields[name], dict):
    raise ValueError(
      f"expected a JSON object, got {type(fields[name]).__name__}"
    )
  return fields[name]


def _read_search_space(fields: dict[str, Any]) -> SearchSpace:
  """`SearchSpace.from_dict`, strict about the types that JSON can confuse."""
  for name in ("depth_bins", "width_bins", "strides", "image_shape"):
    if not isinstance(fields.get(name, []), list):
      raise ValueError(f"{name}: expected a list")
  for name, value in fields.items():
    # True is an int to Python.
    if _has_bool(value):
      raise ValueError(f"{name}: expected numbers, got true or false")
  if not isinstance(fields.get("block", ""), str):
    raise ValueError("block: expected a string")
  return SearchSpace.from_dict(fields)


def _has_bool(value: Any) -> bool:
  if isinstance(value, list):
    return any(map(_has_bool, value))
  return isinstance(value, bool)


def _check_ranges(ranges: dict[str, Any]) -> None:
  for kind in ("depth", "width"):
    value = ranges.get(kind)
    if not isinstance(value, list) or not all(map(_is_range, value)):
      raise ValueError(f"{kind}: expected a list of [low, high], one per stage")


def _is_range(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) == 2
    # Not isinstance: true and 1.0 equal 1 and would pass for a bin's end.
    and all(type(n) is int for n in value)
  )
