"""When what happens: steps, epochs and calls, and what changes over them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

# From a step, a value such as the temperature.
Values = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Counts steps, epochs and dispatches.

  Attributes:
    steps_per_epoch: steps, or pairs of an arch step and a weight step.
    epochs: of the whole loop.
    warmup_epochs: of those, the first ones with frozen logits.
    dispatches: `(first, length)` of the device calls of one epoch, in steps.
  """

  steps_per_epoch: int
  epochs: int
  warmup_epochs: int
  dispatches: tuple[tuple[int, int], ...]

  @property
  def num_steps(self) -> int:
    return self.steps_per_epoch * self.epochs

  @property
  def warmup_steps(self) -> int:
    return self.steps_per_epoch * self.warmup_epochs

  def kinds(self, step: int) -> set[tuple[int, bool]]:
    """Returns `(length, warmup)` of the calls from a step on: its programs."""
    done, first = divmod(step, self.steps_per_epoch)
    return {
      (length, epoch < self.warmup_epochs)
      for epoch in range(done, self.epochs)
      for length in self.lengths(first if epoch == done else 0)
    }

  def lengths(self, first: int) -> list[int]:
    """Returns those of the calls from a step of an epoch to its end.

    The first call is shorter if a run with other calls has stopped within it.
    """
    ends = [start + length for start, length in self.dispatches]
    ends = [end for end in ends if end > first]
    return np.diff([first, *ends]).tolist()


def make_schedule(
  num_images: int,
  *,
  batch_size: int,
  epochs: int,
  steps_per_dispatch: int,
  warmup_epochs: int | None = None,
) -> Schedule:
  """Returns epochs of whole batches, cut into even dispatches.

  Without logits, which warmup would freeze, it has no end.

  Every length is a program to compile: so all have one, if that is more than
  half of what they may have, and else there are two.
  """
  steps = num_images // batch_size
  pieces = -(-steps // steps_per_dispatch)
  alike = range(pieces, -(-2 * steps // steps_per_dispatch))
  pieces = next((n for n in alike if steps % n == 0), pieces)
  lengths = [len(part) for part in np.array_split(np.arange(steps), pieces)]
  starts = np.cumsum([0, *lengths[:-1]]).tolist()
  return Schedule(
    steps_per_epoch=steps,
    epochs=epochs,
    warmup_epochs=epochs if warmup_epochs is None else warmup_epochs,
    dispatches=tuple(zip(starts, lengths, strict=True)),
  )


def temperature(start: float, end: float, num_steps: int) -> Values:
  """Returns what is linear from the first step to the last (paper 6.4.1)."""
  last = max(num_steps - 1, 1)
  return lambda step: start + (end - start) * (step / last)


def penalty_weight(
  weight: Any, growth: float, first: int, num_steps: int
) -> Values:
  """Returns the weight of the penalty, linear over the arch steps.

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
) -> Values | None:
  """Returns the weight in nats of the logits' entropy; None for a start of 0.

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
