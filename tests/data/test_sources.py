"""Sources of one's own data: .npz, folders of images, made-up images."""

import gzip
import io
import os
import pathlib
import time
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import (
  SEEDED,
  arrays,
  damaged,
  idx,
  idx_labels,
  picture,
  refusal,
  save,
  tree,
  write_idx,
)
from PIL import Image

from nss_jax import data
from nss_jax.errors import UserError

# .npz.


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_npz_of_either_names(dtype, tmp_path):
  made = arrays()
  medmnist = {
    "train_images": made["x_train"],
    "train_labels": made["y_train"].astype(dtype)[:, None],
    "val_images": np.zeros(3),
    "test_images": made["x_test"],
    "test_labels": made["y_test"].astype(dtype)[:, None],
  }
  for given_arrays in (made, medmnist):
    loaded = data.load("npz", path=save(tmp_path, **given_arrays))
    np.testing.assert_array_equal(loaded.train_images, made["x_train"])
    np.testing.assert_array_equal(loaded.test_images, made["x_test"])
    assert loaded.train_labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert loaded.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert loaded.num_classes == 3 and loaded.test_labels.dtype == np.int32


def test_npz_of_grey_images_has_one_channel(tmp_path):
  made = arrays(shape=(4, 5))
  loaded = data.load("npz", path=save(tmp_path, **made))
  assert loaded.train_images.shape == (9, 4, 5, 1)
  np.testing.assert_array_equal(loaded.test_images[..., 0], made["x_test"])


# Beside what `test_data.py` has of every source.
# name: (arrays that differ, word in the message)
BAD_ARRAYS = {
  "objects": ({"y_train": np.array([{}] * 9)}, "Object arrays"),
  "float images": ({"x_train": np.zeros((9, 4, 5, 3))}, "float64"),
  "one-hot labels": ({"y_train": np.eye(9, 3, dtype=int)}, "(9, 3)"),
  "a label beyond": ({"y_test": np.array([0, 1, 2, 3, 1, 2])}, "lie in 0..3"),
  "a wild label": (
    {"y_train": np.array([0, 1, 2, 0, 1, 2, 0, 1, 2**40])},
    "train has no image of class 3;",
  ),
  "all negative": ({"y_train": np.full(9, -5)}, "lie in -5..-5"),
  "grey and RGB": ({"x_test": np.zeros((6, 4, 5), np.uint8)}, "(4, 5, 1)"),
  "none": (
    {"x_test": np.zeros((0, 4, 5, 3), np.uint8), "y_test": np.arange(0)},
    "at least one",
  ),
  "a number": ({"x_train": np.uint8(3)}, "shape ()"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_npz_of_other_arrays_is_refused(case, tmp_path):
  changed, word = BAD_ARRAYS[case]
  path = save(tmp_path, **{**arrays(), **changed})
  message = refusal("npz", path=path)
  assert word in message and f"config.data.path={path!r}" in message


def test_npz_that_lacks_an_array_names_those_it_has(tmp_path):
  made = arrays()
  del made["y_test"]
  message = refusal("npz", path=save(tmp_path, **made))
  assert "'x_test', 'x_train', 'y_train'" in message
  assert "train_images, train_labels" in message


def test_npz_member_that_claims_a_huge_array_is_refused(tmp_path):
  made = arrays()
  path = pathlib.Path(save(tmp_path, **made))
  header = io.BytesIO()
  claim = {"descr": "|u1", "fortran_order": False, "shape": (2**50, 4, 4, 3)}
  np.lib.format.write_array_header_1_0(header, claim)
  with zipfile.ZipFile(path, "w") as file:
    for name in made:
      file.writestr(f"{name}.npy", header.getvalue())
  assert "cannot be read (" in refusal("npz", path=str(path))


@pytest.mark.parametrize("path", ["", "no_file", "~no_user/x", "a\0b", "."])
@pytest.mark.parametrize("source", ["npz", "folder", "idx", "cifar10_binary"])
def test_path_that_is_nothing_is_refused(source, path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if source != "cifar10_binary" or path:  # which would be fetched
    message = refusal(source, path=path)
    assert "config.data.path" in message


@settings(deadline=None, max_examples=60)
@given(content=st.data())
def test_npz_with_any_bytes_changed_is_read_or_refused(
  content, tmp_path_factory
):
  folder = tmp_path_factory.mktemp("npz")
  path = pathlib.Path(save(folder, **arrays(shape=(2, 2))))
  path.write_bytes(content.draw(damaged(path.read_bytes())))
  try:
    data.load("npz", path=str(path))
  except UserError as error:
    assert str(error).isprintable() and "config.data.path" in str(error)


# Folders.


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_folder_has_the_channels_of_its_files(mode, tmp_path):
  loaded = data.load("folder", path=str(tree(tmp_path, mode=mode)))
  channels = len(mode)
  assert loaded.train_images.shape == (6, 4, 6, channels)
  assert loaded.test_images.shape == (4, 4, 6, channels)
  assert loaded.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
  assert loaded.test_labels.tolist() == [0, 0, 1, 1]
  assert loaded.train_images[:, 3, 5].tolist() == [
    [grey, 0, 255][:channels] for grey in (0, 1, 2, 50, 51, 52)
  ]
  assert loaded.num_classes == 2


def test_folder_keeps_rows_and_columns(tmp_path):
  tree(tmp_path)
  pixels = SEEDED.integers(0, 256, (4, 6, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "test" / "cat" / "0.png")
  loaded = data.load("folder", path=str(tmp_path))
  np.testing.assert_array_equal(loaded.test_images[0], pixels)


def test_folder_converts_to_the_channels_of_the_config(tmp_path):
  tree(tmp_path / "grey", mode="L")
  loaded = data.load("folder", path=str(tmp_path / "grey"), channels=3)
  assert loaded.train_images[5, 0, 0].tolist() == [52, 52, 52]
  tree(tmp_path / "rgb")
  loaded = data.load("folder", path=str(tmp_path / "rgb"), channels=1)
  # ITU-R 601: 0.299 red + 0.114 blue.
  expected = [round(0.299 * red + 0.114 * 255) for red in (0, 1, 2)]
  np.testing.assert_allclose(
    loaded.train_images[:3, 0, 0, 0].astype(int), expected, atol=1
  )


def test_folder_resizes_the_central_square(tmp_path):
  tree(tmp_path)
  pixels = np.zeros((8, 40, 3), np.uint8)
  pixels[:, :16], pixels[:, 16:24], pixels[:, 24:] = 9, 100, 200
  Image.fromarray(pixels).save(tmp_path / "test" / "cat" / "0.png")
  loaded = data.load("folder", path=str(tmp_path), image_size=5)
  assert loaded.train_images.shape == (6, 5, 5, 3)
  assert (loaded.test_images[0] == 100).all()


def test_folder_converts_modes_of_8_bits(tmp_path):
  tree(tmp_path)
  picture(tmp_path / "test" / "dog", (7, 8, 9, 255), mode="RGBA", name="a.png")
  picture(tmp_path / "test" / "dog", 0, mode="P", name="b.png")
  picture(tmp_path / "test" / "dog", (9, 9, 9), name="c.bmp")
  (tmp_path / "test" / "dog" / ".hidden").write_text("passed over")
  loaded = data.load("folder", path=str(tmp_path))
  assert loaded.test_images[4, 0, 0].tolist() == [7, 8, 9]
  assert len(loaded.test_images) == 7


def _write(name: str, content: bytes):
  return lambda root: (root / name).write_bytes(content)


def _truncate(root):
  file = root / "train" / "cat" / "1.png"
  pixels = SEEDED.integers(0, 256, (4, 6, 3), np.uint8)
  Image.fromarray(pixels).save(file)
  file.write_bytes(file.read_bytes()[:-30])


DOG = ("test", "dog")
# name: (what is done to a good folder, words in the message)
BAD_FOLDERS = {
  "grey among RGB": (
    lambda root: picture(root.joinpath(*DOG), 3, mode="L"),
    (
      "'test/dog/2.png' is uint8 of shape (4, 6, 1)",
      "of (4, 6, 3)",
      "data.channels",
    ),
  ),
  "odd size": (
    lambda root: picture(root.joinpath(*DOG), size=(6, 5)),
    (
      "'test/dog/2.png' is uint8 of shape (5, 6, 3)",
      "of (4, 6, 3)",
      "data.image_size",
    ),
  ),
  "16 bits": (
    lambda root: picture(root.joinpath(*DOG), 3, mode="I;16"),
    ("'test/dog/2.png'", "I;16", "8 bits"),
  ),
  "empty class": (
    lambda root: (root / "train" / "emu").mkdir(),
    ("'train/emu' holds no image",),
  ),
  "class in test only": (
    lambda root: picture(root / "test" / "emu"),
    ("'emu' is in test/ and not in train/",),
  ),
  "not an image": (
    _write("train/dog/x.png", b"<html>"),
    ("'train/dog/x.png' is damaged or no image",),
  ),
  "truncated": (_truncate, ("'train/cat/1.png' is damaged",)),
  "file beside classes": (_write("train/x.png", b""), ("'train/x.png'",)),
  "nested": (
    lambda root: picture(root / "train" / "dog" / "more.png"),
    ("'train/dog' holds the folder 'more.png'",),
  ),
  "pipe": (
    lambda root: os.mkfifo(root / "train" / "dog" / "x.png"),
    ("'train/dog/x.png' is a pipe, a link",),
  ),
  "a link to itself": (
    lambda root: (root / "train" / "loop").symlink_to("loop"),
    ("'train/loop' is no folder",),
  ),
  "a link to nothing": (
    lambda root: (root / "train" / "dog" / "x.png").symlink_to("nothing"),
    ("'train/dog/x.png' is a pipe, a link",),
  ),
  "eps": (
    _write("train/dog/x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("UnidentifiedImageError",),
  ),
}


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_folder_of_another_form_is_refused(case, stream, tmp_path):
  """Streamed training images too: the statistics of a small set need them."""
  change, words = BAD_FOLDERS[case]
  change(tree(tmp_path))
  with pytest.raises(UserError) as caught:
    made = data.load("folder", path=str(tmp_path), stream=stream)
    assert stream == "always" and "'test/" in words[0]
    made.test_images[:]
  message = str(caught.value)
  assert message.isprintable() and len(message) < 800
  for word in (*words, f"config.data.path={str(tmp_path)!r}"):
    assert word in message
  assert stream == "always" or "accepted" in message


def test_folder_without_parts_is_refused(tmp_path):
  message = refusal("folder", path=str(tmp_path))
  assert str(tmp_path / "train") in message and "train/<class>" in message
  (tmp_path / "train").mkdir()
  assert "train/ holds no class" in refusal("folder", path=str(tmp_path))


def test_picture_that_claims_to_be_huge_is_refused(tmp_path):
  tree(tmp_path)
  header = b"P5 20000 20000 255\n"
  (tmp_path / "train" / "cat" / "x.pgm").write_bytes(header + bytes(9))
  message = refusal("folder", path=str(tmp_path))
  assert "x.pgm" in message and "Bomb" in message
  (tmp_path / "train" / "cat" / "x.pgm").write_bytes(b"P5 9000 9000 255\n")
  assert "9000 x 9000 pixels" in refusal("folder", path=str(tmp_path))


@settings(deadline=None, max_examples=60)
@given(content=st.data(), suffix=st.sampled_from(["png", "gif", "bmp", "jpg"]))
def test_picture_with_any_bytes_changed_is_read_or_refused(
  content, suffix, tmp_path_factory
):
  root = tree(tmp_path_factory.mktemp("fuzz"))
  file = picture(root / "train" / "cat", (9, 8, 7), name=f"x.{suffix}")
  file.write_bytes(content.draw(damaged(file.read_bytes(), least=1)))
  try:
    data.load("folder", path=str(root), image_size=4, channels=3)
  except UserError as error:
    assert str(error).isprintable() and f"x.{suffix}" in str(error)


def test_warnings_of_the_caller_are_as_before(tmp_path):
  before = list(warnings.filters)
  data.load("folder", path=str(tree(tmp_path)))
  assert warnings.filters == before


NAMES = st.text(
  st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
  min_size=1,
  max_size=20,
).filter(lambda name: len(name.encode()) < 200)


@settings(deadline=None, max_examples=40)
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
  loaded = data.load("folder", path=str(root))
  assert loaded.train_labels.tolist() == list(range(len(visible)))
  assert loaded.test_images[:, 0, 0, 0].tolist() == list(range(len(visible)))
  # The same names as those of files are passed over, in one printable line.
  (root / "train" / visible[0] / f"{visible[-1]}.x").write_bytes(b"")
  note, *_ = data.load("folder", path=str(root)).notes
  assert "1 files are no images" in note


# IDX files.


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize(
  ("source", "classes"), [("idx", 3), ("fashion_mnist", 10)]
)
def test_idx_files(source, classes, compress, tmp_path):
  given = write_idx(tmp_path, classes=classes, compress=compress)
  made = data.load(source, path=str(tmp_path))
  for part, name in (("train", "train"), ("test", "t10k")):
    images, labels = (
      getattr(made, f"{part}_{kind}") for kind in ("images", "labels")
    )
    np.testing.assert_array_equal(images, given[f"{name}_images"][..., None])
    np.testing.assert_array_equal(labels, given[f"{name}_labels"])
    assert labels.dtype == np.int32
  assert made.num_classes == classes


TWO = np.zeros((2, 2, 2), np.uint8)


@pytest.mark.parametrize(
  "changed, words",
  [
    (
      {"train_images": gzip.compress(bytes(500))[:-6]},
      ("train-images-idx3-ubyte.gz is damaged",),
    ),
    (
      {"t10k_labels": idx_labels(0, 1, 2)[:-12]},
      ("t10k-labels-idx1-ubyte.gz is damaged",),
    ),
    ({"t10k_labels": b"not gzip"}, ("t10k-labels-idx1-ubyte.gz is damaged",)),
    ({"t10k_labels": idx_labels(0, 1, 2, 0, 1)}, ("6 images", "5 labels")),
    ({"t10k_labels": idx_labels(0, 1, 2, 0, 1, 3)}, ("test labels", "0..2")),
    (
      {"train_labels": idx_labels(0, 1, 2, 0, 1, 2, 0, 1, 255)},
      ("train has no image of class 3;",),
    ),
    *(
      (
        {"train_images": gzip.compress(content)},
        ("train-images-idx3-ubyte.gz",),
      )
      for content in (
        *(b"", bytes([0, 0, 8, 3]), idx(TWO[0]), idx(TWO, kind=9)),
        *(idx(TWO)[:-1], idx(TWO) + b"x", idx(TWO[:0])),
      )
    ),
  ],
)
def test_idx_of_another_form_is_refused(changed, words, tmp_path):
  write_idx(tmp_path, **changed)
  message = refusal("idx", path=str(tmp_path))
  for word in words:
    assert word in message


def test_idx_that_is_not_there(tmp_path):
  message = refusal("fashion_mnist", path=str(tmp_path))
  assert "dataset-fashion-mnist" in message


# Made-up images.


def nearest_pattern(made: data.Dataset) -> float:
  """Accuracy on test images of the nearest mean of the training images."""

  def rows(images):
    return images.reshape(len(images), -1).astype(np.float64)

  train = rows(made.train_images)
  means = np.stack(
    [train[made.train_labels == c].mean(0) for c in range(made.num_classes)]
  )
  distances = ((rows(made.test_images)[:, None] - means) ** 2).sum(-1)
  return float((distances.argmin(1) == made.test_labels).mean())


@pytest.mark.parametrize("size, channels", [(8, 1), (0, 0), (5, 3), (3, 1)])
def test_synthetic_has_the_form_asked_for_and_can_be_learned(size, channels):
  made = data.load(
    "synthetic",
    image_size=size,
    channels=channels,
    synthetic=data.Synthetic(num_classes=7, num_train=701, num_test=72, seed=3),
  )
  assert made.train_images.shape == (
    701,
    size or 32,
    size or 32,
    channels or 3,
  )
  assert np.bincount(made.train_labels).tolist() == [101] + [100] * 6
  assert sorted(np.bincount(made.test_labels)) == [10] * 5 + [11] * 2
  # Chance is 1 in 7.
  assert nearest_pattern(made) > (0.95 if size != 3 else 0.6)
  # Noise as strong as the patterns: a pixel alone says little.
  spread = made.train_images[made.train_labels == 0].std(0).mean()
  assert abs(spread - np.sqrt((129**2 - 1) / 12)) < 1
  assert not np.array_equal(made.train_labels, np.sort(made.train_labels))


def test_synthetic_repeats_by_its_seed_and_holds_no_image_twice():
  def load(seed):
    numbers = data.Synthetic(num_train=1500, num_test=300, seed=seed)
    return data.load("synthetic", image_size=8, synthetic=numbers)

  first, again, other = load(0), load(0), load(1)
  np.testing.assert_array_equal(first.train_images, again.train_images)
  np.testing.assert_array_equal(first.test_labels, again.test_labels)
  assert not np.array_equal(first.train_images, other.train_images)
  both = np.concatenate([first.train_images, first.test_images])
  assert len(np.unique(both.reshape(1800, -1), axis=0)) == 1800


@pytest.mark.parametrize("field", ["num_train", "num_test"])
def test_synthetic_with_fewer_images_than_classes_is_refused(field):
  numbers = data.Synthetic(**{"num_classes": 11, field: 10})
  message = refusal("synthetic", synthetic=numbers)
  assert f"config.data.synthetic.{field}=10" in message and "11" in message


def test_set_larger_than_memory_is_refused():
  numbers = data.Synthetic(num_train=10**12)
  message = refusal("synthetic", image_size=4096, synthetic=numbers)
  assert "config.data.synthetic.num_train=1000000000000" in message
  # 10**12 * 4096**2 * 3 / 2**30
  assert "46875000000.0 GiB" in message


# Streamed images.


def test_streamed_folder_is_that_of_one_in_memory(tmp_path):
  for index in range(40):
    pixels = SEEDED.integers(0, 256, (6, 5, 3), np.uint8)
    folder = tmp_path / ("train", "test")[index % 2]
    file = picture(folder / ("cat", "dog")[index % 3 == 0])
    Image.fromarray(pixels).save(file)
  fields = {"path": str(tmp_path), "image_size": 4}
  whole = data.load("folder", **fields)
  made = data.load("folder", **fields, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert made.train_images.shape == (20, 4, 4, 3)
  assert len(made.train_images) == 20 and made.train_images.dtype == np.uint8
  for part in ("train", "test"):
    images = getattr(whole, f"{part}_images")
    streamed = getattr(made, f"{part}_images")
    for rows in (np.array([7, 7, 0, 19, 3]), slice(None), slice(9, 2, -3)):
      np.testing.assert_array_equal(streamed[rows], images[rows])
      if not isinstance(rows, slice):
        np.testing.assert_array_equal(streamed.read(rows), images[rows])
    assert streamed[np.arange(0)].shape == (0, 4, 4, 3)
  assert (made.mean, made.std) == (whole.mean, whole.std)


def test_rows_come_in_their_order_however_long_one_takes():
  class Slow:
    def __getitem__(self, index):
      time.sleep(0.002 * (index % 3))
      return np.full((64, 64, 64), index, np.uint8)

  images = data.StreamedImages(Slow(), (100, 64, 64, 64), "config.data.path")
  rows = np.arange(100)[::-1]
  np.testing.assert_array_equal(images[rows][:, 0, 0, 0], rows)


def test_streamed_file_is_refused_when_it_is_used(tmp_path, monkeypatch):
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 2)
  tree(tmp_path)
  for name in ("cat", "dog"):
    _write(f"train/{name}/2.png", b"<html>")(tmp_path)
  made = data.load("folder", path=str(tmp_path), stream="always")
  np.testing.assert_array_equal(
    made.train_images[np.array([0, 3])][:, 0, 0, 0], (0, 50)
  )
  for rows, name in (([0, 5, 1], "dog"), ([1, 2, 5], "cat")):
    with pytest.raises(UserError) as caught:
      made.train_images[np.array(rows)]
    assert f"'train/{name}/2.png' is damaged" in str(caught.value)


def test_statistics_of_a_large_set_are_of_the_same_images_however_it_is_held(
  tmp_path, monkeypatch
):
  made = data.load("digits")
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 500)
  whole, streamed = (
    data.load("digits", stream=mode) for mode in ("never", "always")
  )
  assert (whole.mean, whole.std) == (streamed.mean, streamed.std)
  assert whole.mean != made.mean
  np.testing.assert_allclose(whole.mean, made.mean, rtol=0.02)
  np.testing.assert_allclose(whole.std, made.std, rtol=0.02)


@pytest.mark.parametrize("limit", ["300", "max", "", None])
def test_memory_is_that_of_the_container(limit, tmp_path, monkeypatch):
  file = tmp_path / "memory.max"
  if limit is not None:
    file.write_text(f"{limit}\n")
  monkeypatch.setattr("nss_jax.data.dataset.CONTAINER_LIMIT", file)
  pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  assert data.host_memory() == (300 if limit == "300" else pages)


def test_auto_streams_what_takes_over_a_quarter_of_the_memory(tmp_path):
  tree(tmp_path)
  for source, num_bytes in (
    ("digits", 1437 * 8 * 8),
    ("folder", 6 * 4 * 6 * 3),
  ):
    for memory, expected in ((4 * num_bytes, False), (4 * num_bytes - 1, True)):
      path = str(tmp_path) if source == "folder" else ""
      made = data.load(source, path=path, memory=memory)
      streamed = isinstance(made.train_images, data.StreamedImages)
      assert streamed == expected, (source, memory)
  assert isinstance(data.load("digits").train_images, np.ndarray)
