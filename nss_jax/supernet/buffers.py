"""Flat buffers whose front is used: `[N]` activations, `[D, N]` the tape.

What a bucket stores is contiguous, whatever its width, so nothing is padded
channel by channel, and loops update the buffers in place. The tape is a pair:
activations, and the statistics of normalisations in their own precision.
"""

import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from nss_jax.supernet import replay

Tape = tuple[jax.Array, jax.Array]
Row = jax.Array | int


def load(flat: jax.Array, shape: Sequence[int]) -> jax.Array:
  """The tensor at the front."""
  return flat[: size(shape)].reshape(shape)


def store(flat: jax.Array, x: jax.Array) -> jax.Array:
  """The buffer with a tensor at its front."""
  # Behind a barrier: what is fused with the update runs on one core.
  x = lax.optimization_barrier(x)
  return lax.dynamic_update_slice(flat, x.reshape(-1), (0,))


def load_row(
  tape: Tape, row: Row, kept: replay.Kept, *x: jax.ShapeDtypeStruct
) -> tuple[list[jax.Array], replay.Kept]:
  """The block's input, if `x` is its shape, and what the block kept."""
  activations, statistics = tape
  tensors = _read(activations, row, (*x, *kept.outputs))
  # Behind a barrier, or XLA would slice again for every element.
  statistics = _read(statistics, row, kept.statistics)
  statistics = lax.optimization_barrier(statistics)
  return tensors[: len(x)], replay.Kept(tensors[len(x) :], statistics)


def store_row(
  tape: Tape | None, row: Row, kept: replay.Kept, *x: jax.Array
) -> Tape | None:
  """The tape with what a block kept, and its input if it is given."""
  if tape is None:  # no gradient is asked for
    return None
  activations, statistics = tape
  return (
    _write(activations, row, (*x, *kept.outputs)),
    _write(statistics, row, kept.statistics),
  )


def _read(
  buffer: jax.Array, row: Row, shapes: Iterable[jax.ShapeDtypeStruct]
) -> list[jax.Array]:
  """Tensors that follow each other in a row."""
  row, start, tensors = jnp.asarray(row, jnp.int32), 0, []
  for shape in shapes:
    at = row, jnp.int32(start)
    flat = lax.dynamic_slice(buffer, at, (1, shape.size))
    tensors.append(flat.reshape(shape.shape))
    start += shape.size
  return tensors


def _write(
  buffer: jax.Array, row: Row, tensors: Iterable[jax.Array]
) -> jax.Array:
  row, start = jnp.asarray(row, jnp.int32), 0
  for x in tensors:
    at = row, jnp.int32(start)
    x = x.astype(buffer.dtype)
    buffer = lax.dynamic_update_slice(buffer, x.reshape(1, -1), at)
    start += x.size
  return buffer


def size(shape: Sequence[int]) -> int:
  """How many numbers a tensor has."""
  return math.prod(shape)
