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

_HOLD = """
import pathlib, sys, time
from nss_jax.runtime import lock
with lock.exclusive(pathlib.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
  """A process that has `tmp_path / "held"`."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLD, str(tmp_path / "held")],
    stdout=subprocess.PIPE,
    env={**os.environ, "PYTHONPATH": str(runs.ROOT)},
    text=True,
  )
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.wait()
  process.stdout.close()


def test_the_second_process_is_told_who_is_there(holder, tmp_path):
  with (
    pytest.raises(
      lock.InUse, match=rf"held: in use by process {holder.pid} on"
    ),
    lock.exclusive(tmp_path / "held"),
  ):
    raise AssertionError("both have it")
  with lock.exclusive(tmp_path / "other"):
    pass


def test_a_killed_process_leaves_nothing_locked(holder, tmp_path):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  with lock.exclusive(tmp_path / "held"):
    text = (tmp_path / "held" / ".lock").read_text()
    assert text.startswith(f"process {os.getpid()} on ")
    assert text.count("\n") == 1


def test_it_waits_until_the_other_has_ended(holder, tmp_path):
  asked = []

  def wait(owner):
    asked.append(owner)
    holder.kill()
    holder.wait()
    return True

  with lock.exclusive(tmp_path / "held", wait):
    assert len(asked) == 1
  assert asked[0].startswith(f"process {holder.pid} on ")


def test_it_gives_up_when_told(holder, tmp_path):
  with (
    pytest.raises(lock.InUse),
    lock.exclusive(tmp_path / "held", lambda owner: False),
  ):
    raise AssertionError("both have it")


def test_it_is_let_go_in_the_file_too(tmp_path):
  """However the block ends; a host that cannot see the lock reads the file."""
  with pytest.raises(KeyError), lock.exclusive(tmp_path):
    assert (tmp_path / ".lock").read_text()
    raise KeyError
  assert (tmp_path / ".lock").read_text() == ""


@pytest.fixture
def foreign(tmp_path):
  """The lock file of `tmp_path`, with an owner on another host."""
  file = tmp_path / ".lock"
  file.write_text("process 1 on another-host\n")
  return file


def test_another_host_may_still_run(foreign, tmp_path):
  named = (
    "in use by process 1 on another-host .not to be seen from "
    f"{socket.gethostname()}; --take_over if it has ended"
  )
  with pytest.raises(lock.InUse, match=named), lock.exclusive(tmp_path):
    raise AssertionError("both have it")
  assert foreign.read_text() == "process 1 on another-host\n"
  with lock.exclusive(tmp_path, take_over=True):
    assert foreign.read_text().startswith(f"process {os.getpid()} on ")


def test_another_host_is_waited_for_and_can_take_its_own(foreign, tmp_path):
  """Meanwhile the system's lock is free for its owner, if it comes back."""

  def wait(owner):
    with foreign.open() as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    foreign.write_text("")
    return True

  with lock.exclusive(tmp_path, wait):
    assert foreign.read_text().startswith(f"process {os.getpid()} on ")


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
  """The file system has none."""

  def flock(*_):
    raise OSError(request.param, os.strerror(request.param))

  monkeypatch.setattr(fcntl, "flock", flock)


def test_without_locks_the_file_says_who_is_there(no_locks, holder, tmp_path):
  folder = tmp_path / "held"
  taken = pytest.raises(lock.InUse, match=f"in use by process {holder.pid} on")
  with taken, lock.exclusive(folder, take_over=True):
    raise AssertionError("both have it")
  holder.kill()
  holder.wait()
  with lock.exclusive(folder):
    text = (folder / ".lock").read_text()
    assert text.startswith(f"process {os.getpid()} on ")
  assert (folder / ".lock").read_text() == ""


def test_without_locks_a_container_that_is_started_again_goes_on(
  no_locks, tmp_path
):
  """It has the name and the number of the one that was killed."""
  text = f"process {os.getpid()} on {socket.gethostname()}\n"
  (tmp_path / ".lock").write_text(text)
  with lock.exclusive(tmp_path):
    assert (tmp_path / ".lock").read_text() == text


def test_without_locks_another_host_needs_the_flag(no_locks, foreign, tmp_path):
  with (
    pytest.raises(lock.InUse, match="another-host"),
    lock.exclusive(tmp_path),
  ):
    raise AssertionError("both have it")
  with lock.exclusive(tmp_path, take_over=True):
    pass


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
