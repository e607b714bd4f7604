"""Several budgets: their penalties, the spaces that meet them, the config."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
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
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import (
  elite,
  loop,
  nas,
  plan,
  program,
  search,
  search_program,
)
from nss_jax.runtime import files
from nss_jax.spaces.constraints import (
  OVER,
  Constraint,
  mean_costs,
  needed_tolerance,
  penalties,
  worst_penalty,
)
from nss_jax.spaces.cost import cost_tables, mean_cost, space_cost
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.sampling import enumerate_spaces
from nss_jax.spaces.search_space import space_from_ranges
from nss_jax.spaces.table import (
  all_space_costs,
  space_indices,
  space_log_probabilities,
)

quick = settings(deadline=None, max_examples=40)


def budget(name, target, weight=1.0, mode="equal"):
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
  """At most, beside a cost that is to be equal, and alone: then the best within
  the budget is wanted, and far below it there is none."""
  met = budget("params", 100.0)
  for constraints, expected in (
    ([budget("flops", 600_000_000)], equal),
    ([budget("flops", 6e8, mode="at_most"), met], beside),
    ([budget("flops", 6e8, mode="at_most")], alone),
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


def test_one_of_many_budgets_is_to_be_used_up():
  limits = [
    budget(name, 100.0, mode="at_most")
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
  both = budget("flops", 100.0), budget("params", 10.0, mode="at_most")
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
  three = [budget(name, 1.0) for name in METRICS]
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
  """Two budgets move the logits as the sum of what each moves them."""
  logits = jax.tree.map(jnp.float32, random_logits(RAGGED, 5))
  optimizer = optax.sgd(1.0)
  both = (budget("flops", 6e4, 0.7), budget("params", 3e3, 0.2, "at_most"))

  def moved(**kwargs):
    state, metrics = nss.search_step(
      nss.init_search_state(logits, optimizer),
      None,
      None,
      jax.random.key(0),
      loss_fn=lambda weights, choice, batch: (jnp.zeros(()), {}),
      sample_fn=lambda rng, x, step: nss.Sample(nss.probabilities(x), None),
      optimizer=optimizer,
      **kwargs,
    )
    change = jax.tree.map(jnp.subtract, state.logits, logits)
    return change, metrics

  alone = [
    moved(
      cost_fn=lambda w, one=one: mean_costs(RAGGED, [one], w)[0],
      target=one.target,
      cost_weight=one.weight,
      penalty_fn=lambda cost, _, one=one: penalties([one], cost[None])[0],
    )
    for one in both
  ]
  together, metrics = moved(
    cost_fn=functools.partial(mean_costs, RAGGED, both),
    target=np.asarray([one.target for one in both]),
    cost_weight=np.asarray([one.weight for one in both]),
    penalty_fn=lambda costs, _: penalties(both, costs),
  )

  def objective(x, chosen):
    costs = mean_costs(RAGGED, chosen, nss.probabilities(x))
    pairs = zip(chosen, penalties(chosen, costs), strict=True)
    return sum(one.weight * off for one, off in pairs)

  for chosen, change in (
    (both, together),
    (both[:1], alone[0][0]),
    (both[1:], alone[1][0]),
  ):
    downhill = jax.tree.map(jnp.negative, jax.grad(objective)(logits, chosen))
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(downhill))
    assert largest > 1e-3
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      change,
      downhill,
    )
  for name in ("penalty", "sampled_cost", "expected_cost"):
    assert metrics[name].shape == (2,)
    each = [found[name] for _, found in alone]
    np.testing.assert_allclose(metrics[name], each, rtol=1e-5)
  weights = softmax(random_logits(RAGGED, 5))
  np.testing.assert_allclose(
    metrics["expected_cost"] * np.asarray([6e4, 3e3]),
    mean_costs(RAGGED, both, weights),
    rtol=1e-5,
  )
  assert alone[1][1]["penalty"] > 0  # or at most would say nothing


# Elite Spaces


@quick
@given(search_spaces_and_logits(max_stages=3), st.integers(0, 10**6))
def test_candidates_of_two_budgets_are_those_of_brute_force(case, pick):
  search_space, logits = case
  flops = every_cost(search_space, "flops")
  params = every_cost(search_space, "params")
  chosen = pick % len(flops)
  both = (
    budget("flops", 1.05 * flops[chosen]),
    budget("params", 1.01 * params[chosen], mode="at_most"),
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


def test_second_budget_changes_the_elite_space():
  logits = random_logits(RAGGED, 6)
  flops = nss.all_space_macs(RAGGED)
  one = nss.elite_candidates(RAGGED, logits, 1.5e5, 0.5)
  params = all_space_costs(RAGGED, METRICS["params"])
  within = abs(flops / 1.5e5 - 1) <= 0.5
  least = params[within].min()
  both = budget("flops", 1.5e5), budget("params", least, mode="at_most")
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
  both = budget("flops", 1.5e5), budget("params", 4e3, mode="at_most")
  archs = nss.sample_feasible_archs(jax.random.key(0), RAGGED, both, 0.3, 50)
  assert (abs(nss.arch_macs(RAGGED, archs) / 1.5e5 - 1) <= 0.3).all()
  assert nss.arch_params(RAGGED, archs).max() <= 4e3
  alone = nss.sample_feasible_archs(jax.random.key(0), RAGGED, 1.5e5, 0.3, 50)
  assert nss.arch_params(RAGGED, alone).max() > 4e3


def test_drawn_elite_is_the_one_whose_worst_budget_is_met_best():
  # Width bin k costs k and 7 - k: 2 alone would be best met by k = 2.
  both = budget("flops", 2.0), budget("params", 3.0, mode="at_most")
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


# The config


def load(*constraints, **overrides):
  overrides = {**runs.TINY, "objective.constraints": constraints, **overrides}
  return runs.load_config(**overrides)


PARAMS = {"metric": "params", "target": 2e3, "mode": "at_most"}


def test_constraints_of_a_config():
  both = budget("flops", 4e4), budget("params", 2e3, 1.0, "at_most")
  config = load(PARAMS)
  config.objective.cost_weight = 1.0
  config_lib.validate(config)
  assert config_lib.constraints(config) == both
  config.objective.cost_weight = 0.0
  assert config_lib.constraints(config) == both[1:]
  config.objective.constraints = ()
  assert config_lib.constraints(config) == (both[0]._replace(weight=0.0),)


@pytest.mark.parametrize(
  ("constraints", "words"),
  [
    (
      ("params",),
      "constraints[0]: 'params' is not accepted; expected {'metric",
    ),
    (({"metric": "params"},), "expected {'metric': 'params', 'target'"),
    (({**PARAMS, "targt": 1},), "'targt': 1} is not accepted; expected {"),
    (
      ({**PARAMS, "metric": "energy"},),
      "constraints[0].metric: 'energy' is not accepted; expected one of flops",
    ),
    (({**PARAMS, "metric": ["flops"]},), "[0].metric: ['flops'] is a list"),
    (
      ({**PARAMS, "target": 0},),
      "[0].target: 0 is not accepted; expected a nu",
    ),
    (({**PARAMS, "target": "2e3"},), "[0].target: '2e3' is a str; expected"),
    (({**PARAMS, "target": 10**400},), "[0].target: 1000"),
    (({**PARAMS, "weight": -1.0},), "[0].weight: -1.0 is not accepted"),
    (({**PARAMS, "weight": float("nan")},), "[0].weight: nan is not accepted"),
    (
      ({**PARAMS, "mode": "at_least"},),
      "[0].mode: 'at_least' is not accepted; expected one of equal, at_most",
    ),
    ((PARAMS, PARAMS), "two budgets of params are not accepted"),
    (({**PARAMS, "metric": "flops"},), "two budgets of flops are not accepted"),
  ],
)
def test_wrong_constraints(constraints, words):
  with pytest.raises(UserError) as error:
    config_lib.validate(load(*constraints))
  line = str(error.value)
  assert words in line
  assert line.startswith("config.objective.constraints") and "\n" not in line


@pytest.mark.parametrize(
  ("mode", "target", "words"),
  [
    ("equal", 1e9, "constraints[0].target: 1e+09 is not accepted; expected 3"),
    (
      "at_most",
      300.0,
      "constraints[0].target: 300 is not accepted; expected 3",
    ),
    ("at_most", 1e9, None),
  ],
)
def test_targets_out_of_range(mode, target, words):
  config = load({"metric": "params", "target": target, "mode": mode})
  space = config_lib.search_space(config, (8, 8, 1))
  if words is None:
    config_lib.validate_target(config, space)
    return
  low, high = np.sort(every_cost(space, "params"))[[0, -1]]
  with pytest.raises(UserError) as error:
    config_lib.validate_target(config, space)
  assert f"expected {low:.6g} to {high:.6g} parameters" in str(error.value)
  assert f"constraints[0].target: {target:g} is not" in str(error.value)


def test_budgets_that_exclude_each_other_are_refused():
  config = load({**PARAMS, "target": 1000.0}, **{"search.elite": "scored"})
  space = config_lib.search_space(config, (8, 8, 1))
  with pytest.raises(
    UserError,
    match=r"config.search.elite_tolerance: no space has .* 40000 multiply-adds "
    "and at most 1000 parameters; the nearest has .* and ",
  ):
    config_lib.validate_target(config, space)


@pytest.fixture(scope="module")
def job():
  return runs.make_job(load({**PARAMS, "target": 1500}), None)


def test_a_step_keeps_the_costs_of_each_budget(job):
  state = jax.eval_shape(job.search.init)
  assert state.sums["penalty"].shape == state.sums["sampled_cost"].shape == (2,)
  for warmup in (True, False):
    moved, _ = jax.eval_shape(
      lambda x, warmup=warmup: job.search.dispatch(x, 0, 0, 3, warmup), state
    )
    assert moved.sums == state.sums


def test_the_log_has_a_line_of_each_budget(job):
  space, logits = job.search_space, random_logits(job.search_space, 0)
  state = program.LoopState(
    None, nss.SearchState(0, jax.tree.map(jnp.float32, logits), None), None
  )
  means = dict.fromkeys(search_program.METRICS, 1.0)
  means |= {"sampled_cost": [1.5, 0.5], "penalty": [0.5, 0.0]}
  warm = job.search.measure(state, 1, means)["constraints"]
  assert warm["params"]["sampled_cost"] is warm["flops"]["penalty"] is None
  line = job.search.measure(state, 40, means)
  flops, params = line["constraints"]["flops"], line["constraints"]["params"]
  assert (params["sampled_cost"], params["penalty"]) == (0.5, 0.0)
  assert {name: line[name] for name in flops} == flops
  tables = cost_tables(space, METRICS["params"])
  np.testing.assert_allclose(
    params["expected_cost"],
    mean_cost(space, tables, softmax(logits)) / 1500,
    rtol=1e-5,
  )
  words = loop._describe({**line, "epoch": 3}, job.search.schedule)
  assert words.endswith(
    f"flops {flops['expected_cost']:.2f} params {params['expected_cost']:.2f}"
  )


def test_plan_and_result_show_each_budget(job, tmp_path):
  config, space = job.config, job.search_space
  lines = list(plan.describe(config, job.dataset, job.search))
  assert [line for line in lines if line.startswith("budget")] == [
    "budget     flops, equal 4e+04 multiply-adds, weight 1; spaces of 2.69e+04 "
    "to 2.25e+05 mean",
    "budget     params, at most 1500 parameters, weight 1; spaces of 580 to "
    "7.39e+03 mean",
  ]
  logits = jax.tree.map(jnp.float32, random_logits(space, 1))
  found = elite.find(config, space, logits, runs.no_scores)
  flops, params = found["constraints"]
  assert (flops["metric"], flops["target"]) == ("flops", 4e4)
  assert (params["metric"], params["mode"]) == ("params", "at_most")
  assert flops["mean_cost"] == found["mean_flops"]
  chosen = space_from_ranges(space, found["space"])
  mean = space_cost(space, cost_tables(space, METRICS["params"]), chosen)
  assert params["mean_cost"] == mean
  assert params["deviation"] == mean / 1500 - 1
  worst = [
    max(abs(c["deviation"]), c["costs"]["params"] / 1500 - 1)
    for c in found["candidates"]
  ]
  assert max(abs(flops["deviation"]), params["deviation"]) == min(worst)
  (tmp_path / "search").mkdir()
  files.write_json(tmp_path / "search" / "elite_space.json", found)
  words = search.report(found, job._replace(workdir=tmp_path))
  assert any(
    line.startswith("  params: mean ")
    and "from the most of 1,500 parameters" in line
    for line in words
  )


def test_archs_near_the_target_meet_each_budget(job):
  config = job.config.copy_and_resolve_references()
  space = job.search_space.refine()
  logits = nss.init_logits(space)
  found = nas.choose(config, "expanded", space, logits)
  assert found["costs"] == {"flops": found["flops"], "params": found["params"]}
  assert found["within_tolerance"] and found["params"] <= 1500
  archs, off = nas.draw_archs(config, space, logits, jax.random.key(0), 500)
  flops, params = nss.arch_macs(space, archs), nss.arch_params(space, archs)
  over = np.where(params > 1500, params / 1500 - 1 + OVER, 0)
  np.testing.assert_allclose(off, np.maximum(abs(flops / 4e4 - 1), over))
