"""A folder has one process at a time, and a dead one leaves it free."""

import dataclasses
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import runs

from nss_jax.errors import Interrupted, UserError
from nss_jax.phases import loop, pipeline, search
from nss_jax.runtime import lock, preemption

HERE = socket.gethostname()
OURS = f"process {os.getpid()} on {HERE}\n"
_HOLD = """
import pathlib, sys, time
from nss_jax.runtime import lock
with lock.exclusive(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
  return tmp_path / "held"


@pytest.fixture
def holder(folder):
  """A process that has the folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(folder)],
    stdout=subprocess.PIPE,
    env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP])
def system(request, monkeypatch):
  """The file system has locks, or none, and says so in one of two ways."""

  def flock(*_):
    raise OSError(request.param, os.strerror(request.param))

  if request.param:
    monkeypatch.setattr(fcntl, "flock", flock)


def _assert_refused(folder, owner, **kwargs):
  with (
    pytest.raises(UserError, match=f"held: in use by {owner}"),
    lock.exclusive(folder, **kwargs),
  ):
    raise AssertionError("both have it")


def _assert_taken(folder, **kwargs):
  """And let go in the file too, however the block ends; a host that cannot
  see the lock reads the file."""
  with pytest.raises(KeyError), lock.exclusive(folder, **kwargs):
    assert (folder / ".lock").read_text() == OURS
    raise KeyError
  assert (folder / ".lock").read_text() == ""


def test_the_second_is_told_who_is_there_until_it_dies(system, holder, folder):
  for take_over in (False, True):
    owner = f"process {holder.pid} on {HERE}"
    _assert_refused(folder, owner, take_over=take_over)
  _assert_taken(folder.with_name("other"))
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  _assert_taken(folder)


def test_it_waits_until_the_other_has_ended_or_gives_up(holder, folder):
  asked = []

  def wait(owner):
    asked.append(owner)
    if len(asked) == 1:
      raise Interrupted
    holder.kill()
    holder.wait()

  with pytest.raises(Interrupted), lock.exclusive(folder, wait):
    raise AssertionError("both have it")
  _assert_taken(folder, wait=wait)
  assert asked == [f"process {holder.pid} on {HERE}"] * 2


@pytest.fixture
def foreign(folder):
  """The lock file of the folder, with an owner on another host."""
  folder.mkdir()
  (folder / ".lock").write_text("process 1 on another-host\n")
  return folder / ".lock"


def test_another_host_may_still_run(system, foreign, folder):
  named = (
    f"process 1 on another-host .not to be seen from {HERE}; --take_over if it "
    "has ended"
  )
  _assert_refused(folder, named)
  assert foreign.read_text() == "process 1 on another-host\n"
  _assert_taken(folder, take_over=True)


def test_another_host_is_waited_for_and_can_take_its_own(foreign, folder):
  """Meanwhile the system's lock is free for its owner, if it comes back."""

  def wait(owner):
    with foreign.open() as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    foreign.write_text("")

  _assert_taken(folder, wait=wait)


def test_a_container_that_is_started_again_goes_on(system, folder):
  """It has the name and the number of the one that was killed."""
  folder.mkdir()
  (folder / ".lock").write_text(OURS)
  _assert_taken(folder)


def test_a_phase_that_another_process_runs_is_refused(tmp_path):
  config = runs.load_config(**runs.TINY)
  with (
    lock.exclusive(tmp_path / "run" / "search"),
    pytest.raises(UserError, match=f"by process {os.getpid()} on"),
  ):
    pipeline.run(config, tmp_path / "run", ["search"])
  assert not (tmp_path / "run" / "search" / "metrics.jsonl").exists()


def test_the_shared_supernet_is_waited_for(tmp_path):
  """SIGTERM ends the wait: there is nothing to save."""
  job = runs.make_job(runs.load_config(**runs.TINY), tmp_path / "run")
  with preemption.Preemption() as stopped, lock.exclusive(tmp_path / "net"):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted, match="waiting for"):
      job = dataclasses.replace(job, preemption=stopped)
      loop.run_shared(job, search.build(job), tmp_path / "net")
    timer.join()
