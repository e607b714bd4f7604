"""The expectation of the penalty over the spaces that logits can draw.

`E[penalty(cost(A))]` for spaces `A` of probability softmax(logits) (Eq. 3-5).
It is not the penalty of the expected cost, which is zero for a mixture of
spaces that all miss the target: a search would end in such a mixture. The
expectation is linear in the probabilities, so its minimum is a single space on
target.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.constraints import (
  Constraint,
  Target,
  as_constraints,
  flops_penalty,
  penalties,
)
from nss_jax.spaces.cost import cost_tables, drawn_costs
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.table import all_space_costs, table_shape
from nss_jax.steps.estimators import leave_one_out

# `(rng, logits) -> the expected penalty, a scalar or [C]`, differentiable in
# the logits.
PenaltyFn = Callable[[jax.Array, Any], jax.Array]

# A table of 2^21 numbers is 8 MiB for each constraint, read once a step. The
# paper has 2^18 spaces, and 2^21 archs inside each, as bins of size one.
MAX_LISTED = 2**21

NUM_DRAWS = 4096


def expected_penalty(
  search_space: SearchSpace, target: Target, *, num_draws: int = NUM_DRAWS
) -> PenaltyFn:
  """Makes the expected penalty of the spaces of a search space.

  Exact where there are at most `MAX_LISTED` spaces: the sum over all of them of
  probability times penalty. Else the mean over draws, with an unbiased
  gradient. Either way costs are in closed form.

  Args:
    search_space: the bins.
    target: multiply-adds of our networks, or constraints, whose metrics say
      what is counted. For a cost that is yours see `drawn_penalty`.
    num_draws: of spaces in each step, where they are too many to list.

  Returns:
    `(rng, SpaceLogits) -> [C]`, one expectation for each constraint, without
    its weight.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> expected = expected_penalty(search_space, 50e6)
    >>> logits = nss.init_logits(search_space)
    >>> round(float(expected(jax.random.key(0), logits)[0]), 3)
    0.972
  """
  constraints = as_constraints(target)
  if search_space.num_spaces <= MAX_LISTED:
    return _listed(search_space, constraints)
  tables = [cost_tables(search_space, one.metric) for one in constraints]

  def cost_fn(indices):
    return jnp.stack(
      [drawn_costs(search_space, table, indices) for table in tables], -1
    )

  return _drawn(cost_fn, functools.partial(penalties, constraints), num_draws)


def drawn_penalty(
  cost_fn: Callable[[Any], Any],
  target: Any,
  *,
  penalty_fn: Callable[[Any, Any], Any] = flops_penalty,
  num_draws: int = NUM_DRAWS,
) -> PenaltyFn:
  """Makes the expected penalty, by draws, of what independent logits can draw.

  For models and costs of your own; `expected_penalty` is exact for spaces.

  Args:
    cost_fn: cost of one-hot weights, shaped as the logits: a scalar, or `[C]`.
    target: the cost to be met, or `[C]`.
    penalty_fn: `(cost, target)` -> how far the cost is from being met.
    num_draws: in each step; all are held in memory at once.

  Returns:
    `(rng, logits) -> ` the mean penalty of the draws, shaped as the cost; its
    gradient in the logits is unbiased.
  """

  def cost_of(indices, logits):
    return cost_fn(
      jax.tree.map(
        lambda index, leaf: jax.nn.one_hot(index, leaf.shape[-1]),
        indices,
        logits,
      )
    )

  def estimate(rng, logits):
    costs = jax.vmap(functools.partial(cost_of, logits=logits))
    return _drawn(costs, lambda x: penalty_fn(x, target), num_draws)(
      rng, logits
    )

  return estimate


def _listed(
  search_space: SearchSpace, constraints: Sequence[Constraint]
) -> PenaltyFn:
  """Sums exactly over all spaces.

  Depths and widths are independent, so the sum is a bilinear form in the
  probabilities of the depths and of the widths.
  """
  shape, num_stages = table_shape(search_space), search_space.num_stages
  counts = shape[:num_stages], shape[num_stages:]
  costs = [all_space_costs(search_space, one.metric) for one in constraints]
  table = np.asarray(penalties(constraints, np.stack(costs, -1)), np.float32)
  table = table.reshape(*map(math.prod, counts), len(constraints))

  def expectation(rng, logits):
    del rng
    depths, widths = (
      _joint_probabilities(rows, lengths)
      for rows, lengths in zip(
        (logits.depth, logits.width), counts, strict=True
      )
    )
    # Accelerators multiply matrices in bfloat16 unless they are told not to.
    return jnp.einsum(
      "i,ijc,j->c",
      depths,
      table,
      widths,
      precision=jax.lax.Precision.HIGHEST,
    )

  return expectation


def _joint_probabilities(rows: jax.Array, lengths: Sequence[int]) -> jax.Array:
  """Makes of logits `[S, K]` the probabilities `[K_1 * ... * K_S]`."""
  joint = jnp.ones(1)
  for row, length in zip(rows, lengths, strict=True):
    chances = jax.nn.softmax(row[:length])
    joint = (joint[:, None] * chances[None, :]).reshape(-1)
  return joint


def _drawn(
  cost_fn: Callable[[Any], jax.Array],
  penalty_fn: Callable[[Any], Any],
  num_draws: int,
) -> PenaltyFn:
  """Averages over draws `[N, ...]` of indices, by the score function."""

  def estimate(rng, logits):
    leaves, tree = jax.tree.flatten(logits)
    keys = jax.random.split(rng, len(leaves))
    drawn, chances = [], jnp.zeros(num_draws)
    for key, leaf in zip(keys, leaves, strict=True):
      index = draw_indices(key, leaf, num_draws)
      drawn.append(index)
      logs = jax.nn.log_softmax(leaf)[None]
      logs = jnp.take_along_axis(logs, index[..., None], -1)
      chances = chances + logs.reshape(num_draws, -1).sum(-1)
    values = penalty_fn(cost_fn(tree.unflatten(drawn)))
    return leave_one_out(values, chances)

  return estimate


def draw_indices(rng: jax.Array, logits: jax.Array, count: int) -> jax.Array:
  """Draws indices `[N, ...]` from logits `[..., K]`.

  It inverts the cumulative distribution: one random number each, not K.
  """
  ends = jnp.cumsum(jax.nn.softmax(jax.lax.stop_gradient(logits)), -1)
  rows = ends.reshape(-1, ends.shape[-1])
  # Below the last end by more than rounding: a bin of no probability, as
  # those that a stage does not have, is never drawn.
  uniform = jax.random.uniform(rng, (len(rows), count)) * (1 - 1e-6)
  index = jax.vmap(functools.partial(jnp.searchsorted, side="right"))(
    rows, uniform * rows[:, -1:]
  )
  return index.T.reshape(count, *logits.shape[:-1])
