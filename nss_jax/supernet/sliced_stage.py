"""One stage of the supernet on slices, and its gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.supernet import sliced_loops as loops
from nss_jax.supernet import tape as tapes
from nss_jax.supernet.platforms import empty, load, store
from nss_jax.supernet.sliced_loops import Plan
from nss_jax.supernet.tape import Tape

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
  """Returns the output of a stage, in a buffer, in the exit's width.

  The input, `flat`, is in a buffer for the largest entry, in the width of index
  `entry`, of which `before` channels are used.
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
  out = empty(plan.layout, widest, flat.dtype)

  def first(entered, bucket, operands, carry):
    (params, flat), (out, tape) = operands, carry
    x = load(flat, (*plan.inputs, entered))
    corners, _ = tapes.shapes(plan.first, bucket, x)
    params = tapes.cut(params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = tapes.run(plan.first, params, x, masks)
    return store(plan.layout, out, y), tapes.store_first(
      plan.layout, tape, kept
    )

  def rest(bucket, row, carry):
    x, tape = carry
    corners, _ = tapes.shapes(plan.rest, bucket, x)
    cut = tapes.cut(params["blocks_rest"], corners, row)
    y, kept = tapes.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return y, tapes.store_rest(plan.layout, tape, row, kept, x)

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
    corners, kept = tapes.shapes(plan.rest, bucket, spec)
    x, kept = tapes.load_rest(tape, row, kept, spec)
    found, down = tapes.run_back(
      plan.rest,
      tapes.cut(params["blocks_rest"], corners, row),
      x,
      (_mask(bucket, width),) * 2,
      kept,
      upstream,
    )
    return down, tapes.paste(gradients, found, row)

  def first(entered, bucket, operands, carry):
    (params, flat, tape, upstream), (down, gradients) = operands, carry
    x = load(flat, (*plan.inputs, entered))
    corners, kept = tapes.shapes(plan.first, bucket, x)
    found, below = tapes.run_back(
      plan.first,
      tapes.cut(params, corners),
      x,
      (_mask(bucket, width), _mask(entered, before)),
      tapes.load_first(tape, kept),
      load(upstream, (*plan.outputs, bucket)),
    )
    return store(plan.layout, down, below), tapes.paste(gradients, found)

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
  """Returns what a gradient is computed from; it has no derivative itself."""
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
  _, first = tapes.shapes(plan.first, plan.buckets[-1], x)
  _, rest = tapes.shapes(plan.rest, plan.buckets[-1], y)
  return tapes.make_tape(plan.layout, plan.max_depth, first, rest, y, wide)
