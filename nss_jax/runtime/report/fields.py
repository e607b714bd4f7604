"""What a JSON object must hold, checked before it is used.

A shape is a `Kind`, a list of one shape (a list of any length), or a dict of
shapes by name. A name that ends in `?` may be missing; fields that the dict
does not name are left alone.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.files import Path

# Beyond it floats are no longer whole numbers, and int64 is soon full.
_LARGEST = 2**53


class Kind(NamedTuple):
  """Which values are accepted, and that in words."""

  accepts: Callable[[Any], bool]
  words: str


def _is_number(value: Any) -> bool:
  # True is an int to Python. No picture has room for more than 1e30.
  return type(value) in (int, float) and abs(value) <= 1e30


def _is_whole(value: Any) -> bool:
  return type(value) is int and 0 <= value <= _LARGEST


NUMBER = Kind(_is_number, "a number")
NON_NEGATIVE = Kind(lambda x: _is_number(x) and x >= 0, "a number, 0 or more")
POSITIVE = Kind(lambda x: _is_number(x) and x > 0, "a number above 0")
SHARE = Kind(lambda x: _is_number(x) and 0 <= x <= 1, "a number from 0 to 1")
PERCENT = Kind(lambda x: _is_number(x) and 0 <= x <= 100, "0 to 100")
WHOLE = Kind(_is_whole, "a whole number")
COUNT = Kind(lambda x: _is_whole(x) and x >= 1, "a whole number above 0")
FLAG = Kind(lambda x: isinstance(x, bool), "true or false")
TEXT = Kind(lambda x: isinstance(x, str), "a text")


def pair(kind: Kind) -> Kind:
  """`[low, high]` of a kind, not falling."""
  return Kind(
    lambda x: (
      isinstance(x, list)
      and len(x) == 2
      and all(map(kind.accepts, x))
      and x[0] <= x[1]
    ),
    f"[low, high], each {kind.words}",
  )


def maybe(kind: Kind) -> Kind:
  """The kind, or null."""
  return Kind(lambda x: x is None or kind.accepts(x), f"{kind.words} or null")


def one_of(*names: str) -> Kind:
  """One of some texts."""
  return Kind(lambda x: x in names, f"one of {', '.join(names)}")


def read(path: Path, shape: Any) -> dict[str, Any] | None:
  """A checked JSON object, or None where there is no file."""
  if not os.path.exists(path):
    return None
  content = files.read_json(path)
  check(path, content, shape)
  return content


def check(path: Path, value: Any, shape: Any, name: str = "") -> None:
  """Raises UserError, naming file and field, if a value has another shape.

  Args:
    path: of the file, for the message.
    value: what was read from it.
    shape: see the file's docstring.
    name: of the field that holds the value, empty for the whole file.
  """
  if isinstance(shape, Kind):
    if not shape.accepts(value):
      raise _wrong(path, name, shape.words, value)
  elif isinstance(shape, list):
    if not isinstance(value, list):
      raise _wrong(path, name, "a list", value)
    for index, item in enumerate(value):
      check(path, item, shape[0], f"{name}[{index}]")
  else:
    _check_object(path, value, shape, name)


def _check_object(path: Path, value: Any, shape: dict, name: str) -> None:
  if not isinstance(value, dict):
    raise _wrong(path, name, "an object", value)
  for key, inner in shape.items():
    field = key.removesuffix("?")
    full = f"{name}.{field}" if name else field
    if field in value:
      check(path, value[field], inner, full)
    elif field == key:
      raise UserError(f"{path}: {full}: this field is missing")


def check_each(
  path: Path, value: Any, names: Kind, shape: Any, name: str
) -> None:
  """As `check`, of an object whose fields share one shape and have any of
  some names."""
  check(path, value, {}, name)
  for key in value:
    check(path, key, names, f"a name in {name}")
    check(path, value[key], shape, f"{name}.{key}")


def _wrong(path: Path, name: str, words: str, value: Any) -> UserError:
  shown = repr(value)[:80] if _is_small(value) else type(value).__name__
  return UserError(
    f"{path}: {name or 'the file'}: expected {words}, got {shown}"
  )


def _is_small(value: Any) -> bool:
  """Not a huge integer, whose repr is an error, nor a container."""
  if isinstance(value, int):
    return value.bit_length() < 256
  return value is None or isinstance(value, (str, float))
