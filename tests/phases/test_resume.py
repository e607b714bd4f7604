"""Cut and gone on with, a search is the one that was not cut, bit for bit."""

import dataclasses
import json
import os
import re

import chex
import jax
import numpy as np
import pytest
import runs

from nss_jax.errors import Interrupted
from nss_jax.phases import loop, search

# 63 steps of both kinds, 9 an epoch and 3 a call.
FIELDS = {**runs.TINY, "space.strides": (1,), "search.epochs": 7}
END_OF_WARMUP, END = 18, 63
# In warmup, at its end, in the middle of an epoch, at the end of one, and when
# there is nothing left to do.
CUTS = (3, END_OF_WARMUP, 30, 45, END)


class _Asked:
  """Stands for a `Preemption`."""

  came = False

  def tell(self, saved):
    pass


class _StopAt(_Asked):
  """Asked after every call, it stops the loop at a step."""

  def __init__(self, step, at=0):
    self._calls = (step - at) // 3

  def requested(self):
    self._calls -= 1
    return self._calls == 0


_TIME = re.compile(rb', "images_per_second": ([0-9.]+)')


def _files(folder):
  """Bytes by name, without times; orbax names files at random, so that of
  checkpoints there are only the names."""
  found = {}
  for path in sorted(folder.rglob("*")):
    name = str(path.relative_to(folder))
    if name.startswith("checkpoints/"):
      if path.name.endswith(".sha256.json"):
        found[name] = b""
    elif path.is_file() and path.name != ".lock":
      found[name] = path.read_bytes()
  log = found["metrics.jsonl"]
  assert all(float(text) > 0 for text in _TIME.findall(log))
  found["metrics.jsonl"] = _TIME.sub(b"", log)
  return found


def _lines(folder):
  text = (folder / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Runs one search, compiled once, in a folder, asked whether to stop."""
  folder = tmp_path_factory.mktemp("job")
  job = runs.make_job(runs.load_config(**FIELDS), folder)
  program = search.build(job)

  def run(folder, asked):
    return loop.run(dataclasses.replace(job, preemption=asked), program, folder)

  return run


def test_cut_anywhere_is_the_uninterrupted_search(run, tmp_path):
  """Which also shows that two runs of a seed are one, on all cores."""
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  expected = run(whole, _StopAt(10**6))
  at = 0
  for step in CUTS:
    with pytest.raises(Interrupted, match=f"saved at step {step} of 63"):
      run(cut, _StopAt(step, at))
    at = step
  found = run(cut, _StopAt(10**6))
  chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(expected))
  assert np.ptp(found.search.logits.width) > 0.01
  assert _files(cut) == _files(whole)
  assert [line["step"] for line in _lines(cut)] == list(range(9, END + 1, 9))


class _Losses(_Asked):
  """Asked after every call: how many steps would be lost if it were killed."""

  def __init__(self, folder, calls):
    self._folder, self._calls, self.seen = folder, calls, []

  def requested(self):
    digests = self._folder.glob("checkpoints/*.sha256.json")
    saved = [int(path.name.partition(".")[0]) for path in digests]
    step = 3 * (len(self.seen) + 1)
    self.seen.append(step - max(saved, default=0))
    return len(self.seen) == self._calls


def test_a_kill_loses_one_interval(run, tmp_path):
  losses = _Losses(tmp_path, calls=7)
  with pytest.raises(Interrupted, match="saved at step 21"):
    run(tmp_path, losses)
  assert losses.seen == [3, 6, 9, 3, 6, 9, 3]


@pytest.mark.slow
def test_other_calls_of_the_device(run, tmp_path):
  """Between the ends of which the run before has stopped; the same numbers."""
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  expected = run(whole, _StopAt(10**6))
  with pytest.raises(Interrupted, match="saved at step 21 of 63"):
    run(cut, _StopAt(21))
  config = runs.load_config(**FIELDS)
  # Calls of 5 and 4 steps; the first is one of 2, from step 21 to 23.
  config.search.steps_per_dispatch = 8
  other = runs.make_job(config, tmp_path)
  schedule = search.schedule_of(other)
  assert [call.length for call in schedule.calls(57)] == [2, 4]
  assert schedule.kinds(60) == {(3, False)}
  assert schedule.kinds(21) == {(2, False), (4, False), (5, False)}
  other = dataclasses.replace(other, preemption=_StopAt(10**6))
  found = loop.run(other, search.build(other), cut)
  chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(expected))
  assert _files(cut) == _files(whole)


# What users compile is theirs alone.
_AS_USERS = """
import jax
jax.config.update("jax_enable_compilation_cache", False)
from nss_jax import main
main.run()
"""


@pytest.mark.slow
def test_two_processes_compute_the_same_bits(tmp_path):
  """Compiled as users do, twice, on two threads or more (jax issue 39741)."""
  assert len(os.sched_getaffinity(0)) > 1, "XLA has one thread on one core"
  found = []
  for name in ("one", "other"):
    code, _, err = runs.run(
      "--config.search.epochs=7",
      f"--workdir={tmp_path / name}",
      script=_AS_USERS,
      xla_flags="",
    )
    assert code == 0, err
    found.append(_files(tmp_path / name / "search"))
  assert found[0].keys() == found[1].keys()
  assert [n for n in found[0] if found[0][n] != found[1][n]] == []
