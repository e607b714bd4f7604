"""A damaged checkpoint in every phase that saves: the one before is taken."""

import re
import shutil

import pytest
from harness import SAVING, phases


def _newest_files(folder):
  """Returns the files of the last checkpoint of all loops, by size."""
  steps = [
    step
    for checkpoints in folder.rglob("checkpoints")
    for step in checkpoints.iterdir()
    if step.is_dir()
  ]
  newest = max(steps, key=lambda step: step.stat().st_mtime_ns)
  files = [path for path in newest.rglob("*") if path.is_file()]
  return sorted(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("phase", phases(fast=(), of=SAVING))
def test_damaged_checkpoint_of_a_phase(phase, harness, tmp_path):
  """The command does what `test_search.py` sees of the search."""
  folder = harness.begin(phase, tmp_path / phase)
  stopped = harness.run(
    phase, folder, do="SIGTERM", part="orbax-checkpoint-tmp", at=(3,)
  )
  assert stopped.code == 75, stopped.err
  victim = _newest_files(folder)[-1]
  data = bytearray(victim.read_bytes())
  data[len(data) // 2] ^= 1
  victim.write_bytes(data)
  again = harness.run(phase, folder)
  if again.code == 2:  # there was no other
    assert f"every checkpoint is damaged (the oldest: {victim}" in again.err
    (checkpoints,) = [x for x in victim.parents if x.name == "checkpoints"]
    shutil.rmtree(checkpoints)
    harness.end(phase, folder)
    return
  assert again.code == 0, again.err
  warnings = re.findall(r"^warning: .*", again.out, re.M)
  # A network that was scored before the signal was heard is not read again.
  if warnings or phase != "rank_check":
    (warning,) = warnings
    assert str(victim) in warning
  harness.assert_ended(phase, folder)
