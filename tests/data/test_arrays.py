"""Arrays in files, .npz and IDX: what is read and what is refused."""

import gc
import gzip
import io
import pathlib
import zipfile

import numpy as np
import pytest
from own_files import (
  arrays,
  assert_same,
  idx,
  idx_labels,
  refusal,
  save,
  write_idx,
)

from nss_jax import data

KERAS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")


@pytest.mark.parametrize("test", ["test", "val"])
@pytest.mark.parametrize("names", [KERAS, MEDMNIST])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_npz_of_either_names(shape, names, test, tmp_path):
  made = arrays(shape)
  names = [name.replace("test", test) for name in names]
  given = dict(zip(names, made.values(), strict=True))
  given[names[3]] = made["y_test"].astype(np.uint8)[:, None]
  path = save(tmp_path, other=np.zeros(3), **given)
  loaded = data.load("npz", path=path)
  for part in ("train", "test"):
    images = made[f"x_{part}"].reshape(-1, 4, 5, (*shape, 1)[2])
    np.testing.assert_array_equal(getattr(loaded, f"{part}_images"), images)
    labels = getattr(loaded, f"{part}_labels")
    np.testing.assert_array_equal(labels, made[f"y_{part}"])
    assert labels.dtype == np.int32
  assert loaded.num_classes == 3 and not loaded.notes
  if test == "test":
    val = [names[i].replace("test", "val") for i in (2, 3)]
    more = dict(zip(val, (given[names[i]] for i in (0, 1)), strict=True))
    both = data.load("npz", path=save(tmp_path, **given, **more))
    assert_same(both, loaded)
    assert f"{val[0]} is not read" in both.notes[0]


def same(value, count=9, shape=(4, 5, 3), dtype=np.uint8):
  return np.full((count, *shape), value, dtype)


def shaped(*shape):
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


CONVERT = "config.data.convert_arrays=True"
# What is wrong: (arrays that differ, words of the line).
WRONG = {
  "no images": ({"x_train": same(0, 0), "y_train": np.arange(0)}, "at least"),
  "no test": ({"x_test": same(0, 0), "y_test": np.arange(0)}, "at least one"),
  "no pixels": ({"x_train": same(0, 9, (0, 5, 3))}, "of shape (0, 5, 3)"),
  "a number": ({"x_train": np.uint8(3)}, "shape ()"),
  "other numbers": ({"x_train": same(0, dtype=np.uint16)}, "uint16"),
  "objects": ({"y_train": np.array([{}] * 9)}, "Object arrays"),
  "too few labels": ({"y_train": np.arange(8)}, "train has 9 images"),
  "too few of test": ({"y_test": np.arange(5) % 3}, "test has 6 images"),
  "labels of floats": ({"y_train": np.arange(9) % 3 + 0.0}, "float64"),
  "all negative": ({"y_train": np.full(9, -5)}, "train labels lie in -5..-5"),
  "a label beyond": ({"y_test": np.arange(6) % 4}, "test labels lie in 0..3"),
  "class of test alone": ({"y_train": np.arange(9) % 2 * 2}, "lacks, [1]"),
  # It must not wrap around.
  "a wild label": (
    {"y_train": np.where(np.arange(9) < 8, np.arange(9) % 3, 2**40)},
    "train has no image of class 3; accepted is at least one of every class",
  ),
  "one class": (
    {"y_train": same(0, shape=(), dtype=int), "y_test": np.zeros(6, int)},
    "of one class; accepted are two classes",
  ),
  "two sizes": ({"x_test": same(0, 6, (4, 5))}, "test images (4, 5, 1)"),
  "no variation": ({"x_train": same(7)}, "training images are the same"),
  "floats": ({"x_train": same(0.5, dtype=float)}, CONVERT),
  "one-hot labels": ({"y_train": np.eye(9, 3)}, f"{CONVERT} for one-hot"),
  "as PyTorch": ({"x_train": shaped(9, 3, 8, 7)}, "transpose(0, 2, 3, 1)"),
  "as PyTorch, RGBA": ({"x_test": shaped(6, 4, 8, 8)}, ": test images are"),
  "as PyTorch, grey": ({"x_train": shaped(9, 1, 8, 8)}, "(0, 2, 3, 1)"),
  "as Matlab": ({"x_train": shaped(8, 7, 3, 9)}, "(8, 7, 3, 9), whose axes"),
  "as Matlab, grey": ({"x_train": shaped(8, 8, 1, 9)}, "transpose(3, 0, 1, 2)"),
}
# Refused too where arrays are to be converted.
NOT_CONVERTED = {
  "too light": ({"x_train": same(255.0, dtype=float)}, "from 255 to 255"),
  "too dark": ({"x_test": same(-0.5, 6, dtype=float)}, "from -0.5 to -0.5"),
  "no numbers": ({"x_test": same(np.nan, 6, dtype=float)}, "nan"),
  "twos": ({"y_train": np.eye(9, 3) * 2}, "(9, 3)"),
  "many hot": ({"y_train": np.ones((9, 3), int)}, "(9, 3)"),
  "none hot": ({"y_train": np.zeros((9, 3), int)}, "(9, 3)"),
  "halves": ({"y_train": np.arange(9) % 3 + 0.5}, "float64"),
  "texts": ({"y_train": np.full((9, 3), "cat")}, "<U3"),
  "no texts": ({"y_test": np.full((0, 0), "cat")}, "<U3"),
}


@pytest.mark.parametrize("case", [*WRONG, *NOT_CONVERTED])
def test_wrong_arrays_are_refused(case, tmp_path):
  changed, words = {**WRONG, **NOT_CONVERTED}[case]
  path = save(tmp_path, **{**arrays(), **changed})
  fields = {"convert_arrays": True} if case in NOT_CONVERTED else {}
  message = refusal("npz", path=path, **fields)
  assert words in message and f"config.data.path={path!r}" in message


@pytest.mark.parametrize(
  "shape", [(6, 3, 4, 3), (6, 4, 4, 13), (6, 1, 50, 8), (6, 8, 9, 3)]
)
def test_odd_shapes_are_not_taken_for_another_order_of_axes(shape, tmp_path):
  images, labels = shaped(*shape), np.arange(6) % 2
  path = save(
    tmp_path, x_train=images, y_train=labels, x_test=images, y_test=labels
  )
  made = data.load("npz", path=path)
  assert made.train_images.shape == shape
  told = [note for note in made.notes if f"images have {shape[3]} ch" in note]
  assert len(told) == (shape[3] != 3)


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


def test_damaged_npz_is_not_left_open(tmp_path):
  """As numpy leaves it; that would be a warning, which is an error here."""
  path = pathlib.Path(save(tmp_path, **arrays()))
  path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x00\x00"))
  assert "BadZipFile" in refusal("npz", path=str(path))
  gc.collect()


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_float_images_and_one_hot_labels_are_converted_if_asked(kind, tmp_path):
  made = arrays()
  plain = data.load("npz", path=save(tmp_path, **made))
  given = {
    "x_train": (made["x_train"] / 255).astype(kind),
    "x_test": (made["x_test"] / 255).astype(kind),
    "y_train": np.eye(3)[made["y_train"]],
    "y_test": np.eye(3, dtype=bool)[made["y_test"]],
  }
  path = save(tmp_path, **given)
  assert_same(data.load("npz", path=path, convert_arrays=True), plain)
  bits = {**made, "x_train": made["x_train"] > 9, "x_test": made["x_test"] > 9}
  loaded = data.load("npz", path=save(tmp_path, **bits), convert_arrays=True)
  np.testing.assert_array_equal(loaded.test_images, 255 * bits["x_test"])


def test_fraction_of_arrays_is_for_test(tmp_path):
  made = arrays(count=50, classes=2)
  loaded = []
  for names in (("x_train", "y_train"), ("x", "y"), ("images", "labels")):
    given = {names[0]: made["x_train"], names[1]: made["y_train"]}
    path = save(tmp_path, **given)
    loaded.append(data.load("npz", path=path, test_fraction=0.2))
    assert_same(loaded[-1], loaded[0])
  assert np.bincount(loaded[0].test_labels).tolist() == [5, 5]
  assert len(loaded[0].train_images) == 40
  message = refusal("npz", path=save(tmp_path, **made), test_fraction=0.2)
  assert "accepted where there is x_test; accepted is 0" in message
  whole = write_idx(tmp_path)["train_images"]
  fields = {"path": str(tmp_path), "test_fraction": 0.34}
  message = refusal("idx", **fields)
  assert "accepted where there is t10k-images" in message
  for name in ("images-idx3", "labels-idx1"):
    (tmp_path / f"t10k-{name}-ubyte.gz").unlink()
  assert "and config.data.test_fraction" in refusal("idx", path=str(tmp_path))
  split = data.load("idx", **fields)
  assert sorted(split.test_labels) == [0, 1, 2]
  both = np.concatenate([split.train_images, split.test_images])
  assert {x.tobytes() for x in both} == {x.tobytes() for x in whole}


# IDX files.


@pytest.mark.parametrize(
  ("source", "classes", "compress"),
  [("idx", 3, False), ("fashion_mnist", 10, True)],
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
      "train-images-idx3-ubyte.gz is damaged",
    ),
    ({"t10k_labels": b"no gzip"}, "t10k-labels-idx1-ubyte.gz is damaged"),
    ({"t10k_labels": idx_labels(0, 1, 2, 0, 1)}, "has 6 images"),
    ({"t10k_labels": idx_labels(0, 1, 2, 0, 1, 3)}, "test labels lie in 0..3"),
    *(
      ({"train_images": gzip.compress(content)}, "train-images-idx3-ubyte.gz")
      for content in (
        *(b"", bytes([0, 0, 8, 3]), idx(TWO[0]), idx(TWO, kind=9)),
        *(idx(TWO)[:-1], idx(TWO) + b"x", idx(TWO[:0])),
      )
    ),
  ],
)
def test_wrong_idx_files_are_refused(changed, words, tmp_path):
  write_idx(tmp_path, **changed)
  assert words in refusal("idx", path=str(tmp_path))


def test_idx_that_is_not_there(tmp_path):
  message = refusal("fashion_mnist", path=str(tmp_path))
  assert "dataset-fashion-mnist" in message
