"""Gradients of an expected objective in the logits of what is drawn.

`E[objective(sample)]` under the distribution of the logits. An estimator
returns a scalar whose gradient in the logits is an estimate of that of the
expectation, and metrics.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from nss_jax.steps.losses import Metrics

# `(rng, logits) -> sample`, with `sample.weights` like the logits.
DrawFn = Callable[[jax.Array, Any], Any]
# `sample -> (scalar, metrics)`
ObjectiveFn = Callable[[Any], tuple[jax.Array, Metrics]]


class Estimator(Protocol):
  """`(rng, logits, draw, objective) -> (scalar to differentiate, metrics)`."""

  def __call__(
    self,
    rng: jax.Array,
    logits: Any,
    draw: DrawFn,
    objective: ObjectiveFn,
  ) -> tuple[jax.Array, Metrics]: ...


def pathwise(
  rng: jax.Array, logits: Any, draw: DrawFn, objective: ObjectiveFn
) -> tuple[jax.Array, Metrics]:
  """Differentiates through one draw: Gumbel-Softmax, soft (paper 3.3) or
  straight-through, by what `draw` returns."""
  return objective(draw(rng, logits))


def score_function(num_samples: int) -> Estimator:
  """Differentiates the probability of draws, weighted by how good they are.

  `mean_i (f_i - b_i) grad log p(sample_i)` with the leave-one-out baseline
  `b_i`, the mean of the other objectives: unbiased, and forward passes only.
  The draws must be one-hot.

  Args:
    num_samples: draws on the same batch, one after the other.

  Raises:
    ValueError: for fewer than two, which leave nothing out.

  Source: Williams 1992; the baseline, Kool, van Hoof, Welling 2019.
  """
  if num_samples < 2:
    raise ValueError(f"num_samples must be 2 or more; got {num_samples}")

  def estimate(rng, logits, draw, objective):
    fixed = jax.lax.stop_gradient(logits)

    def one(key):
      sample = draw(key, fixed)
      return objective(sample), sample.weights

    keys = jax.random.split(rng, num_samples)
    (values, metrics), weights = jax.lax.map(one, keys)
    mean = leave_one_out(values, log_probability(logits, weights))
    return mean, jax.tree.map(lambda x: x.mean(0), metrics)

  return estimate


def leave_one_out(values: jax.Array, log_probabilities: jax.Array) -> jax.Array:
  """The mean of what draws are worth, with an unbiased gradient.

  That of `mean_i (f_i - b_i) log p_i` with `b_i`, the mean of the others.

  Args:
    values: `[N, ...]`.
    log_probabilities: `[N]` of the draws, differentiable in the logits.
  """
  total, count = values.sum(0), len(values)
  advantages = values - (total[None] - values) / (count - 1)
  # Zero in value; so that second derivatives are unbiased too (Foerster et al.
  # 2018, DiCE).
  ratios = jnp.exp(log_probabilities - jax.lax.stop_gradient(log_probabilities))
  return total / count + jnp.tensordot(ratios - 1, advantages, 1) / count


def log_probability(logits: Any, weights: Any) -> jax.Array:
  """`log softmax(logits)` of one-hot draws: `[N, ...]` weights give `[N]`."""

  def of_leaf(leaf, drawn):
    chances = jax.nn.log_softmax(leaf)[None] * drawn
    return chances.reshape(drawn.shape[0], -1).sum(-1)

  terms = jax.tree.leaves(jax.tree.map(of_leaf, logits, weights))
  return functools.reduce(operator.add, terms)
