"""The data sources: what they deliver, and what they refuse."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import math
import os
import pathlib
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import refusal
from sklearn.datasets import load_digits

from nss_jax import data
from nss_jax.data import dataset as dataset_lib
from nss_jax.errors import UserError
from nss_jax.runtime import processes

CIFAR10 = data.ARCHIVES["cifar10_binary"]
CIFAR100 = data.ARCHIVES["cifar100_binary"]
FOLDER = CIFAR10.folder


def records(count: int, label_bytes: int, num_classes: int) -> bytes:
  """Black images but one; labels count up, coarse labels are 255.

  Image 7 has one red, one green and one blue pixel at places that no wrong
  order of axes maps onto each other.
  """
  rows = np.zeros((count, label_bytes + 3072), np.uint8)
  rows[:, : label_bytes - 1] = 255
  rows[:, label_bytes - 1] = np.arange(count) % num_classes
  rows[7, label_bytes + 0 * 1024 + 1 * 32 + 2] = 11
  rows[7, label_bytes + 1 * 1024 + 3 * 32 + 4] = 22
  rows[7, label_bytes + 2 * 1024 + 31 * 32 + 0] = 33
  return rows.tobytes()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields):
  """Adds a member with whatever header fields a test wants."""
  member = tarfile.TarInfo(name)
  member.size = len(content)
  for field, value in fields.items():
    setattr(member, field, value)
  tar.addfile(member, io.BytesIO(content))


def write(file: pathlib.Path, archive: data.Archive) -> data.Archive:
  """Writes an archive of the true form; returns it with its sha256."""
  with tarfile.open(file, "w:gz", compresslevel=1) as tar:
    add(tar, archive.folder, type=tarfile.DIRTYPE)
    add(tar, f"{archive.folder}/readme.html", b"see the web page")
    for name, count in {**archive.train, **archive.test}.items():
      content = records(count, archive.label_bytes, archive.num_classes)
      add(tar, f"{archive.folder}/{name}", content)
  return signed(file, archive)


def signed(file: pathlib.Path, archive: data.Archive) -> data.Archive:
  sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
  return dataclasses.replace(archive, sha256=sha256)


@pytest.fixture(scope="module")
def official_form(tmp_path_factory) -> Iterator[pathlib.Path]:
  """A folder with both archives at their true names and sizes of members."""
  folder = tmp_path_factory.mktemp("cifar")
  with pytest.MonkeyPatch.context() as patch:
    for name in ("cifar10_binary", "cifar100_binary"):
      archive = data.ARCHIVES[name]
      made = write(folder / archive.filename, archive)
      patch.setitem(data.ARCHIVES, name, made)
    yield folder


@pytest.fixture
def small(tmp_path, monkeypatch) -> data.Archive:
  """CIFAR-10 with two files of 20 and 10 records in place of the true one."""
  archive = dataclasses.replace(
    CIFAR10,
    train={"data_batch_1.bin": 20},
    test={"test_batch.bin": 10},
  )
  archive = write(tmp_path / archive.filename, archive)
  monkeypatch.setitem(data.ARCHIVES, "cifar10_binary", archive)
  return archive


def make(name: str, train, test, num_classes: int | None) -> data.Dataset:
  where = f"config.data.source={name!r}"
  with dataset_lib.refusing(where):
    return dataset_lib.make(name, where, data.Parts(train, test, num_classes))


def check_pixels(image: np.ndarray):
  assert image[1, 2].tolist() == [11, 0, 0]
  assert image[3, 4].tolist() == [0, 22, 0]
  assert image[31, 0].tolist() == [0, 0, 33]
  assert int(image.sum()) == 66


# Digits.


def test_digits():
  digits, again = data.load("digits"), data.load("digits")
  assert digits.name == "digits" and digits.num_classes == 10
  assert digits.train_images.shape == (1437, 8, 8, 1)
  assert digits.test_images.shape == (360, 8, 8, 1)
  assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
  assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
  # Sixteen levels, spread over the whole range.
  levels = {round(v * 255 / 16) for v in range(17)}
  assert set(np.unique(digits.train_images)) == levels
  # All images, each once; as many test images of each class, every time.
  images = np.concatenate([digits.train_images, digits.test_images])
  expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
  as_rows = [np.sort(x.reshape(1797, 64), axis=0) for x in (images, expected)]
  np.testing.assert_array_equal(*as_rows)
  train = np.bincount(digits.train_labels, minlength=10)
  test = np.bincount(digits.test_labels, minlength=10)
  np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)
  np.testing.assert_array_equal(digits.train_images, again.train_images)
  np.testing.assert_array_equal(digits.test_labels, again.test_labels)
  scaled = digits.train_images.astype(np.float64) / 255
  np.testing.assert_allclose(digits.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(digits.std, scaled.std((0, 1, 2)), rtol=1e-12)


def test_statistics_are_per_channel_and_std_is_never_zero():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1003, 4, 5, 3), np.uint8)
  images[..., 1] = 7
  part = images, np.arange(1003) % 2
  made = make("made", part, part, 2)
  scaled = images.astype(np.float64) / 255
  np.testing.assert_allclose(made.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(made.std[0], scaled[..., 0].std(), rtol=1e-12)
  assert made.std[1] == 1.0
  assert made.notes == (
    "warning: config.data.source='made': channel 1 of 3 has one value in all "
    "training images",
  )


def test_statistics_of_white_images_do_not_overflow():
  images = np.full((2001, 3, 3, 1), 255, np.uint8)
  images[0] = 254
  part = images, np.arange(2001) % 2
  made = make("white", part, part, 2)
  share = 1 / 2001
  np.testing.assert_allclose(made.mean, 1 - share / 255, rtol=1e-12)
  expected = np.sqrt(share * (1 - share)) / 255
  np.testing.assert_allclose(made.std, expected, rtol=1e-12)


def test_unknown_source_names_the_accepted_ones():
  message = refusal("cifar")
  for word in ("config.data.source='cifar'", *data.SOURCES):
    assert word in message


def test_import_loads_no_data_set_library():
  code = (
    "import sys, nss_jax.data; "
    "print({'sklearn', 'tensorflow_datasets', 'tensorflow', 'pooch', 'PIL'}"
    " & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
  )
  assert done.stdout.strip() == "set()", done.stderr


# CIFAR archives of the true form.


@pytest.mark.parametrize(
  ("name", "file", "num_classes", "firsts"),
  [
    ("cifar10_binary", "", 10, range(0, 50_000, 10_000)),
    # The fine label: the coarse ones are all 255.
    ("cifar100_binary", "cifar-100-binary.tar.gz", 100, [0]),
  ],
)
def test_cifar_of_true_size(name, file, num_classes, firsts, official_form):
  cifar = data.load(name, path=str(official_form / file))
  assert cifar.num_classes == num_classes
  for part, count in (("train", 50_000), ("test", 10_000)):
    images, labels = (
      getattr(cifar, f"{part}_{kind}") for kind in ("images", "labels")
    )
    assert images.shape == (count, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(labels, np.arange(count) % num_classes)
    assert labels.dtype == np.int32
  for first in firsts:
    check_pixels(cifar.train_images[first + 7])
  check_pixels(cifar.test_images[7])
  assert int(cifar.train_images.sum()) == len(firsts) * 66


def test_training_files_are_joined_in_their_order(tmp_path, monkeypatch):
  archive = dataclasses.replace(
    CIFAR10,
    train={"data_batch_1.bin": 20, "data_batch_2.bin": 30},
    test={"test_batch.bin": 10},
  )
  file = tmp_path / "any_name.tar.gz"
  with tarfile.open(file, "w:gz") as tar:
    for name, count in reversed({**archive.train, **archive.test}.items()):
      content = np.frombuffer(records(count, 1, 10), np.uint8)
      content = content.reshape(-1, 3073).copy()
      # One label per file, to tell which came first.
      content[10:, 0] = 1 + ("batch_2" in name)
      add(tar, f"{FOLDER}/{name}", content.tobytes())
  archive = signed(file, archive)
  monkeypatch.setitem(data.ARCHIVES, "cifar10_binary", archive)
  labels = data.load("cifar10_binary", path=str(file)).train_labels
  assert labels[10:20].tolist() == [1] * 10
  assert labels[30:].tolist() == [2] * 20


# Archives that are refused.


def test_the_small_archive_itself_is_accepted(small, tmp_path):
  cifar = data.load("cifar10_binary", path=str(tmp_path))
  assert cifar.train_images.shape == (20, 32, 32, 3)


@pytest.mark.parametrize(
  "damage",
  [
    lambda good: good[: len(good) // 2],
    lambda good: good[:-4],
    lambda good: good + b"trailing",
    lambda good: good[:-8] + bytes([good[-8] ^ 1]) + good[-7:],
    lambda good: gzip.decompress(good),
    lambda good: b"<html>not found</html>",
    lambda good: b"",
  ],
)
def test_archive_of_another_sha256_is_refused(damage, small, tmp_path):
  """Whatever is in it: nothing of it is unpacked before."""
  file = tmp_path / small.filename
  content = damage(file.read_bytes())
  file.write_bytes(content)
  message = refusal("cifar10_binary", path=str(tmp_path))
  assert small.filename in message and small.sha256 in message
  assert hashlib.sha256(content).hexdigest() in message
  assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "pipe"])
def test_path_without_archive_is_refused(kind, tmp_path):
  path = tmp_path / "x"
  if kind == "empty folder":
    path.mkdir()
  elif kind == "pipe":
    # Opening it would wait for a writer for ever.
    os.mkfifo(path)
  message = refusal("cifar10_binary", path=str(path))
  assert str(path) in message and CIFAR10.filename in message


# Fetching.


@dataclasses.dataclass
class Server:
  """A web server for one file that counts what it is asked."""

  url: str
  content: bytes
  requests: int = 0


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
  # A proxy of the machine must not see loopback addresses.
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      state.requests += 1
      self.send_response(200)
      self.send_header("Content-Length", str(len(state.content)))
      self.end_headers()
      self.wfile.write(state.content)

    def log_message(self, format, *args):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
    address = f"http://127.0.0.1:{httpd.server_port}"
    state = Server(f"{address}/cifar-10-binary.tar.gz", b"")
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield state
    httpd.shutdown()
    thread.join(timeout=10)


@pytest.fixture
def remote(small, server, tmp_path, monkeypatch) -> data.Archive:
  """The small archive, with the server as its official address."""
  file = tmp_path / small.filename
  server.content = file.read_bytes()
  file.unlink()
  archive = dataclasses.replace(small, url=server.url)
  monkeypatch.setitem(data.ARCHIVES, "cifar10_binary", archive)
  return archive


def test_archive_is_fetched_once(remote, server, tmp_path):
  cache = tmp_path / "cache"
  for _ in range(2):
    cifar = data.load("cifar10_binary", cache_dir=str(cache), progress=False)
    assert cifar.train_images.shape == (20, 32, 32, 3)
    assert server.requests == 1
  assert [file.name for file in cache.iterdir()] == [remote.filename]


def test_what_is_not_fetched_has_its_shapes(remote, server, tmp_path):
  cache = str(tmp_path / "cache")
  blank = data.load("cifar10_binary", cache_dir=cache, fetch=False)
  assert server.requests == 0 and not (tmp_path / "cache").exists()
  cifar = data.load("cifar10_binary", cache_dir=cache, progress=False)
  for part in ("train", "test"):
    for kind in ("images", "labels"):
      one, other = (getattr(x, f"{part}_{kind}") for x in (blank, cifar))
      assert (one.shape, one.dtype) == (other.shape, other.dtype)
  assert blank.num_classes == cifar.num_classes


def test_not_fetched_are_as_many_of_each_class():
  blank = data.load("cifar100_binary", fetch=False)
  assert np.bincount(blank.train_labels).tolist() == 100 * [500]
  assert np.bincount(blank.test_labels).tolist() == 100 * [100]
  assert blank.train_images.shape == (50_000, 32, 32, 3)


def test_of_many_processes_the_first_fetches(
  remote, server, tmp_path, monkeypatch
):
  called = []

  def first(work):
    called.append(work())
    return called[-1]

  monkeypatch.setattr(processes, "run_once", first)
  data.load("cifar10_binary", cache_dir=str(tmp_path / "c"), progress=False)
  assert called == [tmp_path / "c" / remote.filename]
  assert server.requests == 1


@pytest.mark.parametrize("disk", ["shared", "its own"])
def test_the_others_wait_and_read(disk, remote, server, tmp_path, monkeypatch):
  """Or fetch too, where what the first has fetched is not to be seen."""
  cache = tmp_path / "cache"

  def first(work):
    assert server.requests == 0 and not cache.exists()
    if disk == "shared":
      cache.mkdir()
      (cache / remote.filename).write_bytes(server.content)

  monkeypatch.setattr(processes, "run_once", first)
  cifar = data.load("cifar10_binary", cache_dir=str(cache), progress=False)
  assert cifar.train_images.shape == (20, 32, 32, 3)
  assert server.requests == (disk == "its own")


def test_the_others_fail_with_the_first(remote, server, tmp_path, monkeypatch):
  def first(work):
    raise UserError("process 0: could not fetch")

  monkeypatch.setattr(processes, "run_once", first)
  with pytest.raises(UserError):
    data.load("cifar10_binary", cache_dir=str(tmp_path), progress=False)
  assert server.requests == 0


def test_progress_bar_is_shown_if_asked(remote, tmp_path, capsys):
  data.load("cifar10_binary", cache_dir=str(tmp_path / "a"), progress=False)
  assert "%" not in capsys.readouterr().err
  data.load("cifar10_binary", cache_dir=str(tmp_path / "b"), progress=True)
  assert "100%" in capsys.readouterr().err


def test_altered_cached_archive_is_fetched_again(remote, server, tmp_path):
  cache = tmp_path / "cache"
  cache.mkdir()
  (cache / remote.filename).write_bytes(b"altered")
  data.load("cifar10_binary", cache_dir=str(cache), progress=False)
  assert server.requests == 1
  assert (cache / remote.filename).read_bytes() == server.content


def test_fetched_archive_with_wrong_sha256_is_not_kept(
  remote, server, tmp_path
):
  cache = tmp_path / "cache"
  server.content = server.content[:-1] + b"x"
  message = refusal("cifar10_binary", cache_dir=str(cache), progress=False)
  assert "SHA256" in message and remote.url in message
  assert list(cache.iterdir()) == []


def test_without_network_the_message_says_where_to_put_the_file(
  small, tmp_path, monkeypatch
):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  with socket.socket() as closed:
    # Bound but not listening: connections are refused, nobody else gets it.
    (tmp_path / small.filename).unlink()
    closed.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{closed.getsockname()[1]}/{small.filename}"
    archive = dataclasses.replace(small, url=url)
    monkeypatch.setitem(data.ARCHIVES, "cifar10_binary", archive)
    message = refusal("cifar10_binary", cache_dir=str(tmp_path))
  assert url in message
  assert "--config.data.path=FILE_OR_FOLDER" in message
  assert list(tmp_path.iterdir()) == []


def test_cache_dir_that_is_a_file_is_refused(remote, tmp_path):
  cache = tmp_path / "cache"
  cache.write_text("a file")
  message = refusal("cifar10_binary", cache_dir=str(cache), progress=False)
  assert f"config.data.cache_dir={str(cache)!r}" in message


def test_official_addresses():
  for name, archive in data.ARCHIVES.items():
    assert archive.url.startswith("https://www.cs.toronto.edu/~kriz/cifar-")
    assert name.partition("_")[2] in archive.filename
    assert len(archive.sha256) == 64
    assert len(archive.train) == (5 if archive.num_classes == 10 else 1)
    assert sum(archive.train.values()) == 50_000
    assert sum(archive.test.values()) == 10_000


# TensorFlow Datasets.


class Source(list):
  """What `tfds.data_source` returns, as far as it is used."""

  def __init__(self, examples, info):
    super().__init__(examples)
    self.dataset_info = info


def mocked(examples: list[dict], **kwargs) -> data.Dataset:
  import tensorflow_datasets as tfds

  def source(self, split, **_):
    return [Source(examples, self.info) for _ in split]

  with tfds.testing.mock_data(as_data_source_fn=source):
    return data.load("tfds", **{"name": "cifar10", **kwargs})


def test_tfds_keeps_images_and_labels_in_order():
  images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
  labels = [3, 1, 4, 1, 5, 9]
  examples = [
    {"image": image, "label": np.int64(label)}
    for image, label in zip(images, labels, strict=True)
  ]
  made = mocked(examples)
  np.testing.assert_array_equal(made.train_images, images)
  assert made.test_labels.tolist() == labels


@pytest.mark.parametrize(
  "name", ["cifar10", "no_such_data_set", "cifar10:9.9.9"]
)
def test_tfds_not_prepared_says_how(name, tmp_path):
  message = refusal("tfds", name=name, path=str(tmp_path))
  assert f"tfds.builder({name!r}, data_dir={str(tmp_path)!r}, " in message
  assert "file_format='array_record').download_and_prepare()" in message
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  "name", ["", "huggingface:mnist", "../x", "/etc", "cifar10/a=1", "a\nb"]
)
def test_tfds_name_of_another_form_is_refused(name):
  assert f"config.data.name={name!r}" in refusal("tfds", name=name)


@pytest.mark.parametrize(
  "shapes, dtype, label, word",
  [
    ([(4, 4, 3), (5, 4, 3)], np.uint8, 0, "one shape"),
    ([(4, 4, 3), (4, 4, 3)], np.float32, 0, "float32"),
    ([(4, 4), (4, 4)], np.uint8, 0, "[N, H, W, C]"),
    ([(4, 4, 3)], np.uint8, 10, "0..9"),
    # Would be label 0 if cast to int32 before the check.
    ([(4, 4, 3)], np.uint8, 2**32, "0..9"),
    ([], np.uint8, 0, "at least one"),
  ],
)
def test_tfds_examples_of_another_form_are_refused(shapes, dtype, label, word):
  examples = [
    {"image": np.zeros(shape, dtype), "label": label} for shape in shapes
  ]
  with pytest.raises(UserError) as caught:
    mocked(examples)
  assert word in str(caught.value) and "\n" not in str(caught.value)


def test_tfds_without_a_class_label_is_refused():
  with pytest.raises(UserError, match="an image and a class label"):
    mocked([{"image": np.zeros((4, 4, 3), np.uint8)}], name="div2k")


# The check that every source passes through.


def part(shape=(4, 2, 2, 3), dtype=np.uint8, labels=(0, 1, 2, 0)):
  return np.zeros(shape, dtype), np.array(labels)


BAD = {
  "empty": (part((0, 2, 2, 3), labels=np.zeros(0, int)), part(), "equal"),
  "no pixels": (part((4, 0, 2, 3)), part(), "equal"),
  "unequal": (part(labels=(0, 1, 2)), part(), "4 images"),
  "negative": (part(labels=(0, 1, 2, -1)), part(), "-1..2"),
  "too large": (part(labels=(0, 1, 2, 3)), part(), "0..3"),
  "not uint8": (part(dtype=np.int32), part(), "int32"),
  "not 4-d": (part((4, 2, 2)), part(), "(4, 2, 2)"),
  "float labels": (part(labels=(0.0, 1, 2, 0)), part(), "float64"),
  "2-d labels": (part(labels=np.zeros((4, 1), int)), part(), "(4, 1)"),
  "two sizes": (part(), part((4, 2, 2, 1)), "(2, 2, 1)"),
  "class of test": (part(labels=(0, 2, 2, 0)), part(), "[1]"),
  "empty class": (part(labels=(0, 2, 2, 0)), part(labels=(0, 2, 2, 0)), "1;"),
  "bad test": (part(), part(labels=(0, 1, 2)), "test has 4 images"),
  "no variation": (part(), part(), "all training images are the same"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_are_no_data_set_are_refused(case):
  train, test, word = BAD[case]
  with pytest.raises(UserError) as caught:
    make("bad", train, test, None if "class" in case else 3)
  message = str(caught.value)
  assert "config.data.source='bad'" in message and word in message
  assert "accepted" in message and "\n" not in message


def test_good_arrays_are_a_data_set():
  images, labels = part()
  images[0] = 255
  made = make("good", (images, labels), part(), 3)
  np.testing.assert_allclose(made.std, math.sqrt(3) / 4, rtol=1e-12)
  assert made.notes == ()
  with pytest.raises(dataclasses.FrozenInstanceError):
    made.name = "other"


# Splits.


@settings(deadline=None)
@given(
  num_images=st.integers(2, 2000),
  fraction=st.floats(0.01, 0.99),
  seed=st.integers(0, 2**32),
)
def test_halves_are_disjoint_cover_all_and_repeat(num_images, fraction, seed):
  expected = round(num_images * fraction)
  if not 0 < expected < num_images:
    with pytest.raises(UserError):
      data.split_halves(num_images, fraction, seed, 1)
    return
  train, validation = data.split_halves(num_images, fraction, seed, 1)
  assert len(validation) == expected
  both = np.concatenate([train, validation])
  np.testing.assert_array_equal(np.sort(both), np.arange(num_images))
  again = data.split_halves(num_images, fraction, seed, 1)
  np.testing.assert_array_equal(np.concatenate(again), both)


def test_halves_are_shuffled_by_the_seed():
  train, validation = data.split_halves(1000, 0.5, 0, 64)
  other, _ = data.split_halves(1000, 0.5, 1, 64)
  assert not np.array_equal(train, other)
  for indices in (train, validation):
    assert not np.array_equal(indices, np.sort(indices))
    # An unshuffled split would put the means at 250 and 750.
    assert abs(indices.mean() - 499.5) < 50


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_fraction_out_of_range_is_refused(fraction):
  with pytest.raises(UserError, match=r"config\.data\.validation_fraction="):
    data.split_halves(100, fraction, 0, 1)


@pytest.mark.parametrize("fraction, accepted", [(0.1, True), (0.09, False)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_each_part_holds_a_batch(fraction, accepted, mirrored):
  fraction = 1 - fraction if mirrored else fraction
  if accepted:
    parts = data.split_halves(640, fraction, 0, 64)
    assert min(map(len, parts)) == 64
  else:
    with pytest.raises(UserError, match="one batch of 64") as caught:
      data.split_halves(640, fraction, 0, 64)
    assert "640" in str(caught.value) and "58" in str(caught.value)


LABELS = st.lists(st.integers(0, 40), min_size=2, max_size=300).map(np.array)


@settings(deadline=None, max_examples=200)
@given(
  labels=LABELS, fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32)
)
def test_balanced_halves_hold_the_same_share_of_every_class(
  labels, fraction, seed
):
  count = round(len(labels) * fraction)
  labels = np.unique(labels, return_inverse=True)[1] * 3 + 1
  sizes = np.bincount(labels)
  shares = sizes * count / len(labels)
  if not 0 < count < len(labels):
    with pytest.raises(UserError, match="validation_fraction"):
      data.split_halves(len(labels), fraction, seed, 1, labels=labels)
    return
  try:
    train, validation = data.split_halves(
      len(labels), fraction, seed, 1, labels=labels
    )
  except UserError as error:
    # Only where a class may be too small: rounding takes less than one image.
    small = (sizes > 0) & ((shares <= 1) | (sizes - shares <= 1))
    assert small.any() and "config.data.balanced_split" in str(error)
    return
  both = np.concatenate([train, validation])
  np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
  assert len(validation) == count
  found = np.bincount(labels[validation], minlength=len(sizes))
  assert (abs(found - shares) < 1).all()
  assert ((found > 0) == (sizes > 0)).all()
  assert ((sizes - found > 0) == (sizes > 0)).all()
  again = data.split_halves(len(labels), fraction, seed, 1, labels=labels)
  np.testing.assert_array_equal(np.concatenate(again), both)


def test_balanced_halves_of_an_unbalanced_set_are_exact():
  labels = np.repeat([0, 1, 2], [600, 300, 100])
  train, validation = data.split_halves(1000, 0.2, 0, 64, labels=labels)
  assert np.bincount(labels[train]).tolist() == [480, 240, 80]
  assert np.bincount(labels[validation]).tolist() == [120, 60, 20]
  other, _ = data.split_halves(1000, 0.2, 1, 64, labels=labels)
  assert set(train) != set(other)
  # In no order: neither by class, nor by place within a class.
  for indices in (train, validation):
    firsts = indices[labels[indices] == 0]
    assert abs(firsts.mean() - 299.5) < 50
    assert abs(np.corrcoef(np.arange(len(indices)), indices)[0, 1]) < 0.2


def test_balanced_split_needs_two_images_of_a_class():
  labels = np.repeat([0, 1], [99, 1])
  with pytest.raises(UserError, match=r"class 1 with \d and \d of its 1"):
    data.split_halves(100, 0.5, 0, 1, labels=labels)
