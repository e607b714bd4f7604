"""SIGTERM while a checkpoint is being written, and where no loop runs."""

import re
import time

import numpy as np
import pytest
from harness import PHASES, SAVING, phases, saved_steps


def test_sigterm_during_a_save(harness, tmp_path):
  """That save ends, and so does the one at the step where it stops."""
  # At the first operation in the folder that orbax makes and renames.
  stopped = harness.run(
    "search", tmp_path, do="SIGTERM", part="orbax-checkpoint-tmp", at=[1]
  )
  assert stopped.code == 75, stopped.err
  found = re.search(r"^SIGTERM: saved at step (\d+) of 27;", stopped.out, re.M)
  step = int(found[1])
  assert saved_steps(tmp_path / "run")[-1] == step
  # At its last file it is too late for the search, and in time for the next.
  again = harness.run(
    "search,report", tmp_path, do="SIGTERM", part=".elite_space", at=[1]
  )
  assert again.code == 75, again.err
  assert f"resuming at step {step} of 27" in again.out
  assert "SIGTERM: stopped before report;" in again.out
  harness.assert_ended("search", tmp_path)


def test_sigterm_before_anything_is_written(harness, tmp_path):
  """It comes while the images are read, when there is nothing to save."""
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
  """It ends soon, and goes on to the same end, also after a second signal."""
  folder = harness.begin(phase, tmp_path / phase)
  stopped = harness.run(
    phase, folder, do="SIGTERM", part="orbax-checkpoint-tmp", at=(3, 5)
  )
  assert stopped.code == 75, stopped.err
  assert stopped.out.count("SIGTERM: ") == 1
  assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
  harness.end(phase, folder)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_sigterm_at_the_middle_of_a_phase(phase, harness, tmp_path):
  """Where no loop runs there may be nothing to stop before the end."""
  folder = harness.begin(phase, tmp_path / phase)
  middle = harness.finished(phase).counts[""] // 2
  stopped = harness.run(phase, folder, do="SIGTERM", at=[middle])
  assert stopped.code in (0, 75), stopped.err
  assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
  harness.end(phase, folder)


@pytest.mark.slow
def test_ten_sigterms(harness, tmp_path):
  """Whenever it comes, all is saved within one call of the device."""
  folder, began = harness.begin("search", tmp_path / "x"), time.monotonic()
  harness.end("search", folder)
  longest, rng = time.monotonic() - began, np.random.default_rng(0)
  saved, tries = 0, 0
  while saved < _SIGNALS:
    tries += 1
    assert tries < 10 * _SIGNALS
    folder = harness.begin("search", tmp_path / str(tries))
    delay = rng.uniform(0, longest)
    stopped = harness.run("search", folder, do="SIGTERM", at=[1], delay=delay)
    too_late = (folder / "run" / "search" / "elite_space.json").exists()
    if too_late and stopped.code in (0, 75):
      continue  # it had been asked for the last time
    assert stopped.code == 75, (delay, stopped.err)
    assert stopped.seconds < _MOST_SECONDS and stopped.calls_after <= 1
    if found := re.search(r"saved at step (\d+) of 27;", stopped.out):
      assert saved_steps(folder / "run")[-1] == int(found[1])
    harness.end("search", folder)
    saved += 1
  print(f"{saved} of {saved} saved")  # shown by -rP
