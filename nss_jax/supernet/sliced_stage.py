"""One stage of the supernet on slices, and its gradient.

See `sliced.py` for the loops and the buffers; the static shape of a stage is a
`Plan`.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from nss_jax.spaces.blocks import find_block
from nss_jax.spaces.search_space import Array
from nss_jax.supernet import buffers, replay
from nss_jax.supernet.blocks import ResidualBlock
from nss_jax.supernet.buffers import Tape
from nss_jax.supernet.norm import NormScope
from nss_jax.supernet.platforms import Layout

# The arguments of a stage, and the tape.
Saved = tuple[Any, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, Tape]
_Carry = TypeVar("_Carry")
# What loops do, `carry = body(i, carry)`, by their names, for each width.
Bodies = Mapping[str, Callable[[Any, Any], Any] | None]


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
    switched: see `platforms.Ways`.
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
  switched: bool

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
    params = _cut(plan, params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = replay.run(plan.first, params, x, masks)
    return buffers.store(out, y), buffers.store_first(tape, kept)

  def rest(bucket, row, carry):
    out, tape = carry
    x = buffers.load(out, (*plan.outputs, bucket))
    corners, _ = replay.shapes(plan.rest, bucket, x)
    cut = _cut(plan, params["blocks_rest"], corners, row)
    y, kept = replay.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return buffers.store(out, y), buffers.store_rest(tape, row, kept, x)

  carry = _first(
    plan, entry, index, first, (params["block_1"], flat), (out, tape)
  )
  return _rest(plan, index, depth, rest, carry, _widen)


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
      _cut(plan, params["blocks_rest"], corners, row),
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
      _cut(plan, params, corners),
      x,
      (_mask(bucket, width), _mask(entered, before)),
      buffers.load_first(tape, kept),
      buffers.load(upstream, (*plan.outputs, bucket)),
    )
    return buffers.store(down, below), replay.paste(gradients, found)

  gradients = jax.tree.map(jnp.zeros_like, params)
  if plan.layout == "flat":  # else its front channels are there
    upstream = _one_of(plan, index, [(1, _exits(plan, _narrow))], upstream)
  if plan.max_depth > 1:
    carry = upstream, gradients["blocks_rest"]
    carry = _rest(plan, index, depth, rest, carry)
    upstream, gradients["blocks_rest"] = carry
  operands = params["block_1"], flat, tape, upstream
  carry = lax.empty(flat.shape, flat.dtype), gradients["block_1"]
  carry = _first(plan, entry, index, first, operands, carry)
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


def first_loop(entry: int, bucket: int) -> str:
  """What a program calls the loop of a first block, by its widths."""
  return f"first_{entry}_{bucket}"


def rest_loop(bucket: int) -> str:
  """What a program calls the loop of the further blocks."""
  return f"rest_{bucket}"


def exit_loop(bucket: int) -> str:
  """What a program calls the loop that changes the width at the end."""
  return f"exit_{bucket}"


def _first(
  plan: Plan,
  entry: jax.Array,
  index: jax.Array,
  body: Callable[[int, int, Any, _Carry], _Carry],
  operands: Any,
  carry: _Carry,
) -> _Carry:
  """`body(entry, bucket, operands, carry)` of the widths that are drawn.

  The barrier ties the operands to the loop: XLA moves what is the same in all
  iterations out of a loop, and would run it for every bucket.
  """

  def iteration(entered, bucket, i, carry):
    _, tied = lax.optimization_barrier((i, operands))
    return body(entered, bucket, tied, carry)

  bodies = {
    first_loop(*pair): functools.partial(iteration, *pair)
    for pair in itertools.product(plan.entries, plan.buckets)
  }
  drawn = entry * len(plan.buckets) + index
  return _one_of(plan, drawn, [(1, bodies)], carry)


def _rest(
  plan: Plan,
  index: jax.Array,
  depth: jax.Array,
  body: Callable[[int, jax.Array, _Carry], _Carry],
  carry: _Carry,
  leave: Callable[[Plan, int, Any, _Carry], _Carry] | None = None,
) -> _Carry:
  """`body(bucket, i, carry)` for each further block, and then `leave`."""
  groups: list[tuple[jax.Array | int, Bodies]] = []
  if plan.max_depth > 1:
    bodies = {rest_loop(b): functools.partial(body, b) for b in plan.buckets}
    groups.append((depth - 1, bodies))
  if leave is not None:
    groups.append((1, _exits(plan, leave)))
  return _one_of(plan, index, groups, carry)


def _exits(plan: Plan, change: Callable) -> Bodies:
  """For buckets that do not hand over as they are."""
  return {
    exit_loop(bucket): functools.partial(change, plan, bucket)
    if plan.exit(bucket) != bucket
    else None
    for bucket in plan.buckets
  }


def _cut(
  plan: Plan, params: Any, corners: Any, row: jax.Array | None = None
) -> Any:
  """The weights that are used, of all.

  Where activations are narrower than weights XLA would convert all kernels of
  a stage before the loop, and slice then.
  """
  params = replay.cut(params, corners, row)
  return lax.optimization_barrier(params) if plan.layout == "shaped" else params


def _widen(plan: Plan, bucket: int, _: Any, carry: Any) -> Any:
  """From the bucket's width to that of its exit, in place."""
  out, tape = carry
  x = buffers.load(out, (*plan.outputs, bucket))
  pad = ((0, 0),) * 3 + ((0, plan.exit(bucket) - bucket),)
  return buffers.store(out, jnp.pad(x, pad)), tape


def _narrow(plan: Plan, bucket: int, _: Any, out: jax.Array) -> jax.Array:
  x = buffers.load(out, (*plan.outputs, plan.exit(bucket)))
  return buffers.store(out, x[..., :bucket])


def _one_of(
  plan: Plan,
  index: jax.Array,
  groups: Iterable[tuple[jax.Array | int, Bodies]],
  carry: _Carry,
) -> _Carry:
  """Of each group so many times `carry = body(i, carry)`, in place.

  The body is the `index`-th of the group; one that is None changes nothing.
  """
  if not plan.switched:
    for times, bodies in groups:
      for place, (name, body) in enumerate(bodies.items()):
        if body is not None:
          here = jnp.where(index == place, times, 0)
          carry = _loop(name, here, body, carry)
    return carry

  def branch(loops, carry):
    for times, (name, body) in loops:
      if body is not None:
        carry = _loop(name, times, body, carry)
    return carry

  columns = [
    [(times, one) for one in bodies.items()] for times, bodies in groups
  ]
  rows = zip(*columns, strict=True)
  branches = [functools.partial(branch, loops) for loops in rows]
  return lax.switch(index, branches, carry)


def _loop(
  name: str, times: jax.Array | int, body: Callable[..., _Carry], carry: _Carry
) -> _Carry:
  """`carry = body(i, carry)` so many times."""
  with jax.named_scope(name):
    return lax.fori_loop(0, times, body, carry)


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
