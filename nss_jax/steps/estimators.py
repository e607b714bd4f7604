"""Gradients of an expected objective in the logits of what is drawn.

The expectation is `E[objective(sample)]`, under the distribution of the logits.
An estimator returns a scalar, whose gradient in the logits estimates that of
the expectation, and metrics.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, get_args

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
  """Differentiates through one draw, soft (paper 3.3) or straight-through."""
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
  """Returns the mean of draws' values `[N, ...]`, with an unbiased gradient.

  The gradient is that of `mean_i (f_i - b_i) log p_i`, where `b_i` is the mean
  of the others, in what the log-probabilities `[N]` are differentiable in.
  """
  total, count = values.sum(0), len(values)
  advantages = values - (total[None] - values) / (count - 1)
  # Zero in value; so that second derivatives are unbiased too (Foerster et al.
  # 2018, DiCE).
  ratios = jnp.exp(log_probabilities - jax.lax.stop_gradient(log_probabilities))
  return total / count + jnp.tensordot(ratios - 1, advantages, 1) / count


def log_probability(logits: Any, weights: Any) -> jax.Array:
  """Returns `log softmax(logits)` `[N]` of one-hot draws `[N, ...]`."""

  def of_leaf(leaf, drawn):
    chances = jax.nn.log_softmax(leaf)[None] * drawn
    return chances.reshape(drawn.shape[0], -1).sum(-1)

  terms = jax.tree.leaves(jax.tree.map(of_leaf, logits, weights))
  return functools.reduce(operator.add, terms)


# What the network runs with: masks that are mixed softly or are one-hot
# (straight-through), or an arch at its own cost.
Draws = Literal["soft", "hard", "archs"]


class Known(NamedTuple):
  """An estimator of `config.search.estimator`.

  Attributes:
    make: from the number of draws of a step to the estimator.
    draws: what arch steps draw; weight steps do too, or archs for "hard".
    passes: forward passes of a step, from the number of its draws; a gradient
      through the network takes two more.
  """

  make: Callable[[int], Estimator]
  draws: Draws
  passes: Callable[[int], float]


ESTIMATORS = {
  "soft": Known(lambda num_draws: pathwise, "soft", lambda num_draws: 3.0),
  "straight_through": Known(
    lambda num_draws: pathwise, "hard", lambda num_draws: 3.0
  ),
  "score": Known(score_function, "archs", float),
}
_OWN = frozenset(ESTIMATORS)


def register_estimator(
  name: str,
  make: Callable[[int], Estimator],
  *,
  draws: Draws = "archs",
  passes: Callable[[int], float] = float,
) -> None:
  """Makes an estimator known, so that `config.search.estimator` can name it.

  Do so in every process; a config file is Python and is a good place. What has
  been registered may be again, as a file or a cell is run again.

  Args:
    name: of the estimator, a word.
    make: from the number of draws of a step (`search.num_score_archs`) to the
      estimator, `(rng, logits, draw, objective) -> (scalar, metrics)`.
    draws: what `draw` gives: "soft" masks, "hard" ones, differentiable in the
      logits all the same, or "archs", which run at their own cost.
    passes: forward passes of a step, from the number of its draws, by which
      the time left is told; one each by default, 3 for a gradient through the
      network.

  Raises:
    ValueError: if the name is one of ours, or no word, or there are no such
      draws.
  """
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(f"the name of an estimator must be a word; got {name!r}")
  if name in _OWN:
    raise ValueError(f"the estimator {name!r} is there already")
  if draws not in (known := get_args(Draws)):
    raise ValueError(f"draws must be one of {', '.join(known)}; got {draws!r}")
  ESTIMATORS[name] = Known(make, draws, passes)
