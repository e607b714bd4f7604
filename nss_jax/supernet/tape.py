"""What a block on slices keeps for its gradient, and where: the tape.

Forward, the outputs of a block's convolutions and the statistics of its
normalisations are kept beside its result, in buffers that serve every width.
For the gradient the block is traced anew, with convolutions and normalisations
that answer from what was kept: only elementwise arithmetic is done twice.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.supernet.conv import Pair, conv2d
from nss_jax.supernet.norm import (
  NormScope,
  batch_norm_gradient,
  batch_statistics,
  normalise,
)
from nss_jax.supernet.platforms import Layout, load, ordered, store

# `(features, conv, norm) -> module`, called as `module(x, mask, before)`.
MakeBlock = Callable[..., nn.Module]
# Of the block's output and of its input.
Masks = tuple[jax.Array, jax.Array]


class Kept(NamedTuple):
  """What a block leaves for its gradient.

  Attributes:
    outputs: of its convolutions, in their order.
    statistics: those of its normalisations, `[2, C]` each.
  """

  outputs: list
  statistics: list


# Forward and backward ask for the same.
@functools.lru_cache(maxsize=256)
def shapes(
  make: MakeBlock, features: int, shape: tuple[int, ...], dtype: DTypeLike
) -> tuple[Any, Kept]:
  """Returns shapes of a block's parameters, and of what it keeps.

  The shape and the type are those of its input.
  """

  def trace(x, mask, before):
    kept = Kept([], [])
    block = make(features, *_recorders(kept))
    return block.init(jax.random.key(0), x, mask, before)["params"], kept

  mask, before = (
    jax.ShapeDtypeStruct((count,), jnp.float32)
    for count in (features, shape[-1])
  )
  return jax.eval_shape(trace, jax.ShapeDtypeStruct(shape, dtype), mask, before)


def run(
  make: MakeBlock, params: Any, x: jax.Array, masks: Masks
) -> tuple[jax.Array, Kept]:
  """Returns a block's output, and what it keeps."""
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
  """Returns gradients of parameters and input, from what `run` kept."""
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
  """Computes `conv2d`, whose output is known."""
  return output


def _known_conv_gradient(
  stride: int, saved: Pair, upstream: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  _, vjp = jax.vjp(functools.partial(conv2d, stride=stride), *saved)
  return *vjp(upstream), jnp.zeros_like(upstream)


_known_conv.defvjp(
  lambda images, kernel, output, stride: (output, (images, kernel)),
  _known_conv_gradient,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _known_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  statistics: jax.Array,
  scope: NormScope,
) -> jax.Array:
  """Computes `batch_norm`, whose statistics `[2, C]` are known."""
  return normalise(x, scale, offset, statistics)


_known_norm.defvjp(
  lambda x, scale, offset, statistics, scope: (
    normalise(x, scale, offset, statistics),
    (x, scale, statistics),
  ),
  # What depends on x through the statistics is in the gradient of x.
  lambda *given: (*batch_norm_gradient(*given), None),
)


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


def make_tape(
  layout: Layout,
  depth: int,
  first: Kept,
  rest: Kept,
  x: jax.ShapeDtypeStruct,
  wide: DTypeLike,
) -> Tape:
  """Makes room for the blocks of a stage, D of them, at their largest.

  `first` and `rest` are shapes of what the first block keeps and of what each
  further one does. The input of these, of the shape of `x`, is kept too; that
  of the first is at hand anyway. Statistics have the wide type.
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


def read_first(tape: Tape, kept: Kept) -> Kept:
  """Returns what the first block kept, of these shapes."""
  shapes = [one.shape for one in kept.outputs]
  if tape.first:
    outputs = [*map(load, tape.first, shapes)]
  else:
    outputs = _read(tape.rest[0], 0, shapes)
  return Kept(outputs, _statistics(tape, 0, kept))


def write_first(layout: Layout, tape: Tape | None, kept: Kept) -> Tape | None:
  """Puts on the tape, if there is one, what the first block kept."""
  if tape is None:  # no gradient is asked for
    return None
  tape = tape._replace(statistics=_write(tape.statistics, 0, kept.statistics))
  if not tape.first:
    return tape._replace(rest=(_write(tape.rest[0], 0, kept.outputs),))
  pairs = zip(tape.first, kept.outputs, strict=True)
  return tape._replace(first=tuple(store(layout, *pair) for pair in pairs))


def read_rest(
  tape: Tape, index: jax.Array, kept: Kept, shape: tuple[int, ...]
) -> tuple[jax.Array, Kept]:
  """Returns the input of the `index`-th further block and what it kept."""
  shapes = [shape, *(one.shape for one in kept.outputs)]
  if not tape.first:
    x, *outputs = _read(tape.rest[0], index + 1, shapes)
  else:
    x, *outputs = (
      lax.dynamic_slice(buffer, _corner(buffer, index), (1, *shape))[0]
      for buffer, shape in zip(tape.rest, shapes, strict=True)
    )
  return x, Kept(outputs, _statistics(tape, index + 1, kept))


def write_rest(
  layout: Layout,
  tape: Tape | None,
  index: jax.Array,
  kept: Kept,
  x: jax.Array,
) -> Tape | None:
  """Puts on the tape the input of a further block and what it kept."""
  if tape is None:
    return None
  tensors = x, *kept.outputs
  tape = tape._replace(
    statistics=_write(tape.statistics, index + 1, kept.statistics)
  )
  if not tape.first:
    return tape._replace(rest=(_write(tape.rest[0], index + 1, tensors),))
  rest = (
    lax.dynamic_update_slice(
      buffer, one[None].astype(buffer.dtype), _corner(buffer, index)
    )
    for buffer, one in zip(tape.rest, tensors, strict=True)
  )
  return tape._replace(rest=tuple(ordered(layout, one) for one in rest))


def _statistics(tape: Tape, row: Row, kept: Kept) -> list[jax.Array]:
  shapes = [one.shape for one in kept.statistics]
  # Behind a barrier, or XLA would slice again for every element.
  return lax.optimization_barrier(_read(tape.statistics, row, shapes))


def _read(
  buffer: jax.Array, row: Row, shapes: Sequence[tuple[int, ...]]
) -> list[jax.Array]:
  """Reads tensors that follow each other in a row."""
  row, start, tensors = jnp.asarray(row, jnp.int32), 0, []
  for shape in shapes:
    size = math.prod(shape)
    flat = lax.dynamic_slice(buffer, (row, jnp.int32(start)), (1, size))
    tensors.append(flat.reshape(shape))
    start += size
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


def cut(tree: Any, corners: Any, row: jax.Array | None = None) -> Any:
  """Cuts the front corner of every leaf, or of a row of stacked leaves."""
  return jax.tree.map(
    lambda x, c: lax.dynamic_slice(
      x, _corner(x, row), c.shape if row is None else (1, *c.shape)
    ).reshape(c.shape),
    tree,
    corners,
  )


def paste(tree: Any, corners: Any, row: jax.Array | None = None) -> Any:
  """Replaces the front corners of every leaf, or those of a row."""

  def replace(x, c):
    c = c.astype(x.dtype)
    c = c if row is None else c[None]
    return lax.dynamic_update_slice(x, c, _corner(x, row))

  return jax.tree.map(replace, tree, corners)


def _corner(x: jax.Array, row: Row | None) -> tuple[jax.Array, ...]:
  """Returns where the front corner of an array, or of a row of it, begins."""
  start = jnp.asarray(0 if row is None else row, jnp.int32)
  return start, *(jnp.zeros((), jnp.int32),) * (x.ndim - 1)
