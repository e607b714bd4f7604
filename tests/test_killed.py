"""SIGKILL in every phase: the same command goes on to the same files."""

import json
import signal

import pytest
import runs

SETTINGS = {
  "space.strides": (1,),  # every stage takes time to compile
  "search.epochs": 1,  # without warmup: one program to compile
  "search.warmup_epochs": 0,
  "nas.epochs": 1,
  "nas.warmup_epochs": 0,
  "complexity.width_shares": (1.0,),
  "complexity.depth_shares": (1.0,),
  "complexity.num_archs": 20,
  "objective.target_flops": 6e4,
  "evaluate.epochs": 1,
  "evaluate.coin_epochs": 0,
  "evaluate.num_archs": 20,
  "evaluate.num_spaces": 2,
  "evaluate.archs_per_space": 4,
  "evaluate.tolerance": 0.5,
  "evaluate.oracle_spaces": 0,
  "evaluate.holdout_fraction": 0.05,
  "evaluate.calibration_images": 20,
  "rank_check.num_archs": 2,
  "rank_check.num_near_archs": 0,
  "rank_check.epochs": 1,
  "train.epochs": 1,
  "train.num_seeds": 1,
  "sweep.targets": (7e4,),
  "sweep.phases": ("search",),
}
# Principles, whose orders need three stages, in `test_principles_phase.py`.
PHASES = (
  *("search", "evaluate", "rank_check", "nas", "complexity"),
  *("train", "sweep", "report"),
)
# Where each is killed: right before the n-th write to such a file. Searching
# and training alone are killed in `test_search.py` and `test_nas.py`.
MOMENTS = (
  ("evaluate/scores.csv", 3),
  ("rank_check/scores.csv", 2),
  ("nas/expanded/lr_0.01/architecture.json", 1),
  ("complexity/scores.csv", 3),
  ("sweep/0.07mf/search/elite_space.json", 1),
  ("report.json", 1),
)
_KILLED = """
import os, signal
from nss_jax import main
from nss_jax.runtime import artifacts, scores

def watch(module, name):
  call = getattr(module, name)
  def watched(path, *args):
    global left
    left -= str(path).endswith({suffix!r})
    if left == 0:
      os.kill(os.getpid(), signal.SIGKILL)
    return call(path, *args)
  setattr(module, name, watched)

left = {count}
watch(artifacts, "append_line")
watch(artifacts, "write_json")
watch(scores, "append_scores")
main.run()
"""


def _flags(folder):
  return (
    f"--workdir={folder / 'run'}",
    f"--phases={','.join(PHASES)}",
    "--arch=d1_w4",
    *(f"--config.{path}={value}" for path, value in SETTINGS.items()),
  )


def _results(workdir):
  """All files but checkpoints, without the seconds that things took."""
  found = {}
  for path in sorted(workdir.rglob("*")):
    name = str(path.relative_to(workdir))
    if not path.is_file() or "checkpoints/" in name or path.name == ".lock":
      continue
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
      lines = content.splitlines() if path.suffix == ".jsonl" else [content]
      content = [json.loads(line) for line in lines]
      for line in content:
        line.pop("seconds", None)
        line.pop("images_per_second", None)
    # The page and its tables hold paths and seconds; report.json the numbers.
    if "report/" not in name or path.suffix == ".png":
      found[name] = content
  return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole")
  code, _, err = runs.run(*_flags(folder))
  assert code == 0, err
  return folder / "run"


def test_every_phase_resumes_after_sigkill(whole, tmp_path):
  for suffix, count in MOMENTS:
    process = runs.start(
      *_flags(tmp_path), script=_KILLED.format(suffix=suffix, count=count)
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, (suffix, err)
  code, _, err = runs.run(*_flags(tmp_path))
  assert code == 0, err
  found, expected = _results(tmp_path / "run"), _results(whole)
  assert found.keys() == expected.keys()
  assert [n for n in found if found[n] != expected[n]] == []
