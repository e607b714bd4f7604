"""The loops of a stage: which of its buckets computes, and how often.

One traced program serves every arch; the static shape of a stage is a `Plan`.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from nss_jax.spaces.blocks import find_block
from nss_jax.spaces.search_space import Array
from nss_jax.supernet.norm import NormScope
from nss_jax.supernet.platforms import Layout, load, store
from nss_jax.supernet.residual import ResidualBlock

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
    """Makes the first block, with so many channels."""
    fixed = features, self.stride, self.project, self.scope
    return ResidualBlock(find_block(self.block), *fixed, *parts)

  def rest(self, features: int, *parts: Callable) -> ResidualBlock:
    """Makes any further block."""
    fixed = features, 1, False, self.scope
    return ResidualBlock(find_block(self.block), *fixed, *parts)

  def exit(self, bucket: int) -> int:
    """Returns the width in which a bucket hands over."""
    return next(width for width in self.exits if width >= bucket)


def first_loop(entry: int, bucket: int) -> str:
  """Names the loop of a first block, by its widths."""
  return f"first_{entry}_{bucket}"


def rest_loop(bucket: int) -> str:
  """Names the loop of the further blocks."""
  return f"rest_{bucket}"


def exit_loop(bucket: int) -> str:
  """Names the loop that changes the width at the end."""
  return f"exit_{bucket}"


def run_first(
  plan: Plan,
  entry: jax.Array,
  index: jax.Array,
  body: Callable[[int, int, Any, _Carry], _Carry],
  operands: Any,
  carry: _Carry,
) -> _Carry:
  """Runs `body(entry, bucket, operands, carry)` of the widths that are drawn.

  A barrier ties the operands to the loop: XLA moves what is the same in all
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
  return _one_of(plan, drawn, 1, bodies, carry)


def run_rest(
  plan: Plan,
  index: jax.Array,
  depth: jax.Array,
  body: Callable[[int, jax.Array, Any], Any],
  carry: Any,
  *,
  widen: bool,
) -> Any:
  """Runs `body(bucket, i, (x, state))` for each further block.

  The carry is a buffer, with `x` at its front, and the state. In a flat buffer
  each block works in place. From another `x` is taken once, and put back at the
  end: else XLA would copy the whole buffer for every block, and once more where
  the loops of two buckets want another order of its axes.
  """
  if plan.layout == "flat":

    def inside(bucket, i, carry):
      buffer, state = carry
      x = load(buffer, (*plan.outputs, bucket))
      x, state = body(bucket, i, (x, state))
      return store(plan.layout, buffer, x), state

    if plan.max_depth > 1:
      bodies = {
        rest_loop(b): functools.partial(inside, b) for b in plan.buckets
      }
      carry = _one_of(plan, index, depth - 1, bodies, carry)
    exits = _exits(plan, _widen) if widen else {}
    return _one_of(plan, index, 1, exits, carry)

  def outside(bucket, _, carry):
    buffer, state = carry
    carry = load(buffer, (*plan.outputs, bucket)), state
    if plan.max_depth > 1:
      loop = functools.partial(body, bucket)
      carry = _loop(rest_loop(bucket), depth - 1, loop, carry)
    x, state = carry
    x = _pad(x, plan.exit(bucket)) if widen else x
    return store(plan.layout, buffer, x), state

  bodies = {exit_loop(b): functools.partial(outside, b) for b in plan.buckets}
  return _one_of(plan, index, 1, bodies, carry)


def _exits(plan: Plan, change: Callable) -> dict[str, Callable | None]:
  """Makes the bodies of buckets that do not hand over as they are."""
  return {
    exit_loop(bucket): functools.partial(change, plan, bucket)
    if plan.exit(bucket) != bucket
    else None
    for bucket in plan.buckets
  }


def _widen(plan: Plan, bucket: int, _: Any, carry: Any) -> Any:
  """Changes the bucket's width to that of its exit, in place."""
  out, tape = carry
  x = load(out, (*plan.outputs, bucket))
  return store(plan.layout, out, _pad(x, plan.exit(bucket))), tape


def narrow(plan: Plan, index: jax.Array, flat: jax.Array) -> jax.Array:
  """Changes the exit's width to that of the bucket, in place."""

  def change(plan, bucket, _, flat):
    x = load(flat, (*plan.outputs, plan.exit(bucket)))
    return store(plan.layout, flat, x[..., :bucket])

  if plan.layout != "flat":
    return flat  # its front channels are there
  return _one_of(plan, index, 1, _exits(plan, change), flat)


def _pad(x: jax.Array, width: int) -> jax.Array:
  return jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),))


def _one_of(
  plan: Plan,
  index: jax.Array,
  times: jax.Array | int,
  bodies: Mapping[str, Callable[[Any, _Carry], _Carry] | None],
  carry: _Carry,
) -> _Carry:
  """Repeats `carry = body(i, carry)` so many times, of the `index`-th body.

  A body that is None changes nothing.
  """
  if plan.switched:
    branches = [
      (lambda carry: carry)
      if body is None
      else functools.partial(_loop, name, times, body)
      for name, body in bodies.items()
    ]
    return lax.switch(index, branches, carry)
  for place, (name, body) in enumerate(bodies.items()):
    if body is not None:
      carry = _loop(name, jnp.where(index == place, times, 0), body, carry)
  return carry


def _loop(
  name: str, times: jax.Array | int, body: Callable[..., _Carry], carry: _Carry
) -> _Carry:
  """Repeats `carry = body(i, carry)` so many times."""
  with jax.named_scope(name):
    return lax.fori_loop(0, times, body, carry)


def width_index(widths: tuple[int, ...], width: Array) -> jax.Array:
  """Returns the place of the first ascending width not below a width."""
  return jnp.searchsorted(jnp.asarray(widths), width).astype(jnp.int32)
