"""Several constraints: their penalties, and the spaces that meet them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
  RAGGED,
  assert_same,
  random_logits,
  search_spaces_and_logits,
  softmax,
)

import nss_jax as nss
from nss_jax.spaces.constraints import (
  Constraint,
  mean_costs,
  needed_tolerance,
  penalties,
  worst_penalty,
)
from nss_jax.spaces.cost import cost_tables, space_cost
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_spaces
from nss_jax.spaces.table import (
  all_space_costs,
  space_indices,
  space_log_probabilities,
)

quick = settings(deadline=None, max_examples=40)


def limit(name, target, weight=1.0, mode="equal"):
  return Constraint(name, METRICS[name], target, weight, mode)


def every_cost(search_space, name):
  """The mean cost of every space, one by one."""
  tables = cost_tables(search_space, METRICS[name])
  return np.asarray(
    [
      space_cost(search_space, tables, s)
      for s in enumerate_spaces(search_space)
    ]
  )


# Penalties


@pytest.mark.parametrize(
  ("cost", "equal", "beside", "alone"),
  [(6e8, 0, 0, 0), (9e8, 0.5, 0.6, 0.6), (3e8, 0.5, 0, 0.5)],
)
def test_penalty_by_hand(cost, equal, beside, alone):
  """An upper limit alone is to be used up, as the best is not far below it."""
  met = limit("params", 100.0)
  for constraints, expected in (
    ([limit("flops", 600_000_000)], equal),
    ([limit("flops", 6e8, mode="at_most"), met], beside),
    ([limit("flops", 6e8, mode="at_most")], alone),
  ):
    given = np.asarray([cost, 100.0][: len(constraints)])
    found = penalties(constraints, given)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    if cost == 6e8:
      continue  # a kink
    gradient = jax.grad(lambda x, c=constraints: penalties(c, x)[0])(
      jnp.float32(given)
    )
    slope = np.sign(cost - 6e8) if expected else 0
    np.testing.assert_allclose(gradient[0], slope / 6e8, rtol=1e-6)


def test_one_of_many_constraints_is_to_be_used_up():
  limits = [
    limit(name, 100.0, mode="at_most")
    for name in ("flops", "params", "activations")
  ]
  costs = np.asarray([[10.0, 90.0, 50.0], [100.0, 1.0, 1.0], [1.0, 101, 120]])
  expected = [[0, 0.1, 0], [0, 0, 0], [0, 0.11, 0.3]]
  np.testing.assert_allclose(penalties(limits, costs), expected, atol=1e-12)
  found = penalties(limits, jnp.asarray(costs))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  needed = needed_tolerance(limits, list(costs.T))
  np.testing.assert_allclose(needed, [0.1, 0, np.inf])


def test_penalties_of_many_spaces():
  both = limit("flops", 100.0), limit("params", 10.0, mode="at_most")
  costs = np.asarray([[110.0, 12.0], [80.0, 8.0]])
  expected = [[0.1, 0.3], [0.2, 0]]
  np.testing.assert_allclose(penalties(both, costs), expected, atol=1e-12)
  np.testing.assert_allclose(
    penalties(both, jnp.asarray(costs)), expected, atol=1e-6
  )
  columns = list(costs.T)
  np.testing.assert_allclose(worst_penalty(both, columns), [0.3, 0.2])
  # No tolerance is for what may not be above.
  np.testing.assert_allclose(needed_tolerance(both, columns), [np.inf, 0.2])


def test_costs_of_the_expanded_space_follow_their_metric():
  weights = softmax(random_logits(RAGGED, 4))
  three = [limit(name, 1.0) for name in METRICS]
  found = mean_costs(RAGGED, three, weights)
  stages = range(3)
  expected = np.zeros(3)
  for index, space in enumerate(enumerate_spaces(RAGGED)):
    chance = weights.depth[stages, space.depth].prod()
    chance *= weights.width[stages, space.width].prod()
    costs = [every_cost(RAGGED, name)[index] for name in METRICS]
    expected += chance * np.asarray(costs)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


# The search step


def test_search_step_adds_weighted_penalties():
  """The logits go down the sum of the weighted penalties of the mean costs."""
  logits = jax.tree.map(jnp.float32, random_logits(RAGGED, 5))
  optimizer = optax.sgd(1.0)
  both = (limit("flops", 6e4, 0.7), limit("params", 3e3, 0.2, "at_most"))
  targets, weights = (
    np.asarray([getattr(one, name) for one in both])
    for name in ("target", "weight")
  )
  state, metrics = nss.search_step(
    nss.init_search_state(logits, optimizer),
    None,
    None,
    jax.random.key(0),
    loss_fn=lambda weights, choice, batch: (jnp.zeros(()), {}),
    sample_fn=lambda rng, x, step: nss.Sample(nss.probabilities(x), None),
    optimizer=optimizer,
    cost_fn=functools.partial(mean_costs, RAGGED, both),
    target=targets,
    cost_weight=weights,
    penalty_fn=lambda costs, _: penalties(both, costs),
  )

  @functools.partial(jax.grad, has_aux=True)
  def uphill(x):
    off = penalties(both, mean_costs(RAGGED, both, nss.probabilities(x)))
    return (weights * off).sum(), off

  gradient, off = uphill(logits)
  assert (off > 0).all()  # or at most would say nothing
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    jax.tree.map(jnp.subtract, state.logits, logits),
    jax.tree.map(jnp.negative, gradient),
  )
  assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-3
  np.testing.assert_allclose(metrics["penalty"], off, rtol=1e-5)
  costs = mean_costs(RAGGED, both, softmax(random_logits(RAGGED, 5)))
  for name in ("sampled_cost", "expected_cost"):
    np.testing.assert_allclose(metrics[name] * targets, costs, rtol=1e-5)


# Elite Spaces


@quick
@given(search_spaces_and_logits(max_stages=3), st.integers(0, 10**6))
def test_candidates_of_two_constraints_are_those_of_brute_force(case, pick):
  search_space, logits = case
  flops = every_cost(search_space, "flops")
  params = every_cost(search_space, "params")
  chosen = pick % len(flops)
  both = (
    limit("flops", 1.05 * flops[chosen]),
    limit("params", 1.01 * params[chosen], mode="at_most"),
  )
  chances = space_log_probabilities(search_space, logits).ravel()
  met = (abs(flops / both[0].target - 1) <= 0.1) & (params <= both[1].target)
  assert met[chosen]
  best = min(
    np.flatnonzero(met),
    key=lambda i: (-round(chances[i], 8), abs(flops[i] / both[0].target - 1)),
  )
  found = nss.elite_candidates(
    search_space, logits, both, 0.1, least_share=1e-30
  )
  first = jax.tree.map(lambda x: x[0], found.spaces)
  assert_same(first, list(enumerate_spaces(search_space))[best])
  np.testing.assert_allclose(found.costs[0], [flops[best], params[best]])


def test_second_constraint_changes_the_elite_space():
  logits = random_logits(RAGGED, 6)
  flops = nss.all_space_macs(RAGGED)
  one = nss.elite_candidates(RAGGED, logits, 1.5e5, 0.5)
  params = all_space_costs(RAGGED, METRICS["params"])
  within = abs(flops / 1.5e5 - 1) <= 0.5
  least = params[within].min()
  both = limit("flops", 1.5e5), limit("params", least, mode="at_most")
  two = nss.elite_candidates(RAGGED, logits, both, 0.5)
  assert two.costs[:, 1] == pytest.approx(least)
  indices = space_indices(RAGGED, one.spaces)
  assert (params.ravel()[indices] > least).all()
  with pytest.raises(
    ValueError, match=r"of 150000 multiply-adds and at most .* parameters; the "
  ):
    feasible_indices(
      RAGGED, (both[0], both[1]._replace(target=0.99 * least)), 0.5
    )


def test_no_constraint_is_refused():
  with pytest.raises(ValueError, match="at least one constraint; got none"):
    nss.elite_candidates(RAGGED, random_logits(RAGGED, 6), (), 0.1)


def test_archs_are_drawn_that_meet_both():
  both = limit("flops", 1.5e5), limit("params", 4e3, mode="at_most")
  archs = nss.sample_feasible_archs(jax.random.key(0), RAGGED, both, 0.3, 50)
  assert (abs(nss.arch_macs(RAGGED, archs) / 1.5e5 - 1) <= 0.3).all()
  assert nss.arch_params(RAGGED, archs).max() <= 4e3
  alone = nss.sample_feasible_archs(jax.random.key(0), RAGGED, 1.5e5, 0.3, 50)
  assert nss.arch_params(RAGGED, alone).max() > 4e3


def test_drawn_elite_is_the_one_whose_worst_constraint_is_met_best():
  # Width bin k costs k and 7 - k: 2 alone would be best met by k = 2.
  both = limit("flops", 2.0), limit("params", 3.0, mode="at_most")
  logits = nss.SpaceLogits(depth=jnp.zeros((1, 1)), width=jnp.zeros((1, 6)))

  def cost_fn(weights):
    k = (weights.width[0] * jnp.arange(1.0, 7.0)).sum()
    return jnp.stack([k, 7 - k])

  elite = nss.elite_space(
    jax.random.key(1),
    logits,
    cost_fn=cost_fn,
    target=None,
    num_samples=64,
    penalty_fn=lambda costs, _: penalties(both, costs),
  )
  assert elite.costs.shape == (64, 2)
  assert set(elite.costs[:, 0].tolist()) == {1, 2, 3, 4, 5, 6}
  assert elite.cost.tolist() == [3, 4]
