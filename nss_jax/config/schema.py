"""A whole config: how it is made, checked and written.

Config files start from `base()` and say what differs. They return a
`ConfigDict`, which `validate` turns into a `Config` once.
"""

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, get_args, get_origin

import ml_collections
import pydantic
from pydantic.fields import FieldInfo

from nss_jax.config import bounds, phase_sections, sections
from nss_jax.config.lookup import missing_field
from nss_jax.errors import UserError
from nss_jax.spaces.blocks import block_digest
from nss_jax.spaces.search_space import SearchSpace

_CONSTRAINT = (
  "{'metric': 'params', 'target': 2e5, 'weight': 1.0, 'mode': 'equal'}"
)


class Config(sections.Section):
  """All fields of a run."""

  # The name of the workdir, runs/<name>.
  name: bounds.FolderName = "unnamed"
  seed: bounds.Seed = 0
  data: sections.Data = sections.Data()
  space: sections.Space = sections.Space()
  supernet: sections.Supernet = sections.Supernet()
  objective: sections.Objective = sections.Objective()
  search: sections.Search = sections.Search()
  evaluate: phase_sections.Evaluate = phase_sections.Evaluate()
  principles: phase_sections.Principles = phase_sections.Principles()
  nas: phase_sections.Nas = phase_sections.Nas()
  complexity: phase_sections.Complexity = phase_sections.Complexity()
  train: phase_sections.Train = phase_sections.Train()
  sweep: phase_sections.Sweep = phase_sections.Sweep()
  latency_table: phase_sections.LatencyTable = phase_sections.LatencyTable()
  rank_check: phase_sections.RankCheck = phase_sections.RankCheck()
  weights: sections.Weights = sections.Weights()
  logits: sections.Logits = sections.Logits()

  @pydantic.model_validator(mode="after")
  def _check_draws(self) -> Self:
    if self.supernet.draws != "shared" and self.search.sync_batch_norm:
      raise ValueError(
        "supernet",
        "draws",
        "shared with config.search.sync_batch_norm: other archs have no "
        "statistics in common",
      )
    return self

  # The same as JSON, with each number as it was given. A run keeps this.
  _given: dict[str, Any] = pydantic.PrivateAttr(default_factory=dict)

  @classmethod
  def of(cls, given: dict[str, Any]) -> "Config":
    """Makes a config of plain JSON values, and keeps them."""
    config = cls.model_validate(given)
    config._given = given
    return config

  def to_json(self) -> dict[str, Any]:
    """Returns the fields as they were given."""
    return copy.deepcopy(self._given)

  def vary(self, fields: Mapping[str, Any]) -> "Config":
    """Returns a config with other values, such as `{"search.epochs": 3}`."""
    given = self.to_json()
    for path, value in fields.items():
      *groups, name = path.split(".")
      group = functools.reduce(lambda fields, key: fields[key], groups, given)
      group[name] = to_json(value)
    return type(self).of(given)

  def record(self) -> dict[str, Any]:
    """Returns what a run keeps: the fields, and a digest of the block."""
    fields = self.to_json()
    fields["space"]["block_digest"] = block_digest(self.space.block)
    return fields


def base() -> ml_collections.ConfigDict:
  """Returns the paper's settings where it has them, and DARTS' elsewhere."""
  return ml_collections.ConfigDict(Config().model_dump())


def to_json(value: Any) -> Any:
  """Turns a config, or a part of one, into plain JSON values."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, Mapping):
    return {k: to_json(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_json(v) for v in value]
  return value


def validate(config: ml_collections.ConfigDict | Config) -> Config:
  """Checks all that can be checked without the data; returns it frozen.

  Raises:
    UserError: with the field, its value and what is accepted.
  """
  if isinstance(config, Config):
    return config
  try:
    checked = Config.of(to_json(config))
  except pydantic.ValidationError as error:
    raise UserError(_line(error.errors()[0], config)) from None
  if missing := next(_missing(checked, "config"), ""):
    raise UserError(missing)
  return checked


def search_space(
  config: Config,
  image_shape: tuple[int, int, int],
  num_classes: int = 0,
) -> SearchSpace:
  """Makes the search space of `config.space` for images of a shape.

  `num_classes` is that of the data, or 0 if they are not known. `config.space`
  may ask for more outputs, or says 0 for as many.
  """
  fields = dict(config.space)
  given = fields["num_classes"] = config.space.num_classes or num_classes
  if given < num_classes:
    words = f"at least the {num_classes} classes of the data, or 0 for as many"
    raise UserError(_refusal("config.space.num_classes", given, words))
  try:
    return SearchSpace.expanded(**fields, image_shape=image_shape)
  except ValueError as error:
    raise UserError(f"config.space: {error}") from error


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
  """Lists how nested dicts differ, such as `config.seed: 0 is now 1`."""
  if not (isinstance(old, dict) and isinstance(new, dict)):
    return [] if old == new else [f"{path}: {old!r} is now {new!r}"]
  found = []
  for key in [*old, *(k for k in new if k not in old)]:
    if key not in old:
      found.append(f"{path}.{key}: new, {new[key]!r}")
    elif key not in new:
      found.append(f"{path}.{key}: {old[key]!r} is gone")
    else:
      found += differences(old[key], new[key], f"{path}.{key}")
  return found


def _missing(group: pydantic.BaseModel, path: str) -> Iterator[str]:
  """Yields a line for each field that is not there."""
  for name in type(group).model_fields:
    if name not in group.model_fields_set:
      yield f"{path}: the field {name!r} is missing"
    elif isinstance(value := getattr(group, name), pydantic.BaseModel):
      yield from _missing(value, f"{path}.{name}")


def _line(error: Any, config: Any) -> str:
  """Puts what pydantic has found wrong into one line."""
  kind, keys = error["type"], list(error["loc"])
  words = last = ""
  if kind == "value_error":
    # A check of ours: of the field, or of its group, which then names a field.
    *fields, words = error["ctx"]["error"].args
    keys += fields
  elif kind in ("missing", "extra_forbidden"):
    last = keys.pop()  # the group is there, and this is not one of its fields
  path, value, field, group = "config", config, None, Config
  for key in keys:
    if isinstance(key, str):
      path, field = f"{path}.{key}", group.model_fields[key]
      group = _group_of(field) or group
    elif group is sections.Constraint:
      path = f"{path}[{key}]"
    else:
      break  # the line is about the whole field, not one of its items
    value = value[key]
  if kind == "model_type" or last:
    if group is sections.Constraint:
      return _refusal(path, value, _CONSTRAINT)
    if kind == "model_type":
      return f"{path}: {value!r} is not a group of fields"
    return missing_field(base().to_dict(), f"{path}.{last}")
  if kind in _TYPES and isinstance(keys[-1], str):
    given, expected = type(value).__name__, _TYPES[kind]
    return f"{path}: {value!r} has the type {given}; expected {expected}"
  return _refusal(path, value, words or _words(field) or error["msg"])


# Pydantic's names of errors, and the types that it asked for.
_TYPES = {
  "bool_type": "bool",
  "int_type": "int",
  "int_from_float": "int",
  "float_type": "float",
  "string_type": "str",
  "tuple_type": "tuple",
}
_LIMITS = {
  "ge": "{} or more",
  "gt": "above {}",
  "le": "at most {}",
  "lt": "below {}",
}


def _group_of(field: FieldInfo) -> type[pydantic.BaseModel] | None:
  """Returns the model that a field is, or holds several of."""
  for one in (field.annotation, *get_args(field.annotation)):
    if isinstance(one, type) and issubclass(one, pydantic.BaseModel):
      return one
  return None


def _words(field: FieldInfo | None) -> str:
  """Says what a field accepts, if its description, type or bounds do."""
  if field is None:
    return ""
  if field.description:
    return field.description
  if get_origin(field.annotation) is Literal:
    return f"one of {', '.join(map(str, get_args(field.annotation)))}"
  limits = {
    name: f"{getattr(bound, name):,}"
    for name in _LIMITS
    for bound in field.metadata
    if hasattr(bound, name)
  }
  if limits.keys() == {"ge", "le"}:
    return f"{limits['ge']} to {limits['le']}"
  return " and ".join(_LIMITS[name].format(limits[name]) for name in limits)


def _refusal(path: str, value: Any, accepted: str) -> str:
  return f"{path}: {value!r} is not accepted; expected {accepted}"
