import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from strategies import (
  RAGGED,
  assert_frequencies,
  assert_same,
  committed,
  random_logits,
  search_spaces,
  search_spaces_and_spaces,
  softmax,
)

from nss_jax.spaces.bins import bin_exists
from nss_jax.spaces.constraints import flops_penalty
from nss_jax.spaces.cost import mean_macs, space_macs
from nss_jax.spaces.distribution import (
  SpaceLogits,
  elite_space,
  entropy,
  gumbel_softmax,
  init_logits,
  most_probable_space,
  probabilities,
  sample_space,
)
from nss_jax.spaces.search_space import SearchSpace, Space

# Every example compiles its own shapes.
compiling = settings(deadline=None, max_examples=4)
SKEWED = np.asarray([0.5, -1.0, 1.5, 0.0], np.float32)


def float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def ragged_logits(seed=0):
  return float32(random_logits(RAGGED, seed))


def exists(search_space):
  return SpaceLogits(
    depth=bin_exists(search_space.depth_bins),
    width=bin_exists(search_space.width_bins),
  )


def assert_no_absent(search_space, weights):
  """Absent bins weigh exactly 0 and every row sums to one."""

  def check(x, there):
    x = np.asarray(x)
    there = np.broadcast_to(there, x.shape)
    assert np.isfinite(x).all()
    assert (x >= 0).all()
    assert not x[~there].any()
    np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)

  jax.tree.map(check, weights, exists(search_space))


# Gumbel-Softmax


def test_hard_frequencies_are_softmax():
  logits = jnp.broadcast_to(SKEWED, (20_000, 4))
  hard = gumbel_softmax(jax.random.key(0), logits, 1.0, hard=True)
  assert_frequencies(hard.sum(0), jax.nn.softmax(SKEWED))


@pytest.mark.parametrize("temperature", [1e-3, 5.0])
def test_the_largest_weight_does_not_depend_on_the_temperature(temperature):
  logits = jnp.broadcast_to(SKEWED, (1000, 4))
  soft, cold = (
    gumbel_softmax(jax.random.key(1), logits, t) for t in (temperature, 0.1)
  )
  np.testing.assert_array_equal(soft.argmax(-1), cold.argmax(-1))


def test_cold_weights_are_one_hot():
  logits = jnp.broadcast_to(SKEWED, (5000, 4))
  soft = gumbel_softmax(jax.random.key(2), logits, 1e-3)
  assert np.isfinite(soft).all()
  decided = soft.max(-1) > 1 - 1e-5
  assert decided.mean() > 0.97
  assert_frequencies(
    np.bincount(soft.argmax(-1), minlength=4), jax.nn.softmax(SKEWED)
  )


def test_hot_weights_are_uniform_over_the_bins_there_are():
  soft = gumbel_softmax(jax.random.key(3), ragged_logits(), 1e4)

  def check(x, there):
    uniform = there / there.sum(-1, keepdims=True)
    np.testing.assert_allclose(x, uniform, atol=1e-3)

  jax.tree.map(check, soft, exists(RAGGED))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("temperature", [1e-3, 0.7, 5.0])
def test_hard_is_exactly_one_hot(jit, temperature):
  logits = 3 * jax.random.normal(jax.random.key(4), (3000, 13))
  draw = functools.partial(gumbel_softmax, hard=True)
  draw = jax.jit(draw) if jit else draw
  hard = np.asarray(draw(jax.random.key(5), logits, temperature))
  assert hard.dtype == np.float32
  one = hard == 1
  assert (one.sum(-1) == 1).all()
  # Bit for bit: no rounding left over, and no negative zero either.
  bits = hard.view(np.uint32)
  np.testing.assert_array_equal(bits, one.astype(np.float32).view(np.uint32))
  soft = gumbel_softmax(jax.random.key(5), logits, temperature)
  np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))


@pytest.mark.parametrize("jit", [False, True])
def test_hard_has_the_gradient_of_soft(jit):
  logits = ragged_logits()
  slopes = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(6), x.shape), logits
  )

  def loss(logits, hard):
    weights = gumbel_softmax(jax.random.key(7), logits, 0.7, hard=hard)
    products = jax.tree.map(lambda x, y: (x * y).sum(), weights, slopes)
    return sum(jax.tree.leaves(products))

  gradient = jax.grad(loss)
  gradient = jax.jit(gradient, static_argnums=1) if jit else gradient
  hard, soft = gradient(logits, True), gradient(logits, False)
  assert max(abs(x).max() for x in jax.tree.leaves(soft)) > 0.01
  for one, other in zip(*map(jax.tree.leaves, (hard, soft)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_arrays_of_a_tree_have_their_own_noise():
  logits = {"a": jnp.zeros((200, 4)), "b": jnp.zeros((200, 4))}
  hard = gumbel_softmax(jax.random.key(8), logits, 1.0, hard=True)
  same = (hard["a"].argmax(-1) == hard["b"].argmax(-1)).mean()
  assert 0.1 < same < 0.4


@compiling
@given(search_spaces())
def test_absent_bins_weigh_nothing(search_space):
  logits = init_logits(search_space)
  rng = jax.random.key(9)
  assert_no_absent(search_space, probabilities(logits))
  for temperature in (1e-3, 1.0, 1e4):
    soft = gumbel_softmax(rng, logits, temperature)
    assert_no_absent(search_space, soft)
  assert_no_absent(search_space, gumbel_softmax(rng, logits, 1.0, hard=True))


def test_absent_bins_are_never_chosen():
  logits = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (5000, *x.shape)), ragged_logits()
  )
  for temperature in (1e-3, 5.0):
    weights = gumbel_softmax(jax.random.key(10), logits, temperature, hard=True)
    assert_no_absent(RAGGED, weights)


# Probabilities and entropy


def test_probabilities_are_softmax():
  logits = random_logits(RAGGED, 1)
  actual = probabilities(float32(logits))
  assert_no_absent(RAGGED, actual)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    actual,
    softmax(logits),
  )


@pytest.mark.parametrize(
  "logits",
  [
    jax.tree.map(np.float64, init_logits(RAGGED)),
    random_logits(RAGGED, 2),
    SpaceLogits(depth=100 * np.eye(3), width=100 * np.eye(3, 4)),
  ],
  ids=["undecided", "random", "decided"],
)
def test_entropy_counts_the_bins_there_are(logits):
  actual = entropy(float32(logits))

  def check(x, chance):
    terms = np.where(chance > 0, chance * np.log(np.maximum(chance, 1e-300)), 0)
    np.testing.assert_allclose(x, -terms.sum(-1), rtol=1e-5, atol=1e-6)

  jax.tree.map(check, actual, softmax(logits))
  gradient = jax.grad(
    lambda x: sum(leaf.sum() for leaf in jax.tree.leaves(entropy(x)))
  )(float32(logits))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# Optimisation


@pytest.mark.parametrize("decay_first", [True, False])
def test_optimisation_never_revives_absent_bins(decay_first):
  decay, adam = optax.add_decayed_weights(1e-3), optax.scale_by_adam(b1=0.5)
  parts = (decay, adam) if decay_first else (adam, decay)
  optimizer = optax.chain(*parts, optax.scale(-0.1))
  logits = init_logits(RAGGED)

  def loss(logits, rng):
    weights = gumbel_softmax(rng, logits, 1.0)
    return flops_penalty(mean_macs(RAGGED, weights), 5e4)

  def step(carry, rng):
    logits, state = carry
    gradient = jax.grad(loss)(logits, rng)
    updates, state = optimizer.update(gradient, state, logits)
    logits = optax.apply_updates(logits, updates)
    return (logits, state), (gradient, probabilities(logits))

  keys = jax.random.split(jax.random.key(11), 200)
  (final, state), (gradients, history) = jax.jit(
    lambda logits: jax.lax.scan(step, (logits, optimizer.init(logits)), keys)
  )(logits)
  for leaf in jax.tree.leaves((final, state, gradients)):
    assert np.isfinite(leaf).all()
  assert_no_absent(RAGGED, history)
  assert abs(final.width[1] - logits.width[1]).max() > 0.1


# Spaces


def test_sampled_spaces_follow_the_probabilities():
  logits = ragged_logits()
  space = sample_space(jax.random.key(12), logits, (20_000,))
  chances = probabilities(logits)
  for name in ("depth", "width"):
    index, chance = getattr(space, name), np.asarray(getattr(chances, name))
    assert index.shape == (20_000, 3)
    assert index.dtype == jnp.int32
    for stage, row in enumerate(chance):
      counts = np.bincount(index[:, stage], minlength=row.size)
      assert_frequencies(counts, row)


def test_sampled_depths_and_widths_are_independent():
  search_space = SearchSpace.expanded(num_width_bins=4)
  space = sample_space(jax.random.key(13), init_logits(search_space), (20_000,))
  pairs = (
    (space.depth[:, 0], space.width[:, 0]),
    (space.depth[:, 0], space.depth[:, 1]),
    (space.width[:, 1], space.width[:, 2]),
  )
  for one, other in pairs:
    counts = np.bincount(4 * np.asarray(one) + np.asarray(other), minlength=16)
    assert_frequencies(counts, np.full(16, 1 / 16))


def test_shape_of_sampled_spaces():
  logits = ragged_logits()
  for shape in ((), (2, 3)):
    space = sample_space(jax.random.key(14), logits, shape)
    assert space.depth.shape == space.width.shape == (*shape, 3)


def test_most_probable_space():
  logits = SpaceLogits(
    depth=jnp.asarray([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]]),
    width=jnp.asarray([[0.0, 1.0], [-1.0, -2.0]]),
  )
  space = most_probable_space(logits)
  assert_same(
    space, Space(depth=jnp.asarray([1, 0]), width=jnp.asarray([1, 0]))
  )
  assert space.depth.dtype == space.width.dtype == jnp.int32


@compiling
@given(search_spaces_and_spaces())
def test_committed_logits_give_their_space(case):
  search_space, space = case
  logits = float32(committed(search_space, space))
  assert_same(most_probable_space(logits), space)
  assert_same(sample_space(jax.random.key(15), logits), space)
  elite = elite_space(
    jax.random.key(16),
    logits,
    cost_fn=functools.partial(mean_macs, search_space),
    target=1e6,
  )
  assert_same(elite.space, space)
  cost = space_macs(search_space, space)
  np.testing.assert_allclose(elite.costs, np.full(5, cost), rtol=1e-5)
  np.testing.assert_allclose(elite.cost, cost, rtol=1e-5)


@pytest.mark.parametrize(
  ("search_space", "num_samples"),
  [(RAGGED, 1), (RAGGED, 5), (SearchSpace.expanded(), 17)],
)
def test_elite_space_is_the_closest_candidate(search_space, num_samples):
  logits = float32(random_logits(search_space, 3))
  # An integer, and more than an int32 holds in the larger search space.
  target = int(mean_macs(search_space, softmax(logits)))
  elite = elite_space(
    jax.random.key(17),
    logits,
    cost_fn=functools.partial(mean_macs, search_space),
    target=target,
    num_samples=num_samples,
  )
  assert elite.candidates.depth.shape == (num_samples, 3)
  assert elite.candidates.width.shape == (num_samples, 3)
  assert elite.costs.shape == (num_samples,)
  candidates = [
    jax.tree.map(lambda x, i=i: x[i], elite.candidates)
    for i in range(num_samples)
  ]
  costs = [space_macs(search_space, space) for space in candidates]
  np.testing.assert_allclose(elite.costs, costs, rtol=1e-5)
  best = int(np.argmin([abs(cost / target - 1) for cost in costs]))
  assert elite.index == best
  assert_same(elite.space, candidates[best])
  assert elite.cost == elite.costs[best]


def test_elite_space_by_hand():
  # Costs are the width bins' numbers, so the deviations are easy to see.
  logits = SpaceLogits(depth=jnp.zeros((1, 1)), width=jnp.zeros((1, 6)))
  elite = elite_space(
    jax.random.key(18),
    logits,
    cost_fn=lambda weights: (weights.width[0] * jnp.arange(1.0, 7.0)).sum(),
    target=4,
    num_samples=64,
  )
  assert set(elite.costs.tolist()) == {1, 2, 3, 4, 5, 6}
  assert elite.cost == 4
  assert elite.space.width.tolist() == [3]
  assert elite.index == elite.costs.tolist().index(4)


def test_elite_space_is_a_function_of_the_key():
  find = functools.partial(
    elite_space, cost_fn=functools.partial(mean_macs, RAGGED), target=1e5
  )
  logits = ragged_logits()
  once = find(jax.random.key(19), logits)
  assert_same(once, find(jax.random.key(19), logits))
  compiled = jax.jit(find)(jax.random.key(19), logits)
  assert_same(once.candidates, compiled.candidates)
  np.testing.assert_allclose(once.costs, compiled.costs, rtol=1e-6)
  assert once.index == compiled.index
  other = find(jax.random.key(20), logits).candidates
  assert (other.width != once.candidates.width).any()
