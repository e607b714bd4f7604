"""Architecture search is space search on bins of size one; then training."""

import json
import shutil

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax.phases import loop, nas, pipeline, search, train
from nss_jax.runtime import artifacts
from nss_jax.spaces.search_space import space_ranges

SETTINGS = {
  **runs.TINY,
  "space.strides": (1,),  # every stage takes time to compile
  "objective.target_flops": 6e4,
  "nas.epochs": 2,
  "nas.warmup_epochs": 1,
  "nas.learning_rates": (3e-4, 1e-1),
  "nas.tolerance": 0.2,
  "train.epochs": 2,
  "train.num_seeds": 2,
  "train.cutout": 2,
}


def _config(**overrides):
  return runs.load_config(**{**SETTINGS, **overrides})


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
  """A job with an Elite Space, searched by the nas phase: `(job, result)`."""
  workdir = tmp_path_factory.mktemp("nas") / "run"
  job = runs.make_job(_config(), workdir)
  space = nss.Space(
    depth=np.array([1], np.int32), width=np.array([1], np.int32)
  )
  (workdir / "search").mkdir(parents=True)
  artifacts.write_json(
    workdir / "search" / "elite_space.json",
    {
      "space": space_ranges(job.search_space, space),
      "search_space": job.search_space.to_dict(),
    },
  )
  return job, nas.run(job)


def test_one_loop_for_spaces_and_archs():
  assert nas.loop.run is search.loop.run is loop.run
  assert nas.search_program.build is pipeline.search_program.build


def test_archs_are_of_their_space_and_near_the_target(searched):
  job, result = searched
  elite, expanded = result["elite"], result["expanded"]
  assert [len(r["runs"]) for r in (elite, expanded)] == [2, 2]
  assert elite["depth"] == [2]
  assert 3 <= elite["width"][0] <= 4
  assert elite["num_samples"] == 5
  entries = [elite, expanded, *result["controls"].values()]
  for entry in entries:
    arch = nss.parse_arch(entry["arch"])
    assert entry["flops"] == nss.arch_macs(job.search_space, arch)
    assert entry["params"] == nss.arch_params(job.search_space, arch)
    assert entry["deviation"] == entry["flops"] / 6e4 - 1
  for entry in (expanded, result["controls"]["expanded_uniform"]):
    assert entry["within_tolerance"]
    assert abs(entry["deviation"]) <= 0.2
    assert entry["num_samples"] == entry["num_samples_by_seed"][0]
    low, high = entry["num_samples_interval"]
    assert low <= entry["num_samples_mean"] <= high
    assert len(entry["num_samples_by_seed"]) == 20
  assert any("samples" in line for line in nas.report(result, job))
  for name in ("elite", "expanded", "controls"):
    path = job.workdir / "nas" / name / "architecture.json"
    assert json.loads(path.read_text()) == result[name]


def test_the_best_rate_is_reported(searched):
  _, result = searched
  runs_of_elite = result["elite"]["runs"]
  best = min(abs(run["deviation"]) for run in runs_of_elite)
  assert abs(result["elite"]["deviation"]) == best
  means = [run["num_samples_mean"] for run in result["expanded"]["runs"]]
  assert result["expanded"]["num_samples_mean"] == min(means)
  rates = [run["learning_rate"] for run in runs_of_elite]
  assert rates == [3e-4, 1e-1]


def test_nas_resumes(searched, tmp_path, monkeypatch):
  """Without the last files it searches nothing that it has searched."""
  job, result = searched
  workdir = shutil.copytree(job.workdir, tmp_path / "run")
  (workdir / "nas" / "summary.json").unlink()
  last = workdir / "nas" / "expanded" / "lr_0.1"
  (last / "architecture.json").unlink()
  monkeypatch.setattr(loop, "_loop", lambda program, state, *_: state)
  assert nas.run(job._replace(workdir=workdir)) == result


def test_uniform_draws_are_as_many_as_expected():
  """The golden numbers of draws until one is within 10 % (paper, Table 2)."""
  golden = json.loads((runs.ROOT / "tests" / "golden.json").read_text())
  golden = golden["expanded_search_space"]
  name = "expected_uniform_draws_until_within_10_percent_by_target_gf"
  space = nss.SearchSpace.expanded(image_shape=(32, 32, 3)).refine()
  assert space.num_archs == space.num_spaces == golden["num_archs"]
  logits = nss.init_logits(space)
  for target in ("1.6", "6.4", "16"):
    config = runs.load_config(
      **{
        "objective.target_flops": float(target) * 1e9,
        "nas.num_sample_seeds": 300,
        "nas.max_samples": 600,
      }
    )
    found = nas.choose(config, "expanded_uniform", space, logits)
    expected = golden[name][target]
    # The number of draws is geometric: its deviation is about its mean.
    assert found["num_samples_mean"] == pytest.approx(
      expected, abs=4 * expected / np.sqrt(300)
    )


def test_draws_in_vain_are_counted_to_the_cap():
  space = nss.SearchSpace.expanded(max_depth=4, max_width=16).refine()
  config = runs.load_config(
    **{"objective.target_flops": 1.0, "nas.max_samples": 7}
  )
  found = nas.choose(config, "expanded", space, nss.init_logits(space))
  assert found["num_samples"] == 7
  assert not found["within_tolerance"]
  assert found["num_samples_mean"] == 7


def test_training(searched, monkeypatch):
  """Archs found and named; all seeds; nothing twice."""
  job, result = searched
  results = train.run(job)
  assert list(results) == [
    "elite",
    "expanded",
    "elite_uniform",
    "expanded_uniform",
  ]
  for name, seeds in results.items():
    assert [run["seed"] for run in seeds] == [0, 1]
    assert len({run["train_loss"] for run in seeds}) == 2
    for run in seeds:
      path = job.workdir / "train" / name / f"seed_{run['seed']}"
      assert json.loads((path / "result.json").read_text()) == run
      wrong = run["test_error"] * len(job.dataset.test_labels)
      assert wrong == pytest.approx(round(wrong))
      assert run["seconds"] > 0
  assert results["elite"][0]["arch"] == result["elite"]["arch"]
  assert any("+-" in line for line in train.report(results, job))
  (job.workdir / "train" / "elite" / "seed_1" / "result.json").unlink()
  monkeypatch.setattr(loop, "_loop", lambda program, state, *_: state)
  assert train.run(job) == results


def test_training_starts_from_the_supernet(searched, monkeypatch):
  job, _ = searched
  config = _config(**{"train.start": "supernet", "train.num_seeds": 1})
  weights = nss.init_weights(jax.random.key(5), job.search_space)
  monkeypatch.setattr(train.evaluate, "train_supernet", lambda *_: weights)
  seen = []

  class StartedError(Exception):
    pass

  def start(job, program, *_):
    seen.append(program.init())
    raise StartedError

  monkeypatch.setattr(train.loop, "run", start)
  named = job._replace(config=config, archs=("d2_w5",))
  with pytest.raises(StartedError):
    train.run(named)
  kernel = seen[0].weights.params["stage_1"]["blocks_rest"]["first"]["kernel"]
  np.testing.assert_array_equal(
    kernel,
    weights["stage_1"]["blocks_rest"]["first"]["kernel"][:1, ..., :5, :5],
  )


@pytest.mark.parametrize(
  ("phases", "archs", "message"),
  [
    (["nas"], (), "'nas' needs a finished search, .* expected search,nas"),
    (["train"], (), "'train' needs a finished nas, .* nas,train or --arch"),
    (["search", "train"], (), "'train' needs a finished nas"),
    (
      ["train"],
      ("d1-1_w4-4",),
      "'d1-1_w4-4' is not accepted; expected 1 stage",
    ),
    (["train"], ("resnet",), "--arch: not an arch: 'resnet'"),
  ],
)
def test_what_is_missing_is_named(tmp_path, phases, archs, message):
  with pytest.raises(pipeline.WorkdirError, match=message):
    pipeline.run(_config(), tmp_path, phases, archs=archs)
  assert not any(tmp_path.iterdir())
