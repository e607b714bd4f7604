"""What a run has found and trained, for other programs.

Light to import: libraries that take long are, where they are needed.
"""

import functools
import os
import pathlib
from typing import Any

import jax

from nss_jax.deploy import saved
from nss_jax.deploy.trained_network import TrainedNetwork
from nss_jax.errors import UserError
from nss_jax.runtime.files import Path, read_json, reason
from nss_jax.spaces.search_space import (
  SearchSpace,
  Space,
  space_from_ranges,
)
from nss_jax.supernet import network, sharing

ELITE_SPACE = "elite_space.json"
BEST = "best"
_RESULT = "result.json"
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


def load_network(path: Path) -> TrainedNetwork:
  """Reads a network that was saved, or that the train phase has trained.

  Args:
    path: the folder of a saved network; or `train/<name>/seed_<k>` of a work
      folder; or a work folder, for the network that its run stands behind
      (`best`), or the only one that it has trained.

  Raises:
    UserError: one line with the file and the field, whatever is in it; also if
      the weights are damaged or of another network.
  """
  from nss_jax.results.trained import Trained

  for folder in (pathlib.Path(path), pathlib.Path(path) / BEST):
    if (folder / saved.DESCRIPTION).exists():
      return saved.read(folder)
  folder = _find_network(path)
  file = folder / _RESULT
  result = Trained.read(file)
  space = read_search_space(file, result.to_json())
  for name in ("mean", "std"):
    if (given := len(getattr(result, name))) != space.image_shape[-1]:
      raise UserError(
        f"{file}: {name}: expected {space.image_shape[-1]} channels, got "
        f"{given}"
      )
  make = {"params": _init, "averages": network.init_averages}
  found = _load(folder, space, make)
  return TrainedNetwork(
    space,
    **found,
    mean=tuple(result.mean),
    std=tuple(result.std),
    class_names=tuple(result.class_names),
    background=result.background,
    about=result.about(),
  )


def load_supernet(path: Path, search_space: SearchSpace) -> Any:
  """Reads the weights of a supernet, as `init_weights` makes them.

  Those of an evaluator with `evaluate.own_norms` or `own_kernels` have groups:
  `nss_jax.supernet.sharing.weights_of` makes from them what an arch runs with.

  Args:
    path: folder of the supernet: `search` of a work folder, or of one that is
      kept in `supernets` beside it.
    search_space: of the search, see `load_space`.

  Raises:
    UserError: one line with the folder, if no weights are in it, or if they are
      damaged or of another search space.
  """
  folder = pathlib.Path(path)
  return _load(folder, search_space, {"params": _init})["params"]


def read_search_space(path: Path, content: dict[str, Any]) -> SearchSpace:
  """Reads the field `search_space` of a JSON object.

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
  """Makes it as `from_dict`, strict about types that JSON can confuse."""
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


def _find_network(path: Path) -> pathlib.Path:
  folder = pathlib.Path(path)
  if os.path.exists(folder / _RESULT):
    return folder
  found = sorted(
    file.parent for file in folder.glob(f"train/*/seed_*/{_RESULT}")
  )
  if len(found) != 1:
    names = ", ".join(str(x.relative_to(folder)) for x in found) or "none"
    raise UserError(
      f"{folder}: expected a folder of one trained network, as "
      f"train/<name>/seed_<k>; it holds {names}"
    )
  return found[0]


def _init(search_space: SearchSpace) -> Any:
  return network.init_weights(jax.random.key(0), search_space)


def _load(
  folder: pathlib.Path, space: SearchSpace, make: dict[str, Any]
) -> dict[str, Any]:
  """Reads parts of the newest weights, each of the shapes that is made."""
  # orbax takes a second, which `import nss_jax` does not.
  from nss_jax.runtime import checkpoint

  state = checkpoint.Checkpoints(folder / "checkpoints").read()
  if state is None:
    raise UserError(f"{folder}: no weights in its folder checkpoints")
  weights = state.get("weights") if isinstance(state, dict) else None
  weights = weights if isinstance(weights, dict) else {}
  found = {name: weights.get(name) for name in make}
  groups = sharing.count_groups(found["params"])
  expected = {
    name: jax.eval_shape(functools.partial(one, space))
    for name, one in make.items()
  }
  add_groups = functools.partial(sharing.add_groups, **groups)
  expected["params"] = jax.eval_shape(add_groups, expected["params"])
  if difference := checkpoint.find_difference(found, expected):
    raise UserError(f"{folder}: weights of another network: {difference}")
  return jax.tree.map(jax.numpy.asarray, found)
