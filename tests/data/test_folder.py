"""Folders of images: read, streamed, passed over, split and refused."""

import os
import pathlib
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import (
  SEEDED,
  arrays,
  assert_same,
  damaged,
  picture,
  refusal,
  save,
  tree,
)
from PIL import Image

from nss_jax import data
from nss_jax.data import images
from nss_jax.errors import UserError


def load(root: pathlib.Path, **fields) -> data.Dataset:
  return data.load("folder", path=str(root), **fields)


def draw(file: pathlib.Path, size=(6, 4)) -> None:
  """Writes random pixels; size is width, height."""
  file.parent.mkdir(parents=True, exist_ok=True)
  pixels = SEEDED.integers(0, 256, (size[1], size[0], 3), np.uint8)
  Image.fromarray(pixels).save(file)


def drawn(root: pathlib.Path, counts: dict[str, int]) -> pathlib.Path:
  """Images that are all different, so many of each class."""
  for name, count in counts.items():
    for index in range(count):
      draw(root / name / f"{index:02}.png")
  return root


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_folder_has_the_channels_of_its_files(mode, tmp_path):
  made = load(tree(tmp_path, mode=mode))
  channels = len(mode)
  assert made.train_images.shape == (6, 4, 6, channels)
  assert made.test_images.shape == (4, 4, 6, channels)
  assert made.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert made.test_labels.tolist() == [0, 0, 1, 1]
  assert made.train_images[:, 3, 5].tolist() == [
    [grey, 0, 255][:channels] for grey in (0, 1, 2, 50, 51, 52)
  ]
  assert made.num_classes == 2


def test_streamed_folder_is_that_of_one_in_memory(tmp_path):
  for index in range(40):
    part, label = ("train", "test")[index % 2], ("cat", "dog")[index % 3 == 0]
    draw(tmp_path / part / label / f"{index}.png")
  draw(tmp_path / "test" / "dog" / "wide.png", (9, 5))
  picture(tmp_path / "train" / "cat", (7, 8, 9, 99), mode="RGBA")
  fields = {"image_size": 3, "channels": 1, "background": 77}
  whole = load(tmp_path, **fields)
  files = sorted(x for x in tmp_path.rglob("train/*/*"))
  expected = [images.decode(file, images.Form(3, 1, 77)) for file in files]
  np.testing.assert_array_equal(whole.train_images, expected)
  made = load(tmp_path, **fields, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert_same(made, whole)
  streamed = made.train_images
  for rows in (np.array([7, 7, 0, 19, 3]), slice(9, 2, -3)):
    np.testing.assert_array_equal(streamed[rows], whole.train_images[rows])
  rows = np.array([7, 7, 0])
  np.testing.assert_array_equal(streamed.read(rows), whole.train_images[rows])
  assert streamed[np.arange(0)].shape == (0, 3, 3, 1)


def test_rows_come_in_their_order_however_long_one_takes():
  class Slow:
    def __getitem__(self, index):
      time.sleep(0.002 * (index % 3))
      return np.full((64, 64, 64), index, np.uint8)

  streamed = data.StreamedImages(Slow(), (100, 64, 64, 64), "config.data.path")
  rows = np.arange(100)[::-1]
  np.testing.assert_array_equal(streamed[rows][:, 0, 0, 0], rows)


def _write(name: str, content: bytes):
  return lambda root: (root / name).write_bytes(content)


def _link(name: str, to: str):
  return lambda root: (root / name).symlink_to(to)


def _remove(pattern: str):
  return lambda root: [shutil.rmtree(folder) for folder in root.glob(pattern)]


def _empty(pattern: str):
  return lambda root: [file.write_bytes(b"") for file in root.glob(pattern)]


def _add(folder: str, **kwargs):
  return lambda root: picture(root / folder, **kwargs)


def _black(root):
  for part, name in (("train", "cat"), ("train", "dog"), ("test", "cat")):
    for alpha in (0, 99):
      picture(root / part / name, (0, 0, 0, alpha), mode="RGBA")


SKIP = {"skip_bad": True}
FRACTION = {"test_fraction": 0.2}
# What is wrong: (what is done to a good folder, words of the line, fields).
WRONG = {
  "grey among RGB": (
    _add("test/dog", value=3, mode="L"),
    "'test/dog/2.png' is uint8 of shape (4, 6, 1) and the first image of (4, 6,"
    " 3); accepted is uint8 of one shape, or config.data.image_size (pixels of "
    "a side) and config.data.channels",
  ),
  # It is no bad image: config.data.image_size takes it.
  "size": (_add("test/dog", size=(6, 5)), "'test/dog/2.png' is uint8", SKIP),
  "16 bits": (
    _add("test/dog", value=3, mode="I;16"),
    "'test/dog/2.png' is of Pillow's mode I;16; accepted are 8 bits",
  ),
  "html": (
    _write("train/dog/x.png", b"<html>"),
    "'train/dog/x.png' is damaged",
  ),
  # For it Pillow would run another program.
  "eps": (
    _write("train/dog/x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    "'train/dog/x.png' is damaged or no image (UnidentifiedImageError",
  ),
  "heic": (_write("train/dog/x.heic", b"x"), ", or config.data.skip_bad=True"),
  "psd": (_write("train/dog/x.psd", b"x"), "'train/dog/x.psd' is damaged"),
  "a huge image": (
    _write("train/cat/x.pgm", b"P5 9000 9000 255\n"),
    "'train/cat/x.pgm' has 9000 x 9000 pixels",
  ),
  "pipe": (
    lambda root: os.mkfifo(root / "train/dog/x.png"),
    "x.png' is a pipe",
  ),
  "link to nothing": (_link("train/dog/x.png", "nothing"), "x.png' is a pipe"),
  "link to itself": (_link("train/loop", "loop"), "'train/loop' is no folder"),
  "a file beside classes": (
    _write("train/x.png", b""),
    "'train/x.png' is no f",
  ),
  "a folder in a class": (
    _add("train/dog/more.png"),
    "'train/dog' holds the folder 'more.png'",
  ),
  "an empty class": (
    lambda root: (root / "train" / "emu").mkdir(),
    "'train/emu' holds no image",
  ),
  "a class of test": (_add("test/emu"), "'emu' is in test/ and not in train/"),
  "no train/": (
    _remove("train"),
    "accepted is a folder with train/<class>/<image> and test/<class>/<image>",
  ),
  "no class": (_remove("train/*"), "train/ holds no class"),
  "one class": (_remove("*/dog"), "training images are of one class"),
  "black on black": (
    lambda root: [shutil.rmtree(root), _black(root)],
    "on config.data.background",
    {"background": 0},
  ),
  "a class of bad images": (
    _empty("train/cat/*"),
    "no image of the class 'cat' can be read; accepted is at least one in",
    SKIP,
  ),
  "a bad test": (_empty("test/*/*"), "test has 0 images", SKIP),
  "test and fraction": (str, "where there is test/; accepted is 0", FRACTION),
  "val and fraction": (
    lambda root: (root / "test").rename(root / "val"),
    "where there is val/; accepted is 0",
    FRACTION,
  ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_folders_are_refused(case, tmp_path):
  change, words, *fields = WRONG[case]
  fields = dict(*fields)
  change(tree(tmp_path / "images"))
  path = str(tmp_path / "images")
  message = refusal("folder", path=path, **fields)
  assert words in message
  assert "test_fraction" in message or f"config.data.path={path!r}" in message
  # Streamed, an image of test may be refused only where it is used.
  with pytest.raises(UserError) as caught:
    load(path, **fields, stream="always").test_images[:]
  assert words.partition("; accepted")[0] in str(caught.value)


def test_what_is_transparent_is_seen_on_white(tmp_path):
  _black(tmp_path)
  assert load(tmp_path).train_images[:2, 0, 0, 0].tolist() == [255, 255 - 99]


def test_streamed_file_is_refused_when_it_is_used(tmp_path, monkeypatch):
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 2)
  tree(tmp_path)
  for name in ("cat", "dog"):
    _write(f"train/{name}/2.png", b"<html>")(tmp_path)
  made = load(tmp_path, stream="always")
  found = made.train_images[np.array([0, 3])]
  np.testing.assert_array_equal(found[:, 0, 0, 0], (0, 50))
  for rows, name in (([0, 5, 1], "dog"), ([1, 2, 5], "cat")):
    with pytest.raises(UserError, match=f"'train/{name}/2.png' is damaged"):
      made.train_images[np.array(rows)]


@settings(deadline=None, max_examples=60)
@given(
  content=st.data(),
  suffix=st.sampled_from(["png", "gif", "bmp", "jpg", "npz"]),
)
def test_any_bytes_changed_are_read_or_refused(
  content, suffix, tmp_path_factory
):
  root = tmp_path_factory.mktemp("fuzz")
  if suffix == "npz":
    file = path = pathlib.Path(save(root, **arrays(shape=(2, 2))))
    source, fields = "npz", {}
  else:
    path = tree(root)
    file = picture(root / "train" / "cat", (9, 8, 7), name=f"x.{suffix}")
    source, fields = "folder", {"image_size": 4, "channels": 3}
  file.write_bytes(content.draw(damaged(file.read_bytes(), least=1)))
  try:
    data.load(source, path=str(path), **fields)
  except UserError as error:
    assert str(error).isprintable() and file.name in str(error)


NAMES = st.text(
  st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
  min_size=1,
  max_size=20,
).filter(lambda name: len(name.encode()) < 200)


@settings(deadline=None, max_examples=30)
@given(names=st.sets(NAMES, min_size=2, max_size=4))
def test_folder_with_any_names(names, tmp_path_factory):
  root = tmp_path_factory.mktemp("names")
  visible = sorted(name for name in names if not name.startswith("."))
  for name in names - {".", ".."}:
    value = (visible.index(name), 1, 1) if name in visible else 0
    for part in ("train", "test"):
      picture(root / part / name, value, size=(2, 2))
  if len(visible) < 2:
    assert "train" in refusal("folder", path=str(root))
    return
  made = load(root)
  assert made.train_labels.tolist() == list(range(len(visible)))
  assert made.test_images[:, 0, 0, 0].tolist() == list(range(len(visible)))
  # The same names as those of files are passed over, in one printable line.
  (root / "train" / visible[0] / f"{visible[-1]}.x").write_bytes(b"")
  note, *_ = load(root).notes
  assert "1 files are no images" in note


# Files that are no images, and images that are bad.


def test_files_that_are_no_images_are_passed_over_and_told(tmp_path):
  plain = load(tree(tmp_path))
  for name in ("Thumbs.db", "desktop.ini", "labels.csv", "README", ".hidden"):
    (tmp_path / "train" / "cat" / name).write_bytes(b"x")
  (tmp_path / "train" / "labels.csv").write_bytes(b"x")
  (tmp_path / "test" / "Thumbs.db").write_bytes(b"x")
  made = load(tmp_path)
  assert_same(made, plain)
  (note,) = set(made.notes) - set(plain.notes)
  assert "6 files are no images and passed over" in note
  for words in ("2 '.db'", "2 '.csv'", "1 '.ini'", "1 'README'"):
    assert words in note


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG"])
def test_suffixes_of_jpeg(suffix, tmp_path):
  file = picture(tree(tmp_path) / "test" / "cat", (9, 0, 255), name="x.jpg")
  file.rename(file.with_suffix(f".{suffix}"))
  assert len(load(tmp_path).test_images) == 5


def spoil(root: pathlib.Path) -> list[str]:
  """Six bad images of three kinds, and a folder of many good ones."""
  drawn(tree(root) / "train", {"dog": 40})
  (root / "train" / "cat" / "0.png").write_bytes(b"<html>")  # the first of all
  (root / "train" / "dog" / "0.png").write_bytes(b"")
  file = root / "train" / "dog" / "20.png"
  file.write_bytes(file.read_bytes()[:-40])
  os.mkfifo(root / "train" / "dog" / "pipe.png")
  (root / "train" / "dog" / "z.png").symlink_to("nothing")
  (root / "test" / "dog" / "1.png").write_bytes(b"<html>")
  names = ("cat/0.png", "dog/0.png", "dog/20.png", "dog/pipe.png", "dog/z.png")
  return [*(f"train/{name}" for name in names), "test/dog/1.png"]


@pytest.mark.parametrize("stream", ["never", "always"])
def test_bad_images_are_listed_at_once_or_left_out(stream, tmp_path):
  bad = spoil(tmp_path)
  with pytest.raises(UserError) as caught:
    load(tmp_path, stream=stream)
  for name, line in zip(bad, caught.value.details, strict=True):
    assert line.startswith(f"{name!r} is ") and line.isprintable()
  message = str(caught.value)
  assert "'train/cat/0.png' is damaged" in message and len(message) < 800
  assert "and 5 more of the 52 images" in message
  assert "config.data.skip_bad=True" in message
  made = load(tmp_path, stream=stream, skip_bad=True)
  first, *rest = made.notes
  assert first == "warning: config.data.skip_bad=True leaves out 6 of 52 images"
  for name, note in zip(bad, rest, strict=True):
    assert note.startswith(f"  left out: {name!r} is ")
  for name in bad:
    (tmp_path / name).unlink()
  assert_same(made, load(tmp_path))


def test_images_of_other_sizes_are_listed_with_the_bad(tmp_path):
  tree(tmp_path)
  for name in ("a", "b"):
    picture(tmp_path / "test" / "dog", size=(6, 5), name=f"{name}.png")
  with pytest.raises(UserError) as caught:
    load(tmp_path)
  first, _ = caught.value.details
  assert "'test/dog/a.png' is uint8 of shape (5, 6, 3)" in first
  assert "skip_bad" not in str(caught.value)


# Test images.


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_stands_for_test(name, tmp_path):
  made = load(tree(tmp_path))
  (tmp_path / "test").rename(tmp_path / name)
  assert_same(load(tmp_path), made)
  (note, *_) = load(tree(tmp_path)).notes
  assert f"{name}/ is not read" in note


def test_classes_missing_from_test_are_told_by_name(tmp_path):
  tree(tmp_path, classes=("ant", "bee", "cat"))
  for file in (tmp_path / "test" / "ant").iterdir():
    file.unlink()
  shutil.rmtree(tmp_path / "test" / "bee")
  made = load(tmp_path)
  assert made.test_labels.tolist() == [2, 2] and made.num_classes == 3
  assert "no image of 2 of the 3 classes (ant, bee)" in made.notes[-1]


@pytest.mark.parametrize("place", ["train", "."])
def test_fraction_of_one_folder_is_for_test(place, tmp_path):
  drawn(tmp_path / place, {"cat": 40, "dog": 10})
  made = load(tmp_path, **FRACTION)
  assert np.bincount(made.train_labels).tolist() == [32, 8]
  assert np.bincount(made.test_labels).tolist() == [8, 2]
  rows = [
    {image.tobytes() for image in images}
    for images in (made.train_images, made.test_images)
  ]
  assert len(rows[0] | rows[1]) == 50 and not rows[0] & rows[1]
  assert_same(load(tmp_path, **FRACTION, stream="always"), made)
  other = load(tmp_path, **FRACTION, test_seed=1)
  assert {image.tobytes() for image in other.test_images} != rows[1]
  # Bad images are left out before the split.
  (tmp_path / place / "dog" / "bad.png").write_bytes(b"")
  assert_same(load(tmp_path, **FRACTION, skip_bad=True), made)


def test_small_classes_keep_their_images_for_training(tmp_path):
  drawn(tmp_path, {"cat": 10, "dog": 10, "emu": 1})
  for fraction, test in ((0.1, [1, 1]), (0.9, [9, 9])):
    made = load(tmp_path, test_fraction=fraction)
    assert np.bincount(made.test_labels).tolist() == test
    assert "1 of the 3 classes (emu)" in made.notes[-1]
  message = refusal("folder", path=str(tmp_path), test_fraction=0.01)
  assert "config.data.test_fraction=0.01 draws no test image" in message
