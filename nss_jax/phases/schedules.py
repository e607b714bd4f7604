"""What changes over the steps of a search: temperature, entropy, penalty."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

Schedule = Callable[[Any], Any]


def temperature(start: float, end: float, num_steps: int) -> Schedule:
  """Linear from the first step to the last (paper 6.4.1)."""
  last = max(num_steps - 1, 1)
  return lambda step: start + (end - start) * (step / last)


def penalty_weight(
  weight: Any, growth: float, first: int, num_steps: int
) -> Schedule:
  """The weight of the penalty, linear over the arch steps.

  A space off the target by a share d pays `weight * d`, and gains or loses
  what the loss changes with its cost. Early, a small weight leaves the choice
  to the loss; at the end a large one decides between spaces that the loss does
  not tell apart. What a distribution is sure of by then it does not undo.

  Args:
    weight: of the first arch step, a scalar or `[C]`.
    growth: how many times that it is in the last.
    first: the first arch step.
    num_steps: of the search, warmup included.
  """
  last = max(num_steps - 1 - first, 1)
  return lambda step: (
    weight * (1 + (growth - 1) * jnp.clip((step - first) / last, 0.0, 1.0))
  )


# Of the arch steps; in the rest the entropy has its least weight.
_FALLS = 0.85


def entropy_weight(
  start: float, end: float, first: int, num_steps: int
) -> Schedule | None:
  """The weight in nats of the entropy of the logits; None for a start of 0.

  It falls geometrically, to its end at 85 % of the arch steps: each factor by
  which differences of the objective are told apart takes as long as the next.

  Args:
    start: weight of the first arch step.
    end: weight that it falls to.
    first: the first arch step.
    num_steps: of the search, warmup included.
  """
  if not start:
    return None
  length = max(_FALLS * (num_steps - first), 1)
  return lambda step: (
    start * (end / start) ** jnp.clip((step - first) / length, 0.0, 1.0)
  )
