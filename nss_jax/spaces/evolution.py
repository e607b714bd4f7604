"""Evolutionary search over feasible spaces: what the best of them scores.

The mark that a searched space is measured against: it optimises the score
itself, over the very spaces that meet the cost target.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nss_jax.spaces.constraints import Target
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.sampling import check_at_least_one, host_rng
from nss_jax.spaces.search_space import SearchSpace, Space
from nss_jax.spaces.table import spaces_at, table_shape

# Children proposed for each one wanted: most leave the cost window or repeat a
# space, and looking that up costs next to nothing.
_PROPOSALS = 64


def evolve_spaces(
  rng: jax.Array,
  search_space: SearchSpace,
  score_fn: Callable[[Space], Any],
  *,
  target: Target,
  tolerance: float,
  num_scored: int,
  population: int = 64,
  parents: int = 16,
) -> tuple[Space, np.ndarray]:
  """Searches the feasible spaces for the lowest score.

  The first generation is drawn uniformly. Each later one descends from the best
  of all spaces scored so far: half by mutation (one or two bins, each moved to
  a neighbour or anywhere), half by crossover (each stage's depth and width from
  either parent). Children that leave the cost window or were scored before are
  dropped, and where descent finds too few, uniform spaces fill the generation,
  so that the search never stalls and in the end scores every feasible space.

  Returns the spaces that it scored, `[n, S]`, with their scores `[n]`, float64:
  the lowest first, equal ones in the order in which they were scored, NaN last.
  `score_fn` is called once per generation, for scores `[n]` of spaces `[n, S]`,
  and never sees a space twice. All this is a function of the key and the scores
  alone: a run that was cut short repeats itself, if `score_fn` remembers the
  scores it gave.

  Source: Guo et al., Single Path One-Shot, Algorithm 1 (the best k as parents,
  half mutation and half crossover, the cost constraint by rejection).
  """
  for name, number in (
    ("num_scored", num_scored),
    ("population", population),
    ("parents", parents),
  ):
    check_at_least_one(name, number)
  feasible = feasible_indices(search_space, target, tolerance)
  num_scored = min(num_scored, feasible.size)
  generator, shape = host_rng(rng), table_shape(search_space)
  unscored = np.zeros(search_space.num_spaces, bool)
  unscored[feasible] = True
  indices, scores = np.zeros(0, np.int64), np.zeros(0)
  while indices.size < num_scored:
    size = min(population, num_scored - indices.size)
    best = indices[np.argsort(scores, kind="stable")[:parents]]
    batch = _generation(generator, shape, best, unscored, size)
    found = np.asarray(score_fn(spaces_at(search_space, batch)), np.float64)
    if found.shape != batch.shape:
      raise ValueError(
        f"score_fn must return one score for each of {batch.size} spaces; got "
        f"the shape {found.shape}"
      )
    indices = np.concatenate([indices, batch])
    scores = np.concatenate([scores, found])
  order = np.argsort(scores, kind="stable")  # NaN last
  return spaces_at(search_space, indices[order]), scores[order]


def _generation(
  generator: np.random.Generator,
  shape: tuple[int, ...],
  best: np.ndarray,
  unscored: np.ndarray,
  size: int,
) -> np.ndarray:
  """Picks `size` unscored spaces, by index, and marks them as scored."""
  picked = np.zeros(0, np.int64)
  if best.size:
    bins = np.stack(np.unravel_index(best, shape), axis=-1)
    # Crossover of parents that are alike gives few; mutation makes up for it.
    for descend, total in ((_crossover, size // 2), (_mutation, size)):
      wanted = total - picked.size
      children = descend(generator, shape, bins, _PROPOSALS * wanted)
      children = np.ravel_multi_index(tuple(children.T), shape)
      picked = np.append(picked, _take(children, unscored, wanted))
  if missing := size - picked.size:
    others = generator.permutation(np.flatnonzero(unscored))
    picked = np.append(picked, _take(others, unscored, missing))
  return picked


def _take(indices: np.ndarray, unscored: np.ndarray, wanted: int) -> np.ndarray:
  """Takes the first different unscored indices, and marks them as scored."""
  _, first = np.unique(indices, return_index=True)
  indices = indices[np.sort(first)]
  taken = indices[unscored[indices]][:wanted]
  unscored[taken] = False
  return taken


def _crossover(
  generator: np.random.Generator,
  shape: tuple[int, ...],
  bins: np.ndarray,
  count: int,
) -> np.ndarray:
  """Makes children `[count, 2 S]` of `[P, 2 S]`: each stage from either."""
  mothers, fathers = generator.choice(bins, (2, count))
  stages = generator.random((count, len(shape) // 2)) < 0.5
  return np.where(np.tile(stages, 2), mothers, fathers)


def _mutation(
  generator: np.random.Generator,
  shape: tuple[int, ...],
  bins: np.ndarray,
  count: int,
) -> np.ndarray:
  """Makes children `[count, 2 S]` of bins `[P, 2 S]`: one move, or two.

  One move alone can never trade the cost of one stage for that of another, and
  a cost window leaves it few: within 10 % of 600 MF, 4 per space of the paper.
  """
  children = generator.choice(bins, count)
  moved = _move(generator, shape, children)
  twice = generator.random((count, 1)) < 0.5
  return np.where(twice, _move(generator, shape, moved), moved)


def _move(
  generator: np.random.Generator, shape: tuple[int, ...], bins: np.ndarray
) -> np.ndarray:
  """Moves one bin of each row: to the next one or, half the time, anywhere."""
  count = np.asarray(shape)
  rows = np.arange(len(bins))
  axes = generator.choice(np.flatnonzero(count > 1), len(bins))
  old, count = bins[rows, axes], count[axes]
  step = generator.choice([-1, 1], len(bins))
  inside = (old + step >= 0) & (old + step < count)
  near = np.where(inside, old + step, old - step)
  anywhere = (old + generator.integers(1, count)) % count
  moved = bins.copy()
  moved[rows, axes] = np.where(
    generator.random(len(bins)) < 0.5, near, anywhere
  )
  return moved
