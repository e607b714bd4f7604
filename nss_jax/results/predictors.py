"""What may rank archs before they are trained alone, and what ridge learns.

A predictor is a number that is small where the error is: what the supernet
says, what a count says without any training, as larger networks err less, and
regressions on both.
"""

from collections.abc import Callable

import numpy as np

from nss_jax.results.scores import Scores
from nss_jax.results.statistics import kendall
from nss_jax.results.truths import GROUPS, by_seed
from nss_jax.spaces.search_space import Arch

SUPERNET = ("error", "loss")
TRIVIAL = ("flops", "params", "log_sizes")
RIDGE = ("ridge", "ridge_and_supernet")
# Of the supernet's scores the finer one, by which archs are chosen elsewhere.
JUDGED = "loss"
NAMES = {
  "error": "the supernet's error",
  "loss": "the supernet's loss",
  "flops": "multiply-adds",
  "params": "parameters",
  "log_sizes": "the sum of log widths and log depths",
  "ridge": "ridge regression on log sizes",
  "ridge_and_supernet": "ridge regression on them and the supernet's loss",
}
_PENALTIES = np.logspace(-2, 3, 11)
# Fewer points do not tell a slope from noise.
_LEAST_FOR_RIDGE = 5


def predict(scored: Scores, truth: np.ndarray) -> dict[str, np.ndarray]:
  """Predicts errors of N archs in each way, `[N]`, smaller is better; ridge
  regressions learn from the mean errors `[N]` of the archs trained alone."""
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


def learn(
  scored: Scores, truths: Scores
) -> Callable[[Arch, np.ndarray], np.ndarray] | None:
  """Learns by ridge regression from archs that were trained alone.

  Returns what predicts errors `[N]`, up to a constant, from archs `[N, S]` and
  the supernet's losses `[N]`; None where too few archs are known, or where
  those that it has not seen are ordered no better than by the loss alone. It is
  asked of those near the target, among which the choice is made, if there are
  enough of these, and else of all.
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
    for name in (RIDGE[-1], JUDGED)
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


def left_one_out(features: np.ndarray, truth: np.ndarray) -> np.ndarray:
  """Tells of each arch `[N]` what ridge regression on the others says.

  Its penalty is chosen without that arch too. Only slopes are left one out, and
  no intercept is added: the mean of the others is the larger the smaller the
  one left out is, and where nothing can be learned that alone would order the
  archs the wrong way round.
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


def _features(archs: Arch | Scores, losses: np.ndarray) -> np.ndarray:
  """Returns log depths, log widths and losses, `[N, 2 S + 1]`."""
  logs = np.log(np.concatenate([archs.depth, archs.width], axis=-1))
  return np.concatenate([logs, np.asarray(losses)[:, None]], axis=-1)
