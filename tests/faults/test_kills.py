"""SIGKILL at random moments of every phase: the same command goes on.

`pytest tests/faults/test_kills.py --kills=20` tries twenty in each phase; more
than one, or `--slow`, takes all phases.
"""

import signal

import numpy as np
import pytest
from harness import PHASES, phases, saved_steps, search_lines

_STEPS_PER_EPOCH = 9  # of the search, whose checkpoints are an epoch apart
_LONGEST_DELAY = 0.5  # seconds
_MOST_TRIES = 5  # for each kill: it may come when all is done


def _moment(phase, number, attempt, count):
  """Draws a file operation and, every second time, some seconds after it."""
  rng = np.random.default_rng((PHASES.index(phase), number, attempt))
  delay = rng.uniform(0, _LONGEST_DELAY) if number % 2 else 0.0
  return {"at": (int(rng.integers(1, count + 1)),), "delay": delay}


def _finished_parts(workdir):
  """Returns results of parts of a phase, with when they were last changed."""
  names = ("result.json", "logits.json", "lr_0.01/architecture.json")
  return {
    path: path.stat().st_mtime_ns
    for name in names
    for path in workdir.rglob(name)
  }


@pytest.mark.parametrize("phase", phases())
def test_killed_phase_ends_as_if_it_were_not(phase, harness, tmp_path, request):
  kills = request.config.getoption("kills")
  for number in range(kills):
    folder, moment = _killed(phase, number, harness, tmp_path)
    parts = _finished_parts(folder)
    saved = max(saved_steps(folder / "run"), default=0)
    done = [line["step"] for line in search_lines(folder / "run")]
    again = harness.end(phase, folder)
    assert parts == {p: p.stat().st_mtime_ns for p in parts}, moment
    assert max(done, default=0) - saved <= _STEPS_PER_EPOCH, moment
    if phase == "search" and 0 < saved < 3 * _STEPS_PER_EPOCH:
      assert f"resuming at step {saved} of 27" in again.out, moment
  print(f"{phase}: {kills} kills")  # shown by -rP


def _killed(phase, number, harness, folders):
  """Returns the folder of a phase that was killed before its end, and when."""
  count = harness.finished(phase).counts[""]
  for attempt in range(_MOST_TRIES):
    moment = _moment(phase, number, attempt, count)
    folder = harness.begin(phase, folders / f"{number}_{attempt}")
    killed = harness.run(phase, folder, do="SIGKILL", **moment)
    if killed.code:
      assert killed.code == -signal.SIGKILL, (moment, killed.err)
      return folder, moment
    # The delay was longer than what was left; or it was one of the last
    # operations, whose number is not quite the same in every run.
    late = moment["at"][0] > 0.9 * count
    assert moment["delay"] > 0 or late, (moment, count)
  raise AssertionError(f"{phase}: it always ended before it was killed")
