"""Is the Elite Space elite? The numbers of `evaluate/summary.json`.

Pure functions of a table of scores, on the host. A group without rows is left
out of the result, and so is whatever needs it.
"""

import math
from collections.abc import Callable
from typing import Any

import moocore
import numpy as np
from scipy import stats

from nss_jax.results import scores as scores_lib
from nss_jax.results.scores import NO_SPACE, Scores, pareto_front

_MEASURES = ("loss", "error")
_CONTROLS = (scores_lib.RANDOM_SPACES, scores_lib.HARD_RANDOM_SPACES)
_SPACES = (*_CONTROLS, scores_lib.HAND_MADE, scores_lib.ORACLE)

# The error of the reference point: every image wrong.
_WORST_ERROR = 1.0

# `rows of archs -> [I, 2]`: loss and error of each image, their mean.
ByImage = Callable[[Scores], np.ndarray]

# Resamples that are held in memory at once.
_CHUNK = 100


def summarize(
  scores: Scores,
  target_flops: float | None,
  *,
  largest_flops: float,
  by_image: ByImage | None = None,
  num_resamples: int = 2000,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """All the numbers, as JSON.

  Args:
    scores: rows of the groups of `runtime/scores.py`; rows of other sources
      are ignored.
    target_flops: the cost that the Elite Space was searched for; None where
      multiply-adds were no budget.
    largest_flops: cost of the largest network. With the error 1 it makes the
      reference point of the hypervolume, the same for every run of a search
      space.
    by_image: see `compare_spaces`.
    num_resamples: of the bootstrap.
    confidence: of the intervals.
    seed: of the bootstrap; the same seed gives the same numbers.

  Returns:
    `target_flops`, `reference_point`, `bootstrap`, and `pareto_front`: the
    number of archs on the front of all the groups together. `groups`: what
    `describe_group` tells of each, with `pareto_share`, the share of that
    front that it owns, and `hypervolume`. `elite_against`: for each kind of
    spaces, see `compare_spaces`.

  Raises:
    ValueError: if the spaces of a group are not numbered.
  """
  known = scores.select(np.isin(scores.source, [*scores_lib.GROUPS]))
  on_front = pareto_front(known)
  groups = {
    name: {
      **describe_group(known.group(name), target_flops),
      "pareto_share": float((known.source[on_front] == name).mean()),
      "hypervolume": hypervolume(known.group(name), largest_flops),
    }
    for name in scores_lib.GROUPS
    if name in known.source
  }
  elite = known.group(scores_lib.ELITE)
  against = {}
  for name in _SPACES:
    if not len(elite) or name not in groups:
      continue
    against[name] = compare_spaces(
      elite,
      known.group(name),
      num_resamples=num_resamples if name in _CONTROLS else 0,
      by_image=by_image,
      confidence=confidence,
      seed=seed,
    )
  return {
    "target_flops": target_flops,
    "reference_point": {"flops": largest_flops, "error": _WORST_ERROR},
    "bootstrap": {
      "num_resamples": num_resamples,
      "confidence": confidence,
      "seed": seed,
    },
    "pareto_front": int(on_front.sum()),
    "groups": groups,
    "elite_against": against,
  }


def describe_group(group: Scores, target_flops: float | None) -> dict[str, Any]:
  """Counts, errors, loss and cost of a group that has rows.

  Returns:
    `count` of archs, and `num_spaces` where they are numbered; `mean_error`,
    `median_error` and `min_error` as shares; `mean_loss` in nats; `mean_flops`
    and its `deviation` from the target, as a signed share of that, or null.
  """
  mean_flops = float(group.flops.mean())
  spaces = np.unique(group.space[group.space != NO_SPACE])
  return {
    "count": len(group),
    **({"num_spaces": len(spaces)} if len(spaces) else {}),
    "mean_error": float(group.error.mean()),
    "median_error": float(np.median(group.error)),
    "min_error": float(group.error.min()),
    "mean_loss": float(group.loss.mean()),
    "mean_flops": mean_flops,
    "deviation": (
      None if target_flops is None else mean_flops / target_flops - 1
    ),
  }


def hypervolume(group: Scores, largest_flops: float) -> float:
  """The area that a group dominates, in error times decades of FLOPs.

  It lies between the group's front, over log10 FLOPs as in the figure, and
  the reference point (error 1, FLOPs of the largest network): larger is better.
  Groups compare where they have as many archs.
  """
  points = np.stack([group.error, np.log10(group.flops)], axis=-1)
  reference = [_WORST_ERROR, math.log10(largest_flops)]
  return float(moocore.hypervolume(points, ref=reference))


def compare_spaces(
  elite: Scores,
  others: Scores,
  *,
  num_resamples: int,
  by_image: ByImage | None = None,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """The elite space among other spaces, by mean loss and by mean error.

  Args:
    elite: archs of the elite space.
    others: archs of other spaces, told apart by `space`; their numbers need
      not be equal.
    num_resamples: of the bootstrap; 0 leaves the percentiles out, which mean
      nothing among spaces that are not drawn at random.
    by_image: from rows of archs, what each image gets in their mean. All archs
      see the same images, so another set of images would move the difference
      of two spaces; without it that is left out of its standard error.
    confidence: of the intervals.
    seed: of the bootstrap.

  Returns:
    `num_spaces`, and for each of `loss` and `error`: `elite`, its mean;
    `best`, the smallest mean of another space, and `best_space`, which one;
    `regret`, elite - best, negative if the elite space wins, and
    `regret_error`, its standard error: by the archs that were drawn of the two
    and, with `by_image`, by the images.
    The best of many noisy means is too small, so the regret is on the large
    side when the spaces have few archs. And `percentile`: 100 times the share
    of the spaces whose mean is smaller than the elite space's, with two
    intervals,
    `bootstrap_interval` (spaces, archs inside them and archs of the elite space
    drawn anew) and `exact_interval` (Clopper and Pearson: of drawing so many
    spaces; not empty when no space beats the elite, as the bootstrap's is).

  Raises:
    ValueError: if a row has no number of its space.
  """
  if (others.space == NO_SPACE).any():
    raise ValueError(
      f"{others.source[0]}: every arch needs the number of its space; "
      f"{(others.space == NO_SPACE).sum()} of {len(others)} have none"
    )
  numbers, table = _by_space(others)
  means = np.nanmean(table, axis=1)
  elite_table = _measures(elite)
  result: dict[str, Any] = {"num_spaces": len(numbers)}
  for column, measure in enumerate(_MEASURES):
    mean = float(elite_table[:, column].mean())
    best = int(means[:, column].argmin())
    by_images = 0.0
    if by_image is not None:
      rival = others.select(others.space == numbers[best])
      differences = by_image(elite)[:, column] - by_image(rival)[:, column]
      by_images = _mean_error(differences)
    result[measure] = {
      "elite": mean,
      "best": float(means[best, column]),
      "best_space": int(numbers[best]),
      "regret": mean - float(means[best, column]),
      "regret_error": math.hypot(
        _mean_error(elite_table[:, column]),
        _mean_error(table[best, :, column]),
        by_images,
      ),
    }
  if num_resamples:
    rng = np.random.default_rng(seed)
    resampled = _bootstrap(rng, elite_table, table, num_resamples)
    for column, measure in enumerate(_MEASURES):
      beaten = means[:, column] < result[measure]["elite"]
      result[measure] |= _percentile(beaten, resampled[:, column], confidence)
  return result


def _percentile(
  beaten: np.ndarray, resampled: np.ndarray, confidence: float
) -> dict[str, Any]:
  """From `[M]` bool, and the resampled shares `[R]`, to percent."""
  tails = (1 - confidence) / 2
  ends = np.quantile(resampled, (tails, 1 - tails))
  exact = stats.binomtest(int(beaten.sum()), len(beaten)).proportion_ci(
    confidence
  )
  return {
    "percentile": 100 * float(beaten.mean()),
    "bootstrap_interval": [100 * float(end) for end in ends],
    "exact_interval": [100 * float(end) for end in exact],
  }


def _mean_error(values: np.ndarray) -> float:
  """The standard error of a mean; NaN are no values."""
  values = values[~np.isnan(values)]
  return float(values.std() / math.sqrt(max(len(values) - 1, 1)))


def _measures(scores: Scores) -> np.ndarray:
  """`[N, 2]`: loss and error, in the order of `_MEASURES`."""
  return np.stack([getattr(scores, name) for name in _MEASURES], axis=-1)


def _by_space(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
  """Indices of the spaces `[M]`, and `[M, A, 2]` measures of their archs.

  A is the largest number of archs of a space; NaN where a space has less.
  """
  numbers, inverse, counts = np.unique(
    scores.space, return_inverse=True, return_counts=True
  )
  table = np.full((len(numbers), counts.max(), len(_MEASURES)), np.nan)
  order = np.argsort(inverse, kind="stable")
  starts = np.cumsum(counts) - counts
  place = np.arange(len(order)) - np.repeat(starts, counts)
  table[inverse[order], place] = _measures(scores)[order]
  return numbers, table


def _bootstrap(
  rng: np.random.Generator,
  elite: np.ndarray,
  table: np.ndarray,
  num_resamples: int,
) -> np.ndarray:
  """`[R, 2]`: resampled share of the spaces that beat the elite space.

  Two levels (Davison and Hinkley, Bootstrap Methods, 3.8): spaces are drawn
  with replacement, then archs inside each that was drawn.

  Args:
    rng: draws.
    elite: `[N, 2]` measures of the elite space's archs.
    table: `[M, A, 2]`, see `_by_space`.
    num_resamples: R.
  """
  counts = (~np.isnan(table[..., 0])).sum(-1)
  shares = []
  for start in range(0, num_resamples, _CHUNK):
    size = min(_CHUNK, num_resamples - start)
    space = rng.integers(len(table), size=(size, len(table), 1))
    drawn = counts[space]
    # A space drawn twice draws its archs twice, each time its own.
    arch = rng.integers(drawn, size=(size, *table.shape[:2]))
    values = table[space, arch]
    # As many archs as the space has, the first of the A that were drawn.
    used = np.arange(table.shape[1]) < drawn
    means = (values * used[..., None]).sum(2) / drawn
    own = elite[rng.integers(len(elite), size=(size, len(elite)))].mean(1)
    shares.append((means < own[:, None]).mean(1))
  return np.concatenate(shares)
