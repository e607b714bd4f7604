"""SIGTERM while a checkpoint is being written, once and twice."""

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
  again = harness.run("search", tmp_path)
  assert again.code == 0, again.err
  assert f"resuming at step {step} of 27" in again.out
  assert_same(workdir, whole.workdir)
