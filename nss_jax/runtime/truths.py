"""`rank_check/truths.csv`: errors of archs that were trained alone.

Lines as in `runtime/scores.py`: the arch, its cost, its error and loss on the
images that are held out. The source is the group of the arch and the number of
the seed that it was trained with, as in `near_target_1`; every seed has the
same archs in the same order.
"""

import itertools

import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime.scores import Scores

# Archs at all costs, evenly in the logarithm, and archs near the target, with
# words for each; these are the sources of what the supernet says of them.
GROUPS = {"spread": "spread in cost", "near_target": "near the target"}
# What may rank archs, in words.
PREDICTORS = {
  "error": "the supernet's error",
  "loss": "the supernet's loss",
  "flops": "multiply-adds",
  "params": "parameters",
  "log_sizes": "the sum of log widths and log depths",
  "ridge": "ridge regression on log sizes",
  "ridge_and_supernet": "ridge regression on them and the supernet's loss",
}


def seed_source(group: str, seed: int) -> str:
  """The source of the truths of a group by one seed."""
  return f"{group}_{seed}"


def by_seed(truths: Scores, group: str, archs: Scores) -> np.ndarray:
  """Errors `[N, R]` of N archs with each of R seeds, NaN where not known yet.

  Args:
    truths: of the file.
    group: one of `GROUPS`.
    archs: the N archs, such as what the supernet says of them.

  Raises:
    UserError: if the archs are others.
  """
  columns = []
  for seed in itertools.count():
    source = seed_source(group, seed)
    known = truths.group(source)
    if not len(known):
      break
    same = len(known) <= len(archs) and all(
      np.array_equal(getattr(known, kind), getattr(archs, kind)[: len(known)])
      for kind in ("depth", "width")
    )
    if not same:
      raise UserError(
        f"truths of {source}: expected the {len(archs)} archs of {group}, in "
        f"their order; got {len(known)} archs"
      )
    missing = np.full(len(archs) - len(known), np.nan)
    columns.append(np.concatenate([known.error, missing]))
  return np.stack(columns, -1) if columns else np.empty((len(archs), 0))
