"""CIFAR as torchvision leaves it: pickles that are read and never executed."""

import dataclasses
import hashlib
import io
import pathlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
import runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nss_jax import data
from nss_jax.data import cifar
from nss_jax.errors import UserError

SIZES = {"train": 6, "test": 4}
# In Python 2's protocol 2, as numpy of then wrote an array of uint8.
_ARRAY_BEGINS = (
  b"cnumpy.core.multiarray\n_reconstruct\nq\x07"
  b"cnumpy\nndarray\nq\x08K\x00\x85q\tU\x01bq\n\x87q\x0bRq\x0c("
)
_DTYPE = (
  b"cnumpy\ndtype\nq\x0dU\x02u1q\x0eK\x00K\x01\x87q\x0fRq\x10"
  b"(K\x03U\x01|q\x11NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x12b"
)


def text(value: bytes) -> bytes:
  return b"U" + bytes([len(value)]) + value


def number(value: int) -> bytes:
  return (
    b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
  )


def python2(
  pixels: np.ndarray, labels: list[int], key: bytes, fortran: bool = False
) -> bytes:
  """A file of the official archives, instruction by instruction."""
  order = "F" if fortran else "C"
  content = pixels.tobytes(order)
  shape = b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape)
  array = (
    _ARRAY_BEGINS
    + b"K\x01"
    + shape
    + b"\x86q\x13"
    + _DTYPE
    + (b"\x88" if fortran else b"\x89")
    + b"T"
    + struct.pack("<I", len(content))
    + content
    + b"q\x14tq\x15b"
  )
  listed = b"](" + b"".join(map(number, labels)) + b"e"
  names = b"](" + b"".join(text(b"a_%d.png" % n) for n in labels) + b"e"
  return (
    b"\x80\x02}q\x01("
    + text(b"batch_label")
    + text(b"training batch 1 of 5")
    + text(key)
    + listed
    + text(b"data")
    + array
    + text(b"filenames")
    + names
    + b"u."
  )


def pixels_of(count: int) -> np.ndarray:
  return np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)


def parts_of(source: str) -> dict[str, bytes]:
  """`{name: content}` of the files of a small set."""
  archive = data.ARCHIVES[source]
  return {
    name: python2(
      pixels_of(count),
      [i % 2 for i in range(count)],
      archive.label_key.encode(),
    )
    for name, count in {**archive.train, **archive.test}.items()
  }


@pytest.fixture(params=["cifar10_python", "cifar100_python"])
def source(request, monkeypatch) -> str:
  archive = data.ARCHIVES[request.param]
  train, *_ = archive.train
  test, *_ = archive.test
  small = dataclasses.replace(
    archive,
    train={train: SIZES["train"]},
    test={test: SIZES["test"]},
    num_classes=2,
  )
  monkeypatch.setitem(data.ARCHIVES, request.param, small)
  return request.param


def unpack(folder: pathlib.Path, source: str) -> pathlib.Path:
  place = folder / data.ARCHIVES[source].folder
  place.mkdir(parents=True)
  for name, content in parts_of(source).items():
    (place / name).write_bytes(content)
  return place


def pack(folder: pathlib.Path, source: str, monkeypatch) -> pathlib.Path:
  """Writes an archive that is the official one from now on."""
  archive = data.ARCHIVES[source]
  folder.mkdir(parents=True, exist_ok=True)
  with tarfile.open(folder / archive.filename, "w:gz") as tar:
    for name, content in {**parts_of(source), "meta": b"x"}.items():
      member = tarfile.TarInfo(f"{archive.folder}/{name}")
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  sha256 = hashlib.sha256((folder / archive.filename).read_bytes()).hexdigest()
  archive = dataclasses.replace(archive, sha256=sha256)
  monkeypatch.setitem(data.ARCHIVES, source, archive)
  return folder / archive.filename


@pytest.mark.parametrize("fortran", [False, True])
def test_what_is_written_here_is_what_pickle_reads(fortran):
  pixels, labels = pixels_of(5), [3, 1, 255, 256, 60000]
  content = python2(pixels, labels, b"labels", fortran)
  theirs = pickle.loads(content, encoding="bytes")
  found, found_labels = cifar.read_pickle(content, "labels", 5)
  np.testing.assert_array_equal(theirs[b"data"], pixels)
  np.testing.assert_array_equal(found, pixels)
  assert found_labels.tolist() == theirs[b"labels"] == labels


@pytest.mark.parametrize("place", ["folder", "above", "archive", "beside"])
def test_cifar_is_read_as_torchvision_leaves_it(
  place, source, tmp_path, monkeypatch
):
  if place in ("folder", "above"):
    folder = unpack(tmp_path, source)
    path = folder if place == "folder" else tmp_path
  else:
    file = pack(tmp_path, source, monkeypatch)
    path = file if place == "archive" else tmp_path
  before = sorted(tmp_path.rglob("*"))
  made = data.load(source, path=str(path))
  assert sorted(tmp_path.rglob("*")) == before
  for part, count in SIZES.items():
    images = getattr(made, f"{part}_images")
    expected = pixels_of(count).reshape(count, 3, 32, 32)
    for channel in range(3):
      np.testing.assert_array_equal(images[..., channel], expected[:, channel])
    labels = getattr(made, f"{part}_labels")
    assert labels.tolist() == [i % 2 for i in range(count)]


def test_other_version_is_refused(tmp_path, source):
  unpack(tmp_path, source)
  binary = source.replace("python", "binary")
  with pytest.raises(UserError) as caught:
    data.load(binary, path=str(tmp_path))
  assert data.ARCHIVES[binary].filename in str(caught.value)
  assert data.ARCHIVES[binary].folder in str(caught.value)


def test_unpacked_binary_version_is_read(tmp_path, monkeypatch):
  archive = dataclasses.replace(
    data.ARCHIVES["cifar100_binary"],
    train={"train.bin": 6},
    test={"test.bin": 4},
    num_classes=2,
  )
  monkeypatch.setitem(data.ARCHIVES, "cifar100_binary", archive)
  for part, count in SIZES.items():
    labels = np.arange(count)[:, None] % 2
    rows = np.hstack([labels + 7, labels, pixels_of(count)]).astype(np.uint8)
    (tmp_path / f"{part}.bin").write_bytes(rows.tobytes())
  made = data.load("cifar100_binary", path=str(tmp_path))
  assert made.test_labels.tolist() == [0, 1, 0, 1]
  np.testing.assert_array_equal(
    made.test_images[..., 2], pixels_of(4).reshape(4, 3, 32, 32)[:, 2]
  )
  (tmp_path / "train.bin").write_bytes(b"short")
  with pytest.raises(UserError, match=r"train\.bin: has 5 bytes; accepted are"):
    data.load("cifar100_binary", path=str(tmp_path))


class Harmful:
  """Unpickled, it writes a file."""

  def __reduce__(self):
    return pathlib.Path.write_text, (pathlib.Path("executed"), "")


def _with(**fields):
  pixels = pixels_of(SIZES["train"])
  return {"data": pixels, "labels": [0] * len(pixels), **fields}


# name: (content of a file, word in the message)
HOSTILE = {
  "code": (pickle.dumps(_with(labels=Harmful()), 2), "has 0 labels"),
  "code of protocol 4": (pickle.dumps(Harmful(), 4), " 0 pixels"),
  "code beside": (
    python2(pixels_of(6), [0] * 5, b"labels")[:-2] + pickle.dumps(Harmful(), 2),
    "5 labels",
  ),
  "another array": (pickle.dumps(np.zeros(3, np.int64), 2), " 0 pixels"),
  "no dictionary": (b"\x80\x02K\x01.", " 0 pixels"),
  "no end": (b"\x80\x02}", "truncated|pickle exhausted"),
  "a huge string": (b"\x80\x02T\xff\xff\xff\x7fx.", "bytes"),
  "another shape": (
    python2(np.zeros((6, 3071), np.uint8), [0] * 6, b"labels"),
    " 0 pixels",
  ),
  "fewer labels": (python2(pixels_of(6), [0] * 5, b"labels"), "5 labels"),
  "labels of text": (
    python2(pixels_of(6), [0] * 6, b"labels").replace(
      b"](" + 6 * b"K\x00" + b"e", b"](" + 6 * b"U\x010" + b"e", 1
    ),
    "0 labels",
  ),
  "a label beyond": (python2(pixels_of(6), [0] * 5 + [10], b"labels"), "0..10"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle_is_refused(case, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  archive = dataclasses.replace(
    data.ARCHIVES["cifar10_python"], train={"data_batch_1": 6}, test={"test": 6}
  )
  monkeypatch.setitem(data.ARCHIVES, "cifar10_python", archive)
  content, word = HOSTILE[case]
  good = python2(pixels_of(6), [0, 1] * 3, b"labels")
  (tmp_path / "test").write_bytes(good)
  (tmp_path / "data_batch_1").write_bytes(content)
  with pytest.raises(UserError, match=word) as caught:
    data.load("cifar10_python", path=str(tmp_path))
  message = str(caught.value)
  assert message.isprintable() and "accepted" in message and len(message) < 800
  assert not (tmp_path / "executed").exists()


_GOOD = python2(pixels_of(2), [0, 1], b"labels")
_OPCODES = st.sampled_from([bytes([n]) for n in range(256)])
_NAMES = st.sampled_from(
  [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"\x8c\x02os"]
)


@settings(
  max_examples=10 * runs.CASES,
  deadline=None,
  suppress_health_check=list(HealthCheck),
)
@given(content=st.data())
def test_any_bytes_are_images_or_an_error(content, tmp_path, monkeypatch):
  """Whatever comes out are numbers, and nothing was looked up."""
  monkeypatch.chdir(tmp_path)
  program = bytearray(_GOOD)
  for _ in range(content.draw(st.integers(1, 6))):
    place = content.draw(
      st.integers(0, 300) | st.integers(len(program) - 300, len(program) - 1)
    )
    program[place : place + content.draw(st.integers(0, 2))] = content.draw(
      _OPCODES | _NAMES
    )
  try:
    pixels, labels = cifar.read_pickle(bytes(program), "labels", 2)
  except Exception:
    return
  assert pixels.dtype == np.uint8 and pixels.shape == (2, 3072)
  assert labels.shape == (2,) and labels.dtype.kind in "iO"
  assert list(tmp_path.iterdir()) == []
