"""When what happens: steps, epochs and calls, and what changes over them."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# From a step, a value such as the temperature.
Values = Callable[[Any], Any]


class Call(NamedTuple):
  """Describes one call of the device: so many steps, from one of an epoch."""

  epoch: int
  first: int
  length: int
  warmup: bool

  @property
  def kind(self) -> tuple[int, bool]:
    """The program that it runs: each kind is compiled once."""
    return self.length, self.warmup


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

  def ends(self, step: int) -> bool:
    """Tells whether an epoch has ended with a step."""
    return step % self.steps_per_epoch == 0

  def calls(self, step: int) -> Iterator[Call]:
    """Yields the calls of the device from a step to the end.

    The first is shorter if a run with other calls has stopped within it.
    """
    done, begun = divmod(step, self.steps_per_epoch)
    for epoch in range(done, self.epochs):
      for start, length in self.dispatches:
        first = max(start, begun) if epoch == done else start
        if first < start + length:
          warmup = epoch < self.warmup_epochs
          yield Call(epoch, first, start + length - first, warmup)

  def kinds(self, step: int) -> set[tuple[int, bool]]:
    """Returns the kinds of the calls from a step on: its programs."""
    return {call.kind for call in self.calls(step)}


def make_schedule(
  num_images: int,
  *,
  batch_size: int,
  epochs: int,
  steps_per_dispatch: int,
  warmup_epochs: int | None = None,
) -> Schedule:
  """Returns epochs of whole batches, cut into even dispatches.

  Every length is a program to compile: so all have one, if that is more than
  half of what they may have, and else there are two. Without logits, which
  warmup would freeze, all epochs are of warmup.
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
  """Returns a temperature that is linear from the first step to the last (paper
  6.4.1)."""
  last = max(num_steps - 1, 1)
  return lambda step: start + (end - start) * (step / last)


def penalty_weight(
  weight: Any, growth: float, first: int, num_steps: int
) -> Values:
  """Returns the weight of the penalty, linear over the arch steps.

  It is `weight`, a scalar or `[C]`, in the first arch step, and `growth` times
  that in the last. A space off the target by a share d pays `weight * d`, and
  gains or loses what the loss changes with its cost. Early, a small weight
  leaves the choice to the loss; at the end a large one decides between spaces
  that the loss does not tell apart. What a distribution is sure of by then it
  does not undo.
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

  From the first arch step it falls geometrically, to its end at 85 % of the
  arch steps: each factor by which differences of the objective are told apart
  takes as long as the next.
  """
  if not start:
    return None
  length = max(_FALLS * (num_steps - first), 1)
  return lambda step: (
    start * (end / start) ** jnp.clip((step - first) / length, 0.0, 1.0)
  )
