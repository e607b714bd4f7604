"""Artifacts: one model each, that a phase returns, writes and reads again.

A `Kind` says which values a field accepts, in words too, so that a file that
somebody has edited is refused in one line. Values are kept as they are, to the
last bit; a field with a default may be absent, and then is not written either.
"""

import pathlib
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import pydantic

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.spaces.search_space import SearchSpace

# Beyond it floats are no longer whole numbers, and int64 is soon full.
_LARGEST = 2**53


class Kind(NamedTuple):
  """Which values a field accepts, and that in words."""

  accepts: Callable[[Any], bool]
  words: str

  def or_null(self) -> "Kind":
    """Returns the kind that accepts null as well."""
    return Kind(lambda x: x is None or self.accepts(x), f"{self.words} or null")

  def pair(self) -> "Kind":
    """Returns the kind `[low, high]`, not falling."""
    return Kind(
      lambda x: (
        isinstance(x, (list, tuple))
        and len(x) == 2
        and all(map(self.accepts, x))
        and x[0] <= x[1]
      ),
      f"[low, high], each {self.words}",
    )

  def check(self, value: Any) -> Any:
    """Returns a value that is accepted, as plain Python has it."""
    if isinstance(value, (np.generic, np.ndarray)):
      value = value.tolist()
    if not self.accepts(value):
      raise ValueError(self.words)
    return value

  def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
    """Tells pydantic that the check is all there is to a field."""
    whole = pydantic.PlainValidator(self.check)
    return whole.__get_pydantic_core_schema__(Any, handler)


def one_of(*names: str) -> Kind:
  """Returns the kind that accepts these texts only."""
  return Kind(lambda x: x in names, f"one of {', '.join(names)}")


def _is_number(value: Any) -> bool:
  # True is an int to Python. No picture has room for more than 1e30.
  return type(value) in (int, float) and abs(value) <= 1e30


def _is_whole(value: Any) -> bool:
  return type(value) is int and 0 <= value <= _LARGEST


def _within(low: float, high: float, words: str) -> Kind:
  return Kind(lambda x: _is_number(x) and low <= x <= high, words)


NUMBER = Kind(_is_number, "a number")
NON_NEGATIVE = _within(0, np.inf, "a number, 0 or more")
POSITIVE = Kind(lambda x: _is_number(x) and x > 0, "a number above 0")
SHARE = _within(0, 1, "a number from 0 to 1")
PERCENT = _within(0, 100, "0 to 100")
TAU = _within(-1, 1, "a number from -1 to 1")
WHOLE = Kind(_is_whole, "a whole number")
COUNT = Kind(lambda x: _is_whole(x) and x >= 1, "a whole number above 0")

Number = Annotated[float, NUMBER]
NonNegative = Annotated[float, NON_NEGATIVE]
Positive = Annotated[float, POSITIVE]
Share = Annotated[float, SHARE]
MaybeTau = Annotated[float | None, TAU.or_null()]
MaybeNumber = Annotated[float | None, NUMBER.or_null()]
MaybeNonNegative = Annotated[float | None, NON_NEGATIVE.or_null()]
MaybePositive = Annotated[float | None, POSITIVE.or_null()]
MaybeShare = Annotated[float | None, SHARE.or_null()]
MaybePercent = Annotated[float | None, PERCENT.or_null()]
Whole = Annotated[int, WHOLE]
Count = Annotated[int, COUNT]
MaybeCount = Annotated[int | None, COUNT.or_null()]
Flag = Annotated[bool, Kind(lambda x: isinstance(x, bool), "true or false")]
Text = Annotated[str, Kind(lambda x: isinstance(x, str), "a text")]


class Artifact(pydantic.BaseModel):
  """A JSON object that outlives a run, or a part of one."""

  model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

  @classmethod
  def read(cls, path: Path, search_space: SearchSpace | None = None) -> Self:
    """Reads a file, whose archs and bins must be of the search space if one is
    given; raises UserError with the file and the field."""
    return cls.parse(path, files.read_json(path), search_space)

  @classmethod
  def find(
    cls, path: Path, search_space: SearchSpace | None = None
  ) -> Self | None:
    """Reads a file as `read` does, if there is one."""
    there = pathlib.Path(path).exists()
    return cls.read(path, search_space) if there else None

  @classmethod
  def parse(
    cls, place: Path, content: Any, search_space: SearchSpace | None = None
  ) -> Self:
    """Checks what was read at a place, which an error line begins with."""
    try:
      found = cls.model_validate(content)
      found.check(search_space)
    except pydantic.ValidationError as error:
      line = _line(cls, error.errors()[0])
      raise UserError(f"{place}: {line}") from None
    except ValueError as error:
      raise UserError(f"{place}: {error}") from error
    return found

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError for fields that contradict each other, or the search
    space if there is one."""

  def to_json(self) -> dict[str, Any]:
    """Returns the object as it is written."""
    return self.model_dump(exclude_unset=True)

  def write(self, path: Path) -> None:
    """Replaces a file at once, in the first process."""
    files.write_json(path, self.to_json())


class LogLine(Artifact):
  """What every line of a `metrics.jsonl` says."""

  step: Whole


_EXPECTED = {
  "model_type": "an object",
  "dict_type": "an object",
  "list_type": "a list",
}


def _line(model: type[Artifact], error: Any) -> str:
  """Puts what pydantic has found wrong into one line."""
  *above, last = error["loc"] or ("",)
  kind = error["type"]
  if kind == "extra_forbidden":
    names = ", ".join(model.model_fields)
    return f"a name in the file: expected one of {names}, got {last!r:.80}"
  if last == "[key]":
    name = f"a name in {_name(above[:-1])}"
  else:
    name = _name((*above, last)) or "the file"
  if kind == "missing":
    return f"{name}: this field is missing"
  words, value = _EXPECTED.get(kind), error["input"]
  if words is None:
    words = error["ctx"]["error"] if kind == "value_error" else error["msg"]
  shown = repr(value)[:80] if _is_small(value) else type(value).__name__
  return f"{name}: expected {words}, got {shown}"


def _name(keys: Any) -> str:
  """Writes `runs[0].params` for the keys of a place."""
  parts = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
  return "".join(parts).removeprefix(".")


def _is_small(value: Any) -> bool:
  """Tells whether a value can be shown: it is neither a huge integer, whose
  repr is an error, nor a container."""
  if isinstance(value, int):
    return value.bit_length() < 256
  return value is None or isinstance(value, (str, float))
