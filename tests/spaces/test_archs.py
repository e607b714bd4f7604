"""Single archs at a target: the best that meet it, and the nearest."""

import jax
import numpy as np
import pytest

from nss_jax.spaces import archs as archs_lib
from nss_jax.spaces.archs import best_archs, nearest_arch, num_meeting
from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.cost import arch_macs, arch_params
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_archs
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_arch, parse_space

SPACE = SearchSpace.expanded(
  max_depth=4,
  max_width=16,
  num_depth_bins=2,
  num_width_bins=4,
  strides=(1, 2),
  image_shape=(8, 8, 1),
)
INSIDE = parse_space(SPACE, "d1:2-3:4_w5:8-9:12")
REFINED = SPACE.refine(INSIDE)
ALL = list(enumerate_archs(SPACE, INSIDE))
COSTS = np.array([arch_macs(SPACE, arch) for arch in ALL])
TARGET, TOLERANCE = float(np.median(COSTS)), 0.1
PARAMS = float(np.median([arch_params(SPACE, arch) for arch in ALL]))
KEY = jax.random.key(0)
BOTH = (
  Constraint("flops", METRICS["flops"], TARGET),
  Constraint("params", METRICS["params"], PARAMS, mode="at_most"),
)


def names(archs):
  return [
    format_arch(jax.tree.map(lambda x, k=k: x[k], archs))
    for k in range(len(archs.depth))
  ]


def sizes(archs):
  """A score that differs from arch to arch."""
  powers = 31.0 ** np.arange(2)
  return (archs.depth * powers).sum(-1) + (archs.width * powers).sum(-1) / 7


@pytest.mark.parametrize("target", [TARGET, BOTH], ids=["one", "both"])
def test_where_few_meet_all_are_scored(target):
  asked = []

  def score(archs):
    asked.extend(names(archs))
    return sizes(archs)

  found, scores = best_archs(
    KEY, REFINED, score, target=target, tolerance=TOLERANCE, num_scored=1000
  )
  expected = [
    format_arch(arch)
    for arch, cost in zip(ALL, COSTS, strict=True)
    if abs(cost / TARGET - 1) <= TOLERANCE
    and (target == TARGET or arch_params(SPACE, arch) <= PARAMS)
  ]
  assert 5 < len(expected) < len(ALL)
  assert sorted(asked) == sorted(names(found)) == sorted(expected)
  assert num_meeting(REFINED, target, TOLERANCE) == len(expected)
  np.testing.assert_array_equal(scores, np.sort(sizes(found)))


def test_where_many_meet_evolution_finds_good_ones():
  space = SPACE.refine()
  meeting = num_meeting(space, 1e5, 0.3)
  (some, scores), (_, all_scores) = (
    best_archs(KEY, space, sizes, target=1e5, tolerance=0.3, num_scored=n)
    for n in (meeting // 3, meeting)
  )
  assert len(set(names(some))) == len(scores) == meeting // 3
  # A third of them, drawn, would have the best by one chance in three.
  assert scores[0] == all_scores[0]
  assert (abs(arch_macs(space, some) / 1e5 - 1) <= 0.3).all()


def test_where_too_many_are_to_be_listed_they_are_drawn(monkeypatch):
  whole = num_meeting(REFINED, TARGET, TOLERANCE)
  nearest = nearest_arch(KEY, REFINED, TARGET, TOLERANCE)
  monkeypatch.setattr(archs_lib, "MAX_SPACES", 10)
  monkeypatch.setattr(archs_lib, "NUM_DRAWS", 4000)
  assert num_meeting(REFINED, TARGET, TOLERANCE) is None

  def best(target, count):
    return best_archs(
      KEY, REFINED, sizes, target=target, tolerance=TOLERANCE, num_scored=count
    )

  found, scores = best(TARGET, 400)
  assert len(set(names(found))) == len(scores) == whole
  assert (np.diff(scores) >= 0).all()
  assert [len(best(TARGET, 3)[1]), len(best(1.0, 3)[1])] == [3, 0]
  drawn = nearest_arch(KEY, REFINED, TARGET, TOLERANCE)
  cost = abs(arch_macs(SPACE, drawn) - TARGET)
  assert cost == abs(arch_macs(SPACE, nearest) - TARGET)


def test_the_nearest_arch():
  for target in (TARGET, COSTS.min() / 2, 1.01 * COSTS[17]):
    found = nearest_arch(KEY, REFINED, float(target), 0.02)
    off = abs(arch_macs(SPACE, found) / target - 1)
    assert off == abs(COSTS / target - 1).min()
    assert found.depth.shape == (2,) and found.depth.dtype == np.int32


@pytest.mark.parametrize("tolerance", [0.9, 0.001], ids=["one", "none"])
def test_the_nearest_is_never_above_an_at_most(tolerance):
  """One that is over by a little is nearer, whether or not one meets all."""
  least = min(int(arch_params(SPACE, arch)) for arch in ALL)
  constraints = (
    Constraint("flops", METRICS["flops"], 1.3 * TARGET),
    Constraint("params", METRICS["params"], least + 1.0, mode="at_most"),
  )
  found = nearest_arch(KEY, REFINED, constraints, tolerance)
  assert arch_params(SPACE, found) <= least + 1


def test_none_meets():
  def refuse(archs):
    raise AssertionError("nothing to score")

  archs, scores = best_archs(
    KEY, REFINED, refuse, target=1.0, tolerance=0.02, num_scored=10
  )
  assert archs.depth.shape == (0, 2) and not scores.size
  assert num_meeting(REFINED, 1.0, 0.02) == 0
