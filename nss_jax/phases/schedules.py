"""What changes over the steps of a search: temperature, entropy, commitment."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

Schedule = Callable[[Any], Any]


def temperature(start: float, end: float, num_steps: int) -> Schedule:
  """Linear from the first step to the last (paper 6.4.1)."""
  last = max(num_steps - 1, 1)
  return lambda step: start + (end - start) * (step / last)


def entropy_weight(
  start: float, end: float, until: float, first: int, num_steps: int
) -> Schedule | None:
  """The weight in nats of the entropy of the logits; None for a start of 0.

  It falls geometrically: each factor by which differences of the objective are
  told apart takes as long as the next.

  Args:
    start: weight of the first arch step.
    end: weight that it falls to.
    until: share of the arch steps in which it falls.
    first: the first arch step.
    num_steps: of the search, warmup included.
  """
  if not start:
    return None
  fallen = ramp(0.0, until, first, num_steps)
  return lambda step: start * (end / start) ** fallen(step)


def ramp(begin: float, end: float, first: int, num_steps: int) -> Schedule:
  """From 0 to 1, linear between two shares of the arch steps.

  Args:
    begin: share until which it is 0.
    end: share from which it is 1, at least the first.
    first: the first arch step.
    num_steps: of the search, warmup included.
  """
  length = max(num_steps - first, 1)
  rise = max(end - begin, 1 / length)
  return lambda step: jnp.clip(
    ((step - first) / length - begin) / rise, 0.0, 1.0
  )
