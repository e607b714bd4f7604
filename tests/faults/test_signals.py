"""SIGTERM while a checkpoint is being written, and where no loop runs."""

import re
import time

import numpy as np
import pytest
from harness import PHASES, SAVING, assert_same, phases, saved_steps

# Operations in the folder that orbax makes and renames: at the first, and at
# two of one save.
MOMENTS = ((1,), (3, 5))


def test_sigterm_during_a_save(harness, tmp_path):
  """That save ends, and so does the one at the step where it stops."""
  whole, workdir = harness.finished("search"), tmp_path / "run"
  for at in MOMENTS:
    before = saved_steps(workdir)
    stopped = harness.run(
      "search", tmp_path, do="SIGTERM", part="orbax-checkpoint-tmp", at=at
    )
    assert stopped.code == 75, stopped.err
    found = re.search(
      r"^SIGTERM: saved at step (\d+) of 27;", stopped.out, re.M
    )
    step = int(found[1])
    assert saved_steps(workdir)[-1] == step > max(before, default=0)
  # At its last file it is too late for the search, and in time for the next.
  again = harness.run(
    "search,report", tmp_path, do="SIGTERM", part=".elite_space", at=[1]
  )
  assert again.code == 75, again.err
  assert f"resuming at step {step} of 27" in again.out
  assert "SIGTERM: stopped before report;" in again.out
  assert_same(workdir, whole.workdir)


def test_sigterm_before_anything_is_written(harness, tmp_path):
  """While the images are read; there is nothing to save."""
  stopped = harness.run(
    "search", tmp_path, do="SIGTERM", inside="/", part="digits.csv", at=[1]
  )
  assert stopped.code == 75, stopped.err
  assert stopped.err == ""
  assert stopped.out == (
    "SIGTERM: nothing was under way that is to be saved; run the same command "
    "to go on\n"
  )
  assert not any(tmp_path.iterdir())


_SIGNALS = 10
_MOST_SECONDS = 10 + 1  # with a call of the device, which takes less here


@pytest.mark.parametrize("phase", phases(fast=("evaluate",), of=SAVING))
def test_sigterm_during_a_save_of_a_phase(phase, harness, tmp_path):
  """It ends soon, and goes on to the same end; so does a second signal."""
  whole = harness.finished(phase)
  folder = harness.copy(whole.before, tmp_path / phase)
  stopped = harness.run(
    phase, folder, do="SIGTERM", part="orbax-checkpoint-tmp", at=(3, 5)
  )
  assert stopped.code == 75, stopped.err
  assert stopped.out.count("SIGTERM: ") == 1
  assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
  again = harness.run(phase, folder)
  assert again.code == 0, again.err
  assert_same(folder / "run", whole.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_at_the_middle_of_a_phase(phase, harness, tmp_path):
  """Where no loop runs there may be nothing to stop before the end."""
  whole = harness.finished(phase)
  folder = harness.copy(whole.before, tmp_path / phase)
  middle = whole.counts[""] // 2
  stopped = harness.run(phase, folder, do="SIGTERM", at=[middle])
  assert stopped.code in (0, 75), stopped.err
  assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
  again = harness.run(phase, folder)
  assert again.code == 0, again.err
  assert_same(folder / "run", whole.workdir)


@pytest.mark.slow
def test_ten_sigterms(harness, tmp_path):
  """Whenever it comes: saved within one call of the device."""
  began = time.monotonic()
  whole = harness.finished("search")
  assert harness.run("search", harness.copy(None, tmp_path / "x")).code == 0
  longest, rng = time.monotonic() - began, np.random.default_rng(0)
  saved, tries = 0, 0
  while saved < _SIGNALS:
    tries += 1
    assert tries < 10 * _SIGNALS
    folder = harness.copy(None, tmp_path / str(tries))
    delay = rng.uniform(0, longest)
    stopped = harness.run("search", folder, do="SIGTERM", at=[1], delay=delay)
    too_late = (folder / "run" / "search" / "elite_space.json").exists()
    if too_late and stopped.code in (0, 75):
      continue  # it had been asked for the last time
    assert stopped.code == 75, (delay, stopped.err)
    assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
    if found := re.search(r"saved at step (\d+) of 27;", stopped.out):
      assert saved_steps(folder / "run")[-1] == int(found[1])
    again = harness.run("search", folder)
    assert again.code == 0, (delay, again.err)
    assert_same(folder / "run", whole.workdir)
    saved += 1
  print(f"{saved} of {saved} saved")  # shown by -rP
