import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import RAGGED, assert_same, search_spaces

from nss_jax.spaces.evolution import evolve_spaces
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.table import (
  all_space_macs,
  space_indices,
  spaces_at,
  table_shape,
)

PAPER = SearchSpace.expanded()
# 980 spaces of the paper's cost a tenth more or less; 14,719 at 32 GF.
WINDOW = {"target": 6e8, "tolerance": 0.1}
WIDE_WINDOW = {"target": 32e9, "tolerance": 0.1}
EVERYTHING = {"target": 1e9, "tolerance": 1e6}


def bins_of(spaces):
  """`[..., 2 S]`: depths, then widths."""
  return np.concatenate([spaces.depth, spaces.width], axis=-1)


def hidden_score(search_space, feasible, seed):
  """Distance to one of the feasible spaces, and bumps between bins."""
  rng = np.random.default_rng(seed)
  shape = table_shape(search_space)
  hidden = bins_of(spaces_at(search_space, rng.choice(feasible)))
  bumps = rng.normal(size=(len(shape), max(shape)))

  def score(spaces):
    bins = bins_of(spaces)
    distance = (np.abs(bins - hidden) / (np.asarray(shape) - 1)).sum(-1)
    bump = bumps[np.arange(len(shape)), bins] * (bins != hidden)
    return distance + 0.2 * bump.sum(-1)

  return score


def recorded(score_fn):
  """The score, and the batches that it was asked for."""
  batches = []

  def score(spaces):
    batches.append(spaces)
    return score_fn(spaces)

  return score, batches


def first_width(spaces):
  return spaces.width[..., 0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
  ("window", "num_scored"), [(WINDOW, 240), (WIDE_WINDOW, 1000)]
)
def test_evolution_finds_the_best_of_all_feasible_spaces(
  window, num_scored, seed
):
  feasible = feasible_indices(PAPER, **window)
  assert num_scored < feasible.size / 4
  score = hidden_score(PAPER, feasible, seed)
  everything = score(spaces_at(PAPER, feasible))
  spaces, scores = evolve_spaces(
    jax.random.key(seed), PAPER, score, **window, num_scored=num_scored
  )
  assert scores[0] == everything.min()
  best = space_indices(PAPER, spaces)[0]
  assert best == feasible[everything.argmin()]


def test_generations_are_feasible_and_no_space_comes_twice():
  feasible = feasible_indices(PAPER, **WINDOW)
  score, batches = recorded(hidden_score(PAPER, feasible, 0))
  spaces, scores = evolve_spaces(
    jax.random.key(0),
    PAPER,
    score,
    **WINDOW,
    num_scored=205,
    population=50,
    parents=10,
  )
  assert [len(batch.depth) for batch in batches] == [50, 50, 50, 50, 5]
  scored = np.concatenate([space_indices(PAPER, batch) for batch in batches])
  assert np.unique(scored).size == 205
  assert np.isin(scored, feasible).all()
  # What comes back is what was scored, in the order of the scores.
  returned = space_indices(PAPER, spaces)
  np.testing.assert_array_equal(np.sort(returned), np.sort(scored))
  np.testing.assert_array_equal(scores, np.sort(score(spaces)))
  for batch in (*batches, spaces):
    assert batch.depth.dtype == batch.width.dtype == np.int32


@settings(deadline=None, max_examples=30)
@given(search_spaces(), st.integers(0, 999), st.integers(1, 9))
def test_in_the_end_every_feasible_space_is_scored(
  search_space, seed, population
):
  costs = all_space_macs(search_space).ravel()
  window = {"target": float(np.median(costs)), "tolerance": 0.3}
  if not (np.abs(costs / window["target"] - 1) <= 0.3).any():
    return
  spaces, scores = evolve_spaces(
    jax.random.key(seed),
    search_space,
    lambda spaces: (7 * spaces.width + 5 * spaces.depth).sum(-1) % 4,
    **window,
    num_scored=300,
    population=population,
    parents=1 + seed % 3,
  )
  np.testing.assert_array_equal(
    np.sort(space_indices(search_space, spaces)),
    feasible_indices(search_space, **window),
  )
  assert (np.diff(scores) >= 0).all()


def test_evolution_is_a_function_of_the_key():
  score = hidden_score(PAPER, feasible_indices(PAPER, **WINDOW), 1)
  one, again, other = (
    evolve_spaces(jax.random.key(s), PAPER, score, **WINDOW, num_scored=150)
    for s in (1, 1, 2)
  )
  assert_same(one, again)
  assert set(space_indices(PAPER, one[0])) != {*space_indices(PAPER, other[0])}


def test_the_first_generation_is_uniform():
  score, batches = recorded(first_width)
  count = {"num_scored": 8000, "population": 8000}
  evolve_spaces(jax.random.key(3), PAPER, score, **EVERYTHING, **count)
  (batch,) = batches
  for column in bins_of(batch).T:
    counts = np.bincount(column)
    expected = len(column) / counts.size
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_mutants_differ_in_one_bin_or_two():
  # Equal scores and one parent: all later spaces descend from the first.
  score, batches = recorded(lambda spaces: np.zeros(len(spaces.depth)))
  count = {"num_scored": 400, "population": 1, "parents": 1}
  evolve_spaces(jax.random.key(4), PAPER, score, **EVERYTHING, **count)
  bins = np.concatenate([bins_of(batch) for batch in batches])
  moves = bins[1:] - bins[0]
  count = (moves != 0).sum(-1)
  assert set(count) == {1, 2}
  assert (moves != 0).any(0).all(), "every bin of every stage can move"
  single = moves[count == 1]
  steps = abs(single[single != 0])
  assert (steps == 1).any()
  assert (steps > 1).any()


def test_crossover_takes_each_stage_from_either_parent():
  # Scores grow, so that the first two spaces stay the parents.
  rising = iter(range(1000))
  score, batches = recorded(
    lambda spaces: [float(next(rising)) for _ in spaces.depth]
  )
  count = {"num_scored": 14, "population": 2, "parents": 2}
  evolve_spaces(jax.random.key(5), PAPER, score, **EVERYTHING, **count)
  (mother, father), *later = [
    np.stack([batch.depth, batch.width], -1).tolist() for batch in batches
  ]
  pairs = [*zip(mother, father, strict=True)]
  assert all(a != b for a, b in pairs)
  mixes = set()
  for child, _ in later:
    assert all(stage in pair for stage, pair in zip(child, pairs, strict=True))
    mixes.add(tuple(a == b for a, b in zip(child, mother, strict=True)))
  # Two parents that differ in three stages have six other children.
  assert len(mixes) == len(later) == 6


def test_nan_is_the_worst_score():
  feasible = feasible_indices(PAPER, **WINDOW)
  score = hidden_score(PAPER, feasible, 2)

  def broken(spaces):
    return np.where(spaces.width[:, 1] % 2, np.nan, score(spaces))

  _, scores = evolve_spaces(
    jax.random.key(6), PAPER, broken, **WINDOW, num_scored=200
  )
  failed = np.isnan(scores)
  assert 0 < failed.sum() < 150
  assert (np.diff(failed.astype(int)) >= 0).all()
  assert scores[0] == np.nanmin(broken(spaces_at(PAPER, feasible)))


def test_scores_can_be_of_jax_and_of_integers():
  spaces, scores = evolve_spaces(
    jax.random.key(7),
    RAGGED,
    lambda spaces: jnp.asarray(spaces.width).sum(-1),
    **EVERYTHING,
    num_scored=20,
    population=20,
  )
  assert scores.dtype == np.float64
  np.testing.assert_array_equal(scores, spaces.width.sum(-1))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"score_fn": lambda spaces: 0.0}, r"each of 3 spaces; got .*\(\)"),
    ({"score_fn": lambda spaces: spaces.depth}, r"got the shape \(3, 3\)"),
    ({"score_fn": lambda spaces: spaces.depth[1:, 0]}, r"the shape \(2,\)"),
    ({"num_scored": 0}, "num_scored must be at least 1; got 0"),
    ({"population": 0}, "population must be at least 1; got 0"),
    ({"parents": 0}, "parents must be at least 1; got 0"),
    ({"target": 1.0, "tolerance": 0.1}, r"no space has .* nearest has"),
  ],
)
def test_evolution_refuses(change, message):
  numbers = {"num_scored": 9, "population": 3, "parents": 2}
  given = {"score_fn": first_width, **EVERYTHING, **numbers, **change}
  with pytest.raises(ValueError, match=message):
    evolve_spaces(jax.random.key(9), RAGGED, **given)
