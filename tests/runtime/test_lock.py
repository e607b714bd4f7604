"""A folder has one process at a time, and a dead one leaves it free."""

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
import runs

from nss_jax.errors import Interrupted, UserError
from nss_jax.phases import loop, search
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
  """Starts a process that holds the folder."""
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


@pytest.fixture
def systems(monkeypatch):
  """Yields file systems with locks, and without, which say so in two ways."""

  def each():
    for code in (None, errno.ENOLCK, errno.EOPNOTSUPP):

      def flock(*_, code=code):
        raise OSError(code, os.strerror(code))

      with monkeypatch.context() as patch:
        if code:
          patch.setattr(fcntl, "flock", flock)
        yield

  return each


def _assert_refused(folder, owner, **kwargs):
  with (
    pytest.raises(UserError, match=f"held: in use by {owner}"),
    lock.exclusive(folder, **kwargs),
  ):
    raise AssertionError("both have it")


def _assert_taken(folder, **kwargs):
  """Takes the folder and lets it go, however the block ends.

  The file says so too, for a host that cannot see the lock.
  """
  with pytest.raises(KeyError), lock.exclusive(folder, **kwargs):
    assert (folder / ".lock").read_text() == OURS
    raise KeyError
  assert (folder / ".lock").read_text() == ""


def test_the_second_is_told_who_is_there_until_it_dies(systems, holder, folder):
  owner, asked = f"process {holder.pid} on {HERE}", []
  for _ in systems():
    for take_over in (False, True):
      _assert_refused(folder, owner, take_over=take_over)
    _assert_taken(folder.with_name("other"))

  def wait(owner):
    asked.append(owner)
    if len(asked) == 1:
      raise Interrupted
    holder.kill()
    holder.wait()
    shutil.copytree(folder, folder.with_name("left"))

  with pytest.raises(Interrupted), lock.exclusive(folder, wait):
    raise AssertionError("both have it")
  _assert_taken(folder, wait=wait)
  assert asked == [owner] * 2
  for _ in systems():
    left = folder.with_name("left")
    assert (left / ".lock").read_text() == f"{owner}\n"
    _assert_taken(shutil.copytree(left, folder, dirs_exist_ok=True))


@pytest.fixture
def foreign(folder):
  """Writes the lock file of the folder, with an owner on another host."""
  folder.mkdir()
  (folder / ".lock").write_text("process 1 on another-host\n")
  return folder / ".lock"


def test_another_host_may_still_run(systems, foreign, folder):
  named = (
    f"process 1 on another-host .not to be seen from {HERE}; --take_over if it "
    "has ended"
  )
  for _ in systems():
    foreign.write_text("process 1 on another-host\n")
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


def test_a_container_that_is_started_again_goes_on(systems, folder):
  """It has the name and the number of the one that was killed."""
  folder.mkdir()
  for _ in systems():
    (folder / ".lock").write_text(OURS)
    _assert_taken(folder)


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
