"""Data sets of TensorFlow Datasets on disk, written without TensorFlow.

TFDS can write them so if images come as encoded files. Its own CIFAR needs
TensorFlow: it extracts archives, reads files and encodes arrays with it.
"""

import io
import pathlib
import sys

import numpy as np
import pytest
from own_files import in_any_order, write_tfds
from PIL import Image

from nss_jax import data
from nss_jax.errors import UserError

LABELS = {"train": [2, 0, 1, 2, 0, 1, 1], "test": [1, 2, 0, 2]}


def pixels(index: int, shape: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def prepare(
  folder: pathlib.Path,
  *,
  shape=(5, 4, 3),
  keys=("image", "label"),
  test="test",
  sizes=None,
) -> str:
  """Writes a data set of random pixels in three classes; returns its name.

  Args:
    folder: of data sets.
    shape: of the declared images, channels last.
    keys: of image and label, declared as supervised keys.
    test: name of its second split.
    sizes: heights and widths of the images, one after another.
  """

  def file(index):
    size = sizes[index % len(sizes)] if sizes else shape[:2]
    array = pixels(index, (*size, shape[2]))
    content = io.BytesIO()
    picture = array[..., 0] if shape[2] == 1 else array
    Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()

  parts = {
    name: [(file(index), label) for index, label in enumerate(LABELS[part])]
    for name, part in (("train", "train"), (test, "test"))
  }
  return write_tfds(folder, parts, shape=shape, keys=keys)


@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_data_set_is_read_without_tensorflow(channels, tmp_path):
  shape = (5, 4, channels)
  name = prepare(tmp_path, shape=shape)
  made = data.load("tfds", name=name, path=str(tmp_path))
  assert made.train_images.shape == (7, *shape)
  assert in_any_order(made.train_images) == in_any_order(
    [pixels(i, shape) for i in range(7)]
  )
  label_of = {
    pixels(i, shape).tobytes(): label for i, label in enumerate(LABELS["test"])
  }
  for image, label in zip(made.test_images, made.test_labels, strict=True):
    assert label_of[image.tobytes()] == label
  assert made.num_classes == 3
  assert "tensorflow" not in sys.modules


def test_other_keys_and_validation_in_place_of_test(tmp_path):
  name = prepare(tmp_path, keys=("picture", "kind"), test="validation")
  made = data.load("tfds", name=name, path=str(tmp_path))
  assert sorted(made.test_labels) == sorted(LABELS["test"])
  assert made.test_images.shape == (4, 5, 4, 3)


def test_images_of_many_sizes_need_a_size(tmp_path):
  name = prepare(tmp_path, shape=(None, None, 3), sizes=[(6, 9), (8, 5)])
  with pytest.raises(UserError, match=r"config\.data\.image_size"):
    data.load("tfds", name=name, path=str(tmp_path))
  made = data.load(
    "tfds", name=name, path=str(tmp_path), image_size=6, channels=1
  )
  assert made.train_images.shape == (7, 6, 6, 1)


def test_damaged_data_set_is_refused_in_one_line(tmp_path):
  name = prepare(tmp_path)
  file = next(tmp_path.rglob("*test.array_record*"))
  file.write_bytes(file.read_bytes()[:-40])
  with pytest.raises(UserError) as caught:
    data.load("tfds", name=name, path=str(tmp_path))
  assert str(caught.value).isprintable()
  assert "config.data.name='tiny_set'" in str(caught.value)


def test_tfds_takes_an_archive_from_its_manual_folder(tmp_path):
  """What configs says of CIFAR: no network, and a checksum of its own."""
  import tensorflow_datasets as tfds

  archive = data.ARCHIVES["cifar10_binary"]
  manual = tmp_path / "downloads" / "manual"
  manual.mkdir(parents=True)
  (manual / archive.filename).write_bytes(b"not the official one")
  builder = tfds.builder("cifar10", data_dir=str(tmp_path))
  known = builder.url_infos[archive.url]
  assert known.checksum == archive.sha256
  refused = tfds.download.download_manager.NonMatchingChecksumError
  with pytest.raises(refused, match=str(manual / archive.filename)):
    builder.download_and_prepare()


def test_streamed_data_set_is_that_of_one_in_memory(tmp_path):
  name = prepare(tmp_path, shape=(None, None, 3), sizes=[(6, 9), (8, 5)])
  fields = {"name": name, "path": str(tmp_path), "image_size": 6}
  whole = data.load("tfds", **fields)
  made = data.load("tfds", **fields, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert made.train_images.shape == (7, 6, 6, 3)
  for part in ("train", "test"):
    images, labels = (
      getattr(made, f"{part}_{kind}") for kind in ("images", "labels")
    )
    np.testing.assert_array_equal(images[:], getattr(whole, f"{part}_images"))
    np.testing.assert_array_equal(labels, getattr(whole, f"{part}_labels"))
  assert (made.mean, made.std) == (whole.mean, whole.std)
  assert made.num_classes == 3 and "tensorflow" not in sys.modules


def test_streamed_example_that_is_lost_is_named(tmp_path, monkeypatch):
  # More images than are read for the statistics.
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 2)
  name = prepare(tmp_path)
  made = data.load("tfds", name=name, path=str(tmp_path), stream="always")
  for file in tmp_path.rglob("*train.array_record*"):
    file.write_bytes(bytes(file.stat().st_size))
  with pytest.raises(UserError) as caught:
    made.train_images[np.array([5])]
  message = str(caught.value)
  assert "config.data.name='tiny_set': example 5 of 7 cannot be" in message
  assert message.isprintable()
