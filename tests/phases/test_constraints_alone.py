"""Constraints without `target_flops`: what is said, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from strategies import random_logits

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import (
  complexity,
  elite,
  nas,
  pipeline,
  plan,
  principles,
  program,
  rank_check,
  registry,
  report,
  running,
  search,
  search_log,
)
from nss_jax.phases import workdir as workdirs
from nss_jax.results import epochs, groups, plots, scores
from nss_jax.results.elite_space import Chances, FoundSpace
from nss_jax.results.epochs import Costs, Epoch
from nss_jax.runtime import files
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.feasible import num_feasible

PARAMS = {"metric": "params", "target": 1500, "weight": 0.5}
FLOPS = {"metric": "flops", "target": 4e4, "weight": 0.25, "mode": "at_most"}
# What no network here costs: who still reads it is found out.
ALONE = {
  **runs.TINY,
  "objective.cost_weight": 0.0,
  "objective.target_flops": 7e15,
  "rank_check.num_archs": 2,
  "rank_check.num_near_archs": 9,
  "nas.num_samples": 50,
}


def load(*constraints, **overrides):
  fields = {**ALONE, "objective.constraints": constraints, **overrides}
  return config_lib.validate(runs.load_config(**fields))


@pytest.fixture(scope="module")
def job(tmp_path_factory):
  return runs.make_job(load(PARAMS), tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def found(job):
  """The job, with a search in its workdir, as if it had been run."""
  workdirs.claim(job.config, job.workdir)
  folder = job.workdir / "search"
  folder.mkdir()
  logits = jax.tree.map(jnp.float32, random_logits(job.search_space, 1))
  state = program.LoopState(None, nss.SearchState(0, logits, None), None)
  schedule = search.schedule_of(job)
  means = dict.fromkeys(search_log.METRICS, 1.0)
  means |= {"sampled_cost": [1.5], "penalty": [0.5]}
  for epoch in (1, 2, 3):
    line = search_log.measure(job, schedule, state, 15 * epoch, means)
    line = {"epoch": epoch, "step": 15 * epoch, **line}
    files.append_line(folder / "metrics.jsonl", line)
  found = elite.find(job, logits, runs.no_scores)
  found.write(folder / "elite_space.json")
  search.draw_trajectory(job, found)
  return job


def read_elite(job):
  return FoundSpace.read(job.workdir / "search" / "elite_space.json")


def test_plan_tells_of_active_constraints_only(job):
  lines = list(plan.describe(job))
  assert not [line for line in lines if line.startswith("target")]
  (line,) = [line for line in lines if line.startswith("constraint")]
  assert line.startswith("constraint params, equal 1500 parameters, weight 0.5")
  assert not [line for line in lines if "7e" in line]


def test_plan_counts_spaces_that_meet_all(job):
  scored = {"search.elite": "scored", "search.elite_tolerance": 0.1}
  job = job.vary(scored)
  lines = list(plan.describe(job))
  met = num_feasible(job.search_space, job.constraints, 0.1)
  assert 0 < met < job.search_space.num_spaces
  assert (
    f"elite      {met} of these spaces meet all constraints, to 10 %; "
    "one of the most probable is taken"
  ) in lines


def test_result_is_not_measured_against_what_is_no_constraint(found):
  elite = read_elite(found)
  assert elite.target_flops is elite.deviation is None
  assert all(one.deviation is None for one in elite.candidates)
  (params,) = elite.constraints
  share = f"{100 * params.deviation:+.1f} %"
  words = "\n".join(search.PHASE.show(elite, found.workdir / "search"))
  assert f"  params: mean {params.mean_cost:,.0f} parameters, {share}" in words
  assert "from the target of 1,500 parameters" in words
  assert words.count("from the target of") == 1 and "7e" not in words
  lines = epochs.read_epochs(
    found.workdir / "search" / "metrics.jsonl", found.search_space
  )
  picture = epochs.picture(lines, found.search_space, elite, warmup_epochs=0)
  title = picture.draw().get_suptitle()
  assert title.startswith("Elite Space: mean") and "1,500 parameters" in title
  assert "MF" not in title


def test_trajectory_has_every_constraint(job):
  costs = {
    "flops": Costs(sampled_cost=1.1, expected_cost=0.9),
    "params": Costs(sampled_cost=3.0, expected_cost=2.0),
  }
  warm = {
    name: one.model_copy(update={"sampled_cost": None})
    for name, one in costs.items()
  }
  space = job.search_space
  chances = {
    kind: [[0.0] * len(x) for x in getattr(space, f"{kind}_bins")]
    for kind in ("depth", "width")
  }
  lines = [
    Epoch(
      epoch=epoch,
      temperature=1.0,
      **each["flops"].to_json(),
      train_loss=1.0,
      validation_loss=None,
      depth_entropy=1.0,
      width_entropy=1.0,
      probabilities=Chances(**chances),
      constraints=each,
    )
    for epoch, each in ((1, warm), (2, costs))
  ]
  axes = epochs.picture(lines, space, None, warmup_epochs=0).draw().axes[0]
  drawn = {x.get_label(): list(x.get_ydata()) for x in axes.get_lines()[1:]}
  assert drawn.pop("params, sampled")[1] == 3.0
  assert drawn.pop("flops, sampled")[1] == 1.1
  assert drawn == {"flops, expected": [0.9] * 2, "params, expected": [2.0] * 2}


def test_archs_near_the_target_are_near_the_constraints(job):
  archs = rank_check.choose_archs(job)
  near = nss.arch_params(job.search_space, archs["near_target"])
  assert len(near) == 9 and (abs(near / 1500 - 1) <= 0.1).all()
  none = job.vary(
    {"objective.constraints": ({**FLOPS, "target": 1.0},)},
    search_space=job.search_space,
  )
  with pytest.raises(ValueError, match="only 0 of"):
    rank_check.choose_archs(none)


def test_arch_search_is_measured_against_the_constraints(job):
  space = job.search_space.refine()
  entry = nas.choose(job.within(space), "elite", nss.init_logits(space))
  off = entry["params"] / 1500 - 1
  assert entry["target_flops"] is entry["deviation"] is None
  assert entry["deviations"] == {"params": pytest.approx(off)}
  assert entry["off"] == pytest.approx(abs(off))
  assert from_targets(entry["deviations"]) == (
    f"params {100 * off:+.1f} % from the target"
  )
  words = "flops +10.0 %, params -20.0 % from the targets"
  assert from_targets({"flops": 0.1, "params": -0.2}) == words
  assert from_targets({"flops": -0.1}) == "-10.0 % from the target"


def test_report(found):
  result = report.run(found)
  assert result["target_flops"] is None
  assert result["not_run"] == ["evaluate", "rank_check", "nas", "train"]
  folder = found.workdir / report.FOLDER
  page = (folder / "index.html").read_text("utf-8")
  assert "target 1,500 parameters" in page
  assert "cost weights 0.5 of params" in page
  assert "Networks for 1,500 parameters on digits" in page
  assert "7e" not in (folder / "tables.md").read_text("utf-8")


def test_scores_without_a_target(job):
  zeros = np.zeros(job.search_space.num_stages, np.int32)
  lowest = nss.Space(depth=zeros, width=zeros)
  archs = nss.sample_archs(jax.random.key(0), job.search_space, lowest, 20)
  rng = np.random.default_rng(0).uniform(0.1, 0.9, 20)
  table = scores.make_scores(
    job.search_space, scores.ELITE, archs, error=rng, loss=rng
  )
  told = groups.summarize(table, None, largest_flops=1e6, num_resamples=10)
  assert told.target_flops is None
  assert told.groups[scores.ELITE].deviation is None
  (axes,) = plots.pareto(table, None).draw().axes
  labels = axes.get_legend_handles_labels()[1]
  assert not [label for label in labels if label.startswith("target")]


# What is refused


@pytest.mark.parametrize(
  ("constraints", "phases", "wrong"),
  [
    ((PARAMS,), ["search", "principles", "complexity"], "principles, complex"),
    ((FLOPS,), ["sweep", "principles"], "sweep with"),
    ((PARAMS,), ["principles", "nas"], r"principles .*, --phases=nas$"),
  ],
)
def test_phases_that_know_multiply_adds_only(
  constraints, phases, wrong, tmp_path
):
  with pytest.raises(UserError, match=f"^--phases: {wrong}") as error:
    pipeline.run(load(*constraints), tmp_path / "w", phases)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "w").exists()


def test_phases_that_follow_any_constraint():
  every = registry.names()
  running.check_names(load(FLOPS), [p for p in every if p != "sweep"])
  running.check_names(load(), every)  # the weight is 0, and there is one
  others = {"principles", "complexity", "sweep"}
  running.check_names(load(PARAMS), [p for p in every if p not in others])


def test_the_target_may_be_a_constraint():
  job = runs.make_job(load(FLOPS, PARAMS))
  assert job.target == 4e4
  low, high = job.config.principles.window
  assert principles.window_of(job) == (low * 4e4, high * 4e4)
  alone = complexity.for_flops(job, job.search_space)
  (only,) = alone.constraints
  assert (only.target, only.weight, only.name) == (4e4, 0.25, "flops")


def test_latency_table_needs_no_target(tmp_path):
  config = load({"metric": "latency", "target": 1e-3})
  assert runs.make_job(config, with_latency=False).constraints == ()
  assert pipeline.run(config, tmp_path, ["latency_table"], dry_run=True) == 0
