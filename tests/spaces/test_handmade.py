"""The arch and the space that an engineer would draw by hand at a cost."""

import numpy as np
import pytest
from strategies import RAGGED

from nss_jax.spaces.bins import held
from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.cost import arch_macs, arch_params, space_macs
from nss_jax.spaces.handmade import proportional_arch, proportional_space
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_spaces
from nss_jax.spaces.search_space import SearchSpace, space_ranges
from nss_jax.spaces.text import format_arch, parse_arch

PAPER = SearchSpace.expanded()
FASHION = SearchSpace.expanded(
  max_depth=8, max_width=32, strides=(2, 2, 2), image_shape=(28, 28, 1)
)


def at_most(name, target):
  return Constraint(name, METRICS[name], target, mode="at_most")


@pytest.mark.parametrize("target", [2e8, 6e8, 1.6e9, 8e9])
def test_depths_are_equal_and_widths_double_at_the_target(target):
  arch = proportional_arch(PAPER, target)
  assert abs(arch_macs(PAPER, arch) / target - 1) <= 0.02
  assert len(set(arch.depth.tolist())) == 1
  np.testing.assert_allclose(arch.width[1:] / arch.width[:-1], 2, rtol=0.03)
  assert arch.depth.dtype == arch.width.dtype == np.int32
  # Neither depth nor width alone pays: about equal shares of 16 and 128.
  assert 0.8 < (arch.depth[0] / 16) / (arch.width[0] / 128) < 1.25


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_the_widest_regular_network_is_found_again(stages):
  space = SearchSpace.expanded(
    max_depth=4, max_width=64, strides=(2,) * stages, image_shape=(32, 32, 3)
  )
  widths = [str(64 >> s) for s in reversed(range(stages))]
  wanted = f"d{'-'.join('4' * stages)}_w{'-'.join(widths)}"
  macs = int(arch_macs(space, parse_arch(wanted)))
  assert format_arch(proportional_arch(space, macs, 0)) == wanted


def test_what_meets_every_constraint_comes_first():
  params = 5e4
  alone = proportional_arch(FASHION, 1.5e6)
  assert arch_params(FASHION, alone) > params / 2
  constraints = (at_most("flops", 1.5e6), at_most("params", params / 2))
  both = proportional_arch(FASHION, constraints)
  assert arch_params(FASHION, both) <= params / 2
  assert arch_macs(FASHION, both) <= 1.5e6


def test_where_none_meets_it_the_nearest_by_cost():
  largest = int(arch_macs(PAPER, parse_arch("d16-16-16_w512-512-512")))
  arch = proportional_arch(PAPER, 2 * largest)
  assert format_arch(arch) == "d16-16-16_w512-512-512"


def test_numbers_that_are_not_on_offer_are_rounded():
  arch = proportional_arch(RAGGED, 2.3e5, 0.2)
  for kind, bins in RAGGED.bins.items():
    assert held(getattr(arch, kind), bins).all()


def test_a_target_out_of_range_is_refused():
  with pytest.raises(ValueError, match="target must be positive"):
    proportional_arch(PAPER, -1.0)


def irregularity(search_space, space):
  """By the definition, one space at a time."""
  ranges = space_ranges(search_space, space)
  depth, width = (
    np.asarray([sum(pair) / 2 for pair in ranges[kind]])
    for kind in ("depth", "width")
  )
  logs = np.log(depth), np.log(width / 2 ** np.arange(len(width)))
  return sum(((x - x.mean()) ** 2).sum() for x in logs)


def test_the_space_is_the_most_regular_of_that_cost():
  space = SearchSpace.expanded(
    max_depth=4,
    max_width=32,
    num_depth_bins=2,
    num_width_bins=4,
    image_shape=(8, 8, 1),
  )
  target, tolerance = 1e6, 0.1
  near = [
    (irregularity(space, one), abs(space_macs(space, one) / target - 1), one)
    for one in enumerate_spaces(space)
    if abs(space_macs(space, one) / target - 1) <= tolerance
  ]
  assert len(near) > 5
  best = min(near, key=lambda x: (round(x[0], 9), x[1]))[2]
  found = proportional_space(space, target, tolerance)
  assert found.depth.tolist() == best.depth.tolist()
  assert found.width.tolist() == best.width.tolist()


def test_spaces_of_equal_proportions_differ_by_cost():
  """One stage: every space is regular, so the nearest by cost is taken."""
  space = SearchSpace.expanded(max_depth=4, max_width=32, strides=(1,))
  costs = {
    (*one.depth.tolist(), *one.width.tolist()): space_macs(space, one)
    for one in enumerate_spaces(space)
  }
  target = 1.001 * sorted(costs.values())[20]
  found = proportional_space(space, target, 0.5)
  best = min(costs, key=lambda key: abs(costs[key] / target - 1))
  assert (*found.depth.tolist(), *found.width.tolist()) == best


def test_no_space_of_that_cost():
  with pytest.raises(ValueError, match="no space has a mean cost within"):
    proportional_space(PAPER, 1e12, 0.02)
