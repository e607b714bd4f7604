"""Small data sets of one's own in files, good and damaged; and refusals."""

import gzip
import io
import pathlib
import tarfile

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from nss_jax import data
from nss_jax.errors import UserError

SEEDED = np.random.default_rng(0)


def refusal(source: str, **kwargs) -> str:
  """Loads, expects `UserError`, returns its message after common checks."""
  with pytest.raises(UserError) as caught:
    data.load(source, **kwargs)
  message = str(caught.value)
  assert message.isprintable() and len(message) < 800
  says = ("accepted", "--config.data.path=", "cannot be read (")
  assert any(words in message for words in says)
  assert message.startswith("config.data.")
  return message


def assert_same(made: data.Dataset, expected: data.Dataset) -> None:
  """The same images and labels, streamed or not, and statistics."""
  for part in ("train", "test"):
    for kind in ("images", "labels"):
      name = f"{part}_{kind}"
      found, wanted = (getattr(x, name) for x in (made, expected))
      assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), name
      np.testing.assert_array_equal(found[:], wanted[:], name)
  assert (made.mean, made.std) == (expected.mean, expected.std)
  assert made.num_classes == expected.num_classes


@st.composite
def damaged(draw, good: bytes, least: int = 0) -> bytes:
  """A file with some of its bytes changed, cut off somewhere."""
  content = bytearray(good)
  for _ in range(draw(st.integers(1, 4))):
    place = draw(st.integers(0, len(good) - 1))
    content[place] = draw(st.integers(0, 255))
  return bytes(content[: draw(st.integers(least, len(good)))])


def arrays(shape=(4, 5, 3), count=9, classes=3) -> dict[str, np.ndarray]:
  """Nine training and six test images of three classes."""
  made = {}
  for part, n in (("train", count), ("test", count - classes)):
    images = SEEDED.integers(0, 256, (n, *shape), np.uint8)
    made |= {f"x_{part}": images, f"y_{part}": np.arange(n) % classes}
  return made


def save(folder: pathlib.Path, **given) -> str:
  np.savez(folder / "set.npz", **given)
  return str(folder / "set.npz")


def picture(folder: pathlib.Path, value=0, *, size=(6, 4), mode="RGB", name=""):
  """A picture of one colour; size is width, height."""
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / (name or f"{len(list(folder.iterdir()))}.png")
  Image.new(mode, size, value).save(file)
  return file


def tree(root: pathlib.Path, classes=("cat", "dog"), **kwargs) -> pathlib.Path:
  """Three training images and two test images of each class."""
  for part, count in (("train", 3), ("test", 2)):
    for label, name in enumerate(classes):
      for i in range(count):
        grey = 50 * label + i
        value = grey if kwargs.get("mode") == "L" else (grey, 0, 255)
        picture(root / part / name, value, **kwargs)
  return root


def tar(folder: str, members: dict[str, bytes]) -> bytes:
  """An archive of files in a folder."""
  content = io.BytesIO()
  with tarfile.open(fileobj=content, mode="w:gz") as archive:
    for name, member in members.items():
      info = tarfile.TarInfo(f"{folder}/{name}")
      info.size = len(member)
      archive.addfile(info, io.BytesIO(member))
  return content.getvalue()


def idx(values: np.ndarray, kind: int = 8) -> bytes:
  """An IDX file of bytes."""
  header = bytes([0, 0, kind, values.ndim])
  shape = b"".join(n.to_bytes(4, "big") for n in values.shape)
  return header + shape + values.tobytes()


def idx_labels(*labels: int) -> bytes:
  return gzip.compress(idx(np.array(labels, np.uint8)))


def write_idx(
  folder: pathlib.Path, *, classes=3, compress=True, **changed: bytes
) -> dict[str, np.ndarray]:
  """Writes four files of MNIST's names: images of 3 x 2 pixels, three and two
  of each class, or what a file is to hold instead; returns what is in them."""
  made = {}
  for part, count in (("train", 3 * classes), ("t10k", 2 * classes)):
    pixels = SEEDED.integers(0, 256, (count, 3, 2), np.uint8)
    labels = (np.arange(count) % classes).astype(np.uint8)
    for kind, values in (("images", pixels), ("labels", labels)):
      content = gzip.compress(idx(values)) if compress else idx(values)
      name = f"{part}-{kind}-idx{values.ndim}-ubyte" + ".gz" * compress
      (folder / name).write_bytes(changed.get(f"{part}_{kind}", content))
      made[f"{part}_{kind}"] = values
  return made


def write_tfds(
  folder: pathlib.Path,
  parts: dict[str, list[tuple[bytes, int]]],
  *,
  shape=(None, None, 3),
  keys=("image", "label"),
  classes=3,
) -> str:
  """Writes encoded images and their labels as TFDS does; returns the name."""
  import tensorflow_datasets as tfds

  class TinySet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images as they are given."""

    VERSION = tfds.core.Version("1.0.0")
    name = "tiny_set"
    pkg_dir_path = folder

    def _info(self):
      features = {
        keys[0]: tfds.features.Image(shape=shape, encoding_format="png"),
        keys[1]: tfds.features.ClassLabel(num_classes=classes),
      }
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=keys,
      )

    def _split_generators(self, dl_manager):
      return {name: self._examples(part) for name, part in parts.items()}

    def _examples(self, part):
      for index, (content, label) in enumerate(part):
        yield index, {keys[0]: io.BytesIO(content), keys[1]: label}

    def _generate_examples(self, *args):
      raise NotImplementedError

  builder = TinySet(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return "tiny_set"
