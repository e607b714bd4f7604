"""One stage of the supernet on slices, and its gradient."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.supernet import sliced_loops as loops
from nss_jax.supernet import tape as tapes
from nss_jax.supernet.platforms import empty, load, store
from nss_jax.supernet.sliced_loops import Plan
from nss_jax.supernet.tape import Tape


class Given(NamedTuple):
  """What a stage is given.

  Attributes:
    params: of the stage.
    x: its input, in a buffer for the largest entry.
    entry: the place among the entries of the width that the input is in.
    before: how many channels of it are used.
    depth: blocks of the arch.
    width: channels of the arch.
  """

  params: Any
  x: jax.Array
  entry: jax.Array
  before: jax.Array
  depth: jax.Array
  width: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def run_stage(plan: Plan, given: Given) -> jax.Array:
  """Returns the output of a stage, in a buffer, in the exit's width."""
  return _forward(plan, given, None)[0]


def _stage_and_tape(
  plan: Plan, given: Given
) -> tuple[jax.Array, tuple[Given, Tape]]:
  params, x = _first_order((given.params, given.x))
  given = given._replace(params=params, x=x)
  wide = jnp.result_type(*jax.tree.leaves(params))
  out, tape = _forward(plan, given, _empty_tape(plan, x.dtype, wide))
  assert tape is not None
  return out, (given, tape)


def _forward(
  plan: Plan, given: Given, tape: Tape | None
) -> tuple[jax.Array, Tape | None]:
  params, flat, entry, before, depth, width = given
  index = loops.width_index(plan.buckets, width)
  widest = *plan.outputs, plan.buckets[-1]
  out = empty(plan.layout, widest, flat.dtype)

  def first(entered, bucket, operands, carry):
    (params, flat), (out, tape) = operands, carry
    x = load(flat, (*plan.inputs, entered))
    corners, _ = tapes.shapes(plan.first, bucket, x.shape, x.dtype)
    params = tapes.cut(params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = tapes.run(plan.first, params, x, masks)
    return store(plan.layout, out, y), tapes.write_first(
      plan.layout, tape, kept
    )

  def rest(bucket, row, carry):
    x, tape = carry
    corners, _ = tapes.shapes(plan.rest, bucket, x.shape, x.dtype)
    cut = tapes.cut(params["blocks_rest"], corners, row)
    y, kept = tapes.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return y, tapes.write_rest(plan.layout, tape, row, kept, x)

  carry = loops.run_first(
    plan, entry, index, first, (params["block_1"], flat), (out, tape)
  )
  return loops.run_rest(plan, index, depth, rest, carry, widen=True)


def _backward(
  plan: Plan, saved: tuple[Given, Tape], upstream: jax.Array
) -> tuple[Given]:
  (params, flat, entry, before, depth, width), tape = saved
  upstream = _first_order(upstream)
  index = loops.width_index(plan.buckets, width)

  def rest(bucket, i, carry):
    upstream, gradients = carry
    row = depth - 2 - i
    shape = *plan.outputs, bucket
    corners, kept = tapes.shapes(plan.rest, bucket, shape, flat.dtype)
    x, kept = tapes.read_rest(tape, row, kept, shape)
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
    corners, kept = tapes.shapes(plan.first, bucket, x.shape, x.dtype)
    found, below = tapes.run_back(
      plan.first,
      tapes.cut(params, corners),
      x,
      (_mask(bucket, width), _mask(entered, before)),
      tapes.read_first(tape, kept),
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
  # None: numbers of blocks and channels have no gradient.
  return (Given(gradients, down, *(cast(Any, None),) * 4),)


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
  bucket, shape = plan.buckets[-1], (*plan.outputs, plan.buckets[-1])
  entry = *plan.inputs, plan.entries[-1]
  _, first = tapes.shapes(plan.first, bucket, entry, dtype)
  _, rest = tapes.shapes(plan.rest, bucket, shape, dtype)
  x = jax.ShapeDtypeStruct(shape, dtype)
  return tapes.make_tape(plan.layout, plan.max_depth, first, rest, x, wide)
