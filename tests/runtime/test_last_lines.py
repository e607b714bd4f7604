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
  """Returns what `main` says of what a phase raises."""

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
    f"error: process 0 of 1 on {socket.gethostname()} dies:\n"
    "  a line of the loop\n"
  )


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
