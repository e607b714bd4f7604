"""The search as a program: its files, and what interruptions leave."""

import dataclasses
import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax.errors import Diverged, UserError
from nss_jax.phases import loop, pipeline, search, search_log

# Three stages take three times as long to compile; one shows the same.
_ONE_STAGE = {"space.strides": (1,)}
_FLAG = "--config.space.strides=(1,)"


def _run(*flags, **kwargs):
  return runs.run(_FLAG, *flags, **kwargs)


def _start(*flags, **kwargs):
  return runs.start(_FLAG, *flags, **kwargs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """The workdir of an uninterrupted run."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  code, out, err = _run(f"--workdir={workdir}")
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


def test_files(whole):
  folder = whole / "search"
  elite = json.loads((folder / "elite_space.json").read_text())
  assert len(elite["candidates"]) == 5
  search_space, space = nss.load_space(folder / "elite_space.json")
  assert elite["mean_flops"] == nss.space_macs(search_space, space)
  assert elite["deviation"] == elite["mean_flops"] / 4e4 - 1
  (met,) = elite["constraints"]
  assert met == {
    "metric": "flops",
    "mode": "equal",
    "target": 4e4,
    "weight": 1,
    "mean_cost": elite["mean_flops"],
    "deviation": elite["deviation"],
  }
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
  assert [line["step"] for line in lines] == [9, 18, 27, 36, 45]
  assert lines[-1]["temperature"] == pytest.approx(0.001)
  for line in lines:
    assert set(line) == {
      "step",
      "epoch",
      "temperature",
      *search_log.METRICS,
      "expected_cost",
      "depth_entropy",
      "width_entropy",
      "constraints",
      "probabilities",
    }
    names = (*search_log.OF_EACH_CONSTRAINT, "expected_cost")
    assert line["constraints"] == {"flops": {k: line[k] for k in names}}
  for line in lines[:2]:  # warmup: frozen, uniform
    assert line["penalty"] is None
    assert line["validation_loss"] is None
    assert line["probabilities"]["depth"] == [[0.5, 0.5]]
    assert line["probabilities"]["width"] == [[0.25] * 4]
  assert lines[2]["probabilities"]["width"] != [[0.25] * 4]
  assert lines[-1]["train_loss"] < lines[0]["train_loss"]


# The process gets a signal right before a line of its third epoch is written:
# a search this small would end while a test looks for the moment. For kills at
# any moment see `faults/test_kills.py`.
_SIGNALLED = """
import os, signal
from nss_jax import main
from nss_jax.runtime import files

def watched(path, line):
  if line["epoch"] == 3:
    os.kill(os.getpid(), signal.SIGTERM)
  append_line(path, line)

append_line = files.append_line
files.append_line = watched
main.run()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """The workdir of a run that SIGTERM has stopped in its fourth epoch."""
  workdir = tmp_path_factory.mktemp("saved") / "run"
  code, out, err = _run(f"--workdir={workdir}", script=_SIGNALLED)
  assert code == 75, err
  assert not (workdir / "search" / "elite_space.json").exists()
  # In the middle of an epoch: at the end of the dispatch that was next.
  assert "SIGTERM: saved at step 30 of 45; run the same command" in out
  return workdir


def test_sigterm_saves_and_goes_on(whole, saved, tmp_path):
  shutil.copytree(saved, tmp_path / "w")
  code, out, err = _run(f"--workdir={tmp_path}/w")
  assert code == 0, err
  assert "resuming at step 30 of 45" in out
  _assert_same(tmp_path / "w", whole)


def test_sigterm_while_it_compiles(tmp_path):
  """Python runs no signal handler then; 10 seconds are 10 seconds."""
  # Another number of steps is another program: not one of the cache.
  flags = "--config.search.epochs=50", f"--workdir={tmp_path}"
  process = _start(*flags)
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if (tmp_path / "search").exists():
      break
    time.sleep(0.01)
  time.sleep(1)
  process.send_signal(signal.SIGTERM)
  began = time.monotonic()
  out, err = process.communicate(timeout=60)
  assert process.returncode == 75, err
  assert time.monotonic() - began < 10
  assert "\nSIGTERM: " in out
  assert out.endswith("; run the same command to go on\n")


_LONG_CALL = """
import dataclasses, os, signal, time
from nss_jax import main
from nss_jax.phases import loop
from nss_jax.runtime import preemption

preemption.GRACE_SECONDS = 2
run_loop = loop.run

def slow_loop(job, program, *arguments):
  def dispatch(state, epoch, *rest):
    if epoch == {epoch}:
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(300)
    return program.dispatch(state, epoch, *rest)
  slow = dataclasses.replace(program, dispatch=dispatch)
  return run_loop(job, slow, *arguments)

loop.run = slow_loop
main.run()
"""


@pytest.mark.parametrize(
  ("epoch", "saved"),
  [
    (2, "saved is step 18 of 45 in {}"),
    pytest.param(0, "no checkpoint is in {} yet", marks=pytest.mark.slow),
  ],
)
def test_sigterm_during_a_call_that_is_too_long(tmp_path, epoch, saved):
  """Which may be one that compiles: it says what is on disk."""
  script = _LONG_CALL.format(epoch=epoch)
  code, out, err = _run(f"--workdir={tmp_path}", script=script)
  assert code == 75, err
  assert out.splitlines()[-1] == (
    "SIGTERM: no place to stop came within 2 s; "
    f"{saved.format(tmp_path / 'search')}; run the same command to go on"
  )
  assert out.count("SIGTERM") == 1


def test_damaged_checkpoint(whole, saved, tmp_path):
  workdir = tmp_path / "w"
  shutil.copytree(saved, workdir)
  folder = workdir / "search" / "checkpoints"
  newest = max(p for p in folder.iterdir() if p.is_dir())
  victim = max(
    (p for p in newest.rglob("*") if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 1
  victim.write_bytes(data)
  code, out, err = _run(f"--workdir={workdir}")
  assert code == 0, err
  (warning,) = [x for x in out.splitlines() if x.startswith("warning:")]
  assert str(victim) in warning
  assert "resuming at step 27 of 45" in out
  _assert_same(workdir, whole)


def test_finished_workdir_answers_at_once_and_is_of_one_config(whole, capsys):
  def state():
    files = (p for p in whole.rglob("*") if p.is_file())
    return {p: p.stat().st_mtime_ns for p in files}

  before = state()
  config = runs.load_config(**{**runs.TINY, **_ONE_STAGE})
  assert pipeline.run(config, whole, ["search"]) == 0
  assert "already done" in capsys.readouterr().out
  config.seed = 7
  with pytest.raises(UserError, match=r"config\.seed: 0 is now 7"):
    pipeline.run(config, whole, ["search"])
  assert state() == before


@pytest.fixture
def job(tmp_path):
  """A tiny search on one device, in this process."""
  config = runs.load_config(**{**runs.TINY, **_ONE_STAGE, "search.epochs": 3})
  return runs.make_job(config, tmp_path)


def test_diverged_loss_names_step_and_checkpoint(job, monkeypatch, capsys):
  def dispatch(state, epoch, first, length, warmup):
    losses = np.ones((length, 2))
    if epoch == 1 and first == 3:
      losses[1, 0] = np.nan
    return state, losses

  broken = dataclasses.replace(search.build(job), dispatch=dispatch)
  monkeypatch.setattr(search, "build", lambda job: broken)
  assert pipeline.run(job.config, job.workdir, ["search"]) == 1
  *_, line = capsys.readouterr().out.splitlines()
  assert line.startswith("error: the loss at step 14 is [nan, 1.0]; last good")
  good = job.workdir / "search" / "checkpoints" / "00000009"
  assert line.endswith(f"checkpoint: {good}") and good.is_dir()
  assert not (job.workdir / "search" / "elite_space.json").exists()


def test_diverged_weights_are_never_saved(job, tmp_path):
  """The loss of the step that breaks them is still finite."""

  def dispatch(state, epoch, first, length, warmup):
    if epoch == 1:
      logits = jax.tree.map(lambda x: x * np.nan, state.search.logits)
      state = state.replace(search=state.search.replace(logits=logits))
    return state, np.ones((length, 2))

  broken = dataclasses.replace(search.build(job), dispatch=dispatch)
  with pytest.raises(Diverged, match=r"after step 18.*00000009"):
    loop.run(job, broken, tmp_path / "search")
  folder = tmp_path / "search" / "checkpoints"
  assert [p.name for p in folder.iterdir() if p.is_dir()] == ["00000009"]
  assert [line["step"] for line in _lines(tmp_path)] == [9]


@pytest.mark.parametrize("estimator", ["straight_through", "score"])
def test_hard_estimators_move_the_logits(estimator, tmp_path):
  """Those of the other tests are soft."""
  fields = {"search.estimator": estimator, "objective.penalty": "sample"}
  config = runs.load_config(**{**runs.TINY, **_ONE_STAGE, **fields})
  program = search.build(runs.make_job(config, tmp_path))
  state, losses = program.dispatch(program.init(), 2, 0, 3, False)
  assert np.isfinite(losses).all()
  moved = np.abs(state.search.logits.width)
  assert 0.05 < moved.max() < 0.4  # three steps of Adam at 0.1
