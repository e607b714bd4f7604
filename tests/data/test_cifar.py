"""CIFAR, packed or unpacked, binary or as pickles that are never executed."""

import dataclasses
import gzip
import hashlib
import os
import pathlib
import pickle
import struct

import numpy as np
import pytest
import runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_files import refusal, tar

from nss_jax import data
from nss_jax.data import cifar

# Images of each file.
COUNT = 4
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
  content = pixels.tobytes("F" if fortran else "C")
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


def pixels_of(count: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, 3072), np.uint8)


def content_of(archive: data.Archive, file: int) -> bytes:
  """A small file: what tells it from the others is its number."""
  pixels, labels = pixels_of(COUNT, file), (np.arange(COUNT) + file) % 2
  if archive.label_key:
    return python2(pixels, labels.tolist(), archive.label_key.encode())
  coarse = [np.full((COUNT, archive.label_bytes - 1), 255)]
  rows = np.hstack([*coarse, labels[:, None], pixels])
  return rows.astype(np.uint8).tobytes()


def contents(source: str) -> dict[str, bytes]:
  archive = data.ARCHIVES[source]
  names = [*archive.train, *archive.test]
  return {name: content_of(archive, i) for i, name in enumerate(names)}


def shrink(source: str, monkeypatch) -> data.Archive:
  """Makes the official files small ones, of two classes."""
  archive = data.ARCHIVES[source]
  small = dataclasses.replace(
    archive,
    train=dict.fromkeys(archive.train, COUNT),
    test=dict.fromkeys(archive.test, COUNT),
    num_classes=2,
  )
  monkeypatch.setitem(data.ARCHIVES, source, small)
  return small


@pytest.fixture
def binary(monkeypatch) -> data.Archive:
  return shrink("cifar10_binary", monkeypatch)


def unpack(folder: pathlib.Path, source: str) -> pathlib.Path:
  place = folder / data.ARCHIVES[source].folder
  place.mkdir(parents=True)
  for name, content in contents(source).items():
    (place / name).write_bytes(content)
  return place


def pack(folder: pathlib.Path, source: str, monkeypatch) -> pathlib.Path:
  """Writes an archive, its files in another order, that is official now."""
  archive = data.ARCHIVES[source]
  members = {"readme.html": b"see the web page", **contents(source)}
  content = tar(archive.folder, dict(reversed(members.items())))
  (folder / archive.filename).write_bytes(content)
  sha256 = hashlib.sha256(content).hexdigest()
  archive = dataclasses.replace(archive, sha256=sha256)
  monkeypatch.setitem(data.ARCHIVES, source, archive)
  return folder / archive.filename


def test_official_archives():
  for name, archive in data.ARCHIVES.items():
    assert archive.url.startswith("https://www.cs.toronto.edu/~kriz/cifar-")
    assert name.partition("_")[2] in archive.filename
    assert len(archive.sha256) == 64
    assert len(archive.train) == (5 if archive.num_classes == 10 else 1)
    assert sum(archive.train.values()) == 50_000
    assert sum(archive.test.values()) == 10_000
  blank = data.load("cifar100_binary", fetch=False)
  assert np.bincount(blank.train_labels).tolist() == 100 * [500]
  assert np.bincount(blank.test_labels).tolist() == 100 * [100]
  assert blank.train_images.shape == (50_000, 32, 32, 3)


@pytest.mark.parametrize("place", ["folder", "above", "archive", "beside"])
@pytest.mark.parametrize("source", data.ARCHIVES)
def test_cifar_is_read_where_it_lies(source, place, tmp_path, monkeypatch):
  archive = shrink(source, monkeypatch)
  if place in ("folder", "above"):
    folder = unpack(tmp_path, source)
    path = folder if place == "folder" else tmp_path
  else:
    file = pack(tmp_path, source, monkeypatch)
    path = file if place == "archive" else tmp_path
  before = sorted(tmp_path.rglob("*"))
  made = data.load(source, path=str(path))
  assert sorted(tmp_path.rglob("*")) == before
  files = range(len(archive.train) + 1)
  pixels = [pixels_of(COUNT, file) for file in files]
  labels = [(np.arange(COUNT) + file) % 2 for file in files]
  for part, chosen in (("train", slice(-1)), ("test", slice(-1, None))):
    images = getattr(made, f"{part}_images")
    planes = np.concatenate(pixels[chosen]).reshape(-1, 3, 32, 32)
    for channel in range(3):
      np.testing.assert_array_equal(images[..., channel], planes[:, channel])
    found = getattr(made, f"{part}_labels")
    np.testing.assert_array_equal(found, np.concatenate(labels[chosen]))


@pytest.mark.parametrize(
  "damage",
  [
    lambda good: good[: len(good) // 2],
    lambda good: good + b"trailing",
    lambda good: gzip.decompress(good),
    lambda good: b"<html>not found</html>",
  ],
)
def test_archive_of_another_sha256_is_refused(
  damage, binary, tmp_path, monkeypatch
):
  """Whatever is in it: nothing of it is unpacked before."""
  file = pack(tmp_path, "cifar10_binary", monkeypatch)
  official = hashlib.sha256(file.read_bytes()).hexdigest()
  content = damage(file.read_bytes())
  file.write_bytes(content)
  message = refusal("cifar10_binary", path=str(tmp_path))
  assert binary.filename in message and official in message
  assert hashlib.sha256(content).hexdigest() in message
  assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe", "other version"])
def test_path_without_archive_is_refused(kind, binary, tmp_path, monkeypatch):
  path = tmp_path / "x"
  if kind == "folder":
    path.mkdir()
  elif kind == "pipe":
    # Opening it would wait for a writer for ever.
    os.mkfifo(path)
  elif kind == "other version":
    shrink("cifar10_python", monkeypatch)
    unpack(path, "cifar10_python")
  message = refusal("cifar10_binary", path=str(path))
  assert str(path) in message
  assert binary.filename in message and binary.folder in message


class Harmful:
  """Unpickled, it writes a file."""

  def __reduce__(self):
    return pathlib.Path.write_text, (pathlib.Path("executed"), "")


def _without_labels(labels):
  return {"data": pixels_of(COUNT), "labels": labels}


_FOUR = COUNT * [0]
# name: (content of a file, words in the message)
HOSTILE = {
  "code": (pickle.dumps(_without_labels(Harmful()), 2), "has 0 labels"),
  "code of protocol 4": (pickle.dumps(Harmful(), 4), " 0 pixels"),
  "code beside": (
    python2(pixels_of(COUNT), [0] * 3, b"labels")[:-2]
    + pickle.dumps(Harmful(), 2),
    "3 labels",
  ),
  "another array": (pickle.dumps(np.zeros(3, np.int64), 2), " 0 pixels"),
  "no dictionary": (b"\x80\x02K\x01.", " 0 pixels"),
  "no end": (b"\x80\x02}", "pickle exhausted"),
  "a huge string": (b"\x80\x02T\xff\xff\xff\x7fx.", "bytes"),
  "another shape": (
    python2(np.zeros((COUNT, 3071), np.uint8), _FOUR, b"labels"),
    " 0 pixels",
  ),
  "labels of text": (
    python2(pixels_of(COUNT), _FOUR, b"labels").replace(
      b"](" + COUNT * b"K\x00" + b"e", b"](" + COUNT * b"U\x010" + b"e", 1
    ),
    "0 labels",
  ),
  "a label beyond": (python2(pixels_of(COUNT), [0, 1, 0, 10], b"labels"), "10"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickle_is_refused(case, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  archive = shrink("cifar10_python", monkeypatch)
  folder = unpack(tmp_path, "cifar10_python")
  content, words = HOSTILE[case]
  (folder / next(iter(archive.train))).write_bytes(content)
  assert words in refusal("cifar10_python", path=str(tmp_path))
  assert not (tmp_path / "executed").exists()


def test_unpacked_file_that_is_short_or_lacks_is_refused(binary, tmp_path):
  file = unpack(tmp_path, "cifar10_binary") / "data_batch_2.bin"
  file.write_bytes(b"short")
  message = refusal("cifar10_binary", path=str(tmp_path))
  assert "data_batch_2.bin: has 5 bytes; accepted are 12,292" in message
  file.unlink()
  assert "lacks data_batch_2" in refusal("cifar10_binary", path=str(tmp_path))


@pytest.mark.parametrize("fortran", [False, True])
def test_what_is_written_here_is_what_pickle_reads(fortran):
  pixels, labels = pixels_of(5), [3, 1, 255, 256, 60000]
  content = python2(pixels, labels, b"labels", fortran)
  theirs = pickle.loads(content, encoding="bytes")
  found, found_labels = cifar.read_pickle(content, "labels", 5)
  np.testing.assert_array_equal(theirs[b"data"], pixels)
  np.testing.assert_array_equal(found, pixels)
  assert found_labels.tolist() == theirs[b"labels"] == labels


_GOOD = python2(pixels_of(2), [0, 1], b"labels")
_OPCODES = st.sampled_from([bytes([n]) for n in range(256)])
_NAMES = st.sampled_from(
  [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"\x8c\x02os"]
)


@settings(
  max_examples=4 * runs.CASES,
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
