"""Buffers whose front is used, whatever the width, and the tape of a stage.

Three layouts, each the faster one where `platforms.py` chooses it:

* `flat`, for CPUs: a buffer is `[N]`, what is stored is contiguous, nothing is
  padded channel by channel, and loops update the buffers in place.
* `nhwc`, for GPUs: a buffer is `[B, H, W, C]` and what is stored has its front
  channels. There a change between one axis and four moves every number: on a
  v5e a step of the widest stage took 753 M cycles flat, 306 M so (the
  compiler's estimates).
* `hwnc`, for TPUs: the same, and the axes lie in memory in that order, which
  most convolutions there want.

The tape has what blocks keep for their gradients: activations, and the
statistics of normalisations in their own precision.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout as JaxLayout
from jax.experimental.layout import with_layout_constraint
from jax.typing import DTypeLike

from nss_jax.supernet import replay
from nss_jax.supernet.platforms import Layout

Row = jax.Array | int


class Tape(NamedTuple):
  """What the blocks of a stage keep, a row for each.

  Attributes:
    first: of the first block: one buffer for each tensor; flat: none.
    rest: of the others, with their inputs, `[D - 1, ...]` each; flat: one
      buffer `[D, N]` for all tensors of all blocks.
    statistics: `[D, N]`, of all blocks.
  """

  first: tuple[jax.Array, ...]
  rest: tuple[jax.Array, ...]
  statistics: jax.Array


def empty(layout: Layout, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
  """A buffer for tensors of a shape, or of fewer channels, with anything in it.

  Zeros on CPU; elsewhere the compiler writes nothing.
  """
  shape = (math.prod(shape),) if layout == "flat" else tuple(shape)
  return lax.empty(shape, dtype)


def load(buffer: jax.Array, shape: Sequence[int]) -> jax.Array:
  """The tensor at the front."""
  if buffer.ndim == 1:
    return buffer[: math.prod(shape)].reshape(shape)
  return buffer[..., : shape[-1]]


def store(layout: Layout, buffer: jax.Array, x: jax.Array) -> jax.Array:
  """The buffer with a tensor at its front."""
  if buffer.ndim == 1:
    # Behind a barrier: what is fused with the update runs on one core.
    x = lax.optimization_barrier(x).reshape(-1)
  buffer = lax.dynamic_update_slice(buffer, x, (0,) * buffer.ndim)
  return _ordered(layout, buffer)


def _ordered(layout: Layout, buffer: jax.Array) -> jax.Array:
  """The buffer, with its axes in the order in memory that the layout has.

  Or else XLA copies whole buffers from one loop to the next: convolutions of
  few channels want another order of the axes than those of many.
  """
  if layout != "hwnc":
    return buffer
  height, width, images, channels = (buffer.ndim - k for k in (3, 2, 4, 1))
  order = *range(buffer.ndim - 4), height, width, images, channels
  return with_layout_constraint(buffer, JaxLayout(major_to_minor=order))


def make_tape(
  layout: Layout,
  depth: int,
  first: replay.Kept,
  rest: replay.Kept,
  x: jax.ShapeDtypeStruct,
  wide: DTypeLike,
) -> Tape:
  """For the blocks of a stage at their largest.

  Args:
    layout: of the activations.
    depth: D, how many blocks there are at most.
    first: shapes of what the first block keeps.
    rest: shapes of what any other one keeps.
    x: of the input of any other one, which is kept too; that of the first is
      at hand anyway.
    wide: the type of statistics.
  """

  def row(*tensors):
    return sum(math.prod(tensor.shape) for tensor in tensors)

  others = x, *rest.outputs
  longest = max(row(*first.statistics), row(*rest.statistics))
  statistics = lax.empty((depth, longest), wide)
  if layout == "flat":
    longest = max(row(*first.outputs), row(*others))
    return Tape((), (lax.empty((depth, longest), x.dtype),), statistics)
  return Tape(
    tuple(lax.empty(one.shape, x.dtype) for one in first.outputs),
    tuple(lax.empty((depth - 1, *one.shape), x.dtype) for one in others),
    statistics,
  )


def load_first(tape: Tape, kept: replay.Kept) -> replay.Kept:
  """What the first block kept, of these shapes."""
  if tape.first:
    outputs = [
      load(buffer, one.shape)
      for buffer, one in zip(tape.first, kept.outputs, strict=True)
    ]
  else:
    outputs = _read(tape.rest[0], 0, kept.outputs)
  return replay.Kept(outputs, _statistics(tape, 0, kept))


def store_first(
  layout: Layout, tape: Tape | None, kept: replay.Kept
) -> Tape | None:
  """The tape with what the first block kept."""
  if tape is None:  # no gradient is asked for
    return None
  tape = tape._replace(statistics=_write(tape.statistics, 0, kept.statistics))
  if not tape.first:
    return tape._replace(rest=(_write(tape.rest[0], 0, kept.outputs),))
  pairs = zip(tape.first, kept.outputs, strict=True)
  return tape._replace(first=tuple(store(layout, *pair) for pair in pairs))


def load_rest(
  tape: Tape, index: jax.Array, kept: replay.Kept, x: jax.ShapeDtypeStruct
) -> tuple[jax.Array, replay.Kept]:
  """The input of a further block, the `index`-th of them, and what it kept."""
  shapes = x, *kept.outputs
  if not tape.first:
    tensors = _read(tape.rest[0], index + 1, shapes)
  else:
    tensors = [
      lax.dynamic_slice(buffer, _at(index, buffer), (1, *one.shape))[0]
      for buffer, one in zip(tape.rest, shapes, strict=True)
    ]
  kept = replay.Kept(tensors[1:], _statistics(tape, index + 1, kept))
  return tensors[0], kept


def store_rest(
  layout: Layout,
  tape: Tape | None,
  index: jax.Array,
  kept: replay.Kept,
  x: jax.Array,
) -> Tape | None:
  """The tape with the input of a further block and what it kept."""
  if tape is None:
    return None
  tensors = x, *kept.outputs
  tape = tape._replace(
    statistics=_write(tape.statistics, index + 1, kept.statistics)
  )
  if not tape.first:
    return tape._replace(rest=(_write(tape.rest[0], index + 1, tensors),))
  return tape._replace(
    rest=tuple(
      _ordered(
        layout,
        lax.dynamic_update_slice(
          buffer, one[None].astype(buffer.dtype), _at(index, buffer)
        ),
      )
      for buffer, one in zip(tape.rest, tensors, strict=True)
    )
  )


def _statistics(tape: Tape, row: Row, kept: replay.Kept) -> list[jax.Array]:
  # Behind a barrier, or XLA would slice again for every element.
  return lax.optimization_barrier(_read(tape.statistics, row, kept.statistics))


def _read(
  buffer: jax.Array, row: Row, shapes: Iterable[Any]
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


def _at(index: jax.Array, buffer: jax.Array) -> tuple[jax.Array, ...]:
  zero = jnp.zeros((), jnp.int32)
  return jnp.asarray(index, jnp.int32), *(zero,) * (buffer.ndim - 1)
