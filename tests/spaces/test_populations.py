import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import RAGGED, assert_frequencies, assert_same, search_spaces

import nss_jax as nss
from nss_jax.spaces.bins import held, stage_offers
from nss_jax.spaces.populations import (
  StageOrder,
  follows,
  num_ordered_archs,
  regnet_blocks,
  sample_anynet_archs,
  sample_ordered_archs,
  sample_regnet_archs,
)
from nss_jax.spaces.search_space import Arch, SearchSpace

quick = settings(deadline=None, max_examples=30)
PAPER = SearchSpace.expanded()
PRINCIPLES, ELITE = StageOrder.design_principles(), StageOrder.elite_trend()
WINDOW = (3.6e8, 4e8)
# RAGGED's archs cost 42e3 to 846e3.
RAGGED_WINDOW = (1.5e5, 2.5e5)
# Small enough that every arch can be counted, wide enough for RegNets.
NARROW = SearchSpace.expanded(
  max_depth=4, max_width=32, num_depth_bins=2, num_width_bins=4
)


def ordered_tuples(bins, stages):
  """Those in order, by looking at each tuple that there is."""
  return [
    numbers
    for numbers in itertools.product(*map(stage_offers, bins))
    if all(numbers[a] <= numbers[b] for a, b in itertools.pairwise(stages))
  ]


def ordered_archs(search_space, order):
  depth, width = (
    np.asarray(ordered_tuples(bins, order.stages), np.int32)
    for bins in search_space.bins.values()
  )
  return Arch(
    depth=np.repeat(depth, len(width), axis=0),
    width=np.tile(width, (len(depth), 1)),
  )


def numbers(archs):
  return np.concatenate([archs.depth, archs.width], axis=-1).tolist()


def frequencies(archs, drawn):
  """How often each of the archs was drawn; fails for any other arch."""
  order = {tuple(row): i for i, row in enumerate(numbers(archs))}
  found = [order[tuple(row)] for row in numbers(drawn)]
  return np.bincount(found, minlength=len(order))


@st.composite
def search_spaces_and_orders(draw):
  search_space = draw(search_spaces())
  stages = draw(st.permutations(range(search_space.num_stages)))
  return search_space, StageOrder(tuple(stages))


# Orders


def test_orders_name_their_stages():
  assert PRINCIPLES.stages == (0, 1, 2)
  assert ELITE.stages == (0, 2, 1)
  assert StageOrder([np.int64(1), 0]) == StageOrder((1, 0))
  for wrong in ((), (1, 2), (0, 0)):
    with pytest.raises(ValueError, match=r"permutation of the stages.*got \("):
      StageOrder(wrong)


def test_follows_both_in_depth_and_width_ties_allowed():
  depth = [[1, 2, 3], [1, 3, 2], [2, 2, 2], [1, 2, 3], [1, 3, 2], [2, 1, 3]]
  width = [[4, 5, 9], [4, 9, 5], [7, 7, 7], [4, 9, 5], [4, 5, 9], [1, 2, 3]]
  archs = Arch(depth=np.asarray(depth), width=np.asarray(width))
  yes = follows(archs, PRINCIPLES)
  assert yes.tolist() == [True, False, True, False, False, False]
  nested = jax.tree.map(lambda x: jnp.reshape(x, (2, 3, 3)), archs)
  yes = follows(nested, ELITE)
  assert yes.tolist() == [[False, True, True], [False, False, False]]


@quick
@given(search_spaces_and_orders())
@example((RAGGED, PRINCIPLES))
@example((RAGGED, StageOrder((2, 0, 1))))
def test_ordered_archs_are_counted_and_drawn_from_those(case):
  search_space, order = case
  depths, widths = (
    ordered_tuples(bins, order.stages) for bins in search_space.bins.values()
  )
  count = num_ordered_archs(search_space, order)
  assert count == len(depths) * len(widths)
  rng = jax.random.key(count)
  if not count:
    with pytest.raises(ValueError, match=r"no arch has stages in the order"):
      sample_ordered_archs(rng, search_space, order, 1)
    return
  drawn = sample_ordered_archs(rng, search_space, order, 50)
  assert drawn.depth.dtype == drawn.width.dtype == np.int32
  assert drawn.depth.shape == drawn.width.shape == (50, len(order.stages))
  assert set(map(tuple, drawn.depth.tolist())) <= set(depths)
  assert set(map(tuple, drawn.width.tolist())) <= set(widths)
  assert follows(drawn, order).all()


def test_large_counts_are_exact_or_refused():
  # Choose 3 of 16 depths and 3 of 512 widths, with repetition.
  expected = math.comb(18, 3) * math.comb(514, 3)
  assert expected == 18_360_705_024
  for order in (PRINCIPLES, ELITE):
    assert num_ordered_archs(PAPER, order) == expected
  # C(520, 9) is 0.8 of 2^63.
  nine, ten = (SearchSpace.expanded(strides=(1,) * n) for n in (9, 10))
  order = StageOrder.design_principles(9)
  expected = math.comb(24, 9) * math.comb(520, 9)
  assert num_ordered_archs(nine, order) == expected
  drawn = sample_ordered_archs(jax.random.key(0), nine, order, 99)
  assert follows(drawn, order).all()
  with pytest.raises(ValueError, match=r"2\^63 ordered tuples or more"):
    num_ordered_archs(ten, StageOrder.design_principles(10))


@pytest.mark.parametrize(
  ("order", "window"),
  [(PRINCIPLES, None), (ELITE, RAGGED_WINDOW), (StageOrder((1, 2, 0)), None)],
)
def test_ordered_archs_are_uniform(order, window):
  archs = ordered_archs(RAGGED, order)
  costs = nss.arch_macs(RAGGED, archs)
  inside = np.ones(len(costs), bool)
  if window is not None:
    inside = (window[0] <= costs) & (costs <= window[1])
    assert 30 < inside.sum() < 0.6 * inside.size
  drawn = sample_ordered_archs(
    jax.random.key(1), RAGGED, order, 40 * int(inside.sum()), window=window
  )
  assert_frequencies(frequencies(archs, drawn), inside / inside.sum())


def test_the_window_includes_its_ends():
  costs = nss.arch_macs(RAGGED, ordered_archs(RAGGED, ELITE))
  cost = int(np.sort(costs)[len(costs) // 2])
  drawn = sample_ordered_archs(
    jax.random.key(0), RAGGED, ELITE, 20, window=(cost, cost)
  )
  assert (nss.arch_macs(RAGGED, drawn) == cost).all()


@pytest.mark.parametrize(
  ("order", "in_window", "median"),
  [(PRINCIPLES, 38_212_456, 5.44e9), (ELITE, 12_458_392, 10.63e9)],
)
def test_ordered_archs_of_the_paper(order, in_window, median):
  """Exact numbers of archs in the window, counted by another program.

  It goes through all depths and two of the widths, and solves the quadratic
  cost for the third.
  """
  share = in_window / num_ordered_archs(PAPER, order)
  archs = sample_ordered_archs(jax.random.key(2), PAPER, order, 2**17)
  costs = nss.arch_macs(PAPER, archs)
  hits = ((WINDOW[0] <= costs) & (costs <= WINDOW[1])).sum()
  expected = share * costs.size
  assert abs(hits - expected) < 4 * expected**0.5
  np.testing.assert_allclose(np.median(costs), median, rtol=0.02)


@pytest.mark.parametrize(
  "draw",
  [
    lambda rng, **kw: sample_ordered_archs(rng, PAPER, ELITE, 30, **kw),
    lambda rng, **kw: sample_anynet_archs(rng, PAPER, 30, **kw),
    lambda rng, **kw: sample_regnet_archs(rng, PAPER, 30, **kw),
  ],
)
def test_draws_are_a_function_of_the_key_and_give_up(draw):
  once = draw(jax.random.key(3))
  assert once.depth.dtype == once.width.dtype == np.int32
  assert once.depth.shape == once.width.shape == (30, 3)
  assert_same(once, draw(jax.random.key(3)))
  for other in (jax.random.key(4), jax.random.split(jax.random.key(3))[0]):
    assert (draw(other).width != once.width).any()
  message = r"only 0 of 30 archs of 1 to 2 MACs in 500 draws"
  with pytest.raises(ValueError, match=message):
    draw(jax.random.key(3), window=(1, 2), max_draws=500)
  for window in ((2, 1), (-1, 5), (math.nan, 5)):
    with pytest.raises(ValueError, match=r"0 <= low <= high .*got \("):
      draw(jax.random.key(3), window=window)


def test_counts_and_orders_must_fit():
  key, wrong = jax.random.key(0), StageOrder((1, 0))
  with pytest.raises(ValueError, match="count must be at least 1; got 0"):
    sample_ordered_archs(key, PAPER, ELITE, 0)
  for refuse in (
    lambda: sample_ordered_archs(key, PAPER, wrong, 1),
    lambda: sample_anynet_archs(key, PAPER, 1, order=wrong),
    lambda: follows(sample_anynet_archs(key, PAPER, 1), wrong),
  ):
    with pytest.raises(ValueError, match=r"\(1, 0\) is one of 2 stages, not 3"):
      refuse()


# RegNet and AnyNet


# All published RegNetX: w_0, w_a, w_m, d, group width, then depths and widths.
# Parameters are those of pycls' `dds_baselines`, as in timm's `regnet.py`, and
# the stages those of the checkpoints, as in transformers' conversion script.
REGNETX = {
  "200MF": (24, 36.44, 2.49, 13, 8, [1, 1, 4, 7], [24, 56, 152, 368]),
  "400MF": (24, 24.48, 2.54, 22, 16, [1, 2, 7, 12], [32, 64, 160, 384]),
  "600MF": (48, 36.97, 2.24, 16, 24, [1, 3, 5, 7], [48, 96, 240, 528]),
  "800MF": (56, 35.73, 2.28, 16, 16, [1, 3, 7, 5], [64, 128, 288, 672]),
  "1.6GF": (80, 34.01, 2.25, 18, 24, [2, 4, 10, 2], [72, 168, 408, 912]),
  "3.2GF": (88, 26.31, 2.25, 25, 48, [2, 6, 15, 2], [96, 192, 432, 1008]),
  "4.0GF": (96, 38.65, 2.43, 23, 40, [2, 5, 14, 2], [80, 240, 560, 1360]),
  "6.4GF": (184, 60.83, 2.07, 17, 56, [2, 4, 10, 1], [168, 392, 784, 1624]),
  "8.0GF": (80, 49.56, 2.88, 23, 120, [2, 5, 15, 1], [80, 240, 720, 1920]),
  "12GF": (168, 73.36, 2.37, 19, 112, [2, 5, 11, 1], [224, 448, 896, 2240]),
  "16GF": (216, 55.59, 2.1, 22, 128, [2, 6, 13, 1], [256, 512, 896, 2048]),
  "32GF": (320, 69.86, 2.0, 23, 168, [2, 7, 13, 1], [336, 672, 1344, 2520]),
}


@pytest.mark.parametrize("name", REGNETX)
def test_published_regnets(name):
  *parameters, group_width, depths, widths = REGNETX[name]
  _, blocks = regnet_blocks(*parameters, quantum=8)
  found, counts = np.unique(blocks, return_counts=True)
  # As pycls fits groups: widths are rounded to multiples of the group width,
  # or of the stage's own width where that is less.
  groups = np.minimum(group_width, found)
  assert counts.tolist() == depths
  assert (np.round(found / groups) * groups).tolist() == widths


def scalar_regnet(first, slope, multiplier, depth, quantum):
  """Levels and widths of the blocks, the nearest level found by search."""
  levels, widths = [], []
  for block in range(depth):
    target = math.log((first + slope * block) / first)
    level = min(range(40), key=lambda s: abs(target - s * math.log(multiplier)))
    levels.append(level)
    widths.append(quantum * round(first * multiplier**level / quantum))
  return levels, widths


def test_regnets_of_the_paper():
  archs = sample_regnet_archs(jax.random.key(4), PAPER, 1000)
  assert (archs.width % 8 == 0).all()
  assert (np.diff(archs.width) > 0).all()
  assert archs.depth.min() == 1
  assert archs.depth.max() == 16
  assert archs.width.min() == 8
  assert 400 < archs.width.max() <= 512
  # Widths grow by 1.5 to 3, apart from the rounding of both to eight.
  assert (archs.width[:, 1:] + 4 >= 1.5 * archs.width[:, :-1] - 6).all()
  assert (archs.width[:, 1:] - 4 <= 3 * archs.width[:, :-1] + 12).all()


def test_regnets_are_those_of_their_parameters():
  """Drawn one by one in Python, they have the same distribution."""
  rng, expected = np.random.default_rng(5), []
  # Multiples of 2 from 2 to 8, log-uniform, rounded up.
  firsts, chance = [2, 4, 6, 8], np.log([2, 2, 1.5, 4 / 3]) / np.log(8)
  while len(expected) < 800:
    first = int(rng.choice(firsts, p=chance))
    slope, multiplier = np.exp(rng.uniform(np.log([2, 1.5]), np.log([8, 3])))
    levels, blocks = scalar_regnet(
      first, slope, multiplier, int(rng.integers(3, 13)), 2
    )
    runs = [(w, len([*run])) for w, run in itertools.groupby(blocks)]
    widths, depths = zip(*runs, strict=True)
    three = len(runs) == 3 and max(levels) == 2
    if three and max(depths) <= 4 and max(widths) <= 32:
      expected.append((*depths, *widths))
  archs = sample_regnet_archs(jax.random.key(5), NARROW, 4000, quantum=2)
  both = [np.asarray(numbers(archs)), np.asarray(expected)]
  for column in range(6):
    table = np.stack([np.bincount(x[:, column], minlength=40) for x in both])
    common = table.sum(0) >= 50
    table = np.c_[table[:, common], table[:, ~common].sum(-1) + 1]
    if table.shape[1] > 1:
      assert stats.chi2_contingency(table).pvalue > 1e-3, column


def test_regnets_may_have_every_block_there_is():
  shallow = SearchSpace.expanded(max_depth=1, num_depth_bins=1)
  archs = sample_regnet_archs(jax.random.key(6), shallow, 50)
  assert (archs.depth == 1).all()


def test_regnets_stay_inside_the_bins():
  holes = SearchSpace(
    depth_bins=(((1, 2),), ((1, 1), (3, 3)), ((1, 6),)),
    width_bins=(((8, 16), (32, 40)), ((16, 64),), ((24, 64), (80, 128))),
  )
  archs = sample_regnet_archs(jax.random.key(6), holes, 500)
  for kind, bins in holes.bins.items():
    assert held(getattr(archs, kind), bins).all()
  assert set(archs.depth[:, 1].tolist()) == {1, 3}


def test_too_narrow_for_a_regnet_or_an_anynet():
  with pytest.raises(ValueError, match=r"largest width, 2\.75, .*got 8"):
    sample_regnet_archs(jax.random.key(0), RAGGED, 1)
  with pytest.raises(ValueError, match="no multiple of 16 from 3 to 8 on off"):
    sample_anynet_archs(jax.random.key(0), RAGGED, 1, quantum=16)


def test_anynet_numbers_are_log_uniform():
  archs = sample_anynet_archs(jax.random.key(7), NARROW, 20_000)
  # 8, 16, 24, 32 stand for (4, 8], (8, 16], (16, 24], (24, 32]; depths alike.
  chance = np.log([2, 2, 1.5, 4 / 3]) / np.log(8)
  for column in archs.width.T // 8, archs.depth.T:
    for stage in column:
      assert_frequencies(np.bincount(stage, minlength=5), [0, *chance])
  assert (archs.width % 8 == 0).all()
  # Stages are independent of each other, and depths of widths.
  code = archs.width[:, 0] // 8 + 5 * archs.depth[:, 1]
  joint = np.pad(np.outer(chance, chance), ((1, 0), (1, 0)))
  assert_frequencies(np.bincount(code, minlength=25), joint)


def test_anynet_archs_in_order_keep_their_probabilities():
  archs = ordered_archs(RAGGED, ELITE)
  chance = np.ones(len(archs.depth))
  for field in (archs.depth, archs.width):
    weight = -np.log1p(-np.minimum(1 / field, 0.5))
    chance *= weight.prod(-1)
  drawn = sample_anynet_archs(
    jax.random.key(8), RAGGED, 80_000, order=ELITE, quantum=1
  )
  assert_frequencies(frequencies(archs, drawn), chance / chance.sum())
