"""Is the Elite Space elite? `evaluate/`, its numbers.

A group of archs without rows is left out, and so is whatever needs it.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from nss_jax.results import fields, statistics
from nss_jax.results import scores as scores_lib
from nss_jax.results.artifact import Artifact
from nss_jax.results.scores import GROUPS, NO_SPACE, Scores, pareto_front

_MEASURES = ("loss", "error")
# Of a measure, where spaces are drawn at random: all of them or none.
_PLACED = ("percentile", "bootstrap_interval", "exact_interval")
_CONTROLS = (scores_lib.RANDOM_SPACES, scores_lib.HARD_RANDOM_SPACES)
_SPACES = (*_CONTROLS, scores_lib.HAND_MADE, scores_lib.ORACLE)
# The error of the reference point: every image wrong.
_WORST_ERROR = 1.0

# `rows of archs -> [I, 2]`: loss and error of each image, their mean.
ByImage = Callable[[Scores], np.ndarray]

_Interval = Annotated[list[float], fields.PERCENT.pair()]
_GroupName = Annotated[str, fields.one_of(*GROUPS)]


class Group(Artifact):
  """A group of archs.

  Attributes:
    num_spaces: where its spaces are numbered.
    mean_error: a share, as the two below.
    mean_loss: in nats.
    deviation: of the mean multiply-adds from the target, as a signed share of
      it; null where no constraint is of them.
    pareto_share: of the front of all groups together, what it owns.
    hypervolume: see `statistics.hypervolume`.
  """

  count: fields.Count
  num_spaces: fields.Count | None = None
  mean_error: fields.Share
  median_error: fields.Share
  min_error: fields.Share
  mean_loss: fields.NonNegative
  mean_flops: fields.Positive
  deviation: fields.MaybeNumber
  pareto_share: fields.Share
  hypervolume: fields.NonNegative


class Measured(Artifact):
  """The Elite Space among other spaces, by one measure.

  The best of many noisy means is too small, so the regret is on the large side
  when the spaces have few archs. The last three are left out where spaces are
  not drawn at random.

  Attributes:
    elite: its mean.
    best: the smallest mean of another space.
    best_space: which one.
    regret: elite - best, negative if the elite space wins.
    regret_error: its standard error: by the archs that were drawn of the two
      and, where that is known, by the images.
    percentile: 100 times the share of spaces whose mean is smaller.
    bootstrap_interval: spaces, archs inside them and archs of the elite space
      drawn anew.
    exact_interval: Clopper and Pearson, of drawing so many spaces; not empty
      when no space beats the elite, as the bootstrap's is.
  """

  elite: fields.NonNegative
  best: fields.NonNegative
  best_space: fields.Whole
  regret: fields.Number
  regret_error: fields.NonNegative
  percentile: Annotated[float, fields.PERCENT] | None = None
  bootstrap_interval: _Interval | None = None
  exact_interval: _Interval | None = None


class Against(Artifact):
  """The Elite Space among spaces of one kind."""

  num_spaces: fields.Count
  loss: Measured
  error: Measured


class Reference(Artifact):
  """The corner of the hypervolume, the same in every run of a search space."""

  flops: fields.Positive
  error: fields.Share


class Bootstrap(Artifact):
  """How the intervals were made."""

  num_resamples: fields.Whole
  confidence: fields.Share
  seed: fields.Whole


class Evaluation(Artifact):
  """`evaluate/summary.json`.

  Attributes:
    pareto_front: archs on the front of all groups together.
  """

  target_flops: fields.MaybePositive
  reference_point: Reference
  bootstrap: Bootstrap
  pareto_front: fields.Whole
  groups: dict[_GroupName, Group]
  elite_against: dict[_GroupName, Against]

  def check(self, search_space: object) -> None:
    """Raises ValueError where only some of what says a percentile is there."""
    for name, against in self.elite_against.items():
      for measure in _MEASURES:
        found = getattr(against, measure)
        missing = [x for x in _PLACED if getattr(found, x) is None]
        if missing and len(missing) < len(_PLACED):
          raise ValueError(
            f"elite_against.{name}.{measure}.{missing[0]}: this field is "
            "missing"
          )


def summarize(
  scores: Scores,
  target_flops: float | None,
  *,
  largest_flops: float,
  by_image: ByImage | None = None,
  num_resamples: int = 2000,
  seed: int = 0,
) -> Evaluation:
  """Computes all the numbers; rows of other sources are left out."""
  known = scores.group(*GROUPS)
  on_front = pareto_front(known)
  groups = {}
  for name in GROUPS:
    group = known.group(name)
    if not len(group):
      continue
    numbers = group.numbers()
    if spaces := len(np.unique(group.space[group.space != NO_SPACE])):
      numbers["num_spaces"] = spaces
    deviation = None
    if target_flops is not None:
      deviation = numbers["mean_flops"] / target_flops - 1
    groups[name] = Group(
      **numbers,
      deviation=deviation,
      pareto_share=float((known.source[on_front] == name).mean()),
      hypervolume=statistics.hypervolume(
        group.error, group.flops, (_WORST_ERROR, largest_flops)
      ),
    )
  elite = known.group(scores_lib.ELITE)
  against = {
    name: compare_spaces(
      elite,
      known.group(name),
      num_resamples=num_resamples if name in _CONTROLS else 0,
      by_image=by_image,
      seed=seed,
    )
    for name in _SPACES
    if len(elite) and name in groups
  }
  return Evaluation(
    target_flops=target_flops,
    reference_point=Reference(flops=largest_flops, error=_WORST_ERROR),
    bootstrap=Bootstrap(
      num_resamples=num_resamples,
      confidence=statistics.CONFIDENCE,
      seed=seed,
    ),
    pareto_front=int(on_front.sum()),
    groups=groups,
    elite_against=against,
  )


def compare_spaces(
  elite: Scores,
  others: Scores,
  *,
  num_resamples: int,
  by_image: ByImage | None = None,
  seed: int = 0,
) -> Against:
  """Places the elite space among others, by mean loss and by mean error.

  No resamples leave the percentiles out, which mean nothing among spaces that
  are not drawn at random. All archs see the same images, so another set of
  images would move the difference of two spaces: `by_image` counts that.
  """
  if (others.space == NO_SPACE).any():
    raise ValueError(
      f"{others.source[0]}: every arch needs the number of its space; "
      f"{(others.space == NO_SPACE).sum()} of {len(others)} have none"
    )
  numbers, table = _by_space(others)
  means = np.nanmean(table, axis=1)
  own = _measures(elite)
  resampled = np.empty(0)
  if num_resamples:
    rng = np.random.default_rng(seed)
    resampled = statistics.bootstrap_shares(rng, own, table, num_resamples)
  found: dict[str, Measured] = {}
  for column, measure in enumerate(_MEASURES):
    mean, best = float(own[:, column].mean()), int(means[:, column].argmin())
    by_images = 0.0
    if by_image is not None:
      rival = others.select(others.space == numbers[best])
      differences = by_image(elite)[:, column] - by_image(rival)[:, column]
      by_images = statistics.error_of_mean(differences)
    placed: dict[str, Any] = {}
    if num_resamples:
      beaten = means[:, column] < mean
      both = (
        statistics.quantiles(resampled[:, column]) or (),
        statistics.exact_interval(beaten),
      )
      bootstrap, exact = ([100 * end for end in ends] for ends in both)
      placed = {
        "percentile": 100 * float(beaten.mean()),
        "bootstrap_interval": bootstrap,
        "exact_interval": exact,
      }
    found[measure] = Measured(
      elite=mean,
      best=float(means[best, column]),
      best_space=int(numbers[best]),
      regret=mean - float(means[best, column]),
      regret_error=math.hypot(
        statistics.error_of_mean(own[:, column]),
        statistics.error_of_mean(table[best, :, column]),
        by_images,
      ),
      **placed,
    )
  return Against(num_spaces=len(numbers), **found)


def _measures(scores: Scores) -> np.ndarray:
  """Returns loss and error, `[N, 2]`."""
  return np.stack([getattr(scores, name) for name in _MEASURES], axis=-1)


def _by_space(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
  """Returns indices of the spaces `[M]` and measures of their archs
  `[M, A, 2]`.

  A is the largest number of archs of a space; NaN where a space has less.
  """
  numbers = np.unique(scores.space)
  spaces = [_measures(scores.select(scores.space == n)) for n in numbers]
  most = max(map(len, spaces))
  table = np.full((len(spaces), most, len(_MEASURES)), np.nan)
  for row, measures in zip(table, spaces, strict=True):
    row[: len(measures)] = measures
  return numbers, table
