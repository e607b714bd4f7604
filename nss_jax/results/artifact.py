"""Artifacts: one model each, that a phase returns, writes and reads again.

A file that somebody has edited is refused in one line, in the words of its
fields. A field with a default may be absent, and then is not written either.
"""

import pathlib
from typing import Any, Self

import pydantic

from nss_jax.errors import UserError
from nss_jax.results import fields
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.spaces.search_space import SearchSpace


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

  step: fields.Whole


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
