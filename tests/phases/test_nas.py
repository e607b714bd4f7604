"""Architecture search is space search on bins of size one; then training."""

import dataclasses
import json
import re
import shutil
import types

import jax
import numpy as np
import pytest
import runs
import written

import nss_jax as nss
from nss_jax.errors import UserError
from nss_jax.phases import (
  complexity,
  loop,
  nas,
  pipeline,
  race,
  running,
  scoring,
  supernet,
  train,
)
from nss_jax.results import scores
from nss_jax.results.networks import SOURCES, NasSummary, Network

SETTINGS = {
  **runs.TINY,
  "space.strides": (1,),  # every stage takes time to compile
  "objective.target_flops": 6e4,
  "nas.method": "gradient",
  "nas.epochs": 1,
  "nas.warmup_epochs": 0,  # which is a program to compile
  "nas.learning_rates": (3e-4, 1e-1),
  "nas.tolerance": 0.2,
  "train.epochs": 2,
  "train.num_seeds": 2,
  "train.cutout": 2,
}


def _config(**overrides):
  return runs.load_config(**{**SETTINGS, **overrides})


def _make_job(config, workdir):
  """With an Elite Space: two depths and two widths."""
  job = runs.make_job(config, workdir)
  runs.write_elite(job, [1], [1])
  return job


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
  """A job whose Elite Space was searched by gradient: `(job, result)`."""
  workdir = tmp_path_factory.mktemp("nas") / "run"
  job = _make_job(_config(), workdir)
  return job, running.run_phase(nas.PHASE, job).to_json()


def test_archs_are_of_their_space_and_near_the_target(searched):
  job, result = searched
  elite, expanded = result["elite"], result["expanded"]
  assert [len(r["runs"]) for r in (elite, expanded)] == [2, 2]
  assert elite["depth"] == [2]
  assert 3 <= elite["width"][0] <= 4
  assert elite["num_samples"] == 5
  controls = result["controls"]
  # RegNet's widths end at a quarter of the largest: none costs so much here.
  names = ["elite_uniform", "expanded_uniform", "handmade"]
  assert list(controls) == names
  for entry in (elite, expanded, *controls.values()):
    arch = nss.parse_arch(entry["arch"])
    assert entry["flops"] == nss.arch_macs(job.search_space, arch)
    assert entry["params"] == nss.arch_params(job.search_space, arch)
    assert entry["deviation"] == entry["flops"] / 6e4 - 1
    assert entry["within_tolerance"] and abs(entry["deviation"]) <= 0.2
  assert controls["elite_uniform"]["arch"] == "d2_w3"  # no other one meets
  for name in ("elite_uniform", "expanded_uniform"):
    entry = controls[name]
    assert entry["num_samples"] == entry["num_samples_by_seed"][0]
    low, high = entry["num_samples_interval"]
    assert low <= entry["num_samples_mean"] <= high
    assert len(entry["num_samples_by_seed"]) == 20
  handmade = nss.proportional_arch(job.search_space, 6e4)
  assert controls["handmade"]["arch"] == nss.format_arch(handmade)
  words = _words(job, result)
  assert "the first uniform draw from all archs" in words
  for name in ("elite", "expanded", "controls"):
    path = job.workdir / "nas" / name / "architecture.json"
    assert json.loads(path.read_text()) == result[name]


def _words(job, result):
  folder = job.workdir / "nas"
  return "\n".join(nas.PHASE.show(NasSummary(**result), folder))


def test_the_best_rate_is_reported_and_nothing_searched_twice(
  searched, tmp_path
):
  job, result = searched
  of_elite = result["elite"]["runs"]
  best = min(abs(run["deviation"]) for run in of_elite)
  assert abs(result["elite"]["deviation"]) == best
  means = [run["num_samples_mean"] for run in result["expanded"]["runs"]]
  assert result["expanded"]["num_samples_mean"] == min(means)
  assert [run["learning_rate"] for run in of_elite] == [3e-4, 1e-1]
  workdir = shutil.copytree(job.workdir, tmp_path / "run")
  (workdir / "nas" / "summary.json").unlink()
  last = workdir / "nas" / "expanded" / "lr_0.1"
  (last / "architecture.json").unlink()
  job = dataclasses.replace(job, workdir=workdir)
  assert running.run_phase(nas.PHASE, job).to_json() == result


def test_uniform_draws_are_as_many_as_expected():
  """The golden numbers of draws until one is within 10 % (paper, Table 2)."""
  golden = json.loads((runs.ROOT / "tests" / "golden.json").read_text())
  golden = golden["expanded_search_space"]
  name = "expected_uniform_draws_until_within_10_percent_by_target_gf"
  space = nss.SearchSpace.expanded(image_shape=(32, 32, 3)).refine()
  assert space.num_archs == space.num_spaces == golden["num_archs"]
  logits = nss.init_logits(space)
  config = runs.load_config(
    **{
      "objective.target_flops": 1.6e9,
      "nas.tolerance": 0.1,
      "nas.num_sample_seeds": 150,
      "nas.max_samples": 600,
    }
  )
  job = runs.make_job(config, search_space=space)
  found = nas.choose(job, "expanded_uniform", logits)
  # The number of draws is geometric: its deviation is about its mean.
  expected = golden[name]["1.6"]
  assert found["num_samples_mean"] == pytest.approx(
    expected, abs=4 * expected / np.sqrt(150)
  )


def test_draws_in_vain_are_counted_to_the_cap():
  space = nss.SearchSpace.expanded(max_depth=4, max_width=16).refine()
  config = runs.load_config(
    **{"objective.target_flops": 1.0, "nas.max_samples": 7}
  )
  job = runs.make_job(config, search_space=space)
  found = nas.choose(job, "expanded", nss.init_logits(space))
  assert found["num_samples"] == 7
  assert not found["within_tolerance"]
  assert found["num_samples_mean"] == 7
  assert found["chosen"] == (
    "the closest draw from all archs, as searched, of 7 does not meet every "
    "budget within 2 %, and no arch there does: the nearest by exact cost is "
    "taken"
  )
  assert found["arch"] == "d1-1-1_w1-1-1"  # of the smallest cost


@pytest.mark.parametrize("name", ["elite", "expanded"])
def test_a_draw_that_misses_is_not_taken_if_an_arch_meets(name):
  """Logits that lead astray: every draw is the largest arch."""
  space = nss.SearchSpace.expanded(
    max_depth=4, max_width=16, image_shape=(8, 8, 1)
  ).refine()
  target = int(nss.arch_macs(space, nss.parse_arch("d2-1-3_w5-9-4")))
  config = runs.load_config(
    **{"objective.target_flops": float(target), "nas.max_samples": 50}
  )
  logits = nss.init_logits(space)
  logits = jax.tree.map(lambda x: x.at[:, -1].set(100.0), logits)
  job = runs.make_job(config, search_space=space)
  found = nas.choose(job, name, logits)
  assert found["flops"] == target and found["within_tolerance"]
  assert found["by_cost"] and "nearest arch by exact cost" in found["chosen"]
  assert "does not meet every budget within 2 %" in found["chosen"]
  # The draws that failed still count.
  assert found["num_samples"] == (5 if name == "elite" else 50)


def test_regnet_is_a_control_where_it_meets_the_constraints(tmp_path):
  space = nss.SearchSpace.expanded(
    max_depth=8, max_width=32, strides=(2, 2, 2), image_shape=(28, 28, 1)
  )
  config = runs.load_config("fashion_mnist")
  spaces = dict.fromkeys(("elite", "expanded"), space.refine())
  job = runs.make_job(config, search_space=space)
  found = nas.controls(job, spaces)["regnet"]
  assert found["within_tolerance"] and abs(found["flops"] / 1.5e6 - 1) <= 0.02
  assert found["width"] == sorted(found["width"]) and found["num_samples"] > 1
  assert "RegNet's design space" in found["chosen"]


def test_a_rate_that_drew_comes_before_the_nearest_by_cost(tmp_path):
  job = _make_job(_config(), tmp_path / "run")
  _, nearest = (
    nas.chosen.entry(job, nss.parse_arch(text), 5, "drawn")
    for text in ("d2_w3", "d1_w4")
  )
  drawn = {**nearest, "off": 0.1}
  for rate, entry in ((3e-4, {**nearest, "by_cost": True}), (1e-1, drawn)):
    folder = nas.search_folder(job, "elite", rate)
    folder.mkdir(parents=True)
    Network(learning_rate=rate, **entry).write(folder / nas.ARCHITECTURE)
  found = nas.search_at_each_rate(job, "elite")
  assert found["learning_rate"] == 1e-1


# By the evaluator

EVALUATOR = {
  "nas.method": "evaluator",
  "space.num_width_bins": 2,
  "space.num_depth_bins": 1,
  "objective.target_flops": 5e4,
  "nas.tolerance": 0.3,
  "nas.num_finalists": 4,
  "nas.race_epochs": 1,
  "evaluate.epochs": 1,
  "evaluate.coin_epochs": 0,
  "evaluate.score_batch_size": 90,
  "evaluate.holdout_fraction": 0.125,
  "evaluate.calibration_images": 60,
  "nas.num_images": 60,
}
# Depths 1:2 and widths 1:4; these are within 30 %.
MEETING = ["d1_w3", "d1_w4", "d2_w2", "d2_w3"]


def _make_evaluated(workdir, **overrides):
  job = runs.make_job(_config(**{**EVALUATOR, **overrides}), workdir)
  runs.write_elite(job, [0], [0])
  return job


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
  """A job whose network was found by the evaluator: `(job, result)`."""
  job = _make_evaluated(tmp_path_factory.mktemp("evaluated") / "run")
  return job, running.run_phase(nas.PHASE, job).to_json()


def test_evaluator_takes_the_winner_of_those_that_meet(evaluated):
  job, result = evaluated
  assert list(result) == ["elite", "controls"]
  elite, folder = result["elite"], job.workdir / "nas" / "elite"
  assert elite["method"] == "evaluator" and elite["within_tolerance"]
  table = scores.read_scores(folder / "scores.csv", job.search_space)
  for source in ("candidates", "again"):  # 90 images, then all 180
    group = table.group(source)
    assert sorted(_names(group)) == MEETING
  assert (table.group("candidates").loss != table.group("again").loss).all()
  best = dict(zip(_names(group), group.loss.tolist(), strict=True))
  assert sorted(x["arch"] for x in elite["race"]) == MEETING
  assert all(x["loss"] == best[x["arch"]] for x in elite["race"])
  rounds = scores.read_scores(folder / "race.csv", job.search_space)
  assert rounds.source.tolist() == ["round_0"] * 4 + ["round_1"] * 2
  errors = [x["errors"] for x in elite["race"]]
  assert [len(x) for x in errors] == [2, 2, 1, 1]
  assert np.mean(errors[0]) <= np.mean(errors[1])
  first = dict(zip(_names(rounds), rounds.error[:4], strict=False))
  assert [x[0] for x in errors] == [first[x["arch"]] for x in elite["race"]]
  assert max(x[0] for x in errors[:2]) <= min(x[0] for x in errors[2:])
  assert elite["arch"] == elite["race"][0]["arch"]
  assert elite["chosen"] == (
    "of 4 archs of the Elite Space that meet every budget within 30 % the best "
    "by the stand-alone supernet, then by a race of the best 4, trained alone "
    "for 1 epoch a round"
  )
  assert elite["chosen"] in _words(job, result)
  # All networks by the same supernet, for the picture of the evaluation.
  networks = {"elite": elite, **result["controls"]}
  group = table.group("networks")
  for row, network in enumerate(networks.values()):
    assert group.flops[row] == network["flops"]
    found = {"error": group.error[row], "loss": group.loss[row]}
    assert network["evaluator"] == found
  assert elite["evaluator"]["loss"] == best[elite["arch"]]


def _names(table):
  return [
    f"d{depth[0]}_w{width[0]}"
    for depth, width in zip(table.depth, table.width, strict=True)
  ]


def test_evaluator_resumes_and_its_networks_are_trained(evaluated):
  job, result = evaluated
  (job.workdir / "nas" / "summary.json").unlink()
  assert running.run_phase(nas.PHASE, job).to_json() == result
  names = ["elite", *result["controls"]]
  assert list(train.archs_to_train(job)) == sorted(names, key=[*SOURCES].index)
  some = job.vary({"train.networks": ("handmade", "elite")})
  assert list(train.archs_to_train(some)) == ["elite", "handmade"]
  lacking = job.vary({"train.networks": ("elite", "expanded")})
  words = r"networks: \('elite', 'expanded'\) is not .* of elite, "
  with pytest.raises(UserError, match=words):
    train.archs_to_train(lacking)


@pytest.fixture
def quick(monkeypatch):
  """No supernet: larger archs score better; the archs of each race."""
  raced = []

  def make_score_fn(*_):
    return lambda _, archs, by: (1 / archs.width[:, 0], 2 / archs.width[:, 0])

  def make_score_alone(*_, **__):
    def score(source, archs, seed):
      raced.append(archs.width[:, 0].tolist())
      return np.zeros(len(archs.width)), np.zeros(len(archs.width))

    return score

  monkeypatch.setattr(supernet, "train_supernet", lambda *_: None)
  monkeypatch.setattr(scoring, "make_score_fn", make_score_fn)
  monkeypatch.setattr(race.alone, "make_score_alone", make_score_alone)
  return raced


def test_evaluator_says_when_none_meets(quick, tmp_path):
  """And takes the nearest, without training anything."""
  job = _make_evaluated(tmp_path / "run", **{"nas.tolerance": 1e-6})
  result = nas.run(job).to_json()
  assert result["elite"]["arch"] == "d1_w3" and not quick
  assert not result["elite"]["within_tolerance"]
  assert result["elite"]["chosen"].startswith(
    "no arch of the Elite Space meets"
  )
  assert "which misses" in _words(job, result)


def test_evaluator_is_checked_before_anything_is_compiled(tmp_path):
  config = _config(**{**EVALUATOR, "evaluate.holdout_fraction": 0.99})
  with pytest.raises(UserError, match=r"holdout_fraction: 0\.99"):
    pipeline.run(config, tmp_path, ["search", "nas"])
  assert not any(tmp_path.iterdir())
  config.nas.method = "gradient"  # which needs none held out
  assert pipeline.run(config, tmp_path, ["search", "nas"], dry_run=True) == 0


# Of each width in each round. By the last round alone 3 would come before 1;
# by the mean alone before all that have gone on.
ERRORS = {1: (0.1, 0.16, 0.3), 2: (0.2, 0.11, 0.4), 3: (0.2, 0.12)}


@pytest.mark.parametrize(
  ("count", "rounds"),
  [
    (8, [[*range(1, 9)], [1, 2, 3, 4], [1, 2]]),
    (5, [[*range(1, 6)], [1, 2]]),
    (1, []),  # one that meets needs no race
  ],
)
def test_a_race_halves(monkeypatch, tmp_path, count, rounds):
  """By the mean of all rounds; who went further comes first."""
  job = _make_job(_config(), tmp_path / "run")
  width = np.arange(1, count + 1, dtype=np.int32)[:, None]
  asked = []

  def score(source, archs, seed):
    assert source == f"round_{seed}"
    asked.append(archs.width[:, 0].tolist())
    found = [ERRORS.get(width, (0.5, 0.5))[seed] for width in asked[-1]]
    return np.asarray(found), np.zeros(len(found))

  monkeypatch.setattr(race.alone, "make_score_alone", lambda *_, **__: score)
  errors = race.run_race(job, nss.Arch(np.ones_like(width), width))
  assert asked == rounds
  assert errors[0] == list(ERRORS[1][: len(rounds)])
  assert race.best_first(errors)[:3] == [0, 1, 2][:count]


# Training


def test_training(searched, monkeypatch):
  """The arch that was found; all seeds; nothing twice."""
  job, result = searched
  found = property(lambda self: {"elite": self.elite})  # one to compile
  monkeypatch.setattr(NasSummary, "networks", found)
  results = train.run(job)
  (seeds,) = results.values()
  assert [run.seed for run in seeds] == [0, 1]
  assert seeds[0].train_loss != seeds[1].train_loss
  for run in seeds:
    path = job.workdir / "train" / "elite" / f"seed_{run.seed}"
    assert json.loads((path / "result.json").read_text()) == run.to_json()
    wrong = run.test_error * len(job.dataset.test_labels)
    assert wrong == pytest.approx(round(wrong))
    assert run.seconds > 0 and run.arch == result["elite"]["arch"]
  (path / "result.json").unlink()
  assert train.run(job) == results


def test_training_is_reported_with_standard_errors(searched):
  job, _ = searched
  errors = {"elite": [0.10, 0.14], "handmade": [0.2], "regnet": [0.13, 0.19]}
  results = {
    name: [
      written.trained(job.search_space, "d1_w4", name, seed, test_error=x)
      for seed, x in enumerate(row)
    ]
    for name, row in errors.items()
  }
  lines = train.PHASE.show(results, job.workdir)
  elite, handmade, regnet = (
    re.split(r"\s{2,}", line.strip())[-3:] for line in lines[4:7]
  )
  # Of two values a and b the standard error is |a - b| / 2.
  assert elite == ["2", "12.00 +- 2.00", "-"]
  assert handmade == ["1", "20.00", "+8.00"]
  assert regnet == ["2", "16.00 +- 3.00", "+4.00 +- 3.61"]


def test_training_starts_from_the_supernet(searched, monkeypatch):
  job, _ = searched
  weights = nss.init_weights(jax.random.key(5), job.search_space)
  monkeypatch.setattr(supernet, "train_supernet", lambda *_: weights)
  seen = []

  class StartedError(Exception):
    pass

  def start(job, program, *_):
    seen.append(program.init())
    raise StartedError

  monkeypatch.setattr(loop, "run", start)
  fields = {"train.start": "supernet", "train.num_seeds": 1}
  named = job.vary(fields, archs=("d2_w5",))
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
    (["evaluate"], (), "'evaluate' needs a .* expected search,evaluate"),
    (["complexity"], (), "'complexity' needs a finished search"),
    (["train"], (), "'train' needs a finished nas, .* nas,train or --arch"),
    (
      ["train"],
      ("d1-1_w4-4",),
      "'d1-1_w4-4' is not accepted; expected 1 stage",
    ),
    (["train"], ("resnet",), "--arch: not an arch: 'resnet'"),
  ],
)
def test_what_is_missing_is_named(tmp_path, phases, archs, message):
  with pytest.raises(UserError, match=message):
    pipeline.run(_config(), tmp_path, phases, archs=archs)
  assert not any(tmp_path.iterdir())


def test_the_race_takes_what_rank_check_taught(quick, monkeypatch, tmp_path):
  """Here: the larger the supernet's loss the better. Its finalists are scored
  again and raced in that order, and the words say by what."""
  monkeypatch.setattr(
    race, "learnt_rank", lambda job: lambda archs, losses: -losses
  )
  job = _make_evaluated(tmp_path / "run")
  found = nas.run(job).elite
  assert quick[0] == [2, 3, 3, 4]  # widths, by falling loss
  assert "and a ridge regression on the archs of rank_check" in found.chosen


def test_what_rank_check_taught_decides_the_order(tmp_path):
  """Only once that phase has ended; here the wider arch errs less, which the
  supernet does not see."""
  search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
  job = types.SimpleNamespace(workdir=tmp_path, search_space=search_space)
  folder = tmp_path / "rank_check"
  folder.mkdir()
  rng = np.random.default_rng(0)
  archs = nss.Arch(
    *(rng.integers(1, most, (30, 3)).astype(np.int32) for most in (5, 65))
  )
  loss = rng.uniform(size=30)
  for name, source, error in (
    ("scores.csv", "spread", loss),
    ("truths.csv", "spread_0", 1 / archs.width[:, 0]),
  ):
    table = scores.make_scores(
      search_space, source, archs, error=error, loss=loss, space=np.full(30, -1)
    )
    scores.append_scores(folder / name, search_space, table)
  assert race.learnt_rank(job) is None
  (folder / "summary.json").write_text("{}")
  new = nss.Arch(np.ones((3, 3), np.int32), np.full((3, 3), 8, np.int32))
  new.width[:, 0] = 4, 60, 20
  found, losses = race.rank_first(
    race.learnt_rank(job), new, np.asarray([0.1, 0.2, 0.3]), 3
  )
  assert found.width[:, 0].tolist() == [60, 20, 4]
  assert losses.tolist() == [0.2, 0.3, 0.1]
  # Only the first are ordered anew.
  found, _ = race.rank_first(race.learnt_rank(job), new, np.zeros(3), 2)
  assert found.width[:, 0].tolist() == [60, 4, 20]


@pytest.mark.parametrize("phase", [nas, complexity])
def test_batches_that_devices_cannot_share_are_refused(phase):
  """Both search by gradient, whether the search phase runs with them or not."""
  fields = {"search.batch_size": 12, "evaluate.batch_size": 64}
  job = runs.make_job(runs.load_config(**SETTINGS | fields), num_devices=8)
  with pytest.raises(UserError, match=r"search\.batch_size: 12 .* 8 devices"):
    phase.check(job)
