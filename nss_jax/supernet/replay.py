"""A block on slices of its parameters, its gradient without convolving again.

Forward, the outputs of a block's convolutions and the statistics of its
normalisations are kept beside its result. For the gradient the block is traced
anew with convolutions and normalisations that answer from what was kept: only
elementwise arithmetic is done twice.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nss_jax.supernet.conv import Pair, conv2d
from nss_jax.supernet.norm import (
  NormScope,
  batch_norm_gradient,
  batch_statistics,
  normalise,
)

# `(features, conv, norm) -> module`, called as `module(x, mask, before)`.
MakeBlock = Callable[..., nn.Module]
# Of the block's output and of its input.
Masks = tuple[jax.Array, jax.Array]


class Kept(NamedTuple):
  """What a block leaves for its gradient.

  Attributes:
    outputs: of its convolutions, in their order.
    statistics: of its normalisations, `[2, C]` each.
  """

  outputs: list
  statistics: list


def shapes(
  make: MakeBlock, features: int, x: jax.Array | jax.ShapeDtypeStruct
) -> tuple[Any, Kept]:
  """Shapes of a block's parameters, and of what it keeps."""
  return _shapes(make, features, jax.ShapeDtypeStruct(x.shape, x.dtype))


# Forward and backward ask for the same.
@functools.lru_cache(maxsize=256)
def _shapes(
  make: MakeBlock, features: int, x: jax.ShapeDtypeStruct
) -> tuple[Any, Kept]:
  def trace(x, mask, before):
    kept = Kept([], [])
    block = make(features, *_recorders(kept))
    return block.init(jax.random.key(0), x, mask, before)["params"], kept

  mask, before = (
    jax.ShapeDtypeStruct((count,), jnp.float32)
    for count in (features, x.shape[-1])
  )
  return jax.eval_shape(trace, x, mask, before)


def run(
  make: MakeBlock, params: Any, x: jax.Array, masks: Masks
) -> tuple[jax.Array, Kept]:
  """A block's output, and what it keeps."""
  kept = Kept([], [])
  block = make(masks[0].shape[0], *_recorders(kept))
  return cast(jax.Array, block.apply({"params": params}, x, *masks)), kept


def run_back(
  make: MakeBlock,
  params: Any,
  x: jax.Array,
  masks: Masks,
  kept: Kept,
  upstream: jax.Array,
) -> tuple[Any, jax.Array]:
  """Gradients of parameters and input, from what `run` kept."""
  outputs, statistics = map(iter, kept)

  def conv(images, kernel, stride):
    return _known_conv(images, kernel, next(outputs), stride)

  def norm(x, scale, offset, scope):
    return _known_norm(x, scale, offset, next(statistics), scope)

  def block(params, x):
    made = make(masks[0].shape[0], conv, norm)
    return made.apply({"params": params}, x, *masks)

  _, vjp = jax.vjp(block, params, x)
  return vjp(upstream)


def _recorders(kept: Kept) -> tuple[Callable, Callable]:
  def conv(images, kernel, stride):
    kept.outputs.append(conv2d(images, kernel, stride))
    return kept.outputs[-1]

  def norm(x, scale, offset, scope):
    kept.statistics.append(batch_statistics(x, scale.dtype, scope))
    return normalise(x, scale, offset, kept.statistics[-1])

  return conv, norm


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _known_conv(
  images: jax.Array, kernel: jax.Array, output: jax.Array, stride: int
) -> jax.Array:
  """`conv2d` whose output is known."""
  return output


def _known_forward(
  images: jax.Array, kernel: jax.Array, output: jax.Array, stride: int
) -> tuple[jax.Array, Pair]:
  return output, (images, kernel)


def _known_backward(
  stride: int, saved: Pair, upstream: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  _, vjp = jax.vjp(lambda x, k: conv2d(x, k, stride), *saved)
  return *vjp(upstream), jnp.zeros_like(upstream)


_known_conv.defvjp(_known_forward, _known_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _known_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  statistics: jax.Array,
  scope: NormScope,
) -> jax.Array:
  """`batch_norm` whose statistics `[2, C]` are known."""
  return normalise(x, scale, offset, statistics)


def _known_norm_forward(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  statistics: jax.Array,
  scope: NormScope,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
  return normalise(x, scale, offset, statistics), (x, scale, statistics)


def _known_norm_backward(
  scope: NormScope,
  saved: tuple[jax.Array, jax.Array, jax.Array],
  upstream: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
  # What depends on x through the statistics is in the gradient of x.
  return *batch_norm_gradient(scope, saved, upstream), None


_known_norm.defvjp(_known_norm_forward, _known_norm_backward)


def cut(tree: Any, corners: Any, row: jax.Array | None = None) -> Any:
  """The front corner of every leaf, or of a row of stacked leaves."""
  return jax.tree.map(
    lambda x, c: lax.dynamic_slice(*_at(x, c.shape, row)).reshape(c.shape),
    tree,
    corners,
  )


def paste(tree: Any, corners: Any, row: jax.Array | None = None) -> Any:
  """The tree with its front corners, or those of a row, replaced."""

  def replace(x, c):
    _, start, shape = _at(x, c.shape, row)
    return lax.dynamic_update_slice(x, c.astype(x.dtype).reshape(shape), start)

  return jax.tree.map(replace, tree, corners)


def _at(
  x: jax.Array, shape: tuple[int, ...], row: jax.Array | None
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[int, ...]]:
  zero = jnp.zeros((), jnp.int32)
  if row is None:
    return x, (zero,) * x.ndim, shape
  return x, (row, *(zero,) * (x.ndim - 1)), (1, *shape)
