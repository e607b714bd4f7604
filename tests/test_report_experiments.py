"""What a report says of the principles, of complexity and of all targets."""

import csv
import dataclasses
import json
import re
import shutil

import experiments
import pytest
import runs

from nss_jax.errors import UserError
from nss_jax.phases import report
from nss_jax.runtime.report.workdir import is_empty, read_results

TARGET = 1.6e5
SETTINGS = {**runs.TINY, "objective.target_flops": TARGET}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """A job whose workdir has the experiments alone; not to be written to."""
  workdir = tmp_path_factory.mktemp("experiments") / "run"
  job = runs.make_job(runs.load_config(**SETTINGS), workdir)
  experiments.write_all(job.search_space, workdir, TARGET)
  return job


@pytest.fixture
def copied(made, tmp_path):
  workdir = shutil.copytree(made.workdir, tmp_path / "run")
  return dataclasses.replace(made, workdir=workdir)


@pytest.fixture(scope="module")
def reported(made, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("reported") / "run"
  shutil.copytree(made.workdir, workdir)
  job = dataclasses.replace(made, workdir=workdir)
  return job, report.run(job)


def _rows(job, name):
  path = job.workdir / "report" / f"table_{name}.csv"
  return list(csv.DictReader(path.read_text().splitlines()))


def test_what_has_run_is_shown(reported):
  job, result = reported
  assert not set(result["not_run"]) & experiments.NAMES
  folder = job.workdir / "report"
  for name in experiments.PICTURES:
    assert (folder / f"{name}.svg").read_text().startswith("<svg")
  page = (folder / "index.html").read_text()
  for title in ("Design principles", "Complexity", "Targets"):
    assert f"<h2>{title}</h2>" in page
  assert "Not drawn: regnet in window: only 0 of 20 archs." in page
  assert "searched for another target, 0.32 MF" in page


def test_tables_are_the_summaries(reported):
  job, _ = reported
  found = json.loads((job.workdir / "principles" / "summary.json").read_text())
  rows = _rows(job, "principles")
  # Three kinds at two costs, one missing, and two pairs of populations.
  assert len(rows) == 3 * 2 + 1 + 2 * 2
  for row in rows[:7]:
    source = f"{row['kind']}_{row['cost']}"
    if source in found["missing"]:
      assert row["count"] == "-"
      continue
    group = found["groups"][source]
    assert float(row["mean_error"]) == group["mean_error"]
    if row["kind"] != "design_principles":
      against = found["against_principles"][source]
      assert float(row["pairs_won"]) == against["pairs_won"]
  rows = _rows(job, "complexity")
  found = json.loads((job.workdir / "complexity" / "summary.json").read_text())
  assert [row["space"] for row in rows] == ["w4_d1", "w4_d2", "w8_d2", "elite"]
  for row in rows[:3]:
    assert int(row["near_count"]) == found["spaces"][row["space"]]["near_count"]
  rows = _rows(job, "targets")
  assert [float(row["target_flops"]) for row in rows] == [TARGET / 2, TARGET]
  assert {row["elite_mean_error"] for row in rows} == {"not run"}


def test_what_has_not_ended_says_so(copied):
  for name in experiments.NAMES:
    (copied.workdir / name / "summary.json").unlink()
  result = report.run(copied)
  assert set(result["not_run"]) >= experiments.NAMES
  page = (copied.workdir / "report" / "index.html").read_text()
  assert "Not ended: 120 archs are scored so far." in page
  assert "Not ended: 80 archs are scored so far." in page
  assert "Not ended: 2 targets have begun." in page
  for name in experiments.NAMES:
    assert f"--phases={name}</pre>" in page
    # What is scored is drawn.
  names = {path.stem for path in (copied.workdir / "report").glob("*.png")}
  assert names == set(experiments.PICTURES)
  tables = {path.stem for path in (copied.workdir / "report").glob("*.csv")}
  assert "table_complexity" not in tables


def test_a_sweep_is_missed_only_where_there_are_targets(copied):
  shutil.rmtree(copied.workdir / "sweep")
  path = copied.workdir / "report" / "index.html"
  assert "sweep" not in report.run(copied)["not_run"]
  assert "<h2>Targets</h2>" not in path.read_text()
  swept = copied.vary({"sweep.targets": (TARGET,)})
  assert "sweep" in report.run(swept)["not_run"]
  assert "--phases=sweep</pre>" in path.read_text()


def test_targets_come_first_where_they_are_all_that_was_searched(reported):
  job, _ = reported
  page = (job.workdir / "report" / "index.html").read_text()
  assert re.findall("<h2>(.*?)</h2>", page)[:2] == ["Targets", "What was found"]


def test_a_ring_of_links_ends(copied):
  folder = copied.workdir / "sweep" / "0.16mf"
  (folder / "sweep").mkdir()
  (folder / "sweep" / "again").symlink_to(folder)
  results = read_results(copied.workdir, copied.search_space)
  assert [target for target, _ in results.sweep] == [TARGET / 2, TARGET]
  assert results.sweep[1][1].sweep == []
  assert not is_empty(copied.workdir)


WRONG = [
  ("principles", ["groups", "elite_trend_any_cost", "count"], 0, "count: exp"),
  ("principles", ["groups", "<b>"], {}, "expected one of design_principles"),
  ("principles", ["matched", "own_trend", "pairs_won"], 2, "from 0 to 1"),
  ("principles", ["missing"], [], "missing: expected an object"),
  ("principles", ["window"], [3, 1], "window: expected"),
  ("complexity", ["spaces", "w4_d2", "near_share"], None, "near_share: exp"),
  ("complexity", ["spaces", "large"], {}, "a name like w128_d4"),
  ("complexity", ["elite"], 1, "elite: expected an object"),
  ("sweep/0.16mf", ["objective", "target_flops"], 0, "target_flops: exp"),
]


@pytest.mark.parametrize(("folder", "keys", "value", "words"), WRONG, ids=str)
def test_hand_edited_file(copied, folder, keys, value, words):
  name = "config.json" if "/" in folder else "summary.json"
  path = copied.workdir / folder / name
  content = json.loads(path.read_text())
  parent = content
  for key in keys[:-1]:
    parent = parent[key]
  parent[keys[-1]] = value
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=words) as error:
    report.run(copied)
  assert str(error.value).startswith(str(path))
  assert not (copied.workdir / "report").exists()


def test_scores_of_another_search_space(copied):
  path = copied.workdir / "complexity" / "scores.csv"
  text = path.read_text().replace("w4_d1,,1,", "w4_d1,,7,", 1)
  path.write_text(text)
  with pytest.raises(UserError, match="not in the search space"):
    report.run(copied)
