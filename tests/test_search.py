"""The search as a program: its files, and what interruptions leave."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  code, out, err = runs.run(f"--workdir={workdir}")
  assert code == 0, err
  assert "Elite Space" in out
  assert "Next:" in out
  return workdir


def _lines(workdir):
  path = workdir / "search" / "metrics.jsonl"
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for line in lines:
    line.pop("images_per_second")
  return lines


def _assert_same(workdir, whole):
  name = "search/elite_space.json"
  assert (workdir / name).read_bytes() == (whole / name).read_bytes()
  assert _lines(workdir) == _lines(whole)


def _wait_for_epochs(process, workdir, count):
  path = workdir / "search" / "metrics.jsonl"
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if path.exists() and path.read_text().count("\n") >= count:
      return
    time.sleep(0.01)
  raise AssertionError("the run ended or hung before the epoch")


def test_files(whole):
  folder = whole / "search"
  elite = json.loads((folder / "elite_space.json").read_text())
  assert list(elite) == [
    "space",
    "mean_flops",
    "target_flops",
    "deviation",
    "candidates",
    "argmax_space",
    "probabilities",
    "seed",
    "search_space",
    "version",
  ]
  assert len(elite["candidates"]) == 5
  search_space, space = nss.load_space(folder / "elite_space.json")
  assert elite["mean_flops"] == nss.space_macs(search_space, space)
  assert elite["deviation"] == elite["mean_flops"] / 4e4 - 1
  best = min(abs(c["deviation"]) for c in elite["candidates"])
  assert abs(elite["deviation"]) == best
  archs = nss.sample_archs(jax.random.key(0), search_space, space, 50)
  for stage, (low, high) in enumerate(elite["space"]["width"]):
    widths = np.asarray(archs.width[:, stage])
    assert low <= widths.min() <= widths.max() <= high
  assert (folder / "trajectory.png").read_bytes().startswith(b"\x89PNG")
  assert (whole / "config.json").exists()


def test_metrics(whole):
  lines = _lines(whole)
  assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
  assert [line["step"] for line in lines] == [11, 22, 33, 44, 55]
  assert lines[-1]["temperature"] == pytest.approx(0.001)
  for line in lines[:2]:  # warmup: frozen, uniform
    assert line["validation_loss"] is None
    assert line["probabilities"]["depth"] == [[0.5, 0.5]] * 3
    assert line["probabilities"]["width"] == [[0.25] * 4] * 3
  assert lines[2]["probabilities"]["width"] != [[0.25] * 4] * 3
  assert lines[-1]["train_loss"] < lines[0]["train_loss"]


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_killed_and_run_again(whole, tmp_path, epochs):
  process = runs.start(f"--workdir={tmp_path}")
  _wait_for_epochs(process, tmp_path, epochs)
  process.kill()
  process.communicate()
  # A line that was being written when the power went.
  with (tmp_path / "search" / "metrics.jsonl").open("a") as file:
    file.write('{"step": 9')
  assert runs.run(f"--workdir={tmp_path}")[0] == 0
  _assert_same(tmp_path, whole)


def test_sigterm_saves_and_exits_75(whole, tmp_path):
  process = runs.start(f"--workdir={tmp_path}")
  _wait_for_epochs(process, tmp_path, 3)
  process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  out, _ = process.communicate()
  assert process.returncode == 75
  assert time.monotonic() - began < 10
  assert "run the same command to go on" in out
  code, out, _ = runs.run(f"--workdir={tmp_path}")
  assert code == 0
  assert "resuming at step" in out
  _assert_same(tmp_path, whole)


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_checkpoint(whole, tmp_path, damage):
  process = runs.start(f"--workdir={tmp_path}")
  _wait_for_epochs(process, tmp_path, 3)
  process.send_signal(signal.SIGTERM)
  process.communicate()
  folder = tmp_path / "search" / "checkpoints"
  newest = max(p for p in folder.iterdir() if p.is_dir())
  victim = max(
    (p for p in newest.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 1
  victim.write_bytes(data if damage == "flip" else data[: len(data) // 2])
  code, out, err = runs.run(f"--workdir={tmp_path}")
  assert code == 0, err
  assert "warning:" in out
  assert victim.name in out
  _assert_same(tmp_path, whole)


def test_finished_workdir_answers_at_once(whole):
  path = whole / "search" / "elite_space.json"
  before = os.stat(path).st_mtime_ns
  code, out, _ = runs.run(f"--workdir={whole}")
  assert code == 0
  assert "already searched" in out
  assert os.stat(path).st_mtime_ns == before


def test_another_config_is_refused(whole):
  def state():
    return {p: p.stat().st_mtime_ns for p in whole.rglob("*")}

  before = state()
  code, _, err = runs.run(f"--workdir={whole}", "--config.seed=7")
  assert code == 2
  assert err.count("\n") == 1
  assert "config.seed: 0 is now 7" in err
  assert state() == before


def test_diverged(tmp_path):
  code, out, _ = runs.run(
    f"--workdir={tmp_path}",
    "--config.weights.learning_rate=1e30",
    "--config.weights.clip_norm=1e30",
  )
  assert code == 1
  assert "the loss at step" in out
  assert "last good checkpoint" in out
