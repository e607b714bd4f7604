"""A network layer by layer, for writers of other formats.

The one place that says in which order the layers of `layers.describe` are
computed; a format says how each kind of operation is written.
"""

from typing import Any, Protocol, TypeVar

import numpy as np

T = TypeVar("T")


class Operations(Protocol[T]):
  """What a format has to have; T is a value, such as the name of a tensor."""

  def normal(self, images: T, mean: np.ndarray, std: np.ndarray) -> T:
    """Returns `(images / 255 - mean) / std` of `[B, H, W, channels]` uint8."""
    ...

  def conv(
    self, x: T, layer: dict[str, Any], kernel: np.ndarray, bias: np.ndarray
  ) -> T:
    """Returns a convolution by `[k, k, in / groups, out]`, not activated."""
    ...

  def activate(self, x: T, name: str) -> T:
    """Returns relu, relu6, silu or sigmoid of each number."""
    ...

  def add(self, x: T, y: T) -> T:
    """Returns the sum of two of one shape."""
    ...

  def scale(self, x: T, factors: T) -> T:
    """Returns images, each channel by its factor of `[B, 1, 1, C]`."""
    ...

  def pool(self, x: T) -> T:
    """Returns the means over all pixels, `[B, 1, 1, C]`."""
    ...

  def linear(self, x: T, kernel: np.ndarray, bias: np.ndarray) -> T:
    """Returns `[B, 1, 1, out]` of `[B, 1, 1, in]` by a kernel `[in, out]`."""
    ...


def walk(
  described: dict[str, Any],
  form: dict[str, Any],
  tensors: dict[str, np.ndarray],
  operations: Operations[T],
  images: T,
) -> T:
  """Computes a network in the operations of a format.

  Args:
    described: the layers, see `layers.describe`.
    form: `preprocessing` of `network.json`.
    tensors: by their names.
    operations: of the format.
    images: `[B, H, W, channels]` uint8.

  Returns:
    Logits `[B, 1, 1, classes]`.
  """
  op, epsilon = operations, described["epsilon"]

  def conv(layer, x):
    folded = fold(tensors, layer["name"], epsilon)
    return _activated(op, op.conv(x, layer, *folded), layer["activation"])

  def linear(name, x):
    return op.linear(x, tensors[f"{name}.kernel"], tensors[f"{name}.bias"])

  def squeeze_excite(layer, x):
    hidden = linear(f"{layer['name']}.squeeze", op.pool(x))
    factors = linear(f"{layer['name']}.excite", op.activate(hidden, "relu"))
    return op.scale(x, op.activate(factors, "sigmoid"))

  mean, std = (np.array(form[name], np.float32) for name in ("mean", "std"))
  x = conv(described["stem"], op.normal(images, mean, std))
  for block in described["blocks"]:
    y = x
    for layer in block["layers"]:
      y = (conv if layer["kind"] == "conv" else squeeze_excite)(layer, y)
    shortcut = block["shortcut"]
    if shortcut is not None:
      y = op.add(x if shortcut == "identity" else conv(shortcut, x), y)
    x = _activated(op, y, block["activation"])
  return linear(described["head"]["name"], op.pool(x))


def _activated(operations: Operations[T], x: T, name: str) -> T:
  return x if name == "none" else operations.activate(x, name)


def fold(
  tensors: dict[str, np.ndarray], name: str, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns kernel and bias of a convolution with its normalisation in them.

  In float64, so that each number is rounded once.
  """
  kernel, scale, offset, mean, variance = (
    tensors[f"{name}.{part}"].astype(np.float64)
    for part in ("kernel", "scale", "offset", "mean", "variance")
  )
  factor = scale / np.sqrt(variance + epsilon)
  bias = offset - mean * factor
  return (kernel * factor).astype(np.float32), bias.astype(np.float32)
