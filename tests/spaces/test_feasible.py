import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import (
  RAGGED,
  assert_frequencies,
  assert_same,
  committed,
  random_logits,
  search_spaces,
  search_spaces_and_logits,
  softmax,
  stack,
)

from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.cost import arch_macs, macs_range, space_macs
from nss_jax.spaces.distribution import (
  SpaceLogits,
  most_probable_space,
)
from nss_jax.spaces.feasible import (
  elite_candidates,
  feasible_indices,
  num_feasible,
  sample_feasible_archs,
  sample_feasible_spaces,
)
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_archs, enumerate_spaces
from nss_jax.spaces.search_space import SearchSpace, Space
from nss_jax.spaces.table import (
  all_space_macs,
  space_indices,
  space_log_probabilities,
  spaces_at,
)

quick = settings(deadline=None, max_examples=30)
PAPER = SearchSpace.expanded()
WINDOW = {"target": 6e8, "tolerance": 0.1}
# Of RAGGED's 48 spaces, which cost 52e3 to 731e3.
TARGET, TOLERANCE = 2.3e5, 0.2
KEY = jax.random.key(0)


def brute_force(search_space):
  """Every space, and the cost of each by `space_macs`."""
  spaces = list(enumerate_spaces(search_space))
  return spaces, np.asarray([space_macs(search_space, s) for s in spaces])


def a_target(costs, seed):
  """A target near one of the costs, so that some spaces are feasible."""
  rng = np.random.default_rng(seed)
  return float(rng.choice(costs) * rng.uniform(0.95, 1.05))


def within(costs, target, tolerance):
  return np.abs(costs / target - 1) <= tolerance


# Tables


@quick
@given(search_spaces())
@example(RAGGED)
def test_the_table_holds_the_cost_of_every_space(search_space):
  spaces, costs = brute_force(search_space)
  table = all_space_macs(search_space)
  assert table.dtype == np.float64
  np.testing.assert_allclose(table.ravel(), costs, rtol=1e-13)
  depth, width = np.moveaxis(
    np.asarray([(s.depth, s.width) for s in spaces]), 0, -1
  )
  np.testing.assert_allclose(table[(*depth, *width)], costs, rtol=1e-13)


def test_the_paper_has_a_quarter_of_a_million_spaces_in_an_instant():
  start = time.perf_counter()
  table = all_space_macs(PAPER)
  assert time.perf_counter() - start < 1
  assert table.shape == (4, 4, 4, 16, 16, 16)
  ends = table.min(), table.max()
  np.testing.assert_allclose(ends, macs_range(PAPER), rtol=1e-13)
  assert num_feasible(PAPER, **WINDOW) == 980


def test_too_many_spaces_to_list():
  singletons = SearchSpace.expanded(num_depth_bins=16, num_width_bins=512)
  for refuse in (
    lambda: feasible_indices(singletons, **WINDOW),
    lambda: elite_candidates(singletons, None, **WINDOW),
  ):
    with pytest.raises(ValueError, match=r"549755813888 spaces .*16777216"):
      refuse()


@quick
@given(search_spaces())
def test_indices_follow_enumeration(search_space):
  spaces = stack(enumerate_spaces(search_space))
  indices = np.arange(search_space.num_spaces)
  assert_same(spaces_at(search_space, indices), spaces)
  np.testing.assert_array_equal(space_indices(search_space, spaces), indices)
  again = spaces_at(search_space, indices.reshape(-1, 1))
  assert again.depth.shape == (indices.size, 1, search_space.num_stages)
  assert again.depth.dtype == again.width.dtype == np.int32


@pytest.mark.parametrize("index", [-1, 48])
def test_no_space_at_an_index_out_of_range(index):
  with pytest.raises(ValueError, match=rf"indices 0 to 47; got {index}"):
    spaces_at(RAGGED, np.asarray([index]))


def test_no_index_for_a_space_that_does_not_exist():
  space = Space(depth=np.zeros(3, np.int32), width=np.asarray([1, 4, 0]))
  message = "width bin of stage 2 must be 0 to 3; got 4"
  with pytest.raises(ValueError, match=message):
    space_indices(RAGGED, space)


# Feasible spaces


@quick
@given(search_spaces(), st.integers(0, 999), st.sampled_from((0.01, 0.1, 0.5)))
def test_feasible_spaces_are_those_within_tolerance(
  search_space, seed, tolerance
):
  spaces, costs = brute_force(search_space)
  target = a_target(costs, seed)
  met = within(costs, target, tolerance)
  assert num_feasible(search_space, target, tolerance) == met.sum()
  for without_lowest_width in (False, True):
    met &= [not without_lowest_width or all(s.width > 0) for s in spaces]
    if met.any():
      found = feasible_indices(
        search_space,
        target,
        tolerance,
        without_lowest_width=without_lowest_width,
      )
      np.testing.assert_array_equal(found, np.flatnonzero(met))


def test_no_feasible_space_names_the_nearest():
  lowest, highest = macs_range(PAPER)
  for target, nearest in ((lowest / 3, lowest), (int(highest * 3), highest)):
    assert not num_feasible(PAPER, target, 0.1)
    message = rf"within 0\.1 of .*nearest has {nearest:.6g}".replace("+", r"\+")
    with pytest.raises(ValueError, match=message):
      sample_feasible_spaces(KEY, PAPER, target, 0.1, 1)
  with pytest.raises(ValueError, match=r"no space without a lowest .*nearest"):
    feasible_indices(PAPER, lowest, 0.1, without_lowest_width=True)
  # The last stage of RAGGED has one width bin only.
  with pytest.raises(ValueError, match="there is no space without a lowest"):
    feasible_indices(RAGGED, TARGET, 9.0, without_lowest_width=True)


@pytest.mark.parametrize(
  ("target", "tolerance"),
  [(0, 0.1), (-5.0, 0.1), (6e8, -0.1), (np.nan, 0.1), (6e8, np.nan)],
)
def test_a_window_must_be_one(target, tolerance):
  message = f"target must be positive.*got {target} and {tolerance}"
  for refuse in (
    lambda: num_feasible(RAGGED, target, tolerance),
    lambda: sample_feasible_archs(KEY, RAGGED, target, tolerance, 1),
  ):
    with pytest.raises(ValueError, match=message):
      refuse()


# Draws


@pytest.mark.parametrize("without_lowest_width", [False, True])
def test_drawn_spaces_are_different_and_feasible(without_lowest_width):
  options = {"without_lowest_width": without_lowest_width}
  spaces = sample_feasible_spaces(
    jax.random.key(1), PAPER, **WINDOW, count=300, **options
  )
  assert spaces.depth.shape == spaces.width.shape == (300, 3)
  assert spaces.depth.dtype == spaces.width.dtype == np.int32
  indices = space_indices(PAPER, spaces)
  assert np.unique(indices).size == 300
  assert np.isin(indices, feasible_indices(PAPER, **WINDOW)).all()
  assert (spaces.width > 0).all() == without_lowest_width


def test_drawn_spaces_are_uniform():
  feasible = feasible_indices(RAGGED, TARGET, TOLERANCE)
  assert 10 < feasible.size < 20
  drawn = [
    space_indices(
      RAGGED,
      sample_feasible_spaces(jax.random.key(i), RAGGED, TARGET, TOLERANCE, 2),
    )
    for i in range(300)
  ]
  chance = np.isin(np.arange(RAGGED.num_spaces), feasible) / feasible.size
  # First and second draw each, since two of one pair are not independent.
  for column in np.transpose(drawn):
    counts = np.bincount(column, minlength=RAGGED.num_spaces)
    assert_frequencies(counts, chance)


def test_all_feasible_spaces_can_be_drawn_and_no_more():
  feasible = feasible_indices(RAGGED, TARGET, TOLERANCE)
  n = feasible.size
  spaces = sample_feasible_spaces(KEY, RAGGED, TARGET, TOLERANCE, n)
  np.testing.assert_array_equal(
    np.sort(space_indices(RAGGED, spaces)), feasible
  )
  message = rf"{n + 1} different spaces within 0.2 of 230000 .*there are {n}"
  with pytest.raises(ValueError, match=message):
    sample_feasible_spaces(KEY, RAGGED, TARGET, TOLERANCE, n + 1)


@pytest.mark.parametrize(
  "draw", [sample_feasible_spaces, sample_feasible_archs]
)
def test_draws_are_a_function_of_the_key(draw):
  once = draw(jax.random.key(3), PAPER, 6e8, 0.1, 50)
  # Made the old way, or of keys that differ in either of their words.
  assert_same(once, draw(jax.random.PRNGKey(3), PAPER, 6e8, 0.1, 50))
  for other in (jax.random.key(4), jax.random.split(jax.random.key(3))[0]):
    assert (draw(other, PAPER, 6e8, 0.1, 50).width != once.width).any()
  with pytest.raises(ValueError, match="count must be at least 1; got -1"):
    draw(KEY, RAGGED, TARGET, TOLERANCE, -1)


def test_drawn_archs_are_uniform_in_the_window():
  all_archs = stack(
    [
      arch
      for space in enumerate_spaces(RAGGED)
      for arch in enumerate_archs(RAGGED, space)
    ]
  )
  numbers = np.concatenate([all_archs.depth, all_archs.width], axis=-1)
  # A window so narrow that each of its archs comes often enough.
  feasible = within(arch_macs(RAGGED, all_archs), TARGET, 0.01)
  assert 50 < feasible.sum() < 500
  drawn = sample_feasible_archs(
    jax.random.key(5), RAGGED, TARGET, 0.01, 40 * int(feasible.sum())
  )
  assert drawn.depth.dtype == drawn.width.dtype == np.int32
  drawn = np.concatenate([drawn.depth, drawn.width], axis=-1)
  order = {tuple(row): i for i, row in enumerate(numbers.tolist())}
  counts = np.bincount(
    [order[tuple(row)] for row in drawn.tolist()], minlength=len(numbers)
  )
  assert_frequencies(counts, feasible / feasible.sum())


def test_drawn_archs_of_the_paper_meet_the_target():
  archs = sample_feasible_archs(jax.random.key(6), PAPER, 6e8, 0.1, 1000)
  assert archs.depth.shape == archs.width.shape == (1000, 3)
  costs = arch_macs(PAPER, archs)
  assert 0.9 * 6e8 <= costs.min() < 0.92 * 6e8
  assert 1.08 * 6e8 < costs.max() <= 1.1 * 6e8


def test_drawing_archs_gives_up():
  for search_space, target, count, kept in (
    (PAPER, 1e12, 3, "0"),
    (RAGGED, TARGET, 500, r"\d+"),
  ):
    message = rf"only {kept} of {count} archs within .* in 1000 draws"
    with pytest.raises(ValueError, match=message):
      sample_feasible_archs(
        KEY, search_space, target, TOLERANCE, count, max_draws=1000
      )


# The exact Elite Space


@settings(deadline=None, max_examples=60)
@given(
  search_spaces_and_logits(),
  st.integers(0, 999),
  st.sampled_from((0.02, 0.1, 0.5)),
  st.booleans(),
)
def test_candidates_are_those_of_brute_force(case, seed, tolerance, tied):
  search_space, logits = case
  if tied:  # Whole numbers, so that many spaces are equally probable.
    logits = jax.tree.map(np.round, logits)
  spaces, costs = brute_force(search_space)
  target = a_target(costs, seed)
  off = np.abs(costs / target - 1)
  chance = softmax(logits)
  stages = np.arange(search_space.num_stages)
  probability = np.asarray(
    [
      chance.depth[stages, s.depth].prod()
      * chance.width[stages, s.width].prod()
      for s in spaces
    ]
  )
  share = probability / probability.max()
  meant = np.flatnonzero(share >= (1 - 1e-9) / 3)
  wide = tolerance
  if off[meant].min() > tolerance:  # it widens rather than take another
    wide = 1.25 * off[meant].min()
  expected = sorted(
    (i for i in meant if off[i] <= wide),
    key=lambda i: (-float(f"{share[i]:.8f}"), off[i], i),
  )
  found = elite_candidates(
    search_space, logits, target, tolerance, num_candidates=5
  )
  assert found.tolerance == pytest.approx(wide)
  rows = space_indices(search_space, found.spaces)
  assert rows.tolist() == expected[:5]
  np.testing.assert_allclose(found.costs[:, 0], costs[rows], rtol=1e-13)
  np.testing.assert_allclose(
    np.exp(found.log_probabilities), probability[rows], rtol=1e-9
  )
  ranks = [(share > share[i] * (1 + 1e-8)).sum() for i in rows]
  assert found.ranks.tolist() == ranks


def test_without_a_window_it_is_the_most_probable_space():
  logits = jax.tree.map(jnp.float32, random_logits(PAPER, 8))
  found = elite_candidates(PAPER, logits, 6e8, 1e6)
  first = jax.tree.map(lambda x: x[0], found.spaces)
  assert_same(first, jax.tree.map(np.asarray, most_probable_space(logits)))
  assert found.ranks[0] == 0 and len(found.ranks) == 8
  # All others are turned down by the share alone.
  few = elite_candidates(PAPER, logits, 6e8, 1e6, least_share=1.0)
  assert few.ranks.tolist() == [0]


def test_an_at_most_is_never_exceeded():
  """Where all that the search means is above it, the most probable below."""
  costs = all_space_macs(PAPER).ravel()
  largest = spaces_at(PAPER, PAPER.num_spaces - 1)
  logits = committed(PAPER, largest, by=5.0)
  limit = Constraint("flops", METRICS["flops"], 6e8, mode="at_most")
  found = elite_candidates(PAPER, logits, (limit,), 0.02)
  assert found.tolerance == 0.02
  assert 0.98 * 6e8 <= found.costs.min() <= found.costs.max() <= 6e8
  table = space_log_probabilities(PAPER, logits).ravel()
  near = (costs <= 6e8) & (costs >= 0.98 * 6e8)
  np.testing.assert_allclose(found.log_probabilities[0], table[near].max())
  assert found.log_probabilities[0] < table.max() - np.log(3)
  # What may be equal is taken somewhat above instead.
  equal = elite_candidates(PAPER, logits, 6e8, 0.02)
  assert equal.costs.min() > 2 * 6e8


def test_rounding_never_decides():
  # All stages have the same logits, so that many spaces are equally probable;
  # but their sums of the same terms in another order differ in the last bits.
  bins = ((1, 1), (2, 2), (3, 3))
  search_space = SearchSpace(
    depth_bins=(bins,) * 3,
    width_bins=(bins,) * 3,
    strides=(2, 2, 2),
    stem_width=1,
  )
  same = np.asarray([[0.1, 0.7, 0.3]] * 3)
  logits = SpaceLogits(depth=same, width=same)
  table = space_log_probabilities(search_space, logits).ravel()
  costs = all_space_macs(search_space).ravel()
  target, tolerance = 0.45 * costs.max(), 0.1
  feasible = np.flatnonzero(within(costs, target, tolerance))
  best = feasible[table[feasible] >= table[feasible].max() - 1e-12]
  closest = best[np.abs(costs[best] / target - 1).argmin()]
  assert table[closest] < table[best].max(), "no rounding to be tested"
  found = elite_candidates(
    search_space, logits, target, tolerance, least_share=1e-9
  )
  assert space_indices(search_space, found.spaces)[0] == closest


LOGITS = random_logits(RAGGED, 9)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"num_candidates": 0}, "num_candidates must be at least 1; got 0"),
    ({"least_share": 0.0}, r"least_share must be in \(0, 1\]; got 0.0"),
    ({"least_share": 1.5}, r"least_share must be in \(0, 1\]; got 1.5"),
    ({"tolerance": -1.0}, "tolerance at least 0"),
    (
      {"logits": LOGITS.replace(depth=LOGITS.depth[:, :2])},
      r"depth logits must be of shape \(3, 3\); got \(3, 2\)",
    ),
    (
      {"logits": LOGITS.replace(width=LOGITS.width * np.nan)},
      "width logits must be finite; got .*nan",
    ),
  ],
)
def test_candidates_refuse(fields, message):
  window = {"target": TARGET, "tolerance": TOLERANCE}
  with pytest.raises(ValueError, match=message):
    elite_candidates(RAGGED, **({"logits": LOGITS} | window | fields))
