"""Files written whole, lines that may be torn, hostile elite_space.json."""

import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_JSON, change, places

from nss_jax.errors import UserError, one_line
from nss_jax.runtime import files
from nss_jax.runtime.space_file import load_space
from nss_jax.spaces.search_space import SearchSpace, Space, space_ranges

SEARCH_SPACE = SearchSpace.expanded(
  max_depth=4, max_width=8, num_depth_bins=2, num_width_bins=2
)
SPACE = Space(
  depth=np.asarray([0, 1, 0], np.int32), width=np.asarray([1, 1, 0], np.int32)
)
ELITE = {
  "space": {
    kind: [list(pair) for pair in pairs]
    for kind, pairs in space_ranges(SEARCH_SPACE, SPACE).items()
  },
  "search_space": SEARCH_SPACE.to_dict(),
  "cost": 1.5,
}
LINES = [{"step": i, "loss": i / 7, "text": "Θ\n"} for i in range(4)]


def write_lines(path):
  for obj in LINES:
    files.append_line(path, obj)


def check_one_line(error, path):
  text = str(error)
  assert text.startswith(f"{path}: ")
  assert text.isprintable()


# Whole files.


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
  for bad in (float("nan"), np.float32("inf")):
    with pytest.raises(ValueError):
      files.write_json(path, {"x": bad})
  with pytest.raises(TypeError, match="object is no JSON"):
    files.write_json(path, {"x": object()})
  assert files.read_json(path)["x"][0] == 1


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_failed_write_leaves_the_old_content(tmp_path, monkeypatch, function):
  path = tmp_path / "a.json"
  files.write_json(path, {"old": 1})

  def fail(*_):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(files.os, function, fail)
  with pytest.raises(OSError, match="No space"):
    files.write_json(path, {"new": 2})
  assert files.read_json(path) == {"old": 1}
  assert os.listdir(tmp_path) == ["a.json"]


def test_content_is_on_disk_before_the_rename(tmp_path, monkeypatch):
  """Rename first, and a power cut leaves an empty file in place of the old."""
  calls = []
  fsync, replace = os.fsync, os.replace
  monkeypatch.setattr(
    files.os, "fsync", lambda d: (calls.append("fsync"), fsync(d))
  )
  monkeypatch.setattr(
    files.os, "replace", lambda *a: (calls.append("replace"), replace(*a))
  )
  files.write_bytes(tmp_path / "a", b"x")
  assert calls == ["fsync", "replace", "fsync"]


def test_atomic_path(tmp_path):
  path = tmp_path / "plot.svg"
  with files.atomic_path(path) as temporary:
    assert (temporary.parent, temporary.suffix) == (tmp_path, ".svg")
    temporary.write_text("one")
    assert not path.exists()
  assert path.read_text() == "one"
  with (
    pytest.raises(RuntimeError, match="mid-way"),
    files.atomic_path(path) as temporary,
  ):
    temporary.write_text("two")
    raise RuntimeError("mid-way")
  assert path.read_text() == "one"
  assert os.listdir(tmp_path) == ["plot.svg"]


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"{",
    b"[1]",
    b"null",
    b'{"a": NaN}',
    b'{"a": "\xff"}',
    b'{"a": ' + b"1" * 5000 + b"}",
    b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
  ],
)
def test_read_json_refuses_in_one_line(tmp_path, data):
  path = tmp_path / "a.json"
  path.write_bytes(data)
  with pytest.raises(UserError) as error:
    files.read_json(path)
  check_one_line(error.value, path)


@pytest.mark.parametrize(
  "read", [files.read_json, files.read_lines, load_space]
)
def test_missing_file_and_folder_are_named(tmp_path, read):
  for path in (tmp_path / "none", tmp_path):
    with pytest.raises(UserError) as error:
      read(path)
    check_one_line(error.value, path)
  with pytest.raises(UserError, match="null byte"):
    read("a\0b")


def test_one_line_is_printable():
  assert one_line("a\n\x1b[31m \ud800b") == "a [31m b"
  assert len(one_line("x" * 5000)) == 1000
  assert str(UserError("a\nb")) == "a b"


# JSON lines.


def test_lines_round_trip(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_lines(path)
  assert files.read_lines(path) == LINES
  assert path.read_bytes().count(b"\n") == len(LINES)
  with pytest.raises(ValueError):
    files.append_line(path, {"loss": float("nan")})
  assert files.read_lines(path) == LINES


def test_last_line_cut_at_every_byte(tmp_path):
  path = tmp_path / "metrics.jsonl"
  write_lines(path)
  data = path.read_bytes()
  start = data[:-1].rindex(b"\n") + 1
  for end in range(start, len(data) + 1):
    path.write_bytes(data[:end])
    # Without its line end the last line is whole, one byte less is torn.
    expected = LINES if end >= len(data) - 1 else LINES[:-1]
    assert files.read_lines(path) == expected
    files.trim_lines(path, lambda _: True)
    files.append_line(path, {"step": 9})
    assert files.read_lines(path) == [*expected, {"step": 9}]


@pytest.mark.parametrize("garbage", [b"\0\0\0", b"\xff{}", b"[]", b"", b"{}{}"])
def test_garbage_line(tmp_path, garbage):
  path = tmp_path / "metrics.jsonl"
  write_lines(path)
  data = path.read_bytes()
  path.write_bytes(data + garbage + b"\n")
  assert files.read_lines(path) == LINES
  lines = data.split(b"\n")
  path.write_bytes(b"\n".join([*lines[:2], garbage, *lines[2:]]))
  before = path.read_bytes()
  for read in (
    files.read_lines,
    lambda p: files.trim_lines(p, lambda _: True),
  ):
    with pytest.raises(UserError, match="line 3: ") as error:
      read(path)
    check_one_line(error.value, path)
  assert path.read_bytes() == before
  # What is cut away needs not be good.
  files.trim_lines(path, lambda obj: obj["step"] < 1)
  assert files.read_lines(path) == LINES[:1]


def test_trim_lines_keeps_leading_bytes_only(tmp_path):
  path = tmp_path / "metrics.jsonl"
  files.trim_lines(path, lambda _: True)
  assert not path.exists()
  # A resumed run repeats steps: only the first stretch is to stay.
  data = [b'{"step":  1}\n', b'{"step": 2}\n', b'{"step": 1}\n']
  path.write_bytes(b"".join(data))
  files.trim_lines(path, lambda obj: obj["step"] <= 1)
  assert path.read_bytes() == data[0]
  files.trim_lines(path, lambda _: False)
  assert path.read_bytes() == b"" and files.read_lines(path) == []
  assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_failed_append_leaves_no_half_line(tmp_path, monkeypatch):
  path = tmp_path / "metrics.jsonl"
  write_lines(path)

  def fail(_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patch:
    patch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
      files.append_line(path, {"step": 4})
  files.append_line(path, {"step": 5})
  assert files.read_lines(path) == [*LINES, {"step": 5}]


# elite_space.json.


def check_elite(found):
  search_space, space = found
  assert search_space == SEARCH_SPACE
  assert space_ranges(search_space, space) == space_ranges(SEARCH_SPACE, SPACE)


def test_load_space_from_file_search_folder_and_workdir(tmp_path):
  folder = tmp_path / "search"
  folder.mkdir()
  files.write_json(folder / "elite_space.json", ELITE)
  for path in (tmp_path, folder, folder / "elite_space.json", str(tmp_path)):
    check_elite(load_space(path))


@pytest.mark.parametrize(
  ("path", "value", "field"),
  [
    (["space"], ..., "space: this field is missing"),
    (["search_space"], ..., "search_space: this field is missing"),
    (["search_space"], [], "search_space: expected a JSON object, got list"),
    (["search_space", "block"], ..., r"search_space: .*missing \['block'\]"),
    (["search_space", "block"], {}, "search_space: block: "),
    (["search_space", "strides"], None, "search_space: strides: "),
    (["search_space", "stem_width"], True, "search_space: stem_width: "),
    (["search_space", "num_classes"], 1.0, "search_space: .*num_classes"),
    (["search_space", "depth_bins", 1, 0, 0], True, "search_space: depth_bins"),
    (["search_space", "width_bins", 2, 1], "a\nb", "search_space: width_bins"),
    (["search_space", "extra"], 1, r"search_space: .*unknown \['extra'\]"),
    (["space", "depth"], ..., "space: depth: expected a list"),
    (["space", "depth", 0], [1, 3], r"space: depth: \[1, 3\] is not a bin"),
    (["space", "depth", 0], [1.0, 2], "space: depth: expected a list"),
    (["space", "width", 2], ..., "space: width: expected 3 ranges"),
  ],
)
def test_load_space_names_file_and_field(tmp_path, path, value, field):
  file = tmp_path / "elite_space.json"
  files.write_json(file, change(ELITE, path, value))
  with pytest.raises(UserError, match=field) as error:
    load_space(file)
  check_one_line(error.value, file)


@settings(
  max_examples=300,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  where=st.sampled_from(places(ELITE)),
  value=ANY_JSON | st.just(...),
  whole=st.none() | ANY_JSON,
)
def test_load_space_fuzzed(tmp_path, where, value, whole):
  path = tmp_path / "elite_space.json"
  obj = change(ELITE, where, value) if whole is None else whole
  path.write_text(json.dumps(obj), encoding="utf-8")
  try:
    search_space, space = load_space(path)
  except UserError as error:
    check_one_line(error, path)
    return
  # What passes must be of use.
  hash(search_space)
  assert search_space.num_archs_in(space) >= 1
  assert SearchSpace.from_dict(search_space.to_dict()) == search_space


def test_load_space_survives_cuts(tmp_path):
  path = tmp_path / "elite_space.json"
  files.write_json(path, ELITE)
  data = path.read_bytes()
  for end in range(0, len(data) - 2, 5):
    path.write_bytes(data[:end])
    with pytest.raises(UserError):
      load_space(path)
  path.write_bytes(data)
  check_elite(load_space(pathlib.Path(path)))
