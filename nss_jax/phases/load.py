"""Weights that a run has trained, for other programs."""

import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax

from nss_jax.data.batches import normalize
from nss_jax.errors import UserError
from nss_jax.runtime import space_file
from nss_jax.runtime.files import Path, read_json
from nss_jax.runtime.report import fields
from nss_jax.spaces.search_space import Array, SearchSpace
from nss_jax.supernet import network, sharing

_RESULT = "result.json"
_USED = {"mean": [fields.NUMBER], "std": [fields.POSITIVE]}


class TrainedNetwork(NamedTuple):
  """One network, trained alone.

  Attributes:
    search_space: of this network and nothing else.
    params: its weights.
    averages: running averages of its normalisations.
    mean: `[channels]` of its training images, in units of pixel / 255.
    std: `[channels]`, likewise.
  """

  search_space: SearchSpace
  params: Any
  averages: Any
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def logits(self, images: Array) -> jax.Array:
    """`[B, C]` in float32, of images `[B, H, W, channels]`, uint8."""
    normal = normalize(images, self.mean, self.std)
    weights = self.params, self.averages
    return network.apply_alone(
      self.search_space, *weights, normal, train=False
    )[0]


def load_network(path: Path) -> TrainedNetwork:
  """Reads a network that the train phase has trained.

  Args:
    path: its folder, `train/<name>/seed_<k>` of the work folder, or the work
      folder if it holds one only.

  Raises:
    UserError: one line with the file and the field, whatever is in it; also if
      the weights are damaged or of another network.
  """
  folder = _find_network(path)
  result = read_json(folder / _RESULT)
  space = space_file.read_search_space(folder / _RESULT, result)
  fields.check(folder / _RESULT, result, _USED)
  for name in _USED:
    if len(result[name]) != space.image_shape[-1]:
      raise UserError(
        f"{folder / _RESULT}: {name}: expected {space.image_shape[-1]} "
        f"channels, got {len(result[name])}"
      )
  make = {"params": _init, "averages": network.init_averages}
  found = _load(folder, space, make)
  return TrainedNetwork(
    space, **found, **{name: tuple(result[name]) for name in _USED}
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
  """Parts of the newest weights, each of the shapes that is made."""
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
