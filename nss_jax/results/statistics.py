"""How far numbers can be trusted, and what they say of an order.

Pure functions of arrays, on the host.
"""

import math
import statistics
from collections.abc import Sequence

import moocore
import numpy as np
from scipy import optimize, stats

# Of all intervals.
CONFIDENCE = 0.95
# Resamples that are held in memory at once.
_CHUNK = 100


def finite(value: float) -> float | None:
  """Returns a plain number, or None if the value is not finite."""
  return float(value) if math.isfinite(value) else None


def standard_error(values: Sequence[float]) -> float | None:
  """Returns the standard error of a mean; one value has none."""
  if len(values) < 2:
    return None
  return statistics.stdev(values) / math.sqrt(len(values))


def compare_means(
  values: Sequence[float], others: Sequence[float]
) -> tuple[float, float | None]:
  """Returns the difference of two means, and its standard error if known."""
  difference = statistics.fmean(values) - statistics.fmean(others)
  both = standard_error(values), standard_error(others)
  if None in both:
    return difference, None
  return difference, math.hypot(*filter(None, both))


def error_of_mean(values: np.ndarray) -> float:
  """Returns the standard error of a mean; NaN are no values."""
  values = values[~np.isnan(values)]
  return float(values.std() / math.sqrt(max(len(values) - 1, 1)))


def quantiles(values: np.ndarray) -> list[float] | None:
  """Returns the interval of what was resampled; None where all are NaN."""
  known, tails = values[np.isfinite(values)], (1 - CONFIDENCE) / 2
  return np.quantile(known, (tails, 1 - tails)).tolist() if known.size else None


def exact_interval(beaten: np.ndarray) -> list[float]:
  """Returns the interval of Clopper and Pearson for the share of `[M]` bool."""
  test = stats.binomtest(int(beaten.sum()), len(beaten))
  return [float(end) for end in test.proportion_ci(CONFIDENCE)]


def bootstrap_shares(
  rng: np.random.Generator,
  own: np.ndarray,
  table: np.ndarray,
  num_resamples: int,
) -> np.ndarray:
  """Resamples the share of spaces whose mean is smaller than one space's own.

  Two levels (Davison and Hinkley, Bootstrap Methods, 3.8): spaces are drawn
  with replacement, then archs inside each that was drawn. Measures are
  `[N, 2]` of the one and `[M, A, 2]` of the others, NaN where one has fewer.
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
    mean = own[rng.integers(len(own), size=(size, len(own)))].mean(1)
    shares.append((means < mean[:, None]).mean(1))
  return np.concatenate(shares)


def hypervolume(
  error: np.ndarray, flops: np.ndarray, reference: tuple[float, float]
) -> float:
  """Returns the area that archs dominate, in error times decades of FLOPs.

  It lies between their front, over log10 FLOPs as in the figure, and the
  reference point (error, FLOPs): larger is better. Groups compare where they
  have as many archs.
  """
  points = np.stack([error, np.log10(flops)], axis=-1)
  worst = [reference[0], math.log10(reference[1])]
  return float(moocore.hypervolume(points, ref=worst))


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Computes Kendall's tau-b of x and y, where an item counts several times.

  Items that are drawn twice are ties, which tau-b leaves out, so that one sum
  over pairs serves all resamples at once: `[R]` of weights `[R, N]`, NaN where
  all values of x or of y are equal.
  """
  signs = [np.sign(v[:, None] - v[None, :]) for v in (x, y)]
  same, *untied = (
    ((weights @ pairs) * weights).sum(-1)
    for pairs in (signs[0] * signs[1], *map(np.abs, signs))
  )
  norm = np.sqrt(untied[0] * untied[1])
  return np.divide(same, norm, out=np.full(len(norm), np.nan), where=norm > 0)


def match_costs(
  references: np.ndarray, candidates: np.ndarray, *, tolerance: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs archs of two populations that cost the same, each used once.

  Error EDFs of two populations of different cost compare the costs as well
  (without a window, archs of the elite trend cost twice those of the design
  principles). The EDFs over the pairs do not: at every quantile their costs
  agree within the tolerance, a distance `|log(candidate / reference)|`. Of the
  pairings with the most pairs it is the one with the smallest sum of distances.
  It looks at costs only, so at a given cost the errors of a population are as
  before. Indices of both, `[P]` each, come in the order of cost.
  """
  macs = [np.asarray(x, np.float64).ravel() for x in (references, candidates)]
  for x in macs:
    if not ((x > 0) & (x < np.inf)).all():
      raise ValueError(f"multiply-adds must be positive and finite; got {x}")
  if not 0 <= tolerance < np.inf:
    raise ValueError(f"tolerance must be at least 0, finite; got {tolerance}")
  distance = np.abs(np.log(macs[1])[None] - np.log(macs[0])[:, None])
  near = distance <= tolerance
  # One pair too far apart is dearer than all others together.
  prices = np.where(near, distance, 1 + len(macs[0]) * tolerance)
  pairs = optimize.linear_sum_assignment(prices)
  kept = near[pairs]
  # In the order of cost no pair is farther apart than before.
  first, second = (
    i[kept][np.argsort(x[i[kept]], kind="stable")]
    for i, x in zip(pairs, macs, strict=True)
  )
  return first, second


def error_edf(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the steps of the distribution function of errors (RegNet 3.1).

  The share of archs with an error below e is `share[k]` from just above `x[k]`
  to `x[k + 1]`, and 0 up to `x[0]`: plot it with `drawstyle="steps-post"`.
  """
  errors = np.asarray(errors, np.float64).ravel()
  if not errors.size or np.isnan(errors).any():
    raise ValueError(
      f"an EDF needs errors that are numbers; got {errors.size}, "
      f"{np.isnan(errors).sum()} of them nan"
    )
  steps = stats.ecdf(errors).cdf
  return steps.quantiles, steps.probabilities


def share_of_pairs_won(errors: np.ndarray, others: np.ndarray) -> float:
  """Returns the chance that an error is below one of others, ties half.

  The area under the curve of Mann and Whitney: 0.5 is no difference. What the
  area *between* two EDFs is, the difference of the means says.
  """
  ordered = np.sort(others)
  below = np.searchsorted(ordered, errors, side="left")
  up_to = np.searchsorted(ordered, errors, side="right")
  return float(1 - (below + up_to).mean() / (2 * len(others)))
