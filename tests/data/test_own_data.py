"""One's own data: what is passed over, left out, split off and converted."""

import os

import numpy as np
import pytest
from own_files import (
  arrays,
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

# Axes in another order.

SHAPES = {
  "PyTorch": ((6, 3, 8, 9), "0, 2, 3, 1"),
  "PyTorch, RGBA": ((6, 4, 8, 8), "0, 2, 3, 1"),
  "PyTorch, grey": ((6, 1, 8, 8), "0, 2, 3, 1"),
  "Matlab": ((8, 9, 3, 6), "3, 0, 1, 2"),
  "Matlab, grey": ((8, 8, 1, 6), "3, 0, 1, 2"),
  "three rows of pixels": ((6, 3, 4, 3), ""),
  "small images of many bands": ((6, 4, 4, 13), ""),
  "spectra": ((6, 1, 50, 8), ""),
  "RGB": ((6, 8, 9, 3), ""),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("case", SHAPES)
def test_axes_in_another_order_are_refused(case, part, tmp_path):
  shape, axes = SHAPES[case]
  images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  given = {}
  for name in ("train", "test"):
    right = images.transpose(*map(int, axes.split(", "))) if axes else images
    given[f"x_{name}"] = images if name == part else right
    given[f"y_{name}"] = np.arange(6) % 2
  path = save(tmp_path, **given)
  if axes:
    message = refusal("npz", path=path)
    assert f"images.transpose({axes})" in message and str(shape) in message
    assert f": {part} images" in message
  else:
    assert data.load("npz", path=path).train_images.shape == shape


def test_channels_that_are_no_colours_are_told(tmp_path):
  (note,) = data.load("npz", path=save(tmp_path, **arrays((4, 4, 4)))).notes
  assert "images have 4 channels" in note and note.startswith("warning: ")


# One class, and no variation.


def test_one_class_is_refused(tmp_path):
  message = refusal("folder", path=str(tree(tmp_path / "a", classes=("cat",))))
  assert "of one class" in message
  (tmp_path / "b").mkdir()
  labels = {"y_train": np.zeros(9, int), "y_test": np.zeros(6, int)}
  path = save(tmp_path / "b", **{**arrays(), **labels})
  assert "of one class" in refusal("npz", path=path)
  ones = {
    "train_labels": idx_labels(*[0] * 9),
    "t10k_labels": idx_labels(*[0] * 6),
  }
  write_idx(tmp_path / "b", **ones)
  assert "of one class" in refusal("idx", path=str(tmp_path / "b"))


def test_images_without_any_variation_are_refused(tmp_path):
  same = {"x_train": np.full((9, 4, 5, 3), 7, np.uint8)}
  path = save(tmp_path, **{**arrays(), **same})
  assert "training images are the same" in refusal("npz", path=path)
  # Black shapes on nothing, on black.
  for part in ("train", "test"):
    for name in ("cat", "dog"):
      for alpha in (0, 99):
        picture(tmp_path / part / name, (0, 0, 0, alpha), mode="RGBA")
  message = refusal("folder", path=str(tmp_path), background=0)
  assert "config.data.background" in message
  made = data.load("folder", path=str(tmp_path))
  assert made.train_images[:2, 0, 0, 0].tolist() == [255, 255 - 99]


# What a source has no use for.

OPTIONS = {
  "path": "x",
  "name": "x",
  "image_size": 4,
  "channels": 3,
  "background": 0,
  "skip_bad": True,
  "test_fraction": 0.5,
  "test_seed": 1,
  "convert_arrays": True,
  "synthetic": data.Synthetic(seed=5),
}
SPLIT = "path test_fraction test_seed"
USED = {
  "digits": "",
  "cifar10_binary": "path",
  "cifar100_binary": "path",
  "cifar10_python": "path",
  "cifar100_python": "path",
  "fashion_mnist": SPLIT,
  "idx": SPLIT,
  "npz": f"{SPLIT} convert_arrays",
  "folder": f"{SPLIT} image_size channels background skip_bad",
  "tfds": f"{SPLIT} name image_size channels background",
  "synthetic": "image_size channels synthetic",
}


@pytest.mark.parametrize("source", data.SOURCES)
def test_option_without_effect_is_refused(source):
  for option, value in OPTIONS.items():
    if option in USED[source].split():
      continue
    message = refusal(source, **{option: value})
    assert f"config.data.{option}={value!r} is not accepted" in message
    named = message.rpartition("a source of ")[2].split(", ")
    users = [name for name, used in USED.items() if option in used.split()]
    assert sorted(named) == sorted(users)


# Files that are no images, and images that are bad.


def test_files_that_are_no_images_are_passed_over_and_told(tmp_path):
  tree(tmp_path)
  plain = data.load("folder", path=str(tmp_path))
  assert not [note for note in plain.notes if "passed over" in note]
  for name in ("Thumbs.db", "desktop.ini", "labels.csv", "README"):
    (tmp_path / "train" / "cat" / name).write_bytes(b"x")
  (tmp_path / "train" / "labels.csv").write_bytes(b"x")
  (tmp_path / "test" / "Thumbs.db").write_bytes(b"x")
  made = data.load("folder", path=str(tmp_path))
  np.testing.assert_array_equal(made.train_images, plain.train_images)
  assert made.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
  (note,) = [note for note in made.notes if "passed over" in note]
  assert "6 files" in note
  for words in ("2 '.db'", "2 '.csv'", "1 '.ini'", "1 'README'"):
    assert words in note


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG"])
def test_suffixes_of_jpeg(suffix, tmp_path):
  file = picture(tree(tmp_path) / "test" / "cat", (9, 0, 255), name="x.jpg")
  file.rename(file.with_suffix(f".{suffix}"))
  made = data.load("folder", path=str(tmp_path))
  assert len(made.test_images) == 5


@pytest.mark.parametrize("suffix", ["heic", "avif", "tga", "psd"])
def test_images_of_other_formats_are_not_passed_over(suffix, tmp_path):
  file = tree(tmp_path) / "train" / "dog" / f"x.{suffix}"
  file.write_bytes(b"x" * 100)
  message = refusal("folder", path=str(tmp_path))
  assert f"x.{suffix}" in message and "config.data.skip_bad=True" in message


def spoil(root):
  """Six bad images of three kinds, and a folder of many good ones."""
  tree(root)
  pixels = np.random.default_rng(1).integers(0, 256, (40, 4, 6, 3), np.uint8)
  for index, array in enumerate(pixels):
    file = root / "train" / "dog" / f"many_{index:02}.png"
    Image.fromarray(array).save(file)
  (root / "train" / "cat" / "0.png").write_bytes(b"<html>")  # the first of all
  (root / "train" / "dog" / "0.png").write_bytes(b"")
  file = root / "train" / "dog" / "many_20.png"
  file.write_bytes(file.read_bytes()[:-40])
  os.mkfifo(root / "train" / "dog" / "pipe.png")
  (root / "train" / "dog" / "z.png").symlink_to("nothing")
  (root / "test" / "dog" / "1.png").write_bytes(b"<html>")
  return [
    "train/cat/0.png",
    "train/dog/0.png",
    "train/dog/many_20.png",
    "train/dog/pipe.png",
    "train/dog/z.png",
    "test/dog/1.png",
  ]


@pytest.mark.parametrize("stream", ["never", "always"])
def test_all_bad_images_are_listed_at_once(stream, tmp_path):
  bad = spoil(tmp_path)
  with pytest.raises(UserError) as caught:
    data.load("folder", path=str(tmp_path), stream=stream)
  details = caught.value.details
  assert len(details) == len(bad)
  for name, line in zip(bad, details, strict=True):
    assert line.startswith(f"{name!r} is ") and line.isprintable()
  message = str(caught.value)
  assert "'train/cat/0.png' is damaged" in message and len(message) < 800
  assert "and 5 more of the 52 images" in message
  assert "config.data.skip_bad=True" in message


def test_images_of_other_sizes_are_listed_with_the_bad(tmp_path):
  tree(tmp_path)
  for name in ("a", "b"):
    picture(tmp_path / "test" / "dog", size=(6, 5), name=f"{name}.png")
  with pytest.raises(UserError) as caught:
    data.load("folder", path=str(tmp_path))
  assert len(caught.value.details) == 2
  assert (
    "'test/dog/a.png' is uint8 of shape (5, 6, 3)" in caught.value.details[0]
  )
  assert "skip_bad" not in str(caught.value)
  # They are no bad images: config.data.image_size takes them all.
  with pytest.raises(UserError, match=r"config\.data\.image_size"):
    data.load("folder", path=str(tmp_path), skip_bad=True)


@pytest.mark.parametrize("stream", ["never", "always"])
def test_bad_images_are_left_out_and_named(stream, tmp_path):
  bad = spoil(tmp_path / "bad")
  made = data.load(
    "folder", path=str(tmp_path / "bad"), skip_bad=True, stream=stream
  )
  for name in bad:
    (tmp_path / "bad" / name).unlink()
  good = data.load("folder", path=str(tmp_path / "bad"))
  for part in ("train", "test"):
    for kind in ("images", "labels"):
      name = f"{part}_{kind}"
      np.testing.assert_array_equal(
        getattr(made, name)[:], getattr(good, name), name
      )
  assert (made.mean, made.std) == (good.mean, good.std)
  assert made.notes[0] == (
    "warning: config.data.skip_bad=True leaves out 6 of 52 images"
  )
  for name, note in zip(bad, made.notes[1:], strict=True):
    assert note.startswith(f"  left out: {name!r} is ")


@pytest.mark.parametrize(
  "part, word", [("train", "'cat'"), ("test", "test has 0 images")]
)
def test_none_but_bad_images_are_refused(part, word, tmp_path):
  tree(tmp_path)
  for name in ("cat", "dog") if part == "test" else ("cat",):
    for file in (tmp_path / part / name).iterdir():
      file.write_bytes(b"")
  assert word in refusal("folder", path=str(tmp_path), skip_bad=True)


# Test images.


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_val_stands_for_test(name, tmp_path):
  made = data.load("folder", path=str(tree(tmp_path)))
  (tmp_path / "test").rename(tmp_path / name)
  again = data.load("folder", path=str(tmp_path))
  np.testing.assert_array_equal(again.test_images, made.test_images)
  tree(tmp_path)
  (note, *_) = data.load("folder", path=str(tmp_path)).notes
  assert f"{name}/ is not read" in note


def test_val_of_npz_stands_for_test(tmp_path):
  made = arrays()
  for names in (("x_val", "y_val"), ("val_images", "val_labels")):
    train = ("x_train", "y_train")
    if names[0] == "val_images":
      train = ("train_images", "train_labels")
    given = {
      train[0]: made["x_train"],
      train[1]: made["y_train"],
      names[0]: made["x_test"],
      names[1]: made["y_test"],
    }
    loaded = data.load("npz", path=save(tmp_path, **given))
    np.testing.assert_array_equal(loaded.test_images, made["x_test"])
    assert not loaded.notes
  both = {**made, "x_val": made["x_train"], "y_val": made["y_train"]}
  loaded = data.load("npz", path=save(tmp_path, **both))
  np.testing.assert_array_equal(loaded.test_images, made["x_test"])
  assert "x_val is not read" in loaded.notes[0]


def test_classes_missing_from_test_are_told(tmp_path):
  tree(tmp_path / "a", classes=("ant", "bee", "cat"))
  for file in (tmp_path / "a" / "test" / "ant").iterdir():
    file.unlink()
  (tmp_path / "a" / "test" / "bee").rename(tmp_path / "bee")
  made = data.load("folder", path=str(tmp_path / "a"))
  assert made.test_labels.tolist() == [2, 2] and made.num_classes == 3
  assert "no image of 2 of the 3 classes (ant, bee)" in made.notes[-1]
  assert made.notes[-1].startswith("warning: ")
  path = save(tmp_path, **{**arrays(), "y_test": np.arange(6) % 2})
  assert "1 of the 3 classes (2)" in data.load("npz", path=path).notes[-1]
  labels = {"t10k_labels": idx_labels(0, 1, 1, 0, 1, 1)}
  write_idx(tmp_path, **labels)
  made = data.load("idx", path=str(tmp_path))
  assert "1 of the 3 classes (2)" in made.notes[-1]


def bigger(root, classes=("cat", "dog"), counts=(40, 10)):
  """Images that are all different, of classes of unequal size."""
  rng = np.random.default_rng(2)
  for name, count in zip(classes, counts, strict=True):
    (root / name).mkdir(parents=True)
    for index in range(count):
      array = rng.integers(0, 256, (4, 6, 3), np.uint8)
      Image.fromarray(array).save(root / name / f"{index:02}.png")
  return root


@pytest.mark.parametrize("place", ["train", "."])
def test_fraction_of_one_folder_is_for_test(place, tmp_path):
  bigger(tmp_path / place)
  fields = {"path": str(tmp_path), "test_fraction": 0.2}
  made = data.load("folder", **fields)
  assert np.bincount(made.train_labels).tolist() == [32, 8]
  assert np.bincount(made.test_labels).tolist() == [8, 2]
  rows = [
    {image.tobytes() for image in images}
    for images in (made.train_images, made.test_images)
  ]
  assert len(rows[0] | rows[1]) == 50 and not rows[0] & rows[1]
  streamed = data.load("folder", **fields, stream="always")
  for name in ("train_images", "test_images"):
    np.testing.assert_array_equal(
      getattr(streamed, name)[:], getattr(made, name)
    )
  assert (streamed.mean, streamed.std) == (made.mean, made.std)
  other = data.load("folder", **fields, test_seed=1)
  assert {image.tobytes() for image in other.test_images} != rows[1]


def test_bad_images_are_left_out_before_the_split(tmp_path):
  bigger(tmp_path / "train")
  fields = {"path": str(tmp_path), "test_fraction": 0.2, "skip_bad": True}
  (tmp_path / "train" / "dog" / "bad.png").write_bytes(b"")
  made = data.load("folder", **fields)
  (tmp_path / "train" / "dog" / "bad.png").unlink()
  good = data.load("folder", **fields)
  np.testing.assert_array_equal(made.test_images, good.test_images)


def test_fraction_of_arrays_is_for_test(tmp_path):
  made = arrays(count=50, classes=2)
  expected = None
  for names in (("x_train", "y_train"), ("x", "y"), ("images", "labels")):
    given = {names[0]: made["x_train"], names[1]: made["y_train"]}
    loaded = data.load("npz", path=save(tmp_path, **given), test_fraction=0.2)
    assert np.bincount(loaded.test_labels).tolist() == [5, 5]
    assert len(loaded.train_images) == 40
    if expected is not None:
      np.testing.assert_array_equal(loaded.test_images, expected)
    expected = loaded.test_images
  folder = tmp_path / "idx"
  folder.mkdir()
  whole, path = write_idx(folder)["train_images"], str(folder)
  for name in ("images-idx3", "labels-idx1"):
    (folder / f"t10k-{name}-ubyte.gz").unlink()
  assert "config.data.test_fraction" in refusal("idx", path=path)
  loaded = data.load("idx", path=path, test_fraction=0.34)
  assert sorted(loaded.test_labels) == [0, 1, 2]
  both = np.concatenate([loaded.train_images, loaded.test_images])
  assert {x.tobytes() for x in both} == {x.tobytes() for x in whole}


def test_fraction_is_refused_where_there_are_test_images(tmp_path):
  fraction = {"test_fraction": 0.2}
  message = refusal("folder", path=str(tree(tmp_path / "a")), **fraction)
  assert "there is test/" in message
  (tmp_path / "a" / "test").rename(tmp_path / "a" / "val")
  message = refusal("folder", path=str(tmp_path / "a"), **fraction)
  assert "there is val/" in message
  message = refusal("npz", path=save(tmp_path, **arrays()), **fraction)
  assert "there is x_test" in message
  write_idx(tmp_path)
  message = refusal("idx", path=str(tmp_path), **fraction)
  assert "there is t10k-images" in message


def test_small_classes_keep_their_images_for_training(tmp_path):
  bigger(tmp_path, classes=("cat", "dog", "emu"), counts=(10, 10, 1))
  for fraction, test in ((0.1, [1, 1]), (0.9, [9, 9])):
    made = data.load("folder", path=str(tmp_path), test_fraction=fraction)
    assert np.bincount(made.test_labels).tolist() == test
    assert "1 of the 3 classes (emu)" in made.notes[-1]
  message = refusal("folder", path=str(tmp_path), test_fraction=0.01)
  assert "config.data.test_fraction=0.01 draws no test image" in message


# Arrays of floats, booleans, and one-hot labels.


def test_float_images_and_one_hot_labels_are_converted_if_asked(tmp_path):
  made = arrays()
  plain = data.load("npz", path=save(tmp_path, **made))
  one_hot = {
    **made,
    "y_train": np.eye(3)[made["y_train"]],
    "y_test": np.eye(3, dtype=bool)[made["y_test"]],
  }
  for kind in (np.float16, np.float32, np.float64):
    given = {
      **one_hot,
      "x_train": (made["x_train"] / 255).astype(kind),
      "x_test": (made["x_test"] / 255).astype(kind),
    }
    path = save(tmp_path, **given)
    loaded = data.load("npz", path=path, convert_arrays=True)
    for name in ("train_images", "test_images", "train_labels", "test_labels"):
      np.testing.assert_array_equal(getattr(loaded, name), getattr(plain, name))
    assert (loaded.mean, loaded.std) == (plain.mean, plain.std)
    message = refusal("npz", path=path)
    assert "config.data.convert_arrays=True" in message and "x_train" in message
  message = refusal("npz", path=save(tmp_path, **one_hot))
  assert "convert_arrays=True for one-hot" in message and "y_train" in message
  bits = {**made, "x_train": made["x_train"] > 9, "x_test": made["x_test"] > 9}
  loaded = data.load("npz", path=save(tmp_path, **bits), convert_arrays=True)
  np.testing.assert_array_equal(loaded.test_images, 255 * bits["x_test"])


@pytest.mark.parametrize(
  "changed, word",
  [
    ({"x_train": np.full((9, 4, 5, 3), 255.0)}, "from 255 to 255"),
    ({"x_test": np.full((6, 4, 5, 3), -0.5)}, "from -0.5 to -0.5"),
    ({"x_test": np.full((6, 4, 5, 3), np.nan)}, "nan"),
    ({"x_train": np.zeros((9, 4, 5, 3), np.uint16)}, "uint16"),
    ({"y_train": np.eye(9, 3) * 2}, "(9, 3)"),
    ({"y_train": np.ones((9, 3), int)}, "(9, 3)"),
    ({"y_train": np.zeros((9, 3), int)}, "(9, 3)"),
    ({"y_train": np.arange(9) % 3 + 0.5}, "float64"),
    ({"y_train": np.full((9, 3), "cat")}, "<U3"),
    ({"y_test": np.full((0, 0), "cat")}, "<U3"),
  ],
)
def test_other_arrays_are_not_converted(changed, word, tmp_path):
  path = save(tmp_path, **{**arrays(), **changed})
  assert word in refusal("npz", path=path, convert_arrays=True)


# Weights of classes.


def test_balanced_weights_make_classes_count_alike():
  labels = np.repeat([0, 1, 3], [60, 30, 10])
  assert data.class_weights("none", labels, 5) is None
  weights = data.class_weights("balanced", labels, 5)
  np.testing.assert_allclose(weights, [100 / 180, 100 / 90, 0, 100 / 30, 0])
  assert abs(weights[labels].mean() - 1) < 1e-6
  sums = np.bincount(labels, weights[labels])
  np.testing.assert_allclose(sums[[0, 1, 3]], 100 / 3, rtol=1e-6)


# TensorFlow Datasets that are not there.


@pytest.mark.parametrize(
  "make, word",
  [
    (None, "there is no such folder"),
    ("", "there is no folder '{}/cifar10/3.0.2'"),
    ("cifar10", "there is no folder '{}/cifar10/3.0.2'"),
    ("cifar10/3.0.2", "the folder '{}/cifar10/3.0.2' is empty"),
  ],
)
def test_tfds_names_the_folder_that_lacks(make, word, tmp_path):
  root = tmp_path / "data"
  if make is not None:
    (root / make).mkdir(parents=True)
  message = refusal("tfds", name="cifar10", path=str(root))
  assert f"({word.format(root)}); accepted" in message
  assert "NotImplemented" not in message


def test_tfds_path_that_is_a_file_is_no_folder(tmp_path):
  (tmp_path / "x").write_bytes(b"")
  message = refusal("tfds", name="cifar10", path=str(tmp_path / "x"))
  assert "there is no such folder" in message


def test_tfds_without_test_needs_a_fraction():
  from nss_jax.data import tfds

  assert tfds.choose_splits(["train", "test", "extra"], 0) == ["train", "test"]
  assert tfds.choose_splits(["train", "validation"], 0)[1] == "validation"
  assert tfds.choose_splits(["train"], 0.2) == ["train"]
  with pytest.raises(ValueError, match=r"config\.data\.test_fraction"):
    tfds.choose_splits(["train", "extra"], 0)
  with pytest.raises(ValueError, match="there is a split validation"):
    tfds.choose_splits(["train", "validation"], 0.2)
