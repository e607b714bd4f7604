import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from strategies import (
  RAGGED,
  assert_frequencies,
  assert_same,
  committed,
  random_logits,
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

SKEWED = np.asarray([0.5, -1.0, 1.5, 0.0], np.float32)
EXISTS = SpaceLogits(*map(bin_exists, RAGGED.bins.values()))
compiled = jax.jit(gumbel_softmax, static_argnames="hard")


def float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def ragged_logits(seed=0):
  return float32(random_logits(RAGGED, seed))


def assert_no_absent(weights):
  """Bins that RAGGED lacks weigh exactly 0 and every row sums to one."""

  def check(x, there):
    x = np.asarray(x)
    there = np.broadcast_to(there, x.shape)
    assert np.isfinite(x).all()
    assert (x >= 0).all()
    assert not x[~there].any()
    np.testing.assert_allclose(x.sum(-1), 1, rtol=1e-5)

  jax.tree.map(check, weights, EXISTS)


# Gumbel-Softmax


def test_the_largest_weight_follows_softmax_at_any_temperature():
  logits = jnp.broadcast_to(SKEWED, (20_000, 4))
  cold, mild, warm = (
    np.asarray(compiled(jax.random.key(0), logits, t)) for t in (1e-3, 0.7, 5.0)
  )
  chosen = cold.argmax(-1)
  for weights in (mild, warm):
    np.testing.assert_array_equal(weights.argmax(-1), chosen)
  assert_frequencies(np.bincount(chosen), jax.nn.softmax(SKEWED))
  assert (cold.max(-1) > 1 - 1e-5).mean() > 0.97
  assert (warm.max(-1) < 0.9).all()


def test_hot_weights_are_uniform_over_the_bins_there_are():
  soft = compiled(jax.random.key(3), ragged_logits(), 1e4)

  def check(x, there):
    uniform = there / there.sum(-1, keepdims=True)
    np.testing.assert_allclose(x, uniform, atol=1e-3)

  jax.tree.map(check, soft, EXISTS)


@pytest.mark.parametrize("draw", [gumbel_softmax, compiled])
@pytest.mark.parametrize("temperature", [1e-3, 0.7])
def test_hard_is_exactly_one_hot(draw, temperature):
  logits = 3 * jax.random.normal(jax.random.key(4), (3000, 13))
  hard = draw(jax.random.key(5), logits, temperature, hard=True)
  soft = draw(jax.random.key(5), logits, temperature)
  one_hot = np.eye(13, dtype=np.float32)[np.asarray(soft).argmax(-1)]
  # Bit for bit: no rounding left over, and no negative zero either.
  bits = np.asarray(hard).view(np.uint32)
  np.testing.assert_array_equal(bits, one_hot.view(np.uint32))


def test_hard_has_the_gradient_of_soft():
  logits = ragged_logits()
  slopes = jax.tree.map(
    lambda x: jax.random.normal(jax.random.key(6), x.shape), logits
  )

  def loss(logits, hard):
    weights = gumbel_softmax(jax.random.key(7), logits, 0.7, hard=hard)
    products = jax.tree.map(lambda x, y: (x * y).sum(), weights, slopes)
    return sum(jax.tree.leaves(products))

  hard, soft = jax.jit(
    lambda x: [jax.grad(loss)(x, hard) for hard in (True, False)]
  )(logits)
  assert max(abs(x).max() for x in jax.tree.leaves(soft)) > 0.01
  for one, other in zip(*map(jax.tree.leaves, (hard, soft)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_arrays_of_a_tree_have_their_own_noise():
  logits = {"a": jnp.zeros((200, 4)), "b": jnp.zeros((200, 4))}
  soft = compiled(jax.random.key(8), logits, 1.0)
  same = (soft["a"].argmax(-1) == soft["b"].argmax(-1)).mean()
  assert 0.1 < same < 0.4


@pytest.mark.parametrize("hard", [False, True])
def test_absent_bins_weigh_nothing(hard):
  logits = jax.tree.map(
    lambda x: jnp.broadcast_to(x, (5000, *x.shape)), ragged_logits()
  )
  for temperature in (1e-3, 5.0, 1e4):
    assert_no_absent(
      compiled(jax.random.key(10), logits, temperature, hard=hard)
    )


# Probabilities and entropy


def test_probabilities_are_softmax():
  assert_no_absent(probabilities(init_logits(RAGGED)))
  logits = random_logits(RAGGED, 1)
  actual = probabilities(float32(logits))
  assert_no_absent(actual)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    actual,
    softmax(logits),
  )


def test_entropy_counts_the_bins_there_are():
  @jax.jit
  def of(logits):
    def total(x):
      return sum(leaf.sum() for leaf in jax.tree.leaves(entropy(x)))

    return entropy(logits), jax.grad(total)(logits)

  def check(x, chance):
    terms = np.where(chance > 0, chance * np.log(np.maximum(chance, 1e-300)), 0)
    np.testing.assert_allclose(x, -terms.sum(-1), rtol=1e-5, atol=1e-6)

  for logits in (
    jax.tree.map(np.float64, init_logits(RAGGED)),
    random_logits(RAGGED, 2),
    SpaceLogits(depth=100 * np.eye(3), width=100 * np.eye(3, 4)),  # decided
  ):
    actual, gradient = of(float32(logits))
    jax.tree.map(check, actual, softmax(logits))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


# Optimisation


def test_optimisation_never_revives_absent_bins():
  optimizer = optax.chain(
    optax.add_decayed_weights(1e-3),
    optax.scale_by_adam(b1=0.5),
    optax.scale(-0.1),
  )
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
  assert_no_absent(history)
  assert abs(final.width[1] - logits.width[1]).max() > 0.1


# Spaces


def test_sampled_spaces_follow_the_probabilities():
  logits = ragged_logits()
  space = sample_space(jax.random.key(12), logits, (100, 200))
  chances = probabilities(logits)
  for name in ("depth", "width"):
    index, chance = getattr(space, name), np.asarray(getattr(chances, name))
    assert index.shape == (100, 200, 3)
    assert index.dtype == jnp.int32
    for stage, row in enumerate(chance):
      counts = np.bincount(index[..., stage].ravel(), minlength=row.size)
      assert_frequencies(counts, row)


def test_sampled_depths_and_widths_are_independent():
  search_space = SearchSpace.expanded(num_width_bins=4)
  space = sample_space(jax.random.key(13), init_logits(search_space), (20_000,))
  depth, width = np.asarray(space.depth).T, np.asarray(space.width).T
  for one, other in (
    (depth[0], width[0]),
    (depth[0], depth[1]),
    (width[1], width[2]),
  ):
    counts = np.bincount(4 * one + other, minlength=16)
    assert_frequencies(counts, np.full(16, 1 / 16))


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


def find_in(search_space, **settings):
  """`elite_space` by the closed-form cost, compiled."""
  cost_fn = functools.partial(mean_macs, search_space)
  return jax.jit(functools.partial(elite_space, cost_fn=cost_fn, **settings))


def test_committed_logits_give_their_space():
  space = Space(depth=np.int32([2, 0, 1]), width=np.int32([1, 3, 0]))
  logits = float32(committed(RAGGED, space))
  assert_same(most_probable_space(logits), space)
  assert_same(sample_space(jax.random.key(15), logits), space)
  elite = find_in(RAGGED, target=1e6)(jax.random.key(16), logits)
  assert_same(elite.space, space)
  cost = space_macs(RAGGED, space)
  np.testing.assert_allclose(elite.costs, np.full(5, cost), rtol=1e-5)


@pytest.mark.parametrize(
  ("search_space", "num_samples"), [(RAGGED, 5), (SearchSpace.expanded(), 17)]
)
def test_elite_space_is_the_closest_candidate(search_space, num_samples):
  logits = float32(random_logits(search_space, 3))
  # An integer, and more than an int32 holds in the larger search space.
  target = int(mean_macs(search_space, softmax(logits)))
  find = find_in(search_space, target=target, num_samples=num_samples)
  elite = find(jax.random.key(17), logits)
  assert elite.candidates.depth.shape == (num_samples, 3)
  assert elite.candidates.width.shape == (num_samples, 3)
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


def test_elite_space_is_a_function_of_the_key():
  logits, cost_fn = ragged_logits(), functools.partial(mean_macs, RAGGED)
  find = find_in(RAGGED, target=1e5)
  once = find(jax.random.key(19), logits)
  again = elite_space(jax.random.key(19), logits, cost_fn=cost_fn, target=1e5)
  assert_same(once.candidates, again.candidates)
  np.testing.assert_allclose(once.costs, again.costs, rtol=1e-6)
  assert once.index == again.index
  other = find(jax.random.key(20), logits).candidates
  assert (other.width != once.candidates.width).any()
