"""Several processes on this machine, over loopback, are one run.

What starts them is the command, as Slurm or a person would start it.
"""

import json
import os
import signal
import socket
import time

import pytest
import runs

from nss_jax.runtime import lock, preemption, processes

# One stage is enough.
FIELDS = {
  "space.strides": (1,),
  "objective.target_flops": 6e4,
  "search.epochs": 7,
  "search.warmup_epochs": 2,
}
SEARCH = tuple(f"--config.{path}={value}" for path, value in FIELDS.items())
# A killed process is to be missed soon, and a slow one is not to be.
HEARTBEAT_SECONDS = 10


def _free_port():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


def _start_one(workdir, count, index, port, *flags, script=None):
  return runs.start(
    *SEARCH,
    f"--workdir={workdir}",
    f"--coordinator=localhost:{port}",
    f"--num_processes={count}",
    f"--process_id={index}",
    f"--heartbeat_seconds={HEARTBEAT_SECONDS}",
    *flags,
    script=script,
  )


def _start(workdir, count, *flags, scripts=None):
  """Starts the processes of a run; `scripts[i]` stands for the command of i."""
  port, scripts = _free_port(), scripts or {}
  return [
    _start_one(workdir, count, k, port, *flags, script=scripts.get(k))
    for k in range(count)
  ]


def _end(started, timeout=300):
  """Waits for all; returns `(exit code, stdout, stderr)` of each."""
  ends = []
  for process in started:
    out, err = process.communicate(timeout=timeout)
    ends.append((process.returncode, out, err))
  return ends


def _run(*args, **kwargs):
  ends = _end(_start(*args, **kwargs))
  assert [end[0] for end in ends] == [0] * len(ends), ends
  return ends


def _results(workdir):
  """Reads what the search has written, without seconds."""
  found = {}
  for path in sorted((workdir / "search").iterdir()):
    if path.suffix in (".json", ".png"):
      found[path.name] = path.read_bytes()
    if path.suffix == ".jsonl":
      lines = [json.loads(line) for line in path.read_text().splitlines()]
      for line in lines:
        del line["images_per_second"]
      found[path.name] = lines
  return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
  """Runs the search of two processes; keeps what they said."""
  workdir = tmp_path_factory.mktemp("two") / "run"
  return workdir, _run(workdir, 2)


def _assert_goes_on(workdir, two):
  """Returns what the first says of the rest of a run, which ends as `two`."""
  ends = _run(workdir, 2)
  assert "resuming at step" in ends[0][1]
  assert _results(workdir) == _results(two[0])
  return ends[0][1]


def _one_process(workdir, num_devices, *flags):
  code, _, err = runs.run(
    *SEARCH,
    *flags,
    f"--workdir={workdir}",
    script=f"import jax\n"
    f"jax.config.update('jax_num_cpu_devices', {num_devices})\n"
    "from nss_jax import main\nmain.run()",
  )
  assert code == 0, err
  return _results(workdir)


def _assert_close(found, expected):
  """Compares the numbers of two runs, up to the order of sums."""
  assert found.keys() == expected.keys()
  for line, other in zip(
    found["metrics.jsonl"], expected["metrics.jsonl"], strict=True
  ):
    assert line["step"] == other["step"]
    for name in ("train_loss", "validation_loss", "expected_cost"):
      if other[name] is None:  # in warmup
        assert line[name] is None
      else:
        assert line[name] == pytest.approx(other[name], rel=1e-3), name


@pytest.mark.slow
def test_two_processes_are_two_devices(two, tmp_path):
  workdir, ends = two
  _assert_close(_results(workdir), _one_process(tmp_path / "one", 2))
  # The first speaks for all; gloo says a line in each.
  assert "Elite Space" in ends[0][1]
  said = [x for x in ends[1][1].splitlines() if not x.startswith("[Gloo]")]
  assert said == []


# jax looks for a signal once a second, and then tells the others. A process
# that waits at every line from the signal on, and the others with it, cannot
# come to the end before that.
_WAITS = """
import os, signal, sys, time
sys.path.insert(0, "tests/faults")
import injection
from nss_jax import main
from nss_jax.runtime import files

def watched(path, line, call=files.append_line):
  call(path, line)
  if line["epoch"] == {epoch} and {name!r}:
    os.kill(os.getpid(), getattr(signal, {name!r}))
  if line["epoch"] >= {epoch}:
    time.sleep({seconds})

files.append_line = watched
{more}
main.run()
"""
_WAIT_SECONDS = 2  # at a line, the longest that a call takes


def _waits(epoch, name="", more=""):
  """Writes a script that waits from an epoch on, where it gets a signal."""
  return _WAITS.format(epoch=epoch, name=name, seconds=_WAIT_SECONDS, more=more)


@pytest.mark.slow
def test_stopped_runs_go_on_to_the_same_end(two, tmp_path):
  """One gets SIGTERM, then the other, and then a checkpoint is damaged."""
  workdir, saved = tmp_path / "run", preemption.EXIT_SAVED
  for told, epoch in ((1, 1), (0, 4)):
    scripts = {told: _waits(epoch, "SIGTERM")}
    ends = _end(_start(workdir, 2, scripts=scripts))
    assert [end[0] for end in ends] == [saved, saved], ends
    assert "run the same command to go on" in ends[0][1]
  lines = (workdir / "search" / "metrics.jsonl").read_text().splitlines()
  assert len(lines) < FIELDS["search.epochs"]
  folder = max((workdir / "search" / "checkpoints").glob("*[0-9]"))
  largest = max(folder.rglob("*"), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-1])
  assert "damaged" in _assert_goes_on(workdir, two)


# Files of a save, of which the first process hears from within it.
_WHILE_SAVING = """
injection.inject(
  inside={inside!r}, part="00000036.orbax", at=[3, 5], do="SIGTERM"
)
"""


def _await_line(workdir, epoch, started):
  path, deadline = workdir / "search" / "metrics.jsonl", time.monotonic() + 300
  while not path.exists() or path.read_bytes().count(b"\n") < epoch:
    assert time.monotonic() < deadline
    assert [process.poll() for process in started] == [None] * len(started)
    time.sleep(0.05)


@pytest.mark.slow
def test_all_are_told_at_once(two, tmp_path):
  """Schedulers do that; they end soon, and go on to the same end."""
  workdir = tmp_path / "run"
  started = _start(workdir, 2, scripts={0: _waits(2), 1: _waits(2)})
  _await_line(workdir, 2, started)
  told = time.monotonic()
  for process in started:
    process.send_signal(signal.SIGTERM)
  ends = _end(started)
  assert time.monotonic() - told < 10 + _WAIT_SECONDS
  assert [end[0] for end in ends] == [preemption.EXIT_SAVED] * 2, ends
  assert "run the same command to go on" in ends[0][1]
  _assert_goes_on(workdir, two)


@pytest.mark.slow
def test_the_first_is_told_during_a_save(two, tmp_path):
  workdir = tmp_path / "run"
  more = _WHILE_SAVING.format(inside=str(workdir))
  scripts = {0: _waits(2, more=more), 1: _waits(2)}
  started = _start(workdir, 2, scripts=scripts)
  saves = workdir / "search" / "checkpoints"
  _await_line(workdir, 4, started)
  began = time.monotonic()  # the save, at most an instant after the line
  ends = _end(started)
  assert time.monotonic() - began < 10 + _WAIT_SECONDS
  assert [end[0] for end in ends] == [preemption.EXIT_SAVED] * 2, ends
  assert (saves / "00000036.sha256.json").exists()
  _assert_goes_on(workdir, two)


@pytest.mark.slow
def test_the_first_is_killed(two, tmp_path):
  """It alone writes, and the others meet at it."""
  workdir = tmp_path / "run"
  scripts = {0: _waits(3, "SIGKILL")}
  started = _start(workdir, 2, scripts=scripts)
  started[0].wait(timeout=300)
  died = time.monotonic()
  codes = [end[0] for end in _end(started)]
  assert time.monotonic() - died < 3 * HEARTBEAT_SECONDS
  assert codes[0] == -signal.SIGKILL and codes[1] != 0
  _assert_goes_on(workdir, two)


@pytest.mark.slow
def test_four_processes_survive_the_death_of_one(tmp_path):
  """The others end by themselves; all started again end as they would have."""
  short = ("--config.search.epochs=4", "--config.search.warmup_epochs=1")
  scripts = {2: _waits(3, "SIGKILL")}
  started = _start(tmp_path / "run", 4, *short, scripts=scripts)
  started[2].wait(timeout=300)
  died = time.monotonic()
  codes = [end[0] for end in _end(started)]
  assert time.monotonic() - died < 3 * HEARTBEAT_SECONDS
  assert codes[2] == -signal.SIGKILL
  assert 0 not in codes
  assert not (tmp_path / "run" / "search" / "elite_space.json").exists()
  ends = _run(tmp_path / "run", 4, *short)
  assert "resuming at step" in ends[0][1]
  found = _results(tmp_path / "run")
  _assert_close(found, _one_process(tmp_path / "one", 4, *short))


def test_a_second_run_is_refused_by_all(tmp_path):
  """The first cannot take the folder, and tells the others."""
  with lock.exclusive(tmp_path / "run" / "search"):
    ends = _end(_start(tmp_path / "run", 2))
  assert [end[0] for end in ends] == [2, 2], ends
  for _, _, err in ends:
    assert f"in use by process {os.getpid()}" in err


_SPEAKS = """
import time
from nss_jax import main
from nss_jax.phases import pipeline
from nss_jax.runtime import console

def run(*_, **__):
  console.say(console.make_console(), "a line of the loop")
  if {dies}:
    raise KeyError("lost")
  time.sleep(300)

pipeline.run = run
main.run()
"""


def test_the_quiet_one_says_why_it_dies(tmp_path):
  """It does not wait for the other, which is in the middle of something."""
  scripts = {index: _SPEAKS.format(dies=index == 1) for index in range(2)}
  started = _start(tmp_path / "run", 2, scripts=scripts)
  try:
    ((code, out, err),) = _end(started[1:], timeout=100)
    assert started[0].poll() is None
  finally:
    started[0].kill()
    first, _ = started[0].communicate()
  assert code == 70
  told, _, trace = err.partition("Traceback (most recent call last):\n")
  assert told.endswith(
    f"error: process 1 of 2 on {socket.gethostname()} dies:\n"
    "  a line of the loop\n"
  )
  assert trace.endswith("KeyError: 'lost'\n") and trace.count("KeyError") == 1
  assert "a line of the loop" not in out and "a line of the loop" in first


# A search that only saves, on a disk that becomes full for the first process.
_FULL = """
import dataclasses, sys
sys.path.insert(0, "tests/faults")
import injection
import numpy as np
from nss_jax import main
from nss_jax.phases import search
from nss_jax.runtime import checkpoint

def run(job):
  saves = checkpoint.Checkpoints(job.workdir / "search" / "checkpoints")
  for step in (1, 2):
    saves.save(step, {{"x": np.arange(3.0)}})
  saves.wait()

search.PHASE = dataclasses.replace(search.PHASE, run=run)
if {is_first}:
  injection.inject(inside={inside!r}, part={part!r}, at=[1], do="ENOSPC")
main.run()
"""


@pytest.mark.parametrize(
  "part",
  [
    ".00000001.sha256",  # where a save ends
    pytest.param(".config", marks=pytest.mark.slow),
    pytest.param("checkpoints", marks=pytest.mark.slow),
  ],
)
def test_a_full_disk_is_one_for_all(part, tmp_path):
  """All end with the code of it, whichever of them writes."""
  inside = str(tmp_path / "run")
  scripts = {
    index: _FULL.format(is_first=index == 0, inside=inside, part=part)
    for index in range(2)
  }
  ends = _end(_start(tmp_path / "run", 2, scripts=scripts))
  assert [end[0] for end in ends] == [74, 74], ends
  for _, _, err in ends:
    assert "No space left on device" in err
    assert "run the same command to go on" in err


def test_a_process_that_waits_for_the_others_can_be_stopped(tmp_path):
  """A scheduler stops all, of which some may not have come yet."""
  port = _free_port()
  process = _start_one(tmp_path / "run", 2, 0, port)
  try:
    _await_listener(port)
    time.sleep(0.5)  # then it waits
    process.send_signal(signal.SIGTERM)
    ((code, _, err),) = _end([process], timeout=60)
  finally:
    process.kill()
  assert code == preemption.EXIT_SAVED, err


def _await_listener(port):
  deadline = time.monotonic() + 100
  while True:
    try:
      socket.create_connection(("localhost", port)).close()
      return
    except ConnectionRefusedError:
      assert time.monotonic() < deadline
      time.sleep(0.1)


def test_alone_all_is_first():
  assert processes.run_once(lambda: 3) == 3
  assert processes.broadcast({"a": 1}) == {"a": 1}
  assert not processes.are_many()
