"""The expected penalty: by enumeration, exactly, and by draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from hypothesis import given, settings
from strategies import (
  RAGGED,
  random_logits,
  search_spaces_and_logits,
  softmax,
)

import nss_jax as nss
from nss_jax.phases import schedules, search
from nss_jax.spaces.constraints import Constraint, mean_costs, penalties
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_spaces
from nss_jax.spaces.table import space_log_probabilities
from nss_jax.steps import penalties as penalties_lib

KEY = jax.random.key(0)


def limits(search_space, share=0.5):
  """Makes two constraints, at a share of the mean of all spaces."""
  weights = softmax(nss.init_logits(search_space))
  both = [
    Constraint("flops", METRICS["flops"], 1.0),
    Constraint("params", METRICS["params"], 1.0, 2.0, "at_most"),
  ]
  means = mean_costs(search_space, both, weights)
  return tuple(
    one._replace(target=share * float(mean))
    for one, mean in zip(both, means, strict=True)
  )


def by_enumeration(search_space, constraints, logits):
  """Sums probability times penalty, space by space: `[C]`."""
  chances, total = softmax(logits), 0.0
  stages = np.arange(search_space.num_stages)
  for space in enumerate_spaces(search_space):
    chance = chances.depth[stages, space.depth].prod()
    chance *= chances.width[stages, space.width].prod()
    costs = [
      nss.space_cost(
        search_space, nss.cost_tables(search_space, one.metric), space
      )
      for one in constraints
    ]
    total += chance * penalties(constraints, np.asarray(costs))
  return total


@settings(deadline=None, max_examples=25)
@given(search_spaces_and_logits(max_stages=3))
def test_listed_is_enumeration(case):
  search_space, logits = case
  both = limits(search_space)
  found = nss.expected_penalty(search_space, both)(
    KEY, jax.tree.map(jnp.float32, logits)
  )
  expected = by_enumeration(search_space, both, logits)
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("generic", [False, True])
def test_draws_are_unbiased(generic, monkeypatch):
  """Value and gradient are within five of their deviations."""
  both = limits(RAGGED)
  logits = jax.tree.map(jnp.float32, random_logits(RAGGED, 3))
  exact = nss.expected_penalty(RAGGED, both)
  monkeypatch.setattr(penalties_lib, "MAX_LISTED", 1)
  drawn = (
    nss.drawn_penalty(
      functools.partial(mean_costs, RAGGED, both),
      None,
      penalty_fn=lambda costs, _: penalties(both, costs),
      num_draws=2048,
    )
    if generic
    else nss.expected_penalty(RAGGED, both, num_draws=2048)
  )

  @functools.partial(jax.jit, static_argnums=0)
  def with_gradient(penalty_fn, key):
    def total(x):
      each = penalty_fn(key, x)
      return each.sum(), each

    gradient, each = jax.grad(total, has_aux=True)(logits)
    leaves = [each, *jax.tree.leaves(gradient)]
    return jnp.concatenate([leaf.ravel() for leaf in leaves])

  expected = with_gradient(exact, KEY)
  keys = jax.random.split(KEY, 64)
  found = jax.lax.map(functools.partial(with_gradient, drawn), keys)
  deviation = found.std(0) / np.sqrt(len(found)) + 1e-6
  assert float(abs(found.mean(0) - expected).max()) < 0.02
  np.testing.assert_array_less(abs(found.mean(0) - expected), 5 * deviation)


def test_bins_that_a_stage_lacks_are_never_drawn():
  logits = jax.tree.map(jnp.float32, random_logits(RAGGED, 4))
  for kind, bins in RAGGED.bins.items():
    drawn = penalties_lib.draw_indices(KEY, getattr(logits, kind), 20_000)
    chances = getattr(softmax(random_logits(RAGGED, 4)), kind)
    for stage, row in enumerate(bins):
      counts = np.bincount(drawn[:, stage], minlength=chances.shape[1])
      assert not counts[len(row) :].any()
      np.testing.assert_allclose(counts / 20_000, chances[stage], atol=0.02)


def test_search_commits_to_one_space_on_target():
  """Without a task, it goes from indifference to a space near the target, not
  to a mixture of which none is near."""
  search_space = nss.SearchSpace.expanded(max_depth=4, max_width=16)
  target, optimizer = 4e6, optax.adam(0.1)
  step = jax.jit(
    functools.partial(
      nss.search_step,
      loss_fn=lambda weights, arch, batch: (jnp.float32(0), {}),
      cost_fn=functools.partial(nss.mean_macs, search_space),
      sample_fn=nss.arch_sampler(search_space),
      optimizer=optimizer,
      target=target,
      cost_weight=1.0,
      expected_penalty_fn=nss.expected_penalty(search_space, target),
    )
  )
  state = nss.init_search_state(nss.init_logits(search_space), optimizer)
  for _ in range(300):
    state, metrics = step(state, None, None, KEY)
  assert metrics["penalty"].shape == (1,)
  mode = nss.most_probable_space(state.logits)
  assert abs(nss.space_macs(search_space, mode) / target - 1) < 0.05
  table = space_log_probabilities(search_space, state.logits)
  off = abs(nss.all_space_macs(search_space) / target - 1)
  mean_penalty = (np.exp(table) * off).sum()
  assert mean_penalty < 0.1
  np.testing.assert_allclose(metrics["penalty"][0], mean_penalty, atol=0.02)


def test_search_step_adds_the_weighted_expectations():
  """Each constraint has its own weight, which grows over the arch steps."""
  both = limits(RAGGED)
  logits = jax.tree.map(jnp.float32, random_logits(RAGGED, 5))
  optimizer = optax.sgd(1.0)
  expected_fn = nss.expected_penalty(RAGGED, both)
  weights = np.asarray([one.weight for one in both])
  growing = schedules.penalty_weight(weights, 3.0, 10, 31)
  for step, times in ((0, 1), (10, 1), (20, 2), (30, 3), (40, 3)):
    np.testing.assert_allclose(growing(step), times * weights, rtol=1e-6)
  state = nss.init_search_state(logits, optimizer)
  step_fn = functools.partial(
    nss.search_step,
    loss_fn=lambda w, choice, batch: (jnp.zeros(()), {}),
    cost_fn=functools.partial(mean_costs, RAGGED, both),
    sample_fn=lambda rng, x, step: nss.Sample(nss.probabilities(x), None),
    optimizer=optimizer,
    target=np.asarray([one.target for one in both]),
    cost_weight=growing,
    penalty_fn=lambda costs, _: 1e9 * costs,  # of the draw: does not count
    expected_penalty_fn=expected_fn,
  )
  state = state.replace(step=jnp.int32(30))
  state, metrics = jax.jit(step_fn)(state, None, None, KEY)

  def weighted(x):
    return (3 * weights * expected_fn(KEY, x)).sum()

  gradient = jax.jit(jax.grad(weighted))(logits)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    jax.tree.map(jnp.subtract, logits, state.logits),
    gradient,
  )
  np.testing.assert_allclose(metrics["penalty"], expected_fn(KEY, logits))


def test_entropy_keeps_the_distribution_of_gibbs():
  """At weight t independent choices have p ~ exp(-loss / t)."""
  losses = jnp.asarray([[0.0, 0.1, 0.3, 1.0]])
  optimizer, weight = optax.sgd(5.0), 0.2
  step = jax.jit(
    functools.partial(
      nss.search_step,
      loss_fn=lambda weights, choice, batch: ((choice * losses).sum(), {}),
      cost_fn=lambda weights: jnp.float32(1.0),
      sample_fn=lambda rng, x, step: nss.Sample(*(nss.probabilities(x),) * 2),
      optimizer=optimizer,
      target=1.0,
      cost_weight=0.0,
      entropy_fn=lambda step: weight,
    )
  )
  state = nss.init_search_state(jnp.zeros((1, 4)), optimizer)
  for _ in range(2000):
    state, _ = step(state, None, None, KEY)
  np.testing.assert_allclose(
    nss.probabilities(state.logits), jax.nn.softmax(-losses / weight), atol=1e-4
  )


def test_weights_fall_or_stay():
  falls = schedules.entropy_weight(0.3, 0.003, 10, 30)
  found = [float(falls(step)) for step in (0, 10, 18.5, 27, 29)]
  np.testing.assert_allclose(found, [0.3, 0.3, 0.03, 0.003, 0.003], rtol=1e-5)
  assert schedules.entropy_weight(0.0, 0.005, 10, 30) is None
  constant = schedules.penalty_weight(2.0, 1.0, 10, 31)
  assert {float(constant(step)) for step in (0, 15, 30)} == {2.0}


def test_a_search_lets_its_penalties_grow_as_the_config_says(monkeypatch):
  asked = []
  schedule = schedules.penalty_weight
  monkeypatch.setattr(
    schedules,
    "penalty_weight",
    lambda *args: asked.append(args) or schedule(*args),
  )
  config = runs.load_config(
    **runs.TINY,
    **{
      "search.penalty_growth": 5.0,
      "objective.cost_weight": 0.7,
      "objective.constraints": ({"metric": "params", "target": 1e3},),
    },
  )
  program = search.build(runs.make_job(config))
  ((weights, growth, first, num_steps),) = asked
  assert weights.tolist() == [0.7, 1.0] and growth == 5.0
  assert first == program.schedule.warmup_steps > 0
  assert num_steps == program.schedule.num_steps > first
