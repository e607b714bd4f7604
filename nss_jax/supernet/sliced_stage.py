"""One stage of the supernet on slices, and its gradient.

See `sliced.py` for the loops and the buffers; the static shape of a stage is a
`Plan`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.spaces.blocks import find_block
from nss_jax.spaces.search_space import Array
from nss_jax.supernet import buffers, replay
from nss_jax.supernet.blocks import NormScope, ResidualBlock
from nss_jax.supernet.buffers import Layout, Tape

# The arguments of a stage, and the tape.
Saved = tuple[Any, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, Tape]
_Carry = TypeVar("_Carry")


class Plan(NamedTuple):
  """The static shape of one stage.

  Attributes:
    block: name of the block.
    stride: of the first block.
    project: whether the identity does not fit the first block.
    max_depth: D of this stage.
    scope: of the normalisations' statistics.
    buckets: widths of the stage.
    entries: widths in which the stage before hands over.
    exits: widths in which this stage hands over.
    inputs: `(B, H, W)` before the stage.
    outputs: `(B, H, W)` inside it.
    layout: of activations between and inside loops.
  """

  block: str
  stride: int
  project: bool
  max_depth: int
  scope: NormScope
  buckets: tuple[int, ...]
  entries: tuple[int, ...]
  exits: tuple[int, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]
  layout: Layout

  def first(self, features: int, *parts: Callable) -> ResidualBlock:
    """The first block, with so many channels."""
    block = find_block(self.block)
    return ResidualBlock(
      block, features, self.stride, self.project, self.scope, *parts
    )

  def rest(self, features: int, *parts: Callable) -> ResidualBlock:
    """Any further block."""
    block = find_block(self.block)
    return ResidualBlock(block, features, 1, False, self.scope, *parts)

  def exit(self, bucket: int) -> int:
    """In which width a bucket hands over."""
    return next(width for width in self.exits if width >= bucket)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_stage(
  plan: Plan,
  params: Any,
  flat: jax.Array,
  entry: jax.Array,
  before: jax.Array,
  depth: jax.Array,
  width: jax.Array,
) -> jax.Array:
  """The output of a stage, in a buffer, in the exit's width.

  Args:
    plan: static shapes.
    params: of the stage.
    flat: input, in a buffer for the largest entry, in the width of the entry.
    entry: index of that width.
    before: channels that are used of it, a scalar.
    depth: blocks, a scalar.
    width: channels, a scalar.
  """
  return _forward(plan, params, flat, entry, before, depth, width, None)[0]


def _stage_and_tape(
  plan: Plan,
  params: Any,
  flat: jax.Array,
  entry: jax.Array,
  before: jax.Array,
  depth: jax.Array,
  width: jax.Array,
) -> tuple[jax.Array, Saved]:
  params, flat = _first_order((params, flat))
  wide = jnp.result_type(*jax.tree.leaves(params))
  tape = _empty_tape(plan, flat.dtype, wide)
  out, tape = _forward(plan, params, flat, entry, before, depth, width, tape)
  assert tape is not None
  return out, (params, flat, entry, before, depth, width, tape)


def _forward(
  plan: Plan,
  params: Any,
  flat: jax.Array,
  entry: jax.Array,
  before: jax.Array,
  depth: jax.Array,
  width: jax.Array,
  tape: Tape | None,
) -> tuple[jax.Array, Tape | None]:
  index = width_index(plan.buckets, width)
  widest = *plan.outputs, plan.buckets[-1]
  out = buffers.empty(plan.layout, widest, flat.dtype)

  def first(entered, bucket, operands, carry):
    (params, flat), (out, tape) = operands, carry
    x = buffers.load(flat, (*plan.inputs, entered))
    corners, _ = replay.shapes(plan.first, bucket, x)
    params = replay.cut(params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = replay.run(plan.first, params, x, masks)
    return buffers.store(out, y), buffers.store_first(tape, kept)

  def rest(bucket, row, carry):
    out, tape = carry
    x = buffers.load(out, (*plan.outputs, bucket))
    corners, _ = replay.shapes(plan.rest, bucket, x)
    cut = replay.cut(params["blocks_rest"], corners, row)
    y, kept = replay.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return buffers.store(out, y), buffers.store_rest(tape, row, kept, x)

  carry = out, tape
  for e, b in _pairs(plan):
    body = functools.partial(first, plan.entries[e], plan.buckets[b])
    operands = params["block_1"], flat
    name = first_loop(plan.entries[e], plan.buckets[b])
    carry = _once(name, (entry == e) & (index == b), body, operands, carry)
  for b, bucket in enumerate(plan.buckets if plan.max_depth > 1 else ()):
    times = jnp.where(index == b, depth - 1, 0)
    body = functools.partial(rest, bucket)
    carry = _loop(rest_loop(bucket), times, body, carry)
  out, tape = carry
  return _change_width(plan, out, index, widen=True), tape


def _backward(
  plan: Plan, saved: Saved, upstream: jax.Array
) -> tuple[Any, jax.Array, None, None, None, None]:
  params, flat, entry, before, depth, width, tape = saved
  upstream = _first_order(upstream)
  index = width_index(plan.buckets, width)

  def rest(bucket, i, carry):
    upstream, gradients = carry
    row, shape = depth - 2 - i, (*plan.outputs, bucket)
    spec = jax.ShapeDtypeStruct(shape, flat.dtype)
    corners, kept = replay.shapes(plan.rest, bucket, spec)
    x, kept = buffers.load_rest(tape, row, kept, spec)
    found, down = replay.run_back(
      plan.rest,
      replay.cut(params["blocks_rest"], corners, row),
      x,
      (_mask(bucket, width),) * 2,
      kept,
      buffers.load(upstream, shape),
    )
    return buffers.store(upstream, down), replay.paste(gradients, found, row)

  def first(entered, bucket, operands, carry):
    (params, flat, tape, upstream), (down, gradients) = operands, carry
    x = buffers.load(flat, (*plan.inputs, entered))
    corners, kept = replay.shapes(plan.first, bucket, x)
    found, below = replay.run_back(
      plan.first,
      replay.cut(params, corners),
      x,
      (_mask(bucket, width), _mask(entered, before)),
      buffers.load_first(tape, kept),
      buffers.load(upstream, (*plan.outputs, bucket)),
    )
    return buffers.store(down, below), replay.paste(gradients, found)

  gradients = jax.tree.map(jnp.zeros_like, params)
  upstream = _change_width(plan, upstream, index, widen=False)
  for b, bucket in enumerate(plan.buckets if plan.max_depth > 1 else ()):
    times = jnp.where(index == b, depth - 1, 0)
    body = functools.partial(rest, bucket)
    carry = upstream, gradients["blocks_rest"]
    upstream, gradients["blocks_rest"] = _loop(
      rest_loop(bucket), times, body, carry
    )
  carry = lax.empty(flat.shape, flat.dtype), gradients["block_1"]
  for e, b in _pairs(plan):
    body = functools.partial(first, plan.entries[e], plan.buckets[b])
    operands = params["block_1"], flat, tape, upstream
    name = first_loop(plan.entries[e], plan.buckets[b])
    carry = _once(name, (entry == e) & (index == b), body, operands, carry)
  down, gradients["block_1"] = carry
  return gradients, down, None, None, None, None


run_stage.defvjp(_stage_and_tape, _backward)


@jax.custom_jvp
def _first_order(tree: Any) -> Any:
  """What a gradient is computed from; it has no derivative itself."""
  return tree


@_first_order.defjvp
def _refuse(primals: Any, tangents: Any) -> Any:
  raise NotImplementedError(
    "the sliced engine has first derivatives only, in reverse mode; for "
    "second ones use apply_masked, or make_apply with engine 'masked'"
  )


def _pairs(plan: Plan) -> list[tuple[int, int]]:
  return [
    (e, b) for e in range(len(plan.entries)) for b in range(len(plan.buckets))
  ]


def first_loop(entry: int, bucket: int) -> str:
  """What a program calls the loop of a first block, by its widths."""
  return f"first_{entry}_{bucket}"


def rest_loop(bucket: int) -> str:
  """What a program calls the loop of the further blocks."""
  return f"rest_{bucket}"


def exit_loop(bucket: int) -> str:
  """What a program calls the loop that changes the width at the end."""
  return f"exit_{bucket}"


def _once(
  name: str,
  condition: jax.Array,
  body: Callable[[Any, _Carry], _Carry],
  operands: Any,
  carry: _Carry,
) -> _Carry:
  """`body(operands, carry)` if the condition holds, in place: a named loop.

  The barrier ties the operands to the loop: XLA moves what is the same in all
  iterations out of a loop, and would run it for every bucket.
  """

  def iteration(i, carry):
    _, tied = lax.optimization_barrier((i, operands))
    return body(tied, carry)

  return _loop(name, jnp.asarray(condition, jnp.int32), iteration, carry)


def _loop(
  name: str, times: jax.Array, body: Callable[..., _Carry], carry: _Carry
) -> _Carry:
  """`carry = body(i, carry)` so many times."""
  with jax.named_scope(name):
    return lax.fori_loop(0, times, body, carry)


def _change_width(
  plan: Plan, flat: jax.Array, index: jax.Array, *, widen: bool
) -> jax.Array:
  """From the bucket's width to that of its exit, or back, in place."""

  def change(bucket, _, flat):
    wide = (*plan.outputs, plan.exit(bucket))
    if not widen:
      return buffers.store(flat, buffers.load(flat, wide)[..., :bucket])
    pad = ((0, 0),) * 3 + ((0, wide[-1] - bucket),)
    return buffers.store(
      flat, jnp.pad(buffers.load(flat, (*plan.outputs, bucket)), pad)
    )

  if plan.layout == "shaped" and not widen:
    return flat  # its front channels are there
  for b, bucket in enumerate(plan.buckets):
    if plan.exit(bucket) != bucket:
      body = functools.partial(change, bucket)
      flat = _once(exit_loop(bucket), index == b, body, (), flat)
  return flat


def width_index(widths: tuple[int, ...], width: Array) -> jax.Array:
  """Of the first of ascending widths that is not below a width."""
  return jnp.searchsorted(jnp.asarray(widths), width).astype(jnp.int32)


def _mask(bucket: int, width: jax.Array) -> jax.Array:
  return (jnp.arange(bucket) < width).astype(jnp.float32)


def _empty_tape(plan: Plan, dtype: DTypeLike, wide: DTypeLike) -> Tape:
  x = jax.ShapeDtypeStruct((*plan.inputs, plan.entries[-1]), dtype)
  y = jax.ShapeDtypeStruct((*plan.outputs, plan.buckets[-1]), dtype)
  _, first = replay.shapes(plan.first, plan.buckets[-1], x)
  _, rest = replay.shapes(plan.rest, plan.buckets[-1], y)
  return buffers.make_tape(plan.layout, plan.max_depth, first, rest, y, wide)
