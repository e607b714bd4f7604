"""Two commands on one workdir, and the locks of processes that are gone."""

import os
import signal
import socket
import time

import pytest
import runs
from command import ACCEPTED, call
from harness import SETTINGS, phases

from nss_jax.runtime import lock


@pytest.mark.parametrize("phase", phases(fast=("report",)))
def test_the_second_is_refused(phase, harness, tmp_path):
  """It names the first, which ends as if it had been alone."""
  folder = harness.begin(phase, tmp_path / phase)
  # At its second file of the folder; the first is the lock. A race is of nas.
  part = f"/run/{'nas' if phase == 'race' else phase}/"
  first = harness.start(phase, folder, do="SIGSTOP", part=part, at=[2])
  _wait_until_stopped(first["wait"])
  second = harness.run(phase, folder)
  assert second.code == 2
  assert second.err.count("\n") == 1
  assert f"in use by process {first['wait']} on " in second.err
  os.kill(first["wait"], signal.SIGCONT)
  ended = harness.wait(first)
  assert ended.code == 0, ended.err
  harness.assert_ended(phase, folder)


def _wait_until_stopped(process):
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline:
    with open(f"/proc/{process}/stat") as file:
      if file.read().rpartition(")")[2].split()[0] == "T":
        return
    time.sleep(0.02)
  raise AssertionError("the first process has not come to its first line")


def test_it_is_refused_at_once(tmp_path):
  config = runs.load_config(**SETTINGS)
  call(config, tmp_path, ["search"])  # what is imported and read once
  seconds = []
  with lock.exclusive(tmp_path / "search"):
    for _ in range(5):
      began = time.monotonic()
      code, err = call(config, tmp_path, ["search"])
      seconds.append(time.monotonic() - began)
      assert code == 2 and f"in use by process {os.getpid()} on " in err
  assert min(seconds) < 1  # one of them while the machine does nothing else


@pytest.mark.parametrize("left", ["", "process 4194304 on {here}\n", "\0" * 9])
def test_what_a_dead_process_has_left_is_taken_over(tmp_path, left):
  """The system's lock ends with its process; here the text is only a name."""
  (tmp_path / ".lock").write_text(left.format(here=socket.gethostname()))
  with lock.exclusive(tmp_path):
    text = (tmp_path / ".lock").read_text()
  assert text.startswith(f"process {os.getpid()} on ") and text.count("\n") == 1


def test_what_another_host_has_left_needs_the_flag(tmp_path):
  """Nobody here can see whether its owner has ended."""
  config = runs.load_config(**SETTINGS)
  (tmp_path / "search").mkdir()
  file = tmp_path / "search" / ".lock"
  file.write_text("process 17 on another-host\n")
  code, err = call(config, tmp_path, ["search"])
  assert code == 2 and err.count("\n") == 1
  for word in (
    "process 17 on another-host",
    socket.gethostname(),
    "--take_over",
  ):
    assert word in err
  assert file.read_text() == "process 17 on another-host\n"
  code, err = call(config, tmp_path, ["search"], take_over=True)
  assert (code, err) == (ACCEPTED, "")
  # It has ended, and says so: another host goes on without the flag.
  assert file.read_text() == ""
