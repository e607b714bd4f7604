"""All targets by one command: each as a run of its own would have it."""

import concurrent.futures
import dataclasses
import json
import os
import signal
import threading

import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import (
  elite,
  pipeline,
  report,
  scoring,
  search,
  supernet,
  sweep,
)
from nss_jax.results import overview, scores
from nss_jax.results.contents import read_contents
from nss_jax.runtime import files, lock, preemption
from nss_jax.runtime.preemption import EXIT_SAVED

SETTINGS = {
  **runs.TINY,
  "space.strides": (1, 2),
  "objective.target_flops": 6e4,
  "evaluate.num_archs": 20,
  "evaluate.tolerance": 0.3,
  "evaluate.num_spaces": 2,
  "evaluate.archs_per_space": 3,
  "evaluate.oracle_spaces": 0,
  "sweep.targets": (6e4, 1.2e5),
}


def _config(**overrides):
  return config_lib.validate(runs.load_config(**{**SETTINGS, **overrides}))


def _replace_search(monkeypatch, run):
  phase = dataclasses.replace(search.PHASE, run=run)
  monkeypatch.setattr(search, "PHASE", phase)


@pytest.fixture
def quick(monkeypatch):
  """No search and no supernet; how often archs were scored, and where."""
  seen = {"supernets": [], "calls": 0, "searched": []}

  def find(job):
    seen["searched"].append(job.workdir.name)
    folder = job.workdir / "search"
    folder.mkdir(parents=True, exist_ok=True)
    logits = nss.init_logits(job.search_space)
    found = elite.find(job, logits, runs.no_scores)
    found.write(folder / "elite_space.json")
    return found

  def make_score_fn(*_):
    def score(_, archs, by):
      seen["calls"] += 1
      size = np.asarray(archs.width).sum(-1) * np.asarray(archs.depth).sum(-1)
      return 1 / size, 2.0 / size

    return score

  def train_supernet(job):
    seen["supernets"].append(job.supernets)

  seen["find"] = find
  _replace_search(monkeypatch, find)
  monkeypatch.setattr(scoring, "make_score_fn", make_score_fn)
  # All images alike.
  monkeypatch.setattr(
    scoring, "make_image_fn", lambda *_: lambda *_: (np.ones(9), np.ones(9))
  )
  monkeypatch.setattr(supernet, "train_supernet", train_supernet)
  return seen


def _files(folder):
  paths = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".png")
  return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_each_target_has_a_run_of_its_own(quick, tmp_path, capsys):
  workdir = tmp_path / "run"
  assert pipeline.run(_config(), workdir, ["sweep"]) == 0
  result = json.loads((workdir / "sweep" / "summary.json").read_text())
  assert list(result["targets"]) == ["0.06mf", "0.12mf"] == quick["searched"]
  assert quick["supernets"] == [tmp_path / "supernets"] * 2
  assert (workdir / "sweep" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
  for (name, found), target in zip(
    result["targets"].items(), (6e4, 1.2e5), strict=True
  ):
    folder = workdir / "sweep" / name
    elite = json.loads((folder / "search" / "elite_space.json").read_text())
    summary = json.loads((folder / "evaluate" / "summary.json").read_text())
    assert found["target_flops"] == target == elite["target_flops"]
    assert found["mean_flops"] == elite["mean_flops"]
    assert found["deviation"] == elite["mean_flops"] / target - 1
    space, _ = nss.load_space(folder)
    table = scores.read_scores(folder / "evaluate" / "scores.csv", space)
    mean = table.group("elite").error.mean()
    assert found["elite_mean_error"] == pytest.approx(mean)
    near = summary["groups"]["expanded_near_target"]
    assert found["near_mean_error"] == near["mean_error"]
    assert found["elite_arch"] is None
    assert found["elite_test_error"] is None
    # The same config and phases by themselves.
    config = _config(**{"sweep.targets": (), "objective.target_flops": target})
    alone = tmp_path / f"alone_{name}"
    assert pipeline.run(config, alone, ["search", "evaluate"]) == 0
    assert _files(alone) == _files(folder)
  calls = quick["calls"]
  assert "Targets, phases search, evaluate" in capsys.readouterr().out
  assert pipeline.run(_config(), workdir, ["sweep"]) == 0
  assert "already done" in capsys.readouterr().out
  (workdir / "sweep" / "summary.json").unlink()
  assert pipeline.run(_config(), workdir, ["sweep"]) == 0
  assert quick["calls"] == calls
  again = json.loads((workdir / "sweep" / "summary.json").read_text())
  assert again == result
  results = read_contents(workdir / "sweep" / "0.06mf", space)
  assert results.evaluation is not None


def test_sigterm_after_a_phase_stops_before_the_next(
  quick, tmp_path, monkeypatch, capsys
):
  """What came when nothing asked for it any more; the rerun goes on there."""
  find = search.PHASE.run

  def find_and_be_told(job):
    with preemption.Preemption():  # as phases have
      elite = find(job)
      os.kill(os.getpid(), signal.SIGTERM)
    return elite

  old = signal.getsignal(signal.SIGTERM)
  _replace_search(monkeypatch, find_and_be_told)
  assert pipeline.run(_config(), tmp_path / "run", ["sweep"]) == EXIT_SAVED
  assert "SIGTERM: stopped before evaluate; run the" in capsys.readouterr().out
  assert quick["searched"] == ["0.06mf"] and quick["calls"] == 0
  assert signal.getsignal(signal.SIGTERM) == old
  assert pipeline.run(_config(), tmp_path / "run", ["sweep"]) == EXIT_SAVED
  assert quick["searched"] == ["0.06mf", "0.12mf"] and quick["calls"] > 0
  assert pipeline.run(_config(), tmp_path / "run", ["sweep"]) == 0
  assert quick["searched"] == ["0.06mf", "0.12mf"]


def _report(workdir):
  """The text files of a report; all name the workdir alike."""
  folder = workdir / "report"
  return {
    path.name: path.read_text().replace(str(workdir), "WORKDIR")
    for path in folder.iterdir()
    if path.suffix != ".png"
  }


def test_tasks_of_an_array_make_one_sweep(quick, tmp_path, capsys):
  """Each its own target and nothing else; the whole then only sums up."""
  assert pipeline.run(_config(), tmp_path / "whole", ["sweep", "report"]) == 0
  workdir = tmp_path / "array"
  for index, name in ((1, "0.12mf"), (0, "0.06mf")):
    assert pipeline.run(_config(), workdir, ["sweep"], sweep_index=index) == 0
    assert (workdir / "sweep" / name / "evaluate" / "summary.json").exists()
    assert not (workdir / "sweep" / "summary.json").exists()
    config = (workdir / "config.json").read_bytes()
    assert config == (tmp_path / "whole" / "config.json").read_bytes()
    assert quick["searched"][2:] == ["0.12mf", "0.06mf"][: 2 - index]
  calls = quick["calls"]
  # The report alone collects them: its files are those of the whole.
  assert pipeline.run(_config(), workdir, ["report"]) == 0
  alone = _report(workdir)
  assert alone == _report(tmp_path / "whole")
  assert "Not ended" not in alone["index.html"]
  capsys.readouterr()
  assert pipeline.run(_config(), workdir, ["sweep", "report"]) == 0
  assert _report(workdir) == alone
  assert capsys.readouterr().out.count("already done") == 4
  assert quick["calls"] == calls
  assert len(quick["searched"]) == 4
  assert _files(workdir / "sweep") == _files(tmp_path / "whole" / "sweep")


def test_report_of_an_array_says_what_has_not_ended(quick, tmp_path):
  def not_run():
    assert pipeline.run(_config(), tmp_path, ["report"]) == 0
    path = tmp_path / "report" / "report.json"
    return files.read_json(path)["not_run"]

  assert pipeline.run(_config(), tmp_path, ["sweep"], sweep_index=1) == 0
  assert "sweep" in not_run()
  page = (tmp_path / "report" / "index.html").read_text()
  assert "Not ended: 1 targets have begun." in page
  assert pipeline.run(_config(), tmp_path, ["sweep"], sweep_index=0) == 0
  assert "sweep" not in not_run()
  # As while that task scores.
  (tmp_path / "sweep" / "0.06mf" / "evaluate" / "summary.json").unlink()
  assert "sweep" in not_run()


def test_target_has_ended_when_its_last_seed_has(quick, tmp_path):
  fields = {"sweep.phases": ("search", "train"), "train.num_seeds": 2}
  config = _config(**fields)
  job = runs.make_job(config, tmp_path)
  quick["find"](job)
  found = read_contents(tmp_path, job.search_space)
  networks = dict.fromkeys(("elite", "expanded"))
  facts = report.facts(job, found)._replace(sweep_targets=(6e4,))
  facts = facts._replace(phases=["sweep"])
  for seeds, ended in ((0, False), (1, False), (2, True)):
    trained = {"elite": [None] * 2, "expanded": [None] * seeds}
    target = found._replace(networks=networks, trained=trained)
    missing = overview.not_run(facts, found._replace(sweep=[(6e4, target)]))
    assert ("sweep" not in missing) is ended


def test_tasks_of_an_array_run_at_once(quick, tmp_path, monkeypatch):
  """Both begin on a workdir that is not there yet, and search together."""
  find, both = search.PHASE.run, threading.Barrier(2, timeout=60)

  def wait_and_find(job):
    both.wait()
    return find(job)

  _replace_search(monkeypatch, wait_and_find)
  config = _config(**{"sweep.phases": ("search",)})
  with concurrent.futures.ThreadPoolExecutor() as pool:
    codes = pool.map(
      lambda k: pipeline.run(
        config, tmp_path / "run", ["sweep"], sweep_index=k
      ),
      (0, 1),
    )
    assert list(codes) == [0, 0]
  assert sorted(quick["searched"]) == ["0.06mf", "0.12mf"]


def test_a_target_has_one_task_at_a_time(quick, tmp_path):
  sweep_folder = tmp_path / "sweep"
  with lock.exclusive(sweep_folder / "0.06mf" / "search"):
    with pytest.raises(UserError, match="search: in use by process"):
      pipeline.run(_config(), tmp_path, ["sweep"], sweep_index=0)
    assert quick["searched"] == []
    assert pipeline.run(_config(), tmp_path, ["sweep"], sweep_index=1) == 0
    with pytest.raises(UserError, match="search: in use by process"):
      pipeline.run(_config(), tmp_path, ["sweep"])
  assert pipeline.run(_config(), tmp_path, ["sweep"], sweep_index=0) == 0
  assert quick["searched"] == ["0.12mf", "0.06mf"]


@pytest.mark.parametrize(
  ("phases", "index", "message"),
  [
    (
      ["sweep"],
      2,
      "--sweep_index: 2 is not accepted; expected 0 to 1, a place",
    ),
    (["search"], 0, "0 is not accepted with --phases=search; expected --ph"),
    (["sweep", "report"], 0, "not accepted with --phases=sweep,report"),
  ],
)
def test_no_such_target(tmp_path, phases, index, message):
  with pytest.raises(UserError, match=message):
    pipeline.run(_config(), tmp_path / "run", phases, sweep_index=index)
  assert not (tmp_path / "run").exists()


def test_dry_run_of_a_task_plans_its_target(tmp_path, capsys):
  pipeline.run(
    _config(), tmp_path / "run", ["sweep"], sweep_index=1, dry_run=True
  )
  lines = capsys.readouterr().out.splitlines()
  assert any(line.startswith("target     0.12 MF") for line in lines)
  assert any(line.startswith("evaluate") for line in lines)
  assert not any(line.startswith("sweep") for line in lines)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"sweep.targets": ()}, r"config.sweep.targets: \(\) is not accepted"),
    (
      {"sweep.targets": (6e4, 9e12)},
      "config.sweep.targets: config.objective.target_flops: 9e.12 is not",
    ),
    (
      {"sweep.targets": (6e4, 6e4 + 1e-9)},
      "config.sweep.targets: two are 0.06mf",
    ),
    ({"sweep.phases": ("search", "train")}, "needs a finished nas"),
    (
      {"evaluate.tolerance": 1e-6},
      r"config.evaluate.tolerance: no space has a mean cost",
    ),
  ],
)
def test_what_cannot_run_is_refused(tmp_path, overrides, message):
  """Before anything is written, and before the first target has run."""
  with pytest.raises(ValueError, match=message):
    pipeline.run(_config(**overrides), tmp_path / "run", ["sweep"])
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("targets", (2e8, 1e8)),
    ("targets", ("600mf",)),
    ("phases", ()),
    ("phases", ("sweep",)),
  ],
)
def test_fields(field, value, tmp_path):
  config = runs.load_config(**{f"sweep.{field}": value})
  with pytest.raises(UserError, match=f"config.sweep.{field}"):
    pipeline.run(config, tmp_path / "run", ["search"])
  assert not (tmp_path / "run").exists()


def test_flags_of_one_target(tmp_path):
  """What a report of one target tells to run is that target."""
  given = ("--config=a.py", "--config.sweep.targets=(6e4,)")
  job = runs.make_job(_config(), tmp_path / "run", config_flags=given)
  flags = sweep.jobs(job)["0.12mf"].config_flags
  assert flags == (
    "--config=a.py",
    "--config.objective.target_flops=120000.0",
    "--config.sweep.targets=()",
  )
