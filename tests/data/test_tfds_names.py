"""Data sets of TensorFlow Datasets by name, from files of the official format.

They are prepared by the command of the README, in a process without network,
then read by the source `tfds`. The files hold few and random images;
see tfds_offline.py for what else differs from the official ones.
"""

import gzip
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import runs
import scipy.io
from own_files import idx, tar

from nss_jax import data

Part = tuple[np.ndarray, np.ndarray]
OFFLINE = runs.ROOT / "tests" / "tfds_offline.py"
COUNTS = {"train": 40, "test": 7}
CLASSES = {
  **{"cifar10": 10, "cifar100": 100},
  **{"fashion_mnist": 10, "svhn_cropped": 10},
}
CIFAR10 = [
  *("airplane", "automobile", "bird", "cat", "deer"),
  *("dog", "frog", "horse", "ship", "truck"),
]
# As many as the official files have is what TFDS reads of Fashion-MNIST.
FEWER = (
  "import tensorflow_datasets.image_classification.mnist as mnist; "
  "mnist._TRAIN_EXAMPLES, mnist._TEST_EXAMPLES = 40, 7"
)


def _records(part: Part, *labels: np.ndarray) -> bytes:
  """Labels of a byte each, then the planes of red, green and blue."""
  planes = part[0].transpose(0, 3, 1, 2).reshape(len(part[0]), -1)
  columns = [label[:, None].astype(np.uint8) for label in labels]
  return np.concatenate([*columns, planes], axis=1).tobytes()


def _lines(names: list[str]) -> bytes:
  return "".join(f"{name}\n" for name in names).encode()


def _write_cifar10(folder: pathlib.Path, parts: dict[str, Part]) -> None:
  train, test = (_records(part, part[1]) for part in parts.values())
  batches = np.frombuffer(train, np.uint8).reshape(5, -1, 3073)
  content = tar(
    "cifar-10-batches-bin",
    {
      "batches.meta.txt": _lines([*CIFAR10, ""]),
      **{f"data_batch_{i}.bin": b.tobytes() for i, b in enumerate(batches, 1)},
      "readme.html": b"<html>",
      "test_batch.bin": test,
    },
  )
  (folder / "cifar-10-binary.tar.gz").write_bytes(content)


def _write_cifar100(folder: pathlib.Path, parts: dict[str, Part]) -> None:
  # The coarse label comes first.
  coarse = {name: part[1] // 5 for name, part in parts.items()}
  content = tar(
    "cifar-100-binary",
    {
      "coarse_label_names.txt": _lines([f"coarse_{i}" for i in range(20)]),
      "fine_label_names.txt": _lines([f"fine_{i}" for i in range(100)]),
      **{
        f"{name}.bin": _records(part, coarse[name], part[1])
        for name, part in parts.items()
      },
    },
  )
  (folder / "cifar-100-binary.tar.gz").write_bytes(content)


def _write_fashion_mnist(folder: pathlib.Path, parts: dict[str, Part]) -> None:
  for name, part in parts.items():
    for array, kind in zip(part, ("images", "labels"), strict=True):
      array = array.squeeze(-1) if kind == "images" else array
      prefix = "t10k" if name == "test" else "train"
      file = folder / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz"
      file.write_bytes(gzip.compress(idx(array.astype(np.uint8))))


def _write_svhn_cropped(folder: pathlib.Path, parts: dict[str, Part]) -> None:
  for name in ("train", "test", "extra"):
    images, labels = parts["test" if name == "extra" else name]
    # Zero is written as ten.
    digits = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    content = {"X": images.transpose(1, 2, 3, 0), "y": digits}
    scipy.io.savemat(folder / f"{name}_32x32.mat", content)


WRITERS: dict[str, Callable[[pathlib.Path, dict[str, Part]], None]] = {
  "cifar10": _write_cifar10,
  "cifar100": _write_cifar100,
  "fashion_mnist": _write_fashion_mnist,
  "svhn_cropped": _write_svhn_cropped,
}


def _parts(name: str) -> dict[str, Part]:
  rng = np.random.default_rng(7)
  # Classes of the test images are among those of training.
  labels = np.arange(max(COUNTS.values())) * 7 % CLASSES[name]
  shape = (28, 28, 1) if name == "fashion_mnist" else (32, 32, 3)
  return {
    part: (rng.integers(0, 256, (count, *shape), np.uint8), labels[:count])
    for part, count in COUNTS.items()
  }


def _recipe() -> str:
  """The command of the page on data that prepares CIFAR-10."""
  text = (runs.ROOT / "configs" / "README.md").read_text()
  (command,) = re.findall(r'python -c "import tensorflow_data[^"]*"', text)
  assert "DIR/downloads/manual/" in text
  return command


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> pathlib.Path:
  """A folder of all, prepared by the recipe with each name in its place."""
  folder = tmp_path_factory.mktemp("tfds")
  manual = folder / "downloads" / "manual"
  manual.mkdir(parents=True)
  _, _, code = shlex.split(_recipe())
  code = code.replace("DIR", str(folder))
  codes = [FEWER]
  for name, write in WRITERS.items():
    write(manual, _parts(name))
    codes.append(code.replace("cifar10", name))
  done = subprocess.run(
    [sys.executable, OFFLINE, manual, "\n".join(codes)],
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return folder


def _pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
  # TFDS shuffles when it writes.
  pairs = zip(images, labels, strict=True)
  return sorted((image.tobytes(), int(label)) for image, label in pairs)


@pytest.mark.parametrize("name", WRITERS)
def test_data_set_is_what_its_official_files_hold(name, prepared):
  parts = _parts(name)
  made = data.load("tfds", name=name, path=str(prepared))
  assert _pairs(made.train_images, made.train_labels) == _pairs(*parts["train"])
  assert _pairs(made.test_images, made.test_labels) == _pairs(*parts["test"])
  assert made.train_images.shape[1:] == parts["train"][0].shape[1:]
  assert made.num_classes == CLASSES[name]
  assert "tensorflow" not in sys.modules
