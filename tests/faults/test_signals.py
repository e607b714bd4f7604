"""SIGTERM while a checkpoint is being written, and where no loop runs."""

import re

from harness import assert_same, saved_steps

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
  assert stopped.err == stopped.out == ""
  assert not any(tmp_path.iterdir())
