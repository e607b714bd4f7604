"""A loop over blocks that puts what their gradients need where it finds room.

`lax.scan` fills with zeros what it stacks, before it writes every number of it.
On a v5e that is an eighth of a step by soft masks, by the compiler's estimates.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

_Carry = TypeVar("_Carry")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_in_place(
  body: Callable[[Any, _Carry, Any], _Carry],
  shared: Any,
  carry: _Carry,
  xs: Any,
) -> _Carry:
  """Returns the carry after `carry = body(shared, carry, x)` for all of `xs`.

  The numbers are those of `lax.scan` without outputs. But nothing is filled,
  and neither what is `shared` nor `xs` is stacked again. It can be
  differentiated again and again, in reverse mode.

  Args:
    body: a pure function, which closes over no arrays.
    shared: of all iterations, a pytree of floating type.
    carry: a pytree of floating type.
    xs: one row for each iteration, a pytree `[N, ...]` of floating type.
  """

  def step(carry, x):
    return body(shared, carry, x), None

  return lax.scan(step, carry, xs)[0]


def _split(back: Any, at_hand: list[jax.Array]) -> tuple[list, Callable]:
  """Takes the gradient of an iteration apart, so that less is kept of it.

  Returns the arrays that it needs and that are not at hand anyway, and the
  function that makes the gradient of these and of those at hand.
  """
  leaves, tree = jax.tree.flatten(back)
  places = [
    next((i for i, one in enumerate(at_hand) if leaf is one), None)
    for leaf in leaves
  ]
  kept = [
    leaf for leaf, place in zip(leaves, places, strict=True) if place is None
  ]

  def join(kept, at_hand):
    rest = iter(kept)
    return tree.unflatten(
      next(rest) if place is None else at_hand[place] for place in places
    )

  return kept, join


def _kept(
  body: Callable, shared: Any, carry: Any, xs: Any
) -> tuple[list, Callable]:
  """Returns shapes of what an iteration keeps, and how its gradient is made."""
  joins = []

  def run(shared, carry, x):
    _, back = jax.vjp(body, shared, carry, x)
    kept, join = _split(back, jax.tree.leaves((shared, x)))
    joins.append(join)
    return kept

  kept = jax.eval_shape(run, shared, carry, _row(xs, 0))
  return kept, joins[0]


def _forward(
  body: Callable, shared: Any, carry: Any, xs: Any
) -> tuple[Any, tuple[Any, Any, Any, list[jax.Array]]]:
  length = len(jax.tree.leaves(xs)[0])
  shapes, _ = _kept(body, shared, carry, xs)
  buffers = [lax.empty((length, *one.shape), one.dtype) for one in shapes]

  def step(i, state):
    carry, buffers = state
    x = _row(xs, i)
    carry, back = jax.vjp(body, shared, carry, x)
    kept, _ = _split(back, jax.tree.leaves((shared, x)))
    return carry, _put(buffers, kept, i)

  out, buffers = lax.fori_loop(0, length, step, (carry, buffers))
  return out, (shared, carry, xs, buffers)


def _backward(
  body: Callable,
  saved: tuple[Any, Any, Any, list[jax.Array]],
  upstream: Any,
) -> tuple[Any, Any, Any]:
  shared, carry, xs, buffers = saved
  length = len(jax.tree.leaves(xs)[0])
  _, join = _kept(body, shared, carry, xs)

  def step(i, state):
    upstream, total, gradients = state
    row = length - 1 - i
    x = _row(xs, row)
    back = join(_row(buffers, row), jax.tree.leaves((shared, x)))
    found, down, gradient = back(upstream)
    total = jax.tree.map(jnp.add, total, found)
    return down, total, _put(gradients, gradient, row)

  start = (
    upstream,
    jax.tree.map(jnp.zeros_like, shared),
    jax.tree.map(lambda x: lax.empty(x.shape, x.dtype), xs),
  )
  down, total, gradients = lax.fori_loop(0, length, step, start)
  return total, down, gradients


scan_in_place.defvjp(_forward, _backward)


def _row(tree: Any, index: jax.Array | int) -> Any:
  return jax.tree.map(
    lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), tree
  )


def _put(buffers: Any, tree: Any, index: jax.Array | int) -> Any:
  return jax.tree.map(
    lambda buffer, x: lax.dynamic_update_index_in_dim(buffer, x, index, 0),
    buffers,
    tree,
  )
