"""A process that dies says who it is and what it was doing, then why."""

import signal
import socket
import sys

import numpy as np
import pytest
import rich.console
import runs

from nss_jax import command, main
from nss_jax.errors import UserError
from nss_jax.runtime import console
from nss_jax.runtime.progress import Progress

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def _nothing_said():
  console.LAST_LINES.clear()
  yield
  console.LAST_LINES.clear()


@pytest.fixture
def quiet():
  return rich.console.Console(quiet=True, width=80)


def test_lines_of_a_quiet_process_are_kept(quiet, capsys):
  for number in range(20):
    console.say(quiet, f"line {number}\x1b")
  console.say(quiet, "")
  assert [*console.LAST_LINES] == [
    f"line {number} " for number in range(12, 20)
  ]
  assert capsys.readouterr().out == ""


def test_a_loop_that_was_left_says_where_it_was(quiet):
  with Progress(quiet, np.ones(9)) as progress:
    progress.move_to(3, "epoch 1")
  assert [*console.LAST_LINES] == []  # it has ended well
  with pytest.raises(KeyError), Progress(quiet, np.ones(9)) as progress:
    progress.move_to(3, "epoch 1")
    raise KeyError
  assert [*console.LAST_LINES] == ["step 3: epoch 1"]


@pytest.fixture
def call(monkeypatch, capsys):
  """What `main` says of what a phase raises."""

  def call(raised):
    from nss_jax.phases import pipeline

    def run(*_, **__):
      console.say(rich.console.Console(quiet=True), "a line of the loop")
      raise raised

    console.LAST_LINES.clear()
    monkeypatch.setattr(pipeline, "run", run)
    argv = ["nss_jax", *runs.command()[3:]]
    # As in test_main.
    monkeypatch.setattr("sys.argv", argv)
    sys.modules.pop("config_config", None)
    with runs.saved_flags():
      code = main.guarded_main(command.parse_flags(argv))
    return code, capsys.readouterr().err

  return call


# Python deprecates how ml_collections loads a file.
@pytest.mark.filterwarnings("ignore:.*load_module.*")
def test_only_what_is_unexpected_is_told_at_length(call, capsys):
  code, err = call(UserError("a file: is wrong"))
  assert (code, err) == (2, "error: a file: is wrong\n")
  with pytest.raises(ZeroDivisionError):  # Python tells the rest
    call(ZeroDivisionError("never"))
  assert capsys.readouterr().err == (
    f"error: process 0 of 1 on {HOST} dies:\n  a line of the loop\n"
  )


_ONE_OF_TWO = """
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


def test_the_quiet_one_of_two_processes(tmp_path):
  """It does not wait for the other, which is in the middle of something."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    runs.start(
      f"--workdir={tmp_path}/run",
      f"--coordinator=localhost:{port}",
      "--num_processes=2",
      f"--process_id={index}",
      script=_ONE_OF_TWO.format(dies=index == 1),
    )
    for index in range(2)
  ]
  try:
    out, err = started[1].communicate(timeout=100)
    assert started[0].poll() is None
  finally:
    started[0].kill()
    first, _ = started[0].communicate()
  assert started[1].returncode == 70
  told, _, trace = err.partition("Traceback (most recent call last):\n")
  assert told.endswith(
    f"error: process 1 of 2 on {HOST} dies:\n  a line of the loop\n"
  )
  assert trace.endswith("KeyError: 'lost'\n") and trace.count("KeyError") == 1
  assert "a line of the loop" not in out and "a line of the loop" in first


def test_a_crash_below_python_shows_its_stack():
  script = (
    "import os, signal\n"
    "from nss_jax import main\n"
    "def crash(argv): os.kill(os.getpid(), signal.SIGSEGV)\n"
    "main.main = crash\n"
    "main.run()"
  )
  code, _, err = runs.run(script=script)
  assert code == -signal.SIGSEGV
  assert "Fatal Python error: Segmentation fault" in err
  assert "in crash" in err
