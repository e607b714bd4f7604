"""Archives that were made to do harm: one line, and nothing is run or kept."""

import io
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import runs
from command import fuzzed
from hypothesis import given
from hypothesis import strategies as st

from nss_jax import data
from nss_jax.data import dataset
from nss_jax.errors import UserError

NAMES = ("x_train", "y_train", "x_test", "y_test")


class Harmful:
  """Writes a file when it is unpickled."""

  def __reduce__(self):
    return pathlib.Path.write_text, (pathlib.Path("executed"), "")


def _read_or_refused(source, file):
  """Returns whether it was read; if not, one line says so."""
  before = sorted(file.parent.iterdir())
  try:
    data.load(source, path=str(file))
    read = True
  except UserError as error:
    assert str(error).isprintable() and len(str(error)) < 800
    assert str(error).startswith("config.data.path")
    read = False
  assert sorted(file.parent.iterdir()) == before
  assert not pathlib.Path("executed").exists()
  return read


# Zip.


def _npy(array):
  content = io.BytesIO()
  np.save(content, array)
  return content.getvalue()


def _header(shape, kind):
  content = io.BytesIO()
  claim = {"descr": kind, "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(content, claim)
  return content.getvalue() + bytes(64)


_SHAPES = st.lists(st.integers(0, 4), max_size=5).map(tuple)
_KINDS = st.sampled_from(["|u1", "<i4", "<i8", "<f8", "|b1", "<U3", "<M8[s]"])
MEMBERS = (
  st.builds(lambda s, k: _npy(np.zeros(s, k)), _SHAPES, _KINDS)
  | st.builds(_header, st.lists(st.integers(0, 2**70), max_size=4), _KINDS)
  | st.binary(max_size=200)
  | st.sampled_from(
    [
      pickle.dumps(Harmful()),
      _npy(np.array([Harmful()], object)),
      _npy(np.arange(6).reshape(6)),
      _npy(np.zeros((6, 2, 2), np.uint8)),
    ]
  )
)


@fuzzed(runs.CASES)
@given(
  members=st.dictionaries(
    st.sampled_from([*NAMES, *(f"{n}.npy" for n in NAMES), "../x", "/x"]),
    MEMBERS,
    min_size=3,
  ),
  kind=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_any_members_of_an_npz(members, kind, tmp_path_factory):
  file = tmp_path_factory.mktemp("npz") / "set.npz"
  with zipfile.ZipFile(file, "w", kind) as made:
    for name, content in members.items():
      made.writestr(name, content)
  _read_or_refused("npz", file)


@pytest.mark.parametrize("hidden", NAMES)
def test_pickle_in_place_of_an_array(hidden, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  file = tmp_path / "set.npz"
  images, labels = _npy(np.zeros((6, 2, 2), np.uint8)), _npy(np.arange(6))
  for harm in (pickle.dumps(Harmful()), _npy(np.array([Harmful()], object))):
    with zipfile.ZipFile(file, "w") as made:
      for name in NAMES:
        content = images if name.startswith("x") else labels
        made.writestr(f"{name}.npy", harm if name == hidden else content)
    assert not _read_or_refused("npz", file)


def test_zip_bomb(tmp_path, monkeypatch):
  """It is a thousandth of what it unpacks to, and refused before it is."""
  file = tmp_path / "set.npz"
  np.savez_compressed(
    file,
    x_train=np.zeros((2**20, 8, 8), np.uint8),
    y_train=np.zeros(2**20, np.uint8),
    x_test=np.zeros((1, 8, 8), np.uint8),
    y_test=np.zeros(1, np.uint8),
  )
  assert file.stat().st_size < 2**17
  monkeypatch.setattr(dataset.os, "sysconf", lambda name: 2**12)  # 16 MiB
  monkeypatch.setattr(np.lib.format, "read_array", None)
  with pytest.raises(UserError, match=r"holds 0.1 GiB; accepted is what"):
    data.load("npz", path=str(file))
