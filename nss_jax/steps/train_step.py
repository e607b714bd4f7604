"""One update of a network that is trained alone, with running averages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from nss_jax.steps.losses import (
  Metrics,
  checked_loss,
  descend,
  step_rng,
  vary_over_devices,
)


@struct.dataclass
class TrainState:
  """Holds step (int32 scalar); params, averages and opt_state (pytrees).

  `averages` are those of the normalisations, or any other state of the model
  that no gradient moves.
  """

  step: jax.Array
  params: Any
  averages: Any
  opt_state: Any


def init_train_state(
  params: Any, averages: Any, optimizer: optax.GradientTransformation
) -> TrainState:
  """Begins at step 0."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    averages=averages,
    opt_state=optimizer.init(params),
  )


def train_step(
  state: TrainState,
  batch: Any,
  *,
  loss_fn: Callable[..., tuple[jax.Array, tuple[Any, Metrics]]],
  optimizer: optax.GradientTransformation,
  rng: jax.Array | None = None,
  axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
  """Descends the loss of a batch and moves the running averages.

  Args:
    state: weights, averages and optimizer state.
    batch: passed to `loss_fn`.
    loss_fn: `(params, averages, batch) -> (loss, (averages, metrics))`; with a
      `rng` it is given the key of this step as well, after the batch.
    optimizer: of the params.
    rng: base key, the same for every step, for dropout and the like; None for
      a loss that draws nothing.
    axis_name: device axis over which gradients, averages and metrics are
      averaged.

  Returns:
    The next state, and `loss` with the metrics of `loss_fn`.

  Raises:
    TypeError: naming `loss_fn`, if it does not return that.
  """
  averages = vary_over_devices(state.averages, axis_name)
  loss_fn = checked_loss(loss_fn, of="(averages, metrics)")
  keys = ()
  if rng is not None:
    keys = (step_rng(rng, state.step, axis_name, axis_name is not None),)
  params, opt_state, loss, (averages, metrics) = descend(
    lambda params: loss_fn(params, averages, batch, *keys),
    state.params,
    state.opt_state,
    optimizer,
    axis_name,
  )
  state = TrainState(state.step + 1, params, averages, opt_state)
  return state, {"loss": loss, **metrics}
