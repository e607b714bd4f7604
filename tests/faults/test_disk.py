"""A disk that is full or read-only: one line, and nothing is lost."""

from harness import assert_same, saved_steps

from nss_jax.runtime import checkpoint

# In the order of a search: what fails from which write on, what the line names,
# and the checkpoints that are left. While a save is under way, the next line of
# the log can be the first to fail.
FAULTS = (
  ("EROFS", ".config", 1, "config.json: Read-only file system", []),
  ("ENOSPC", ".lock", 1, "search/.lock: No space left on device", []),
  ("EROFS", "metrics.jsonl", 1, "search/metrics.jsonl: Read-only", []),
  ("ENOSPC", "checkpoints", 1, "search/checkpoints/00000009: could not", []),
  ("ENOSPC", "00000018", 1, "search/", [9]),
  ("EROFS", "00000018", 3, "search/", [9]),
  ("ENOSPC", ".00000018.sha256", 1, "search/", [9]),
  ("EROFS", "00000027.sha256", 1, "search/checkpoints/00000027: ", [9, 18]),
  ("ENOSPC", ".trajectory", 1, "search/trajectory.png: No", [9, 18, 27]),
  ("EROFS", ".elite_space", 1, "search/elite_space.json: Read", [9, 18, 27]),
)


def _assert_failed(result, workdir, named):
  assert result.code == 74, result.err
  assert result.err.startswith("error: ") and result.err.count("\n") == 1
  assert f"{workdir}/{named}" in result.err
  assert result.err.endswith("; run the same command to go on\n")
  # What was saved is whole.
  checkpoints = checkpoint.Checkpoints(workdir / "search" / "checkpoints")
  assert not any(map(checkpoints._find_damage, saved_steps(workdir)))


def test_every_kind_of_write_fails_in_turn(harness, tmp_path):
  """On one workdir: each run goes on where the one before has failed."""
  whole, saved = harness.finished("search"), []
  for error, part, at, named, left in FAULTS:
    failed = harness.run("search", tmp_path, do=error, part=part, at=[at])
    _assert_failed(failed, tmp_path / "run", named)
    if saved and saved[-1] < 27:
      assert f"resuming at step {saved[-1]} of 27" in failed.out
    saved = saved_steps(tmp_path / "run")
    assert saved == left, (error, part)
  again = harness.run("search", tmp_path)
  assert again.code == 0, again.err
  assert_same(tmp_path / "run", whole.workdir)


def test_file_outgrows_its_limit(harness, tmp_path):
  """The system refuses the bytes, in orbax's threads too."""
  whole = harness.finished("search")
  saved = (whole.workdir / "search" / "checkpoints").rglob("*")
  largest = max(path.stat().st_size for path in saved)
  failed = harness.run("search", tmp_path, limit=largest // 2)
  _assert_failed(failed, tmp_path / "run", "search/checkpoints/")
  assert "File too large" in failed.err
  again = harness.run("search", tmp_path)
  assert again.code == 0, again.err
  assert_same(tmp_path / "run", whole.workdir)
