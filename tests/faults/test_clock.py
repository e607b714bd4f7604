"""The clock jumps back and the time zone changes: the results are the same."""

import pytest
from harness import PHASES, assert_same, search_lines

_DAY = 86400.0


@pytest.mark.slow
def test_clock_set_back_between_and_within_runs(harness, tmp_path):
  """Each look at the clock is a day before the one before it."""
  whole = harness.finished("search")
  killed = harness.run(
    "search",
    tmp_path,
    do="SIGKILL",
    part="00000018",
    at=[5],
    offset=-_DAY,
    zone="Pacific/Kiritimati",
  )
  assert killed.code == -9, killed.err
  again = harness.run(
    "search", tmp_path, offset=-_DAY, zone="America/Los_Angeles"
  )
  assert again.code == 0, again.err
  assert "resuming at step 9 of 27" in again.out
  assert_same(tmp_path / "run", whole.workdir)
  lines = search_lines(tmp_path / "run")
  assert [line["step"] for line in lines] == [9, 18, 27]
  assert all(line["images_per_second"] > 0 for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("phase", [x for x in PHASES if x != "search"])
def test_clock_set_back_in_any_phase(phase, harness, tmp_path):
  whole = harness.finished(phase)
  folder = harness.copy(whole.before, tmp_path / phase)
  killed = harness.run(
    phase,
    folder,
    do="SIGKILL",
    at=[whole.counts[""] // 2],
    offset=-_DAY,
    zone="Pacific/Kiritimati",
  )
  assert killed.code == -9, killed.err
  again = harness.run(phase, folder, offset=-_DAY, zone="America/Los_Angeles")
  assert again.code == 0, again.err
  assert_same(folder / "run", whole.workdir)
