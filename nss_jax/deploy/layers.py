"""A trained network layer by layer, with a name for each of its tensors.

The form that leaves this library: no stacked blocks, no module of flax, plain
numbers and words that JSON has. Images are `[B, H, W, C]`, kernels of
convolutions `[H, W, in / groups, out]`, of fully connected layers `[in, out]`.
A layer NAME of a convolution has NAME.kernel, and its normalisation NAME.scale,
.offset, .mean and .variance `[out]`, and computes

  activation((conv(x) - mean) / sqrt(variance + epsilon) * scale + offset)

with (size - 1) / 2 zeros on all sides. A squeeze-excite multiplies each channel
by sigmoid(relu(mean over pixels @ squeeze + bias) @ excite + bias).
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from nss_jax.spaces.blocks import Depthwise, SqueezeExcite, find_block
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.supernet import network
from nss_jax.supernet.norm import EPSILON

_REST = "blocks_rest"


def describe(search_space: SearchSpace) -> dict[str, Any]:
  """Describes the largest network of a search space, as JSON has it.

  Returns:
    `stem`, `blocks` and `head`: layers with the names of their tensors; of each
    block its `layers`, its `shortcut` (a convolution, "identity" or null) that
    is added to what they give, and the `activation` of the sum. Between the
    last block and the head is the mean over all pixels.
  """
  stem = search_space.stem_width
  channels = search_space.image_shape[-1]
  blocks, before = [], stem
  for stage, stride in enumerate(search_space.strides):
    width = search_space.max_widths[stage]
    for number in range(search_space.max_depths[stage]):
      first = number == 0
      blocks.append(
        _block(
          search_space,
          f"stage_{stage + 1}.block_{number + 1}",
          (before, width),
          stride if first else 1,
          first and search_space.projects(stage),
        )
      )
      before = width
  return {
    "epsilon": EPSILON,
    "stem": _conv(
      "stem", (channels, stem), 3, search_space.stem_stride, "relu"
    ),
    "blocks": blocks,
    "head": {
      "name": "head",
      "inputs": before,
      "outputs": search_space.num_classes,
    },
  }


def _block(
  search_space: SearchSpace,
  name: str,
  widths: tuple[int, int],
  stride: int,
  projects: bool,
) -> dict[str, Any]:
  block, layers = find_block(search_space.block), []
  counts = [channels.number(*widths) for channels in block.channels()]
  for layer, *ends in zip(block.layers, counts, counts[1:], strict=False):
    path = f"{name}.{layer.name}"
    if isinstance(layer, SqueezeExcite):
      hidden = layer.hidden.number(*widths)
      excite = {"name": path, "kind": "squeeze_excite", "channels": ends[0]}
      layers.append({**excite, "hidden": hidden})
      continue
    step = stride if layer.strided else 1
    groups = ends[0] if isinstance(layer, Depthwise) else 1
    conv = _conv(path, ends, layer.size, step, layer.activation, groups)
    layers.append(conv)
  shortcut: Any = None if projects else "identity"
  if projects and block.projects:
    shortcut = _conv(f"{name}.project", widths, 1, stride, "none")
  return {
    "name": name,
    "layers": layers,
    "shortcut": shortcut,
    "activation": block.activation,
  }


def _conv(
  name: str,
  ends: Any,
  size: int,
  stride: int,
  activation: str,
  groups: int = 1,
) -> dict[str, Any]:
  inputs, outputs = ends
  return {
    "name": name,
    "kind": "conv",
    "size": size,
    "stride": stride,
    "inputs": inputs,
    "outputs": outputs,
    "groups": groups,
    "activation": activation,
  }


def to_tensors(params: Any, averages: Any) -> dict[str, np.ndarray]:
  """Returns all tensors of a network by their names, float32."""
  tensors = dict(_named(params))
  for name, moments in _named(averages):
    prefix = name.removesuffix("moments")
    tensors[f"{prefix}mean"], tensors[f"{prefix}variance"] = moments
  return {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}


def from_tensors(
  search_space: SearchSpace, tensors: dict[str, np.ndarray]
) -> tuple[Any, Any]:
  """Undoes `to_tensors`: parameters and running averages.

  Raises:
    ValueError: naming the tensor that is missing, left over, not of numbers, or
      not of the shape that the search space asks for.
  """
  left = dict(tensors)

  def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in left:
      raise ValueError(f"the tensor {name} is missing")
    tensor = left.pop(name)
    if tensor.shape != shape or tensor.dtype != np.float32:
      raise ValueError(
        f"{name}: expected float32 of shape {shape}, got {tensor.dtype} of "
        f"shape {tensor.shape}"
      )
    if not np.isfinite(tensor).all():
      raise ValueError(f"{name}: expected finite numbers")
    return tensor

  def gather(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if not name.endswith("moments"):
      return take(name, shape)
    prefix, end = name.removesuffix("moments"), shape[1:]
    mean, variance = (take(prefix + x, end) for x in ("mean", "variance"))
    if variance.min() < 0:
      raise ValueError(f"{prefix}variance: expected numbers of at least 0")
    return np.stack([mean, variance])

  def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if f".{_REST}." not in name:
      return jax.numpy.asarray(gather(name, leaf.shape))
    rows = [
      gather(_of_block(name, row), leaf.shape[1:])
      for row in range(leaf.shape[0])
    ]
    return jax.numpy.asarray(np.stack(rows))

  shapes = _shapes(search_space)
  params, averages = (
    jax.tree_util.tree_map_with_path(fill, tree) for tree in shapes
  )
  if left:
    raise ValueError(f"the network has no tensor {min(left)}")
  return params, averages


@functools.lru_cache(8)
def _shapes(search_space: SearchSpace) -> tuple[Any, Any]:
  """Returns the shapes of parameters and averages."""
  return jax.eval_shape(
    lambda: (
      network.init_weights(jax.random.key(0), search_space),
      network.init_averages(search_space),
    )
  )


def _named(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the leaves by name; of stacked blocks each its own."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    value = np.asarray(leaf, np.float32)
    if f".{_REST}." not in name:
      yield name, value
      continue
    for number, row in enumerate(value):
      yield _of_block(name, number), row


def _of_block(name: str, row: int) -> str:
  # Block 1 stands by itself, so row 0 is block 2.
  return name.replace(f".{_REST}.", f".block_{row + 2}.")
