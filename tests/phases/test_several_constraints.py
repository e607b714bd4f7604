"""Several constraints of a run: the config, the steps, the log, the result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from strategies import random_logits, softmax

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
  search_log,
)
from nss_jax.spaces.constraints import OVER, Constraint
from nss_jax.spaces.cost import cost_tables, mean_cost, space_cost
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.search_space import space_from_ranges
from nss_jax.spaces.table import all_space_costs


def load(*constraints, **overrides):
  overrides = {**runs.TINY, "objective.constraints": constraints, **overrides}
  return runs.load_config(**overrides)


PARAMS = {"metric": "params", "target": 2e3, "mode": "at_most"}


def test_constraints_of_a_config():
  flops = Constraint("flops", METRICS["flops"], 4e4, 1.0, "equal")
  params = Constraint("params", METRICS["params"], 2e3, 1.0, "at_most")
  job = runs.make_job(load(PARAMS, **{"objective.cost_weight": 1.0}))
  assert (job.constraints, job.target) == ((flops, params), 4e4)
  job = job.vary({"objective.cost_weight": 0.0})
  assert (job.constraints, job.target) == ((params,), None)
  job = job.vary({"objective.constraints": ()})
  assert (job.constraints, job.target) == ((flops._replace(weight=0.0),), 4e4)


@pytest.mark.parametrize(
  ("constraints", "words"),
  [
    (
      ("params",),
      "constraints[0]: 'params' is not accepted; expected {'metric",
    ),
    (({**PARAMS, "targt": 1},), "'targt': 1} is not accepted; expected {"),
    (
      ({**PARAMS, "metric": "energy"},),
      "constraints[0].metric: 'energy' is not accepted; expected one of flops",
    ),
    (({**PARAMS, "target": "2e3"},), "[0].target: '2e3' has the type str"),
    (({**PARAMS, "target": 10**400},), "[0].target: 1000"),
    (({**PARAMS, "weight": float("nan")},), "[0].weight: nan is not accepted"),
    (
      ({**PARAMS, "mode": "at_least"},),
      "[0].mode: 'at_least' is not accepted; expected one of equal, at_most",
    ),
    ((PARAMS, PARAMS), "expected each metric once"),
    (({**PARAMS, "metric": "flops"},), "and flops only where "),
  ],
)
def test_wrong_constraints(constraints, words):
  with pytest.raises(UserError) as error:
    config_lib.validate(load(*constraints))
  line = str(error.value)
  assert words in line
  assert line.startswith("config.objective.constraints") and "\n" not in line


@pytest.mark.parametrize(
  ("mode", "target"),
  [
    ("equal", 1e9),
    ("at_most", 300.0),
  ],
)
def test_targets_out_of_range(mode, target):
  config = load({"metric": "params", "target": target, "mode": mode})
  space = config_lib.search_space(config, (8, 8, 1), 10)
  costs = all_space_costs(space, METRICS["params"])
  low, high = costs.min(), costs.max()
  with pytest.raises(UserError) as error:
    runs.make_job(config)
  assert f"expected {low:.6g} to {high:.6g} parameters" in str(error.value)
  assert f"constraints[0].target: {target:g} is not" in str(error.value)


def test_constraints_that_exclude_each_other_are_refused():
  config = load({**PARAMS, "target": 1000.0}, **{"search.elite": "scored"})
  with pytest.raises(
    UserError,
    match=r"config.search.elite_tolerance: no space has .* 40000 multiply-adds "
    "and at most 1000 parameters; the nearest has .* and ",
  ):
    runs.make_job(config)


@pytest.fixture(scope="module")
def job():
  return runs.make_job(load({**PARAMS, "target": 1500}))


def test_a_step_keeps_the_costs_of_each_constraint(job):
  built = search.build(job)
  state = jax.eval_shape(built.init)
  assert state.sums["penalty"].shape == state.sums["sampled_cost"].shape == (2,)
  for warmup in (True, False):
    moved, _ = jax.eval_shape(
      lambda x, warmup=warmup: built.dispatch(x, 0, 0, 3, warmup), state
    )
    assert moved.sums == state.sums


def test_the_log_has_a_line_of_each_constraint(job):
  space, logits = job.search_space, random_logits(job.search_space, 0)
  state = program.LoopState(
    None, nss.SearchState(0, jax.tree.map(jnp.float32, logits), None), None
  )
  means = dict.fromkeys(search_log.METRICS, 1.0)
  means |= {"sampled_cost": [1.5, 0.5], "penalty": [0.5, 0.0]}
  schedule = search.schedule_of(job)
  warm = search_log.measure(job, schedule, state, 1, means)["constraints"]
  assert warm["params"]["sampled_cost"] is warm["flops"]["penalty"] is None
  line = search_log.measure(job, schedule, state, 40, means)
  flops, params = line["constraints"]["flops"], line["constraints"]["params"]
  assert (params["sampled_cost"], params["penalty"]) == (0.5, 0.0)
  assert {name: line[name] for name in flops} == flops
  tables = cost_tables(space, METRICS["params"])
  np.testing.assert_allclose(
    params["expected_cost"],
    mean_cost(space, tables, softmax(logits)) / 1500,
    rtol=1e-5,
  )
  words = loop.describe({**line, "epoch": 3}, schedule.epochs)
  assert words.endswith(
    f"flops {flops['expected_cost']:.2f} params {params['expected_cost']:.2f}"
  )


def test_plan_and_result_show_each_constraint(job, tmp_path):
  space, lines = job.search_space, list(plan.describe(job))
  assert [line for line in lines if line.startswith("constraint")] == [
    "constraint flops, equal 4e+04 multiply-adds, weight 1; spaces of 2.69e+04 "
    "to 2.25e+05 mean",
    "constraint params, at most 1500 parameters, weight 1; spaces of 580 to "
    "7.39e+03 mean",
  ]
  logits = jax.tree.map(jnp.float32, random_logits(space, 1))
  found = elite.find(job, logits, runs.no_scores)
  flops, params = found.constraints
  assert (flops.metric, flops.target) == ("flops", 4e4)
  assert (params.metric, params.mode) == ("params", "at_most")
  assert flops.mean_cost == found.mean_flops
  chosen = space_from_ranges(space, found.to_json()["space"])
  mean = space_cost(space, cost_tables(space, METRICS["params"]), chosen)
  assert params.mean_cost == mean
  assert params.deviation == mean / 1500 - 1
  worst = [
    max(abs(one.deviation), one.costs["params"] / 1500 - 1)
    for one in found.candidates
  ]
  assert max(abs(flops.deviation), params.deviation) == min(worst)
  job = dataclasses.replace(job, workdir=tmp_path)
  bins = (chosen.depth, chosen.width)
  runs.write_elite(job, *bins)
  words = search.PHASE.show(found, job.workdir / "search")
  assert any(
    line.startswith("  params: mean ")
    and "from the most of 1,500 parameters" in line
    for line in words
  )


def test_archs_near_the_target_meet_each_constraint(job):
  space = job.search_space.refine()
  job, logits = job.within(space), nss.init_logits(space)
  found = nas.choose(job, "expanded", logits)
  assert found["costs"] == {"flops": found["flops"], "params": found["params"]}
  assert found["within_tolerance"] and found["params"] <= 1500
  archs, off = nas.draw_archs(job, logits, jax.random.key(0), 500)
  flops, params = nss.arch_macs(space, archs), nss.arch_params(space, archs)
  over = np.where(params > 1500, params / 1500 - 1 + OVER, 0)
  np.testing.assert_allclose(off, np.maximum(abs(flops / 4e4 - 1), over))
