"""The clock jumps back and the time zone changes: the results are the same."""

import pytest
from harness import PHASES, search_lines

_DAY = 86400.0


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_clock_set_back_between_and_within_runs(phase, harness, tmp_path):
  """Each look at the clock is a day before the one before it."""
  folder = harness.begin(phase, tmp_path / phase)
  middle = harness.finished(phase).counts[""] // 2
  for at, code, zone in (
    ([middle], -9, "Pacific/Kiritimati"),
    ([], 0, "America/Los_Angeles"),
  ):
    result = harness.run(
      phase, folder, do="SIGKILL", at=at, offset=-_DAY, zone=zone
    )
    assert result.code == code, result.err
  harness.assert_ended(phase, folder)
  lines = search_lines(folder / "run")
  assert all(line["images_per_second"] > 0 for line in lines)
