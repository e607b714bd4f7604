"""The folder of a saved network: weights, description, and a page to read.

`model.safetensors` has the tensors, `network.json` all else that it takes to
compute with them, see `layers.py`; `README.md` is a model card. `network.json`
is written last and holds the digest of the weights: a folder with it is whole.
It holds its own digest too, of all but the names of the classes and what is
told about the network, which may be edited.
"""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from nss_jax.deploy import layers
from nss_jax.deploy.card import write_card
from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.spaces import blocks, cost
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_arch

if TYPE_CHECKING:
  from nss_jax.deploy.trained_network import TrainedNetwork

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "network.json", "README.md"
_FORMAT = "nss_jax network 1"
_EDITABLE = ("about", "classes")
# What reading a description can raise, whatever is in it.
_INVALID = (
  *(LookupError, TypeError, ValueError, ArithmeticError),
  *(AttributeError, RecursionError),
)


def write(network: "TrainedNetwork", folder: pathlib.Path) -> None:
  """Writes a network to a folder; one that was there is replaced.

  Raises:
    OSError: if it cannot be written.
    TypeError, ValueError: if JSON does not have what `about` holds.
  """
  import safetensors.numpy

  tensors = layers.to_tensors(network.params, network.averages)
  weights = safetensors.numpy.save(tensors, {"format": _FORMAT})
  content = describe(network)
  content["sha256"] = hashlib.sha256(weights).hexdigest()
  content["digest"] = digest(content)
  # Before anything is written: the three files belong together.
  json.dumps(content, allow_nan=False, default=lambda x: np.asarray(x).tolist())
  files.make_folder(folder)
  files.write_bytes(folder / WEIGHTS, weights)
  files.write_bytes(folder / CARD, write_card(content).encode())
  files.write_json(folder / DESCRIPTION, content)


def describe(network: "TrainedNetwork") -> dict[str, Any]:
  """Returns `network.json`, without the digest of the weights."""
  space, arch = network.search_space, network.arch
  height, width, channels = space.image_shape
  costs = {
    name: cost.arch_cost(space, METRICS[name], arch).item()
    for name in ("flops", "params", "activations")
  }
  return {
    "format": _FORMAT,
    "arch": format_arch(arch),
    "block": {
      "name": space.block,
      "description": _to_json(blocks.find_block(space.block)),
    },
    "costs": costs,
    "classes": list(network.names),
    "preprocessing": {
      "height": height,
      "width": width,
      "channels": channels,
      "background": network.background,
      "mean": list(network.mean),
      "std": list(network.std),
    },
    "about": dict(network.about),
    "search_space": space.to_dict(),
    "layers": layers.describe(space),
  }


def digest(content: dict[str, Any]) -> str:
  """Returns that of `network.json`, without what may be edited."""
  free = (*_EDITABLE, "digest")
  kept = {name: x for name, x in content.items() if name not in free}
  return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read(folder: pathlib.Path) -> "TrainedNetwork":
  """Reads a saved network.

  A block that is not known here is registered, as its description says.

  Raises:
    UserError: one line with the file and the field, whatever is in it.
  """
  import safetensors.numpy

  from nss_jax.deploy.trained_network import TrainedNetwork

  path, weights = folder / DESCRIPTION, folder / WEIGHTS
  content = files.read_json(path)
  try:
    if content["format"] != _FORMAT:
      raise ValueError(f"format: expected {_FORMAT!r}")
    if content["digest"] != digest(content):
      raise ValueError(
        f"is damaged, or more was edited than {' and '.join(_EDITABLE)}"
      )
    fields = content["search_space"]
    _register(content["block"], fields["block_digest"])
    space = SearchSpace.from_dict(fields)
    form = content["preprocessing"]
    mean, std = (_numbers(form, x, space) for x in ("mean", "std"))
    if min(std) <= 0:
      raise ValueError(f"preprocessing.std: {std}; expected numbers above 0")
    names, about = content["classes"], content["about"]
    if not isinstance(names, list) or len(names) != space.num_classes:
      raise ValueError(f"classes: expected a list of {space.num_classes} names")
    if not all(isinstance(name, str) for name in names):
      raise ValueError("classes: expected names, got something else")
    if not isinstance(about, dict):
      raise ValueError("about: expected an object")
    background = form["background"]
    if type(background) is not int or not 0 <= background <= 255:
      raise ValueError(f"preprocessing.background: {background!r}")
  except _INVALID as error:
    raise UserError(f"{path}: {_reason(error)}") from error
  try:
    data = weights.read_bytes()
  except OSError as error:
    raise UserError(f"{weights}: {error.strerror}") from error
  if hashlib.sha256(data).hexdigest() != content.get("sha256"):
    raise UserError(f"{weights}: is damaged, or not that of {DESCRIPTION}")
  try:
    tensors = safetensors.numpy.load(data)
    params, averages = layers.from_tensors(space, tensors)
  except (*_INVALID, safetensors.SafetensorError) as error:
    raise UserError(f"{weights}: {_reason(error)}") from error
  return TrainedNetwork(
    space, params, averages, mean, std, tuple(names), background, about
  )


def _numbers(
  form: dict[str, Any], name: str, space: SearchSpace
) -> tuple[float, ...]:
  values, channels = form[name], space.image_shape[-1]
  right = isinstance(values, list) and len(values) == channels
  if not right or not all(
    type(x) in (int, float) and np.isfinite(x) for x in values
  ):
    raise ValueError(f"preprocessing.{name}: expected {channels} numbers")
  return tuple(map(float, values))


def _reason(error: Exception) -> str:
  if isinstance(error, KeyError):
    return f"{error} is missing or unknown"
  return files.reason(error)


_LAYERS = {
  "Conv": blocks.Conv,
  "Depthwise": blocks.Depthwise,
  "SqueezeExcite": blocks.SqueezeExcite,
}


def _to_json(part: Any) -> Any:
  """Returns the description of a block, its layers by the names of classes."""
  if isinstance(part, blocks.Block):
    return {**part._asdict(), "layers": [_to_json(x) for x in part.layers]}
  fields = {
    name: x._asdict() if isinstance(x, blocks.Channels) else x
    for name, x in part._asdict().items()
  }
  return {"kind": type(part).__name__, **fields}


def _register(block: dict[str, Any], expected: str) -> None:
  """Makes the block known, unless it is; that of the digest and no other."""
  name, fields = block["name"], dict(block["description"])
  if name in blocks.BLOCKS:
    return  # the digest in the search space says whether it is the same
  made: list[Any] = []
  for layer in fields.pop("layers"):
    kept = dict(layer)
    kind = _LAYERS[kept.pop("kind")]
    for key in ("outputs", "hidden"):
      if key in kept:
        kept[key] = blocks.Channels(**kept[key])
    made.append(kind(**kept))
  found = blocks.Block(tuple(made), **fields)
  if blocks.block_digest(found) != expected:
    raise ValueError("block: the description is not that of its digest")
  blocks.register_block(name, found)
