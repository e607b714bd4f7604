"""Sums in float32 over activations that are stored in bfloat16.

bfloat16 has eight bits: a sum of ones stops at 256, and one of millions of
products, such as the gradient of a mask, is off by half. So all sums over
images and pixels are in float32. What is kept for the gradient stays as it was
stored: whatever reads it converts it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def wide_type(dtype: DTypeLike) -> jnp.dtype:
  """Returns the type to sum in: float32, or float64 for what is that."""
  return jnp.promote_types(dtype, jnp.float32)


def widen(x: jax.Array) -> jax.Array:
  """Converts an array to the type to sum in."""
  return x.astype(wide_type(x.dtype))


def multiply(x: jax.Array, factors: jax.Array) -> jax.Array:
  """Multiplies `x` by factors of its rank, or a scalar, in the type of `x`.

  The product is rounded once, and the gradient of the factors is summed in the
  type to sum in. Differentiable as often as any product, in forward mode too.
  """
  if x.dtype == wide_type(x.dtype):
    return x * factors.astype(x.dtype)
  # Computed again for the gradient, or x would be kept in float32 as well.
  return _multiply(x, widen(factors))


@functools.partial(jax.checkpoint, prevent_cse=False)
def _multiply(x: jax.Array, factors: jax.Array) -> jax.Array:
  return (widen(x) * factors).astype(x.dtype)
