"""A search under two constraints meets both; under one it misses the other."""

import numpy as np
import pytest
import runs

from nss_jax.phases import running, search
from nss_jax.runtime import files
from nss_jax.spaces.cost import cost_tables, space_cost
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.search_space import space_from_ranges

TARGETS = {"flops": 1.5e5, "params": 3e3}
# Two stages, as in one the parameters follow from the multiply-adds.
TINY = {
  **runs.TINY,
  "space.strides": (1, 2),
  "space.max_depth": 1,
  "space.num_depth_bins": 1,
  "space.max_width": 16,
  "space.num_width_bins": 16,
  "search.epochs": 8,
  "search.warmup_epochs": 0,
  "search.elite": "scored",
  "search.elite_tolerance": 0.05,
  "logits.learning_rate": 0.2,
  "objective.target_flops": TARGETS["flops"],
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """The job of a search for the multiply-adds alone, and of one for both."""
  jobs = {}
  for name, constraints in (
    ("one", ()),
    ("both", ({"metric": "params", "target": TARGETS["params"]},)),
  ):
    config = runs.load_config(**TINY)
    config.objective.constraints = constraints
    jobs[name] = runs.make_job(config, tmp_path_factory.mktemp(name))
    running.run_phase(search.PHASE, jobs[name])
  return jobs


def _over_targets(job):
  """Mean costs of the Elite Space over both targets, counted anew."""
  space, path = job.search_space, job.workdir / "search" / "elite_space.json"
  elite = space_from_ranges(space, files.read_json(path)["space"])
  return [
    space_cost(space, cost_tables(space, METRICS[name]), elite) / target
    for name, target in TARGETS.items()
  ]


def test_elite_space_meets_both_constraints(found):
  assert _over_targets(found["both"]) == pytest.approx([1, 1], abs=0.1)


def test_one_constraint_does_not_meet_the_other(found):
  flops, params = _over_targets(found["one"])
  assert flops == pytest.approx(1, abs=0.1)
  assert abs(params - 1) > 0.2


def test_search_is_led_to_both(found):
  """The distributions of its last epochs, before any selection."""
  path = found["both"].workdir / "search" / "metrics.jsonl"
  last = [line["constraints"] for line in files.read_lines(path)[-4:]]
  expected = [
    np.mean([costs[name]["expected_cost"] for costs in last])
    for name in TARGETS
  ]
  assert expected == pytest.approx([1, 1], abs=0.1)
