"""The optimizers: of the search as in DARTS (paper 6.4.1), and of training."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax


def weight_optimizer(
  *,
  learning_rate: float,
  final_learning_rate: float,
  momentum: float,
  weight_decay: float,
  clip_norm: float,
  num_steps: int,
) -> optax.GradientTransformation:
  """Makes SGD with momentum; the rate falls by a cosine over `num_steps`.

  The gradient's norm is clipped before weight decay is added, as DARTS does.
  """
  schedule = optax.cosine_decay_schedule(
    learning_rate, num_steps, alpha=final_learning_rate / learning_rate
  )
  return optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.add_decayed_weights(weight_decay),
    optax.sgd(schedule, momentum=momentum),
  )


def train_optimizer(
  *,
  learning_rate: float,
  decay_factor: float,
  decay_steps: Sequence[int],
  momentum: float,
  weight_decay: float,
) -> optax.GradientTransformation:
  """Makes SGD with Nesterov momentum; the rate falls by a factor at some steps.

  Source: DeVries and Taylor 2017, Cutout, as the paper's final training (4.3).
  """
  schedule = optax.piecewise_constant_schedule(
    learning_rate, dict.fromkeys(decay_steps, decay_factor)
  )
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(schedule, momentum=momentum, nesterov=True),
  )


def late(
  optimizer: optax.GradientTransformation,
  first: int,
  mask_fn: Callable[[Any], Any],
) -> optax.GradientTransformation:
  """Hides the gradient of some weights from an optimizer before a step.

  `mask_fn` says by a pytree of bool which weights of all of them these are.
  """
  begin = optax.scale_by_schedule(
    lambda step: jnp.greater_equal(step, first).astype(jnp.float32)
  )
  return optax.chain(optax.masked(begin, mask_fn), optimizer)


def logit_optimizer(
  *, learning_rate: float, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
  """Makes Adam with weight decay in the gradient, as DARTS does."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.adam(learning_rate, b1=b1, b2=b2),
  )
