"""A disk that is full or read-only: one line, and nothing is lost."""

import errno
import os

import numpy as np
import pytest
from harness import PHASES, phases, saved_steps
from injection import ERRORS

from nss_jax.runtime import checkpoint

# In the order of a search: what fails from which write on, what the line names,
# and the checkpoints that are left. While a save is under way, the next line of
# the log can be the first to fail. EFBIG is a limit on the size of files.
FAULTS = (
  ("EROFS", ".config", 1, "config.json: Read-only file system", []),
  ("ENOSPC", ".lock", 1, "search/.lock: No space left on device", []),
  ("EFBIG", "", 0, "search/checkpoints/", []),
  ("EROFS", "metrics.jsonl", 1, "search/metrics.jsonl: Read-only", []),
  ("ENOSPC", "checkpoints", 1, "search/checkpoints/00000009: could not", []),
  ("ENOSPC", "00000018", 1, "search/", [9]),
  ("EROFS", "00000018", 3, "search/", [9]),
  ("ENOSPC", ".00000018.sha256", 1, "search/", [9]),
  ("EROFS", "00000027.sha256", 1, "search/checkpoints/00000027: ", [9, 18]),
  ("ENOSPC", ".trajectory", 1, "search/trajectory.png: No", [9, 18, 27]),
  ("EROFS", ".elite_space", 1, "search/elite_space.json: Read", [9, 18, 27]),
)
# One of those that are alike.
FEWER = (*FAULTS[:3], FAULTS[5], FAULTS[10])


def _assert_failed(result, named):
  assert result.code == 74, result.err
  assert result.err.startswith("error: ") and result.err.count("\n") == 1
  assert str(named) in result.err
  assert result.err.endswith("; run the same command to go on\n")


def _assert_search_failed(result, workdir, named):
  _assert_failed(result, f"{workdir}/{named}")
  # What was saved is whole.
  checkpoints = checkpoint.Checkpoints(workdir / "search" / "checkpoints")
  assert not any(map(checkpoints.find_damage, saved_steps(workdir)))


@pytest.mark.parametrize(
  "faults", [FEWER, pytest.param(FAULTS, marks=pytest.mark.slow)]
)
def test_every_kind_of_write_fails_in_turn(faults, harness, tmp_path):
  """On one workdir: each run goes on where the one before has failed."""
  whole, saved = harness.finished("search"), []
  written = (whole.workdir / "search" / "checkpoints").rglob("*")
  largest = max(path.stat().st_size for path in written)
  for error, part, at, named, left in faults:
    fault = {"do": error, "part": part, "at": [at]}
    if error == "EFBIG":  # the system itself, in orbax's threads too
      fault = {"limit": largest // 2}
    failed = harness.run("search", tmp_path, **fault)
    _assert_search_failed(failed, tmp_path / "run", named)
    assert os.strerror(getattr(errno, error)) in failed.err
    if saved and saved[-1] < 27:
      assert f"resuming at step {saved[-1]} of 27" in failed.out
    saved = saved_steps(tmp_path / "run")
    assert saved == left, (error, part)
  harness.end("search", tmp_path)


@pytest.mark.parametrize("error", ERRORS)
# What the search writes fails above, kind by kind.
@pytest.mark.parametrize("phase", phases(fast=()))
def test_any_write_of_a_phase_fails(phase, error, harness, tmp_path):
  """From the first, the last or one in between, all writes fail."""
  count = harness.finished(phase).counts[error]
  rng = np.random.default_rng((PHASES.index(phase), ERRORS.index(error)))
  # Numbers are not quite the same in every run, but where the phase begins.
  for at in (1, *sorted(rng.integers(2, count - 1, 2).tolist()), count):
    folder = harness.begin(phase, tmp_path / str(at))
    # At the last, or there is none by that number.
    failed = harness.run(phase, folder, do=error, at=[at])
    if failed.code or at < count - 2:
      _assert_failed(failed, folder)
    harness.end(phase, folder)


@pytest.mark.slow
def test_scores_are_not_written(harness, tmp_path):
  """The evaluation goes on with those that were written."""
  folder = harness.begin("evaluate", tmp_path / "evaluate")
  failed = harness.run(
    "evaluate", folder, do="ENOSPC", part="scores.csv", at=[2]
  )
  _assert_failed(failed, folder / "run" / "evaluate" / "scores.csv")
  begun = (folder / "run" / "evaluate" / "scores.csv").read_bytes()
  harness.end("evaluate", folder)
  scores = (folder / "run" / "evaluate" / "scores.csv").read_bytes()
  assert scores.startswith(begun) and len(scores) > len(begun)
