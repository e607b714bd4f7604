"""Files are replaced whole or not at all; what is read is refused in a line."""

import os

import jax.numpy as jnp
import numpy as np
import pytest

from nss_jax.errors import UserError, one_line
from nss_jax.results.load import load_space
from nss_jax.runtime import files

LINES = [{"step": i, "loss": i / 7, "text": "Θ\n"} for i in range(4)]


@pytest.fixture
def lines(tmp_path):
  """Writes a file of lines, as a run does."""
  path = tmp_path / "metrics.jsonl"
  for obj in LINES:
    files.append_line(path, obj)
  return path


def check_refused(read, path, match=None):
  """Expects one printable line that begins with the name of the file."""
  with pytest.raises(UserError, match=match) as error:
    read(path)
  text = str(error.value)
  assert text.startswith(f"{path}: ") and text.isprintable()


def test_json_round_trip_is_deterministic(tmp_path):
  path = tmp_path / "a.json"
  obj = {"b": [1, 0.1, None, True, "Θ\ud800"], "a": {"x": "\n"}}
  files.write_json(path, obj)
  data = path.read_bytes()
  assert files.read_json(path) == obj
  assert data.endswith(b"}\n") and data.index(b'"b"') < data.index(b'"a"')
  files.write_json(path, obj)
  assert path.read_bytes() == data
  assert os.listdir(tmp_path) == ["a.json"]


def test_write_json_takes_arrays_and_no_nan(tmp_path):
  path = tmp_path / "a.json"
  values = [np.int64(1), np.float32(0.5), np.bool_(True), np.arange(2)]
  files.write_json(path, {"x": [*values, jnp.float32(2)]})
  assert files.read_json(path) == {"x": [1, 0.5, True, [0, 1], 2.0]}
  for write in (files.write_json, files.append_line):
    for bad in (float("nan"), np.float32("inf")):
      with pytest.raises(ValueError):
        write(path, {"x": bad})
    with pytest.raises(TypeError, match="object is no JSON"):
      write(path, {"x": object()})
  assert files.read_json(path)["x"][0] == 1


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_write_leaves_the_old_content(lines, monkeypatch, function):
  """It says which file it was, and not its temporary name."""

  def fail(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(files.os, function, fail)
    for write in (files.write_json, files.append_line):
      with pytest.raises(OSError, match="No space") as error:
        write(lines, {"step": 4})
      assert error.value.filename == str(lines)
  assert os.listdir(lines.parent) == [lines.name]
  files.append_line(lines, {"step": 5})
  assert files.read_lines(lines) == [*LINES, {"step": 5}]


def test_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
  """Rename first, and a power cut leaves an empty file in place of the old."""
  calls = []
  for name in ("fsync", "replace"):
    call = getattr(os, name)
    monkeypatch.setattr(
      files.os,
      name,
      lambda *a, name=name, call=call: (calls.append(name), call(*a)),
    )
  files.write_bytes(tmp_path / "a", b"x")
  files.append_bytes(tmp_path / "a", b"y")
  assert calls == ["fsync", "replace", "fsync"] * 2
  assert (tmp_path / "a").read_bytes() == b"xy"


def test_atomic_path(tmp_path):
  path = tmp_path / "plot.svg"
  with files.atomic_path(path) as temporary:
    assert (temporary.parent, temporary.suffix) == (tmp_path, ".svg")
    temporary.write_text("one")
    assert not path.exists()
  with (
    pytest.raises(RuntimeError, match="mid-way"),
    files.atomic_path(path) as temporary,
  ):
    temporary.write_text("two")
    raise RuntimeError("mid-way")
  assert path.read_text() == "one"
  assert os.listdir(tmp_path) == ["plot.svg"]


HOSTILE = [
  b"{",
  b"[1]",
  b"null",
  b'{"a": NaN}',
  b'{"a": "\xff"}',
  b'{"a": ' + b"1" * 5000 + b"}",
  b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
  b"\0\0\0",
  b"{}{}",
  b"",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_what_is_no_object_is_refused(lines, data):
  path = lines.with_name("a.json")
  path.write_bytes(data)
  check_refused(files.read_json, path)
  first, *rest = lines.read_bytes().splitlines(keepends=True)
  lines.write_bytes(b"".join([first, data, b"\n", *rest]))
  check_refused(files.read_lines, lines, "line 2: ")


@pytest.mark.parametrize(
  "read", [files.read_json, files.read_lines, load_space]
)
def test_missing_file_and_folder_are_named(tmp_path, read):
  for path in (tmp_path / "none", tmp_path):
    check_refused(read, path)
  with pytest.raises(UserError, match="null byte"):
    read("a\0b")


def test_lines_round_trip(lines):
  data = lines.read_bytes()
  assert files.read_lines(lines) == LINES
  assert data.count(b"\n") == len(LINES)
  files.write_lines(lines, LINES)
  assert lines.read_bytes() == data
  assert files.read_lines(lines, len) == [len(x) for x in data.splitlines()]
  files.write_lines(lines, [])
  assert files.read_lines(lines) == []


def test_a_file_that_was_cut_is_refused(lines):
  """No crash of ours cuts one; so it is not known what else is missing."""
  data = lines.read_bytes()
  start = data[:-1].rindex(b"\n") + 1
  for end in range(start + 1, len(data)):
    lines.write_bytes(data[:end])
    check_refused(files.read_lines, lines, "line 4: the line has no end")


def test_one_line_is_printable():
  assert one_line("a\n\x1b[31m \ud800b") == "a [31m b"
  assert len(one_line("x" * 5000)) == 1000
  assert str(UserError("a\nb")) == "a b"
