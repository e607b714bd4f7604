import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import (
  GOLDEN,
  RAGGED,
  random_logits,
  search_spaces,
  search_spaces_and_logits,
  search_spaces_and_spaces,
  softmax,
  stack,
)

from nss_jax.spaces.constraints import flops_penalty
from nss_jax.spaces.cost import (
  arch_activations,
  arch_cost,
  arch_macs,
  arch_params,
  cost_range,
  cost_tables,
  largest_arch,
  largest_macs,
  macs_range,
  mean_cost,
  mean_macs,
  smallest_arch,
  space_cost,
  space_macs,
)
from nss_jax.spaces.distribution import SpaceLogits, init_logits, probabilities
from nss_jax.spaces.metrics import METRICS, Metric, stage_shapes
from nss_jax.spaces.sampling import (
  enumerate_archs,
  enumerate_spaces,
  sample_uniform_archs,
)
from nss_jax.spaces.search_space import (
  Arch,
  SearchSpace,
  Space,
  space_ranges,
)
from nss_jax.spaces.text import parse_arch

quick = settings(deadline=None, max_examples=40)

# What `count_layers` counts.
COUNTED = ("flops", "params", "activations")
# One channel less than the stem's 64 costs more: it takes a projection.
PROJECTION_MATTERS = SearchSpace(
  depth_bins=(((1, 1),),),
  width_bins=(((63, 63), (64, 64)),),
  strides=(1,),
  stem_width=64,
)
# The dearest way to 64 channels is by way of 63, and the cheapest of 64.
PROJECTION_MATTERS_BETWEEN_STAGES = SearchSpace(
  depth_bins=(((1, 1),),) * 2,
  width_bins=(((63, 63), (64, 64)), ((64, 64),)),
  strides=(1, 1),
  stem_width=4,
)


def count_layers(search_space, arch):
  """MACs, parameters and activations of one arch, layer by layer."""
  *shape, channels = search_space.image_shape
  height, width = (math.ceil(n / search_space.stem_stride) for n in shape)
  num_macs = num_params = num_activations = 0

  def conv_and_norm(kernel, inputs, outputs):
    nonlocal num_macs, num_params, num_activations
    num_activations += height * width * outputs
    num_macs += height * width * kernel**2 * inputs * outputs
    num_params += kernel**2 * inputs * outputs + 2 * outputs

  conv_and_norm(3, channels, search_space.stem_width)
  before = search_space.stem_width
  for depth, outputs, stride in zip(
    arch.depth.tolist(), arch.width.tolist(), search_space.strides, strict=True
  ):
    for block in range(depth):
      stride_here = stride if block == 0 else 1
      height, width = (math.ceil(n / stride_here) for n in (height, width))
      conv_and_norm(3, before, outputs)
      conv_and_norm(3, outputs, outputs)
      if stride_here != 1 or before != outputs:
        conv_and_norm(1, before, outputs)
      before = outputs
  num_macs += (before + 1) * search_space.num_classes
  num_params += (before + 1) * search_space.num_classes
  return num_macs, num_params, num_activations + search_space.num_classes


# Archs


@pytest.mark.parametrize(
  "network", GOLDEN["networks"], ids=lambda network: network["name"]
)
def test_golden_networks(network):
  search_space = SearchSpace(
    depth_bins=[[[d, d]] for d in network["depth"]],
    width_bins=[[[w, w]] for w in network["width"]],
    strides=network["strides"],
    stem_width=network["stem_width"],
    image_shape=network["image"],
    num_classes=network["classes"],
  )
  arch = Arch(
    depth=jnp.asarray(network["depth"]), width=jnp.asarray(network["width"])
  )
  found = arch_macs(search_space, arch), arch_params(search_space, arch)
  assert [x.dtype for x in found] == [np.int64, np.int64]
  assert found == (network["macs"], network["params"])
  assert found == count_layers(search_space, arch)[:2]
  (space,) = enumerate_spaces(search_space)
  assert space_macs(search_space, space) == network["macs"]


@quick
@given(search_spaces_and_spaces(max_stages=3), st.data())
def test_arch_cost_is_the_sum_of_its_layers(case, data):
  search_space, space = case
  every_arch = list(enumerate_archs(search_space, space))
  arch = data.draw(st.sampled_from(every_arch))
  assert count_layers(search_space, arch) == (
    arch_macs(search_space, arch),
    arch_params(search_space, arch),
    arch_activations(search_space, arch),
  )


def test_arch_cost_takes_batches():
  every_arch = list(
    enumerate_archs(RAGGED, Space(depth=np.zeros(3, int), width=[1, 1, 0]))
  )[:12]
  batch = jax.tree.map(lambda x: x.reshape(3, 4, 3), stack(every_arch))
  for cost in (arch_macs, arch_params, arch_activations):
    expected = [int(cost(RAGGED, arch)) for arch in every_arch]
    assert cost(RAGGED, batch).shape == (3, 4)
    assert cost(RAGGED, batch).ravel().tolist() == expected


def test_largest_arch_and_shapes():
  search_space = SearchSpace.expanded()
  assert largest_macs(search_space) == 99220902922
  assert largest_arch(RAGGED).depth.tolist() == [7, 3, 3]
  assert largest_arch(RAGGED).width.tolist() == [8, 11, 10]
  assert smallest_arch(RAGGED).width.tolist() == [3, 1, 5]
  of_cifar = [(32, 32), (32, 32), (16, 16), (8, 8)]
  assert stage_shapes(search_space) == of_cifar
  halved = dataclasses.replace(search_space, stem_stride=2)
  assert stage_shapes(halved) == [(16, 16), (16, 16), (8, 8), (4, 4)]
  assert stage_shapes(RAGGED) == [(9, 6), (9, 6), (9, 6), (5, 3)]


# Spaces


@settings(deadline=None, max_examples=60)
@given(search_spaces_and_spaces())
@example(
  (
    SearchSpace(
      depth_bins=(((1, 2),), ((1, 3),)),
      width_bins=(((3, 6),), ((4, 9),)),
      strides=(1, 1),
      stem_width=5,
    ),
    Space(depth=np.zeros(2, np.int32), width=np.zeros(2, np.int32)),
  )
)
def test_closed_form_is_the_mean_over_the_archs(case):
  search_space, space = case
  every_arch = stack(list(enumerate_archs(search_space, space)))
  for metric in METRICS.values():
    mean = arch_cost(search_space, metric, every_arch).mean()
    tables = cost_tables(search_space, metric)
    found = space_cost(search_space, tables, space)
    np.testing.assert_allclose(found, mean, rtol=1e-12)


@pytest.fixture(scope="module")
def uniform_macs():
  """MACs of 2^18 uniform archs of the Expanded Search Space."""
  search_space = SearchSpace.expanded()
  archs = sample_uniform_archs(jax.random.key(0), search_space, 2**18)
  return arch_macs(search_space, archs)


def test_uniform_mean_of_the_expanded_space(uniform_macs):
  golden = GOLDEN["expanded_search_space"]
  search_space = SearchSpace.expanded()
  uniform = SpaceLogits(np.full((3, 4), 1 / 4), np.full((3, 16), 1 / 16))
  mean = mean_macs(search_space, uniform)
  np.testing.assert_allclose(mean / 1e9, golden["uniform_mean_gmac"], rtol=5e-3)
  np.testing.assert_allclose(mean, uniform_macs.mean(), rtol=5e-3)
  np.testing.assert_allclose(
    np.median(uniform_macs) / 1e9, golden["uniform_median_gmac"], rtol=1e-2
  )
  undecided = probabilities(init_logits(search_space))
  np.testing.assert_allclose(
    mean_macs(search_space, undecided), mean, rtol=1e-5
  )
  # The same archs in one bin: only the description differs.
  merged = SearchSpace.expanded(num_depth_bins=1, num_width_bins=1)
  (space,) = enumerate_spaces(merged)
  np.testing.assert_allclose(space_macs(merged, space), mean, rtol=1e-12)


def test_uniform_draws_until_within_ten_percent(uniform_macs):
  golden = GOLDEN["expanded_search_space"][
    "expected_uniform_draws_until_within_10_percent_by_target_gf"
  ]
  for target, draws in golden.items():
    hits = (flops_penalty(uniform_macs, float(target) * 1e9) <= 0.1).sum()
    # Five standard deviations of the number of hits.
    np.testing.assert_allclose(
      len(uniform_macs) / hits, draws, rtol=5 / np.sqrt(hits)
    )


def test_singleton_spaces_cost_what_their_archs_cost():
  space = Space(
    depth=np.asarray([1, 0, 0], np.int32), width=np.asarray([0, 1, 0], np.int32)
  )
  refined = RAGGED.refine(space)
  archs = enumerate_archs(RAGGED, space)
  singletons = enumerate_spaces(refined)
  for _, arch, singleton in zip(range(200), archs, singletons, strict=False):
    ranges = space_ranges(refined, singleton)
    assert [low for low, _ in ranges["width"]] == arch.width.tolist()
    assert space_macs(refined, singleton) == arch_macs(RAGGED, arch)


@settings(deadline=None, max_examples=25)
@given(search_spaces())
@example(PROJECTION_MATTERS)
@example(PROJECTION_MATTERS_BETWEEN_STAGES)
@example(RAGGED)
def test_cost_range_is_the_range_of_all_spaces(search_space):
  for metric in METRICS.values():
    tables = cost_tables(search_space, metric)
    every_space = enumerate_spaces(search_space)
    costs = [space_cost(search_space, tables, s) for s in every_space]
    np.testing.assert_allclose(
      cost_range(search_space, tables), (min(costs), max(costs)), rtol=1e-12
    )


def test_tables_of_bins_of_size_one_are_made_at_once():
  """512 widths by 512: a loop over pairs would take minutes."""
  search_space = SearchSpace.expanded(
    num_depth_bins=16, num_width_bins=512, strides=(1, 1, 1), stem_width=5
  )
  began = time.process_time()
  tables = cost_tables.__wrapped__(search_space, METRICS["flops"])
  assert time.process_time() - began < 2
  assert tables.first[1].shape == (512, 512)
  # 9 * 5 * 7 + 9 * 7 * 7, and the projection of 5 to 7.
  assert tables.first[1][4, 6] == 32 * 32 * (315 + 441 + 35)
  assert tables.first[1][6, 6] == 32 * 32 * (441 + 441)
  lowest, highest = macs_range(search_space)
  assert lowest == arch_macs(search_space, smallest_arch(search_space))
  assert highest >= largest_macs(search_space)


def test_a_metric_of_ones_own():
  """Layers in sequence, of which a space has them whatever its widths."""
  layers = Metric(
    first=lambda search_space, stage, before, width: 2,
    rest=lambda search_space, stage, width: 2,
    ends=lambda search_space, width: 2,
  )
  arch = Arch(depth=np.full(3, 3), width=np.asarray([16, 32, 64]))
  search_space = SearchSpace.expanded()
  assert arch_cost(search_space, layers, arch) == 20
  tables = cost_tables(search_space, layers)
  space = Space(depth=np.asarray([0, 1, 3]), width=np.asarray([0, 3, 9]))
  mean_depths = 2.5 + 6.5 + 14.5
  assert space_cost(search_space, tables, space) == 2 * mean_depths + 2
  assert cost_range(search_space, tables) == (17, 89)


# Distributions


@settings(deadline=None, max_examples=30)
@given(search_spaces_and_logits(max_stages=3))
def test_mean_cost_is_the_weighted_sum_over_spaces(case):
  search_space, logits = case
  weights = softmax(logits)
  stages = range(search_space.num_stages)
  total = cost = 0.0
  for space in enumerate_spaces(search_space):
    chance = weights.depth[stages, space.depth].prod()
    chance *= weights.width[stages, space.width].prod()
    total += chance
    cost += chance * space_macs(search_space, space)
  np.testing.assert_allclose(total, 1, rtol=1e-12)
  np.testing.assert_allclose(mean_macs(search_space, weights), cost, rtol=1e-12)


@pytest.mark.parametrize("search_space", [RAGGED, SearchSpace.expanded()])
def test_jax_and_numpy_agree(search_space):
  logits = random_logits(search_space, 1)
  tables = [cost_tables(search_space, metric) for metric in METRICS.values()]

  def costs_of(weights):
    return [mean_cost(search_space, table, weights) for table in tables]

  single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), logits)
  costs = jax.jit(lambda x: costs_of(probabilities(x)))(single)
  for cost, expected in zip(costs, costs_of(softmax(logits)), strict=True):
    assert (cost.dtype, expected.dtype) == (jnp.float32, np.float64)
    np.testing.assert_allclose(cost, expected, rtol=1e-5)


# The FLOPs loss


@pytest.mark.parametrize(
  ("cost", "target", "penalty"),
  [(6e8, 6e8, 0), (5.4e8, 6e8, 0.1), (8e9, 32_000_000_000, 0.75)],
)
def test_flops_penalty(cost, target, penalty):
  np.testing.assert_allclose(
    flops_penalty(cost, target), penalty, rtol=1e-12, atol=1e-12
  )
  single = flops_penalty(jnp.float32(cost), target)
  np.testing.assert_allclose(single, penalty, rtol=1e-5, atol=1e-6)


def test_gradient_of_flops_penalty():
  for cost, sign in ((9e8, 1), (3e8, -1)):
    gradient = jax.grad(flops_penalty)(jnp.float32(cost), 6e8)
    np.testing.assert_allclose(gradient, sign / 6e8, rtol=1e-6)


# Beyond int64


ABSURD = SearchSpace(
  depth_bins=(((1, 2**30),), ((1, 1024),)),
  width_bins=(((8191, 8192),), ((2**20, 2**20),)),
  strides=(1, 1),
  stem_width=2**20,
  image_shape=(4096, 4096, 3),
)


def test_costs_beyond_int64():
  """In Python's integers, layer by layer; they are not even the largest."""
  arch = parse_arch("d1024-1023_w8192-1048576")
  want = count_layers(ABSURD, arch)
  assert want[0] > 2**64
  got = [arch_cost(ABSURD, METRICS[name], arch)[()] for name in COUNTED]
  assert got == [*want]
  assert type(got[0]) is int
  (space,) = enumerate_spaces(ABSURD.only(arch))
  found = space_macs(ABSURD.only(arch), space)
  assert found == pytest.approx(want[0], rel=1e-12)
