"""`elite_space.json`, read back with suspicion, and what it says in words."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from nss_jax.errors import UserError
from nss_jax.runtime.files import Path, read_json, reason
from nss_jax.spaces.constraints import amount, from_targets
from nss_jax.spaces.search_space import SearchSpace, Space, space_from_ranges

ELITE_SPACE = "elite_space.json"
_MODES = {"equal": "the target of", "at_most": "the most of"}

# What SearchSpace.from_dict and space_from_ranges raise for JSON of the right
# outline with anything inside: deep nesting is RecursionError, the rest is
# ValueError.
_INVALID = (ValueError, RecursionError)


def load_space(path: Path) -> tuple[SearchSpace, Space]:
  """Reads the Elite Space that a search has written.

  Args:
    path: an `elite_space.json`, the `search/` folder that holds it, or the
      work folder that holds that.

  Returns:
    The search space and the space in it.

  Raises:
    UserError: one line with the file and the field, whatever is in it.
  """
  path = _find_elite_space(path)
  fields = read_json(path)
  search_space = read_search_space(path, fields)
  try:
    ranges = _object(fields, "space")
    _check_ranges(ranges)
    space = space_from_ranges(search_space, ranges)
  except _INVALID as error:
    raise UserError(f"{path}: space: {reason(error)}") from error
  return search_space, space


def read_search_space(path: Path, content: dict[str, Any]) -> SearchSpace:
  """The field `search_space` of a JSON object.

  Raises:
    UserError: one line with the file and the field, whatever is in it.
  """
  try:
    return _read_search_space(_object(content, "search_space"))
  except _INVALID as error:
    raise UserError(f"{path}: search_space: {reason(error)}") from error


def _find_elite_space(path: Path) -> pathlib.Path:
  if not os.path.isdir(path):
    return pathlib.Path(path)
  folder = pathlib.Path(path)
  for candidate in (folder / ELITE_SPACE, folder / "search" / ELITE_SPACE):
    if os.path.exists(candidate):
      return candidate
  raise UserError(
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


def describe_costs(elite: Mapping[str, Any]) -> list[str]:
  """Says of each constraint how the Elite Space meets it.

  `mean 1.88 MF, -1.9 % from the target of 1.92 MF`
  """
  return [
    f"mean {amount(one['metric'], one['mean_cost'])}, "
    f"{100 * one['deviation']:+.1f} % from {_MODES[one['mode']]} "
    f"{amount(one['metric'], one['target'])}"
    for one in elite["constraints"]
  ]


def how_sure(elite: Mapping[str, Any]) -> str:
  """Says how probable the Elite Space is, beside the most probable space.

  `probability 0.88, the most probable space`, or where in the list it is.
  """
  mode, rank = elite["argmax_space"], elite["rank"]
  words = f"probability {elite['probability']:.2g}"
  if mode["space"] == elite["space"]:
    return f"{words}, the most probable space"
  place = "" if rank is None else f", number {rank:,} by probability"
  return (
    f"{words}{place}; the most probable space has {mode['probability']:.2g}, "
    f"{from_targets(mode_deviations(elite))}"
  )


def mode_deviations(elite: Mapping[str, Any]) -> dict[str, float]:
  """Returns how far the most probable space is from each target."""
  costs = elite["argmax_space"]["costs"]
  return {
    one["metric"]: costs[one["metric"]] / one["target"] - 1
    for one in elite["constraints"]
  }
