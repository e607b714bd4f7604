"""`rank_check/truths.csv`: errors of archs that were trained alone.

Lines as in `scores.csv`: the arch, its cost, its error and loss on the images
that are held out. The source is the group of the arch and the number of the
seed that it was trained with, as in `near_target_1`; every seed has the same
archs in the same order.
"""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from nss_jax.errors import UserError
from nss_jax.results.scores import Scores, find_scores
from nss_jax.spaces.search_space import SearchSpace

# Archs at all costs, evenly in the logarithm, and archs near the target, with
# words for each; these are the sources of what the supernet says of them.
GROUPS = {"spread": "spread in cost", "near_target": "near the target"}


class RankScores(NamedTuple):
  """Archs that the supernet scored, and the truths, which may lack some."""

  supernet: Scores
  truths: Scores


def seed_source(group: str, seed: int) -> str:
  """Returns the source of the truths of a group by one seed."""
  return f"{group}_{seed}"


def by_seed(truths: Scores, group: str, archs: Scores) -> np.ndarray:
  """Returns errors `[N, R]` of N archs with each of R seeds; NaN: not known."""
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


def find_rank_scores(
  folder: pathlib.Path, search_space: SearchSpace
) -> RankScores | None:
  """Reads `scores.csv` and `truths.csv` of a folder, if there are scores."""
  scored = find_scores(folder / "scores.csv", search_space)
  if scored is None:
    return None
  known = find_scores(folder / "truths.csv", search_space)
  if known is None:
    known = scored.select(np.zeros(len(scored), bool))
  for name in GROUPS:
    try:
      by_seed(known, name, scored.group(name))
    except UserError as error:
      raise UserError(f"{folder / 'truths.csv'}: {error}") from None
  return RankScores(scored, known)
