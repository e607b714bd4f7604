"""One stage of the supernet on slices, and its gradient.

See `sliced.py` and `sliced_loops.py` for the loops and the buffers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.supernet import buffers, replay
from nss_jax.supernet import sliced_loops as loops
from nss_jax.supernet.buffers import Tape
from nss_jax.supernet.sliced_loops import Plan

# The arguments of a stage, and the tape.
Saved = tuple[Any, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, Tape]


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
  index = loops.width_index(plan.buckets, width)
  widest = *plan.outputs, plan.buckets[-1]
  out = buffers.empty(plan.layout, widest, flat.dtype)

  def first(entered, bucket, operands, carry):
    (params, flat), (out, tape) = operands, carry
    x = buffers.load(flat, (*plan.inputs, entered))
    corners, _ = replay.shapes(plan.first, bucket, x)
    params = replay.cut(params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = replay.run(plan.first, params, x, masks)
    return buffers.store(plan.layout, out, y), buffers.store_first(
      plan.layout, tape, kept
    )

  def rest(bucket, row, carry):
    x, tape = carry
    corners, _ = replay.shapes(plan.rest, bucket, x)
    cut = replay.cut(params["blocks_rest"], corners, row)
    y, kept = replay.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return y, buffers.store_rest(plan.layout, tape, row, kept, x)

  carry = loops.run_first(
    plan, entry, index, first, (params["block_1"], flat), (out, tape)
  )
  return loops.run_rest(plan, index, depth, rest, carry, widen=True)


def _backward(
  plan: Plan, saved: Saved, upstream: jax.Array
) -> tuple[Any, jax.Array, None, None, None, None]:
  params, flat, entry, before, depth, width, tape = saved
  upstream = _first_order(upstream)
  index = loops.width_index(plan.buckets, width)

  def rest(bucket, i, carry):
    upstream, gradients = carry
    row = depth - 2 - i
    spec = jax.ShapeDtypeStruct((*plan.outputs, bucket), flat.dtype)
    corners, kept = replay.shapes(plan.rest, bucket, spec)
    x, kept = buffers.load_rest(tape, row, kept, spec)
    found, down = replay.run_back(
      plan.rest,
      replay.cut(params["blocks_rest"], corners, row),
      x,
      (_mask(bucket, width),) * 2,
      kept,
      upstream,
    )
    return down, replay.paste(gradients, found, row)

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
    return buffers.store(plan.layout, down, below), replay.paste(
      gradients, found
    )

  gradients = jax.tree.map(jnp.zeros_like, params)
  upstream = loops.narrow(plan, index, upstream)
  if plan.max_depth > 1:
    carry = upstream, gradients["blocks_rest"]
    carry = loops.run_rest(plan, index, depth, rest, carry, widen=False)
    upstream, gradients["blocks_rest"] = carry
  operands = params["block_1"], flat, tape, upstream
  carry = lax.empty(flat.shape, flat.dtype), gradients["block_1"]
  carry = loops.run_first(plan, entry, index, first, operands, carry)
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


def _mask(bucket: int, width: jax.Array) -> jax.Array:
  return (jnp.arange(bucket) < width).astype(jnp.float32)


def _empty_tape(plan: Plan, dtype: DTypeLike, wide: DTypeLike) -> Tape:
  x = jax.ShapeDtypeStruct((*plan.inputs, plan.entries[-1]), dtype)
  y = jax.ShapeDtypeStruct((*plan.outputs, plan.buckets[-1]), dtype)
  _, first = replay.shapes(plan.first, plan.buckets[-1], x)
  _, rest = replay.shapes(plan.rest, plan.buckets[-1], y)
  return buffers.make_tape(plan.layout, plan.max_depth, first, rest, y, wide)
