"""Standard streams, warnings and exit codes, as a shell sees them."""

import errno
import io
import os
import subprocess
import sys
import warnings

import pytest
import runs

from nss_jax.runtime import console, streams

KINDS = (DeprecationWarning, ResourceWarning, UserWarning)


@pytest.fixture
def filters(monkeypatch):
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
  with warnings.catch_warnings():
    warnings.resetwarnings()
    yield


@pytest.mark.parametrize("category", [Warning, DeprecationWarning])
def test_no_warning_ends_the_command(filters, category):
  warnings.simplefilter("error", category)
  streams.prepare()
  with warnings.catch_warnings(record=True) as seen:
    for kind in KINDS:
      warnings.warn("of a library", kind, stacklevel=1)
  assert [one.category for one in seen] == [UserWarning]


def test_other_filters_stay(filters):
  warnings.simplefilter("ignore", UserWarning)
  before = [*warnings.filters]
  streams.prepare()
  assert [*warnings.filters] == before


def test_streams_take_any_text(filters, monkeypatch, tmp_path):
  with (tmp_path / "out").open("w", encoding="ascii") as file:
    monkeypatch.setattr(sys, "stdout", file)
    monkeypatch.setattr(sys, "stderr", None)
    streams.prepare()
    print("wörk \udcf6")
    with sys.stderr as made:
      print("to nobody", file=made)
    assert made.name == "/dev/null"
  assert (tmp_path / "out").read_text() == "w\\xf6rk \\udcf6\n"


def test_filters_of_a_test_change_nothing(monkeypatch, tmp_path):
  monkeypatch.setenv("PYTHONWARNINGS", "error")
  # Not the workdir of the README's command, which may have been run here.
  code, out, err = runs.run("--dry_run", f"--workdir={tmp_path}")
  assert (code, err) == (0, "") and "MF" in out


@pytest.mark.parametrize(
  ("flag", "closed", "other"),
  [("--help", "stdout", "stderr"), ("--xyz", "stderr", "stdout")],
)
def test_nobody_reads_what_is_said(flag, closed, other):
  with runs.start(flag) as process:
    getattr(process, closed).close()
    assert process.wait(100) == 141
    assert getattr(process, other).read() == ""


@pytest.mark.slow
def test_a_search_ends_with_its_reader_and_goes_on(tmp_path):
  flags = f"--workdir={tmp_path / 'w'}", "--log_every=0"
  with runs.start(*flags) as process:
    while not process.stdout.readline().startswith("epoch 2/5"):
      pass
    process.stdout.close()
    assert process.wait(100) == 141
    assert process.stderr.read() == ""
  assert not (tmp_path / "w" / "search" / "elite_space.json").exists()
  code, out, _ = runs.run(*flags)
  assert code == 0 and "resuming at step" in out


def test_no_output_at_all(tmp_path):
  command = subprocess.list2cmdline(runs.command("--help"))
  done = subprocess.run(
    f"{command} >&-", shell=True, cwd=runs.ROOT, capture_output=True, check=True
  )
  assert done.stderr == b""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EPIPE])
def test_an_output_that_takes_nothing(code, monkeypatch):
  class Broken(io.StringIO):
    def write(self, text):
      raise OSError(code, os.strerror(code))

  monkeypatch.setattr(sys, "stdout", Broken())
  with pytest.raises(OSError) as raised:
    console.say(console.make_console(), "a line")
  assert isinstance(raised.value, BrokenPipeError) == (code == errno.EPIPE)
  assert raised.value.filename == "standard output"


def test_a_locale_that_is_not_utf8(monkeypatch, tmp_path):
  for variable in ("PYTHONUTF8", "PYTHONCOERCECLOCALE"):
    monkeypatch.setenv(variable, "0")
  monkeypatch.setenv("LC_ALL", "C")
  code, out, err = runs.run(f"--workdir={tmp_path / 'wörk'}")
  assert (code, out) == (2, "")
  assert "is not accepted, as it is not UTF-8; expected" in err
  assert err.count("\n") == 1
  assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_name_that_is_not_ascii(monkeypatch, tmp_path):
  """In a shell without any locale Python has UTF-8."""
  monkeypatch.setenv("LC_ALL", "C")
  code, out, err = runs.run(f"--workdir={tmp_path / 'wörk'}")
  assert (code, err) == (0, "")
  assert f"Files in {tmp_path / 'wörk'}" in out
