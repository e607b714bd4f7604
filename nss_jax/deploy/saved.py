"""The folder of a saved network: weights, description, and a page to read.

`model.safetensors` has the tensors, `network.json` all else that it takes to
compute with them, see `layers.py`; `README.md` is a model card. `network.json`
is written last and holds the digest of the weights: a folder with it is whole.
"""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from nss_jax.deploy import layers
from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.spaces import blocks, cost
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_arch, format_macs

if TYPE_CHECKING:
  from nss_jax.deploy.network import TrainedNetwork

WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "network.json", "README.md"
_FORMAT = "nss_jax network 1"


def write(network: "TrainedNetwork", folder: pathlib.Path) -> None:
  """Writes a network to a folder; one that was there is replaced."""
  import safetensors.numpy

  tensors = layers.to_tensors(network.params, network.averages)
  weights = safetensors.numpy.save(tensors, {"format": _FORMAT})
  content = describe(network)
  content["sha256"] = hashlib.sha256(weights).hexdigest()
  files.make_folder(folder)
  files.write_bytes(folder / WEIGHTS, weights)
  files.write_bytes(folder / CARD, card(content).encode())
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


def read(folder: pathlib.Path) -> "TrainedNetwork":
  """Reads a saved network.

  A block that is not known here is registered, as its description says.

  Raises:
    UserError: one line with the file and the field, whatever is in it.
  """
  import safetensors.numpy

  from nss_jax.deploy.network import TrainedNetwork

  path, weights = folder / DESCRIPTION, folder / WEIGHTS
  content = files.read_json(path)
  try:
    if content["format"] != _FORMAT:
      raise ValueError(f"format: expected {_FORMAT!r}")
    _register(content["block"])
    space = SearchSpace.from_dict(content["search_space"])
    form = content["preprocessing"]
    mean, std = (_numbers(form, x, space) for x in ("mean", "std"))
    if min(std) <= 0:
      raise ValueError(f"preprocessing.std: {std}; expected numbers above 0")
    names = tuple(content["classes"])
    if len(names) != space.num_classes or not all(
      isinstance(name, str) for name in names
    ):
      raise ValueError(f"classes: expected {space.num_classes} names")
    background, about = form["background"], dict(content["about"])
    if type(background) is not int or not 0 <= background <= 255:
      raise ValueError(f"preprocessing.background: {background!r}")
  except (LookupError, TypeError, ValueError, RecursionError) as error:
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
  except (ValueError, safetensors.SafetensorError) as error:
    raise UserError(f"{weights}: {error}") from error
  return TrainedNetwork(
    space, params, averages, mean, std, names, background, about
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
    return f"the field {error} is missing"
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


def _register(block: dict[str, Any]) -> None:
  """Makes the block known, unless it is."""
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
  blocks.register_block(name, blocks.Block(tuple(made), **fields))


def card(content: dict[str, Any]) -> str:
  """Returns the model card, Markdown with the fields that hubs read."""
  form, about, costs = (content[x] for x in ("preprocessing", "about", "costs"))
  shape = f"{form['height']}x{form['width']}"
  kind = "grey" if form["channels"] == 1 else f"{form['channels']} channels"
  names = ", ".join(content["classes"])
  lines = [
    "---",
    "library_name: nss_jax",
    "pipeline_tag: image-classification",
    "tags: [image-classification, jax, neural-architecture-search]",
    "---",
    "",
    f"# {content['arch']}",
    "",
    f"An image classifier of {format_macs(costs['flops'])} (multiply-adds an "
    f"image) and {costs['params']:,} parameters, found and trained with "
    "`nss_jax`. It has no licence yet: add yours.",
    "",
    f"- **Classes**: {names}",
    f"- **Input**: {shape} pixels, {kind}: turn the image upright, put what is "
    f"transparent on grey level {form['background']}, cut it in the middle to "
    "that shape and resize it; then pixel / 255, minus the mean "
    f"{_round(form['mean'])}, over the deviation {_round(form['std'])}.",
    *(f"- **{name}**: {value}" for name, value in _told(about)),
    "",
    "```python",
    "import nss_jax as nss",
    "",
    'network = nss.load_network("this folder")',
    'print(network.predict("image.jpg"))',
    "```",
    "",
    f"Without nss_jax: `{WEIGHTS}` holds the tensors in float32, kernels of "
    "convolutions as [height, width, in, out]; `layers` in "
    f"`{DESCRIPTION}` says what is computed with them, in order. A "
    "convolution NAME has NAME.kernel, no bias, (size - 1) / 2 zeros on each "
    "side, and then (x - mean) / sqrt(variance + epsilon) * scale + offset, "
    "and its activation.",
    "",
  ]
  return "\n".join(lines)


def _round(values: list[float]) -> str:
  return ", ".join(f"{x:.4g}" for x in values)


def _told(about: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns what is known of a network beside its description, in words."""
  told = []
  if "test_error" in about:
    low, high = about["test_error_interval"]
    told.append(
      (
        "Test error",
        f"{about['test_error']:.1%} of {about['test_images']:,} images "
        f"(95 % interval {low:.1%} to {high:.1%})",
      )
    )
  titles = {"data": "Data", "found": "How it was found", "space": "Space"}
  told += [
    (title, json.dumps(about[name]).strip('"'))
    for name, title in titles.items()
    if about.get(name)
  ]
  return told
