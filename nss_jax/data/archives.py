"""What is known of the official archives of CIFAR."""

import dataclasses
from collections.abc import Mapping

PIXELS = 3 * 32 * 32
# Bytes of an image with its label and name in a file for Python, and of all
# else there, at most.
_PICKLED = PIXELS + 64
_PICKLE_EXTRA = 2**12


@dataclasses.dataclass(frozen=True)
class Archive:
  """What is known of an official archive.

  Attributes:
    url: official address; its last part is the name of the file.
    sha256: of the file, in hex.
    bytes: size of the file.
    folder: the one folder in the archive.
    train: `{name: images}` of the files of training images, in order.
    test: `{name: images}` of the files of test images, in order.
    num_classes: number of classes.
    label_bytes: bytes before the pixels of a record; the last is the label.
    label_key: of the labels in a file for Python; empty: it is binary.
  """

  url: str
  sha256: str
  bytes: int
  folder: str
  train: Mapping[str, int]
  test: Mapping[str, int]
  num_classes: int
  label_bytes: int = 1
  label_key: str = ""

  @property
  def filename(self) -> str:
    return self.url.rsplit("/", 1)[-1]

  @property
  def members(self) -> dict[str, int]:
    """`{name in the archive: images}` of all files that are read."""
    files = {**self.train, **self.test}
    return {f"{self.folder}/{name}": count for name, count in files.items()}

  def sizes(self, member: str) -> tuple[int, int]:
    """Least and most bytes of a file."""
    count = self.members[member]
    if self.label_key:
      return count * PIXELS, count * _PICKLED + _PICKLE_EXTRA
    size = count * (self.label_bytes + PIXELS)
    return size, size


ARCHIVES: dict[str, Archive] = {
  "cifar10_binary": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    bytes=170_052_171,
    folder="cifar-10-batches-bin",
    train={f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
    test={"test_batch.bin": 10_000},
    num_classes=10,
  ),
  "cifar100_binary": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    bytes=168_513_733,
    folder="cifar-100-binary",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    num_classes=100,
    # The coarse label, then the fine one.
    label_bytes=2,
  ),
  # What torchvision and Keras fetch and unpack.
  "cifar10_python": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    bytes=170_498_071,
    folder="cifar-10-batches-py",
    train={f"data_batch_{i}": 10_000 for i in range(1, 6)},
    test={"test_batch": 10_000},
    num_classes=10,
    label_key="labels",
  ),
  "cifar100_python": Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    bytes=169_001_437,
    folder="cifar-100-python",
    train={"train": 50_000},
    test={"test": 10_000},
    num_classes=100,
    label_key="fine_labels",
  ),
}
