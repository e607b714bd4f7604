"""Estimators of the gradient of an expectation over spaces."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nss_jax as nss

SPACE = nss.SearchSpace.expanded(
  max_depth=2,
  max_width=4,
  num_depth_bins=2,
  num_width_bins=2,
  strides=(1, 2),
  stem_width=2,
  image_shape=(4, 4, 1),
  num_classes=2,
)
LOGITS = nss.SpaceLogits(
  depth=jnp.array([[0.3, -0.2], [0.0, 0.5]]),
  width=jnp.array([[-0.4, 0.1], [0.7, 0.0]]),
)


def _value(weights):
  """Returns what is not linear, and differs for each of the 16 spaces."""
  cost = nss.mean_macs(SPACE, weights) / 1e3
  return jnp.sin(cost) + weights.depth[0, 0] * weights.width[1, 1]


def _exact(logits):
  """Computes the expectation by enumeration."""
  total = 0.0
  chances = nss.probabilities(logits)
  for space in nss.enumerate_spaces(SPACE):
    one_hot = nss.SpaceLogits(
      depth=jnp.eye(2)[np.asarray(space.depth)],
      width=jnp.eye(2)[np.asarray(space.width)],
    )
    chance = (chances.depth * one_hot.depth).sum(-1).prod()
    chance *= (chances.width * one_hot.width).sum(-1).prod()
    total += chance * _value(one_hot)
  return total


def test_score_function_is_unbiased():
  estimator = nss.score_function(3)

  def surrogate(logits, key):
    return estimator(
      key,
      logits,
      lambda key, logits: nss.arch_sampler(SPACE)(key, logits, 0),
      lambda sample: (_value(sample.weights), {}),
    )[0]

  count = 4000
  keys = jax.random.split(jax.random.key(1), count)
  grad = jax.jit(jax.vmap(jax.grad(surrogate), in_axes=(None, 0)))
  draws = grad(LOGITS, keys)
  exact = jax.grad(_exact)(LOGITS)
  for got, want in zip(*map(jax.tree.leaves, (draws, exact)), strict=True):
    error = np.asarray(got).std(0) / np.sqrt(count)
    assert (np.abs(np.asarray(got).mean(0) - want) < 4.5 * error).all()


def test_leave_one_out_baseline_removes_a_constant():
  """What all draws share moves nothing, to the last bit of the difference."""
  estimator = nss.score_function(3)
  gradient = jax.grad(
    lambda logits: estimator(
      jax.random.key(0),
      logits,
      lambda key, logits: nss.arch_sampler(SPACE)(key, logits, 0),
      lambda sample: (jnp.float32(1e3), {}),
    )[0]
  )(LOGITS)
  chex.assert_trees_all_equal(gradient, jax.tree.map(jnp.zeros_like, LOGITS))


def test_score_function_needs_two():
  with pytest.raises(ValueError, match="2 or more; got 1"):
    nss.score_function(1)


def test_search_step_with_the_score_function():
  """It reaches the target by forward passes alone."""
  one = nss.Space(depth=np.array([1, 0]), width=np.array([0, 1]))
  target = nss.space_macs(SPACE, one)
  cost_fn = functools.partial(nss.mean_macs, SPACE)
  optimizer = optax.adam(0.05)
  seen = []

  def loss_fn(weights, choice, batch):
    assert isinstance(choice, nss.Arch)
    seen.append(1)
    return jnp.float32(0.0), {}

  @jax.jit
  def step(state):
    return nss.search_step(
      state,
      None,
      None,
      jax.random.key(2),
      loss_fn=loss_fn,
      cost_fn=cost_fn,
      sample_fn=nss.arch_sampler(SPACE),
      optimizer=optimizer,
      target=target,
      cost_weight=1.0,
      estimator=nss.score_function(8),
    )

  state = nss.init_search_state(nss.init_logits(SPACE), optimizer)
  before = float(cost_fn(nss.probabilities(state.logits))) / target
  for _ in range(300):
    state, metrics = step(state)
  assert len(seen) == 1  # traced once
  after = float(cost_fn(nss.probabilities(state.logits))) / target
  assert abs(after - 1) < 0.1 < abs(before - 1)
  assert set(metrics) >= {"loss", "penalty", "sampled_cost", "expected_cost"}
