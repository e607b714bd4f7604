"""One update of the distribution over spaces; the weights are read only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from nss_jax.spaces.constraints import flops_penalty
from nss_jax.spaces.distribution import entropy, probabilities
from nss_jax.steps.estimators import Estimator, pathwise
from nss_jax.steps.losses import (
  LossFn,
  Metrics,
  SampleFn,
  StatefulLossFn,
  as_number,
  checked_sample,
  descend,
  step_rng,
  with_state,
)
from nss_jax.steps.penalties import PenaltyFn


@struct.dataclass
class SearchState:
  """Holds step (int32 scalar), logits and opt_state (pytrees)."""

  step: jax.Array
  logits: Any
  opt_state: Any


def init_search_state(
  logits: Any, optimizer: optax.GradientTransformation
) -> SearchState:
  """Begins at step 0."""
  return SearchState(
    step=jnp.zeros((), jnp.int32),
    logits=logits,
    opt_state=optimizer.init(logits),
  )


def search_step(
  state: SearchState,
  weights: Any,
  batch: Any,
  rng: jax.Array,
  *,
  loss_fn: LossFn | StatefulLossFn,
  cost_fn: Callable[[Any], Any],
  sample_fn: SampleFn,
  optimizer: optax.GradientTransformation,
  target: Any,
  cost_weight: Any,
  penalty_fn: Callable[[Any, Any], Any] = flops_penalty,
  expected_penalty_fn: PenaltyFn | None = None,
  entropy_fn: Callable[[jax.Array], Any] | None = None,
  estimator: Estimator = pathwise,
  model_state: Any = None,
  axis_name: str | None = None,
  own_draws: bool = False,
) -> tuple[SearchState, Metrics]:
  """Descends `task loss + cost_weight * |cost / target - 1|` (Eq. 3-5).

  There may be several constraints: costs, targets, weights and penalties are
  arrays `[C]` then, and the weighted penalties add up. What is descended is the
  expectation over the spaces that are drawn: of the loss by the estimator, and
  of the penalty by the same draw, or exactly (`expected_penalty_fn`).

  Args:
    state: logits (the paper's Theta) and optimizer state.
    weights: of the supernet, read only.
    batch: passed to `loss_fn`; held-out images.
    rng: base key, the same for every step; the draw uses
      `fold_in(rng, state.step)`.
    loss_fn: `(weights, choice, batch) -> (loss, metrics)`, or as `weight_step`
      has it with a `model_state`.
    cost_fn: cost of a space from its bins' weights, shaped as the logits: a
      scalar, or `[C]`.
    sample_fn: `(rng, logits, step) -> Sample`; differentiable in the logits if
      the estimator is pathwise, one-hot if it is the score function.
    optimizer: of the logits.
    target: cost to be met, in the units of `cost_fn`, or `[C]`.
    cost_weight: lambda of Eq. 5, or `[C]`; or a function of the step that
      gives it.
    penalty_fn: `(cost, target)` -> what is weighted, elementwise.
    expected_penalty_fn: `(rng, logits) -> E[penalty]`, from `expected_penalty`
      or `drawn_penalty`; takes the place of the penalty of the draw (the
      paper's), which is what is descended by default.
    entropy_fn: weight in nats of the entropy of softmax(logits), from the step;
      it is subtracted from the objective. None, the paper: no such term. With
      a weight that falls to zero the distribution commits slowly: at weight t
      it is near that of least objective, `p(A) ~ exp(-objective(A) / t)`.
    estimator: of the gradient of the expected objective.
    model_state: of the supernet's `WeightState`, read only: what the loss makes
      of it is dropped. None: it has none.
    axis_name: device axis over which gradients and metrics are averaged.
    own_draws: whether each device of the axis draws for itself.

  Returns:
    The next state, and `loss`, `penalty`, `sampled_cost` and `expected_cost`
    (over target; each a scalar, or `[C]`) with the metrics of `loss_fn`.

  Raises:
    ValueError: for `own_draws` without an axis.
    TypeError: naming `loss_fn`, `sample_fn`, `target` or `cost_weight`, if it
      is not what is said here.

  Example:
    >>> import functools
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> optimizer = optax.adam(0.1)
    >>> state = init_search_state(nss.init_logits(search_space), optimizer)
    >>> step = jax.jit(
    ...   functools.partial(
    ...     search_step,
    ...     loss_fn=lambda weights, arch, batch: (0.0, {}),  # yours
    ...     cost_fn=functools.partial(nss.mean_macs, search_space),
    ...     sample_fn=nss.arch_sampler(search_space),
    ...     optimizer=optimizer,
    ...     target=50e6,
    ...     cost_weight=1.0,
    ...     expected_penalty_fn=nss.expected_penalty(search_space, 50e6),
    ...   )
    ... )
    >>> costs = []
    >>> for _ in range(200):
    ...   state, metrics = step(state, None, None, jax.random.key(0))
    ...   costs.append(round(float(metrics["expected_cost"]), 1))
    >>> costs[0], costs[-1]
    (1.5, 1.0)
  """
  rng = step_rng(rng, state.step, axis_name, own_draws)
  target = as_number("target", target)
  if callable(cost_weight):
    cost_weight = cost_weight(state.step)
  cost_weight = as_number("cost_weight", cost_weight)
  full_loss = with_state(loss_fn, model_state, rng, axis_name)

  def draw(key, logits):
    sample = sample_fn(key, logits, state.step)
    return checked_sample(sample, "weights", "choice")

  def objective(sample):
    loss, (_, metrics) = full_loss(weights, sample.choice, batch)
    cost = cost_fn(sample.weights)
    penalty = penalty_fn(cost, target)
    value = loss
    if expected_penalty_fn is None:
      value = value + jnp.sum(cost_weight * penalty)
    seen = {"loss": loss, "penalty": penalty, "sampled_cost": cost / target}
    return value, {**seen, **metrics}

  def total(logits):
    value, metrics = estimator(rng, logits, draw, objective)
    metrics["expected_cost"] = cost_fn(probabilities(logits)) / target
    if expected_penalty_fn is not None:
      # A key of its own: the draws of the estimator stay what they are.
      penalty = expected_penalty_fn(jax.random.fold_in(rng, 1), logits)
      metrics["penalty"] = penalty
      value = value + jnp.sum(cost_weight * penalty)
    if entropy_fn is not None:
      rows = jax.tree.leaves(entropy(logits))
      total_entropy = sum(jnp.sum(row) for row in rows)
      value = value - entropy_fn(state.step) * total_entropy
    return value, metrics

  logits, opt_state, _, metrics = descend(
    total, state.logits, state.opt_state, optimizer, axis_name
  )
  return SearchState(state.step + 1, logits, opt_state), metrics
