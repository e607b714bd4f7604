"""Data sets of TensorFlow Datasets on disk, written without TensorFlow.

TFDS can write them so if images come as encoded files. Its own CIFAR needs
TensorFlow: it extracts archives, reads files and encodes arrays with it.
"""

import io
import pathlib
import sys

import numpy as np
import pytest
from own_files import assert_same, refusal, write_tfds
from PIL import Image

from nss_jax import data
from nss_jax.data import tfds as source
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
) -> dict[str, str]:
  """Writes random pixels in three classes; returns what `load` is to be told.

  Images are of the declared shape, or of these sizes, one after another. The
  second split has the name of `test`.
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
  name = write_tfds(folder, parts, shape=shape, keys=keys)
  return {"name": name, "path": str(folder)}


@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_data_set_is_read_without_tensorflow(channels, tmp_path):
  shape = (5, 4, channels)
  made = data.load("tfds", **prepare(tmp_path, shape=shape))
  for part, labels in LABELS.items():
    images, found = (
      getattr(made, f"{part}_{kind}") for kind in ("images", "labels")
    )
    # TFDS shuffles when it writes.
    label_of = {
      pixels(i, shape).tobytes(): label for i, label in enumerate(labels)
    }
    pairs = [(x.tobytes(), y) for x, y in zip(images, found, strict=True)]
    assert sorted(pairs) == sorted(label_of.items())
    assert images.shape[1:] == shape
  assert made.num_classes == 3
  assert "tensorflow" not in sys.modules


def test_other_keys_and_validation_in_place_of_test(tmp_path):
  fields = prepare(tmp_path, keys=("picture", "kind"), test="validation")
  made = data.load("tfds", **fields)
  assert sorted(made.test_labels) == sorted(LABELS["test"])
  assert made.test_images.shape == (4, 5, 4, 3)


def test_images_of_many_sizes_need_a_size_and_can_be_streamed(tmp_path):
  fields = prepare(tmp_path, shape=(None, None, 3), sizes=[(6, 9), (8, 5)])
  assert "config.data.image_size" in refusal("tfds", **fields)
  fields |= {"image_size": 6, "channels": 1}
  whole = data.load("tfds", **fields)
  assert whole.train_images.shape == (7, 6, 6, 1)
  made = data.load("tfds", **fields, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert_same(made, whole)


def test_encoded_images_are_decoded_as_those_of_a_folder(tmp_path):
  """Palettes were taken for grey, transparency and orientation ignored."""
  files = []
  for mode, options in (("L", {}), ("P", {"transparency": 3}), ("RGBA", {})):
    exif = Image.Exif()
    exif[0x112] = 3  # upside down
    array = pixels(1, (4, 7, 4))
    picture = Image.fromarray(array if mode == "RGBA" else array[..., 0])
    if mode == "P":
      picture = Image.fromarray(array[..., :3]).quantize(8)
    content = io.BytesIO()
    picture.save(content, "PNG", exif=exif, **options)
    files.append(content.getvalue())
  for label in range(2):
    for index, content in enumerate(files):
      file = tmp_path / "folder" / f"{label}" / f"{index}.png"
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(content)
  examples = [(content, label) for content in files for label in range(2)]
  name = write_tfds(tmp_path, {"train": examples}, classes=2)
  fields = {"test_fraction": 0.34, "background": 30}
  made = data.load("tfds", name=name, path=str(tmp_path), **fields)
  folder = str(tmp_path / "folder")
  expected = data.load("folder", path=folder, channels=3, **fields)
  one, other = (
    sorted(x.tobytes() for x in (*found.train_images, *found.test_images))
    for found in (made, expected)
  )
  assert one == other
  assert np.bincount(made.test_labels).tolist() == [1, 1]


def test_damaged_data_set_is_refused_in_one_line(tmp_path, monkeypatch):
  fields = prepare(tmp_path)
  # Fewer images are read for the statistics than there are.
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 2)
  made = data.load("tfds", **fields, stream="always")
  for file in tmp_path.rglob("*train.array_record*"):
    file.write_bytes(bytes(file.stat().st_size))
  with pytest.raises(UserError) as caught:
    made.train_images[np.array([5])]
  message = str(caught.value)
  assert "config.data.name='tiny_set': example 5 of 7 cannot be" in message
  assert message.isprintable()
  file = next(tmp_path.rglob("*test.array_record*"))
  file.write_bytes(file.read_bytes()[:-40])
  assert "config.data.name='tiny_set'" in refusal("tfds", **fields)


def test_archive_is_taken_from_the_manual_folder(tmp_path):
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


@pytest.mark.parametrize(
  "name, folder, words",
  [
    ("no_such_data_set", "", "(DatasetNotFoundError: "),
    ("cifar10:9.9.9", "", ": "),
    ("cifar10", None, "(there is no such folder); accepted"),
    ("cifar10", "", "(there is no folder '{}/cifar10/3.0.2'); accepted"),
    ("cifar10", "cifar10", "(there is no folder '{}/cifar10/3.0.2'); acc"),
    ("cifar10", "cifar10/3.0.2", "(the folder '{}/cifar10/3.0.2' is empty); a"),
  ],
)
def test_what_is_not_prepared_says_how(name, folder, words, tmp_path):
  root = tmp_path / "data"
  if folder is None:
    root.write_bytes(b"")
  else:
    (root / folder).mkdir(parents=True)
  before = sorted(tmp_path.rglob("*"))
  message = refusal("tfds", name=name, path=str(root))
  assert words.format(root) in message and "NotImplemented" not in message
  assert f"tfds.builder({name!r}, data_dir={str(root)!r}, " in message
  assert "file_format='array_record').download_and_prepare()" in message
  assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
  "name", ["", "huggingface:mnist", "../x", "/etc", "cifar10/a=1", "a\nb"]
)
def test_name_of_another_form_is_refused(name):
  assert f"config.data.name={name!r}" in refusal("tfds", name=name)


def test_data_set_without_a_class_label_is_refused():
  import tensorflow_datasets as tfds

  with tfds.testing.mock_data(as_data_source_fn=lambda *args, **kwargs: []):
    message = refusal("tfds", name="div2k")
  assert "accepted are data sets with an image and a class label" in message


def test_data_set_without_test_needs_a_fraction():
  assert source.choose_splits(["train", "test", "x"], 0) == ["train", "test"]
  assert source.choose_splits(["train", "validation"], 0)[1] == "validation"
  assert source.choose_splits(["train"], 0.2) == ["train"]
  with pytest.raises(ValueError, match=r"config\.data\.test_fraction"):
    source.choose_splits(["train", "extra"], 0)
  with pytest.raises(ValueError, match="there is a split validation"):
    source.choose_splits(["train", "validation"], 0.2)
