"""Every phase, tiny: run to its end once, then again and again with faults."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest
import quick
import runs

from nss_jax.runtime import files

FOLDER = pathlib.Path(__file__).parent
SETTINGS = {
  **runs.TINY,
  **runs.SHORT_PHASES,
  "space.strides": (1,),  # every stage takes time to compile
  "search.epochs": 3,  # without warmup: one program to compile
  "search.warmup_epochs": 0,
  "nas.method": "gradient",
  "objective.target_flops": 6e4,
  "train.epochs": 2,
  "train.num_seeds": 1,
  "sweep.targets": (6e4,),  # as above: it is compiled already
  "sweep.phases": ("search",),
  "latency_table.num_widths": 2,
  "latency_table.num_networks": 2,
  "latency_table.repeats": 3,
}
# Orders need three stages.
_OF_PRINCIPLES = {
  "space.strides": (1, 1, 1),
  "objective.target_flops": 1.5e5,
  "principles.num_archs": 6,
  "principles.window": (0.3, 3.0),
  "sweep.targets": (),
}
# nas by the evaluator, on a search of its own.
_OF_RACE = {
  "nas.method": "evaluator",
  "nas.tolerance": 0.3,
  "nas.num_finalists": 4,
  "nas.race_epochs": 1,
  "nas.num_images": 20,
  "sweep.targets": (),
}
PHASES = (
  *("search", "evaluate", "rank_check", "nas", "complexity"),
  *("train", "sweep", "report", "principles", "latency_table", "race"),
)
_ALONE = {"principles", "latency_table", "race"}  # on a workdir of their own
# Those that save states of a loop.
SAVING = (
  *("search", "evaluate", "rank_check", "nas", "train", "sweep"),
  "principles",
  "race",
)


def phases(fast=("search", "evaluate"), of=PHASES):
  """Returns phases as parameters of a test; all but a few are slow."""
  return [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in fast))
    for name in of
  ]


@dataclasses.dataclass(frozen=True)
class Result:
  """What became of a run.

  Attributes:
    code: of its exit.
    out, err: what it has printed.
    counts: of file operations, see `injection.Watch`; None: it was killed.
    seconds: from the first signal to the exit.
    calls_after: calls of the device that began after that signal.
  """

  code: int
  out: str
  err: str
  counts: dict | None = None
  seconds: float | None = None
  calls_after: int | None = None


@dataclasses.dataclass(frozen=True)
class Finished:
  """A phase that has run to its end, and the phases before it.

  Attributes:
    folder: holds `run`, the workdir, and `supernets`.
    before: the same before the phase; None: nothing.
    counts: file operations of the phase, see `injection.Watch`.
  """

  folder: pathlib.Path
  before: pathlib.Path | None
  counts: dict

  @property
  def workdir(self) -> pathlib.Path:
    return self.folder / "run"


class Harness:
  """Runs the command in forks of one server, with faults."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._finished = folder, {}
    self._server = subprocess.Popen(
      [sys.executable, str(FOLDER / "server.py")],
      env=_environment(folder / "compiled"),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def close(self) -> None:
    self._server.communicate()

  def start(self, phase, folder: pathlib.Path, **fault) -> dict:
    """Starts a phase on the workdir `run` of a folder; see `injection`."""
    told = pathlib.Path(tempfile.mkdtemp(dir=self._folder))
    request = {
      "flags": _flags(phase, folder),
      "fault": {"inside": str(folder), **fault},
      **{name: str(told / name) for name in ("out", "err", "seen")},
    }
    return {**request, "wait": self._ask(request)}

  def wait(self, started: dict) -> Result:
    """Waits for its end; returns what became of it."""
    code, ended = self._ask({"wait": started["wait"]}), time.monotonic()
    out, err = (pathlib.Path(started[x]).read_text() for x in ("out", "err"))
    seen = pathlib.Path(started["seen"])
    if not seen.exists():
      return Result(code, out, err)
    counts, signalled, calls = json.loads(seen.read_text())
    seconds = None if signalled is None else ended - signalled
    return Result(code, out, err, counts, seconds, calls)

  def run(self, phase, folder, **fault) -> Result:
    return self.wait(self.start(phase, folder, **fault))

  def _ask(self, request):
    self._server.stdin.write(json.dumps(request) + "\n")
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline())

  def finished(self, phase: str) -> Finished:
    """Returns a phase that was run without faults, once for all tests."""
    if phase not in self._finished:
      before = None
      index = PHASES.index(phase)
      if index and phase not in _ALONE:
        before = self.finished(PHASES[index - 1]).folder
      folder = self._copy(before, self._folder / phase)
      result = self.run(phase, folder)
      assert result.code == 0, result.err
      self._finished[phase] = Finished(folder, before, result.counts)
    return self._finished[phase]

  def begin(self, phase, folder) -> pathlib.Path:
    """Makes a folder that is as before a phase."""
    return self._copy(self.finished(phase).before, folder)

  def end(self, phase, folder) -> Result:
    """Runs a phase; it ends with the files of a run without faults."""
    result = self.run(phase, folder)
    assert result.code == 0, result.err
    self.assert_ended(phase, folder)
    return result

  def assert_ended(self, phase, folder) -> None:
    """Compares the files of a run to those of one without faults."""
    found = results(folder / "run")
    expected = results(self.finished(phase).workdir)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []

  def _copy(self, before, folder) -> pathlib.Path:
    """Makes a folder that is as another, or empty."""
    if before is None:
      folder.mkdir()
    else:
      shutil.copytree(before, folder)
    return folder


def _flags(phase, folder):
  fields = SETTINGS
  if phase == "principles":
    fields = {**SETTINGS, **_OF_PRINCIPLES}
  if phase == "race":
    fields, phase = {**SETTINGS, **_OF_RACE}, "search,nas"
  return (
    f"--config={runs.QUICKSTART}",
    *(f"--config.{path}={value}" for path, value in fields.items()),
    f"--workdir={folder / 'run'}",
    f"--phases={phase}",
    "--arch=d1_w4",
  )


def _environment(cache):
  path = (str(runs.ROOT), str(FOLDER.parent))
  return {
    **os.environ,
    # XLA tells of the processor at each program from the cache of some jaxlibs.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "COLUMNS": "200",
    "JAX_COMPILATION_CACHE_DIR": str(cache),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join(path),
    "XLA_FLAGS": quick.FLAGS,
  }


def results(workdir: pathlib.Path) -> dict:
  """Reads all files but checkpoints, without the seconds that things took."""
  found = {}
  for path in sorted(workdir.rglob("*")):
    name = str(path.relative_to(workdir))
    # Locks, and temporary files of the killed, which nobody reads.
    hidden = path.name.startswith(".")
    if not path.is_file() or hidden or "checkpoints/" in name:
      continue
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
      lines = content.splitlines() if path.suffix == ".jsonl" else [content]
      content = [json.loads(line) for line in lines]
      for line in content:
        line.pop("seconds", None)
        line.pop("images_per_second", None)
    if name.startswith("latency_table/"):
      content = _untimed(content)
    # The page and its tables hold paths and seconds; report.json the numbers.
    if "report/" not in name or path.suffix == ".png":
      found[name] = content
  return found


def _untimed(content):
  """Leaves seconds, and what comes of them, out of measured latencies."""
  if isinstance(content, bytes):
    return [line.rpartition(b",")[0] for line in content.splitlines()]
  (summary,) = content
  for name in ("spread", "mean_range", "relative_error", "tau"):
    summary.pop(name)
  for network in summary["networks"]:
    del network["measured"], network["predicted"]
  for name in ("first", "rest", "ends"):
    summary["table"][name] = _shape(summary["table"][name])
  return summary


def _shape(value):
  return [*map(_shape, value)] if isinstance(value, list) else type(value)


def search_lines(workdir: pathlib.Path) -> list[dict]:
  """Returns the lines of the log of the search."""
  path = workdir / "search" / "metrics.jsonl"
  return files.read_lines(path) if path.exists() else []


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the search that are saved, ascending."""
  digests = workdir.glob("search/checkpoints/*.sha256.json")
  return sorted(int(path.name.partition(".")[0]) for path in digests)
