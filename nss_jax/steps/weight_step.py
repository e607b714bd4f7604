"""One update of the supernet's weights; the logits are read only."""

from typing import Any

import jax
import optax
from flax import struct

from nss_jax.steps.losses import (
  LossFn,
  Metrics,
  SampleFn,
  StatefulLossFn,
  checked_sample,
  descend,
  step_rng,
  with_state,
)


@struct.dataclass
class WeightState:
  """Holds step (int32 scalar), params and opt_state (pytrees).

  And model_state, a pytree that no gradient moves, such as batch statistics;
  None for a model that has none.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  model_state: Any = None


def init_weight_state(
  params: Any, optimizer: optax.GradientTransformation, model_state: Any = None
) -> WeightState:
  """Begins at step 0."""
  return WeightState(
    step=jax.numpy.zeros((), jax.numpy.int32),
    params=params,
    opt_state=optimizer.init(params),
    model_state=model_state,
  )


def weight_step(
  state: WeightState,
  logits: Any,
  batch: Any,
  rng: jax.Array,
  *,
  loss_fn: LossFn | StatefulLossFn,
  sample_fn: SampleFn,
  optimizer: optax.GradientTransformation,
  axis_name: str | None = None,
  own_draws: bool = False,
) -> tuple[WeightState, Metrics]:
  """Draws an arch and descends the task loss: the inner `min` of Eq. 3.

  Args:
    state: weights and optimizer state.
    logits: distribution over spaces, read only.
    batch: passed to `loss_fn`.
    rng: base key, the same for every step; the draw uses
      `fold_in(rng, state.step)`, so a restart repeats it.
    loss_fn: `(weights, choice, batch) -> (loss, metrics)`; where the state has
      a `model_state`, if only an empty one, `(weights, choice, batch,
      model_state, rng) -> (loss, (model_state, metrics))`, with a key of this
      step, for dropout and the like.
    sample_fn: `(rng, logits, step) -> Sample`.
    optimizer: of the weights.
    axis_name: device axis over which gradients, `model_state` and metrics are
      averaged.
    own_draws: whether each device of the axis draws for itself.

  Returns:
    The next state, and `loss` with the metrics of `loss_fn`.

  Raises:
    ValueError: for `own_draws` without an axis.
    TypeError: naming `loss_fn` or `sample_fn`, if it does not return that.

  Example:
    >>> import nss_jax as nss
    >>> def loss_fn(params, arch, batch):
    ...   return (params * arch.depth - batch).sum(), {}
    >>> search_space = nss.SearchSpace.expanded(strides=(1,))
    >>> optimizer = optax.sgd(1.0)
    >>> state = init_weight_state(jax.numpy.ones(1), optimizer)
    >>> state, metrics = weight_step(
    ...   state,
    ...   nss.init_logits(search_space),
    ...   3.0,
    ...   jax.random.key(0),
    ...   loss_fn=loss_fn,
    ...   sample_fn=nss.arch_sampler(search_space),
    ...   optimizer=optimizer,
    ... )
    >>> depth = float(metrics["loss"]) + 3  # of the arch that was drawn
    >>> float(state.params[0]) == 1 - depth
    True
  """
  rng = step_rng(rng, state.step, axis_name, own_draws)
  sample = sample_fn(rng, logits, state.step)
  choice = checked_sample(sample, "choice").choice
  full_loss = with_state(loss_fn, state.model_state, rng, axis_name)
  params, opt_state, loss, (model_state, metrics) = descend(
    lambda params: full_loss(params, choice, batch),
    state.params,
    state.opt_state,
    optimizer,
    axis_name,
  )
  state = WeightState(state.step + 1, params, opt_state, model_state)
  return state, {"loss": loss, **metrics}
