"""A block on slices of its parameters, its gradient without convolving again.

Forward, the outputs of a block's convolutions are kept beside its result. For
the gradient the block is traced anew with convolutions that answer with what
was kept: only normalisation and activation are computed twice.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nss_jax.supernet.conv import conv2d

# `(features, conv) -> module`, called as `module(x, mask)`.
MakeBlock = Callable[..., nn.Module]


def shapes(make: MakeBlock, features: int, x: jax.ShapeDtypeStruct):
  """Shapes of a block's parameters, and of its convolutions' outputs."""

  def trace(x, mask):
    kept = []
    block = make(features, conv=_recorder(kept))
    return block.init(jax.random.key(0), x, mask)["params"], kept

  mask = jax.ShapeDtypeStruct((features,), jnp.float32)
  return jax.eval_shape(trace, x, mask)


def run(make: MakeBlock, params, x: jax.Array, mask: jax.Array):
  """A block's output, and the list of its convolutions' outputs."""
  kept = []
  block = make(mask.shape[0], conv=_recorder(kept))
  return block.apply({"params": params}, x, mask), kept


def run_back(make: MakeBlock, params, x, mask, kept, upstream):
  """Gradients of parameters and input, from what `run` kept."""
  kept = iter(kept)

  def conv(images, kernel, stride):
    return _known_conv(images, kernel, next(kept), stride)

  def block(params, x):
    return make(mask.shape[0], conv=conv).apply({"params": params}, x, mask)

  _, vjp = jax.vjp(block, params, x)
  return vjp(upstream)


def _recorder(kept):
  def conv(images, kernel, stride):
    kept.append(conv2d(images, kernel, stride))
    return kept[-1]

  return conv


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _known_conv(images, kernel, output, stride):
  """`conv2d` whose output is known."""
  return output


def _known_forward(images, kernel, output, stride):
  return output, (images, kernel)


def _known_backward(stride, saved, upstream):
  _, vjp = jax.vjp(lambda x, k: conv2d(x, k, stride), *saved)
  return *vjp(upstream), jnp.zeros_like(upstream)


_known_conv.defvjp(_known_forward, _known_backward)


def cut(tree, corners, row=None):
  """The front corner of every leaf, or of a row of stacked leaves."""
  return jax.tree.map(
    lambda x, c: lax.dynamic_slice(*_at(x, c.shape, row)).reshape(c.shape),
    tree,
    corners,
  )


def paste(tree, corners, row=None):
  """The tree with its front corners, or those of a row, replaced."""

  def replace(x, c):
    _, start, shape = _at(x, c.shape, row)
    return lax.dynamic_update_slice(x, c.astype(x.dtype).reshape(shape), start)

  return jax.tree.map(replace, tree, corners)


def _at(x, shape, row):
  zero = jnp.zeros((), jnp.int32)
  if row is None:
    return x, (zero,) * x.ndim, shape
  return x, (row, *(zero,) * (x.ndim - 1)), (1, *shape)
