"""Does a score rank archs? The numbers of `rank_check/summary.json`.

Pure functions of two tables, on the host: the truths, which are errors of archs
trained alone, each with several seeds, and the scores of the same archs. Both
are as `runtime/scores.py` reads them, so that the scores of another supernet
can be compared with truths that are kept.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime.scores import Scores
from nss_jax.runtime.truths import GROUPS, PREDICTORS, by_seed
from nss_jax.spaces.search_space import Arch

# What the supernet says, and what a count says without any training: larger
# networks err less. Each is a number to be small, as errors are.
SUPERNET = ("error", "loss")
TRIVIAL = ("flops", "params", "log_sizes")
RIDGE = ("ridge", "ridge_and_supernet")
# Of the supernet's scores the finer one, by which archs are chosen elsewhere.
_JUDGED = "loss"
_PENALTIES = np.logspace(-2, 3, 11)
# Fewer points do not tell a slope from noise.
_LEAST_FOR_RIDGE = 5
_DEVIATIONS = 2


def summarize(
  scored: Scores,
  truths: Scores,
  *,
  num_resamples: int = 1000,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """What each predictor is worth in each group of archs that is there.

  Args:
    scored: by the supernet; the sources are `GROUPS`.
    truths: of the same archs in the same order, see `runtime/truths.py`.
    num_resamples: of the bootstrap, which draws archs anew.
    confidence: of its intervals.
    seed: of the bootstrap; the same seed gives the same numbers.

  Returns:
    For each group of two archs or more what `rank_group` gives, and the
    `verdict` in words. The ridge regressions learn from both groups.

  Raises:
    UserError: if the truths are of other archs, or not of all.
  """
  groups = [name for name in GROUPS if name in scored.source]
  errors = {name: by_seed(truths, name, scored.group(name)) for name in groups}
  for name in groups:
    if not errors[name].size or np.isnan(errors[name]).any():
      raise UserError(
        f"truths of {name}: not all of its {len(scored.group(name))} archs are "
        "trained alone with each seed"
      )
  scored = scored.select(
    np.concatenate([np.flatnonzero(scored.source == x) for x in groups])
  )
  predictors = predict(
    scored, np.concatenate([errors[name].mean(1) for name in groups])
  )
  result = {}
  for name in groups:
    if len(errors[name]) < 2:  # which have no order
      continue
    result[name] = rank_group(
      {key: x[scored.source == name] for key, x in predictors.items()},
      errors[name],
      num_resamples=num_resamples,
      confidence=confidence,
      seed=seed,
    )
    against = result[name]["against_trivial"]
    result[name]["verdict"] = verdict(against, name)
  return result


def learn(
  scored: Scores, truths: Scores
) -> Callable[[Arch, np.ndarray], np.ndarray] | None:
  """What ridge regression has learnt of archs that were trained alone.

  Args:
    scored: as for `summarize`.
    truths: as for `summarize`; archs without each of its seeds are left out.

  Returns:
    `(archs [N, S], supernet's losses [N]) -> [N]` predicted errors, up to a
    constant; None where too few archs are known, or where the archs that it
    has not seen are ordered no better than by the supernet's loss alone. That
    is asked of the archs near the target, among which the choice is made, if
    there are enough of these, and else of all.
  """
  rows, errors = [], []
  for name in GROUPS:
    group = np.flatnonzero(scored.source == name)
    known = by_seed(truths, name, scored.select(group))
    if known.size:
      whole = np.isfinite(known).all(1)
      rows.append(group[whole])
      errors.append(known[whole].mean(1))
  if sum(map(len, rows)) < _LEAST_FOR_RIDGE:
    return None
  known, truth = scored.select(np.concatenate(rows)), np.concatenate(errors)
  said = predict(known, truth)
  asked = known.source == "near_target"
  if asked.sum() < _LEAST_FOR_RIDGE:
    asked[:] = True
  ours, its = (
    kendall(said[name][asked], truth[asked], np.ones((1, asked.sum())))[0]
    for name in (RIDGE[-1], _JUDGED)
  )
  if not ours > its:
    return None
  from sklearn.linear_model import RidgeCV
  from sklearn.pipeline import make_pipeline
  from sklearn.preprocessing import StandardScaler

  model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
  model.fit(_features(known, known.loss), truth)
  return lambda archs, losses: np.asarray(
    model.predict(_features(archs, losses))
  )


def _features(archs: Arch | Scores, losses: np.ndarray) -> np.ndarray:
  """Log depths, log widths and the supernet's loss, `[N, 2 S + 1]`."""
  logs = np.log(np.concatenate([archs.depth, archs.width], axis=-1))
  return np.concatenate([logs, np.asarray(losses)[:, None]], axis=-1)


def predict(scored: Scores, truth: np.ndarray) -> dict[str, np.ndarray]:
  """Each predictor of the errors of N archs, `[N]`; smaller means better.

  Args:
    scored: the archs, with the supernet's scores.
    truth: `[N]` mean error of each arch trained alone, for the regressions.
  """
  both = _features(scored, scored.loss)
  logs = both[:, :-1]
  found = {
    "error": scored.error,
    "loss": scored.loss,
    "flops": -scored.flops.astype(np.float64),
    "params": -scored.params.astype(np.float64),
    "log_sizes": -logs.sum(-1),
  }
  if len(truth) >= _LEAST_FOR_RIDGE:
    found["ridge"] = left_one_out(logs, truth)
    found["ridge_and_supernet"] = left_one_out(both, truth)
  return found


def left_one_out(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """What ridge regression says of each arch that it has not seen.

  Its penalty is chosen without that arch too. Only slopes are left one out, and
  no intercept is added: the mean of the others is the larger the smaller the
  one left out is, and where nothing can be learned that alone would order the
  archs the wrong way round.

  Args:
    features: `[N, F]`.
    truth: `[N]`.

  Returns:
    `[N]`, up to a constant.
  """
  # Here, as it takes long to import.
  from sklearn.linear_model import RidgeCV
  from sklearn.preprocessing import StandardScaler

  features = StandardScaler().fit_transform(features)
  said = []
  for index, row in enumerate(features):
    rest = np.delete(features, index, axis=0), np.delete(truth, index)
    said.append(row @ RidgeCV(_PENALTIES).fit(*rest).coef_)
  return np.asarray(said)


def rank_group(
  predictors: dict[str, np.ndarray],
  errors: np.ndarray,
  *,
  num_resamples: int,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Any]:
  """Kendall's tau-b of every predictor with the truth, and its share.

  Args:
    predictors: `[N]` each, by name; with `SUPERNET` and `TRIVIAL`.
    errors: `[N, R]` of R seeds.
    num_resamples: of the bootstrap.
    confidence: of its intervals.
    seed: of the bootstrap.

  Returns:
    `count` and `num_seeds`. `ceiling`: the mean tau between two seeds of the
    truth, with its `interval`; null with one seed. `predictors`: of each the
    `tau` with the mean over the seeds, its `interval`, and its `share` of the
    ceiling, which can be above 1, as a mean is less noisy than a seed. And
    `against_trivial`: which of the trivial predictors is `best`, by how much
    the supernet's loss is above it (`difference`), the `deviation` of that when
    archs are drawn anew and the best is chosen anew, and whether it
    `tells_more` by two of these. Whatever is undefined is null.
  """
  count, num_seeds = errors.shape
  rng = np.random.default_rng(seed)
  drawn = rng.multinomial(count, np.full(count, 1 / count), num_resamples)
  # The archs as they are, then how often each is drawn.
  weights = np.concatenate([np.ones((1, count)), drawn])

  def told(taus: np.ndarray) -> dict[str, Any]:
    tails = (1 - confidence) / 2
    known = taus[1:][np.isfinite(taus[1:])]
    ends = np.quantile(known, (tails, 1 - tails)) if known.size else None
    return {
      "tau": _number(taus[0]),
      "interval": None if ends is None else ends.tolist(),
    }

  truth = errors.mean(1)
  taus = {
    name: kendall(predicted, truth, weights)
    for name, predicted in predictors.items()
  }
  pairs = [
    kendall(one, other, weights)
    for one, other in itertools.combinations(errors.T, 2)
  ]
  unknown = np.full(len(weights), np.nan)
  ceiling = told(np.mean(pairs, axis=0) if pairs else unknown)
  most = ceiling["tau"]
  entries = {}
  for name, values in taus.items():
    entry = told(values)
    known = entry["tau"] is not None and most is not None and most > 0
    share = entry["tau"] / most if known else None
    entries[name] = {**entry, "share": share}
  return {
    "count": count,
    "num_seeds": num_seeds,
    "ceiling": ceiling,
    "predictors": entries,
    "against_trivial": _against_trivial(taus),
  }


def _against_trivial(taus: dict[str, np.ndarray]) -> dict[str, Any]:
  trivial = np.stack([taus[name] for name in TRIVIAL])
  trivial = np.where(np.isnan(trivial), -np.inf, trivial)
  differences = taus[_JUDGED] - trivial.max(0)
  known = differences[1:][np.isfinite(differences[1:])]
  difference = _number(differences[0])
  deviation = float(known.std(ddof=1)) if known.size > 1 else None
  more = False
  if difference is not None and deviation is not None:
    more = difference > _DEVIATIONS * deviation
  return {
    "best": TRIVIAL[int(trivial[:, 0].argmax())],
    "difference": difference,
    "deviation": deviation,
    "tells_more": more,
  }


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """Kendall's tau-b of x and y, where an item counts several times.

  Items that are drawn twice are ties, which tau-b leaves out, so that one sum
  over pairs serves all resamples at once.

  Args:
    x: `[N]`.
    y: `[N]`.
    weights: `[R, N]` how often each counts.

  Returns:
    `[R]`; NaN where all values of x or of y are equal.
  """
  signs = [np.sign(v[:, None] - v[None, :]) for v in (x, y)]
  agree, *untied = (
    ((weights @ pairs) * weights).sum(-1)
    for pairs in (signs[0] * signs[1], *map(np.abs, signs))
  )
  norm = np.sqrt(untied[0] * untied[1])
  return np.divide(agree, norm, out=np.full(len(norm), np.nan), where=norm > 0)


def verdict(found: dict[str, Any], group: str) -> str:
  """Whether the supernet tells more than a count, in a sentence.

  Args:
    found: `against_trivial` of `rank_group`.
    group: one of `GROUPS`.
  """
  where = "near the target" if group == "near_target" else "over all costs"
  name = PREDICTORS[found["best"]]
  if found["difference"] is None or found["deviation"] is None:
    return f"Too few archs {where} to tell the supernet from {name}."
  says = "tells more" if found["tells_more"] else "does not tell more"
  return (
    f"The supernet {says} than {name} {where}: the tau of its loss less that "
    f"of the count is {found['difference']:+.2f}, and {_DEVIATIONS} standard "
    f"deviations of that are {_DEVIATIONS * found['deviation']:.2f}."
  )


def _number(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None
