"""Which files are in folders of classes."""

import collections
import os
import pathlib

from nss_jax.data import images
from nss_jax.data.dataset import DataError

# Names of the folder of test images; the first that is there is read.
_TESTS = ("test", "val", "valid", "validation")
LAYOUT = (
  "train/<class>/<image> and test/<class>/<image> (or val/), or one of them "
  "with config.data.test_fraction"
)


class Listing:
  """What is in the folders of a data set.

  Attributes:
    passed: names of files that are no images.
  """

  def __init__(self, where: str, root: pathlib.Path):
    self._where, self._root = where, root
    self.passed: list[str] = []
    self._unused = ""

  def parts(self, test_fraction: float) -> tuple[dict, dict]:
    """Files by class of the two parts; none for test if it is to be drawn."""
    root, where = self._root, self._where
    tests = [name for name in _TESTS if os.path.isdir(root / name)]
    if not test_fraction:
      train = self._classes("train")
      name = tests[0] if tests else "test"
      test = self._classes(name, may_lack=True)
      if len(tests) > 1:
        self._unused = ", ".join(f"{x}/" for x in tests[1:])
      if extra := sorted(test.keys() - train.keys()):
        raise DataError(
          f"{where}: the class {extra[0][:80]!r} is in {name}/ and not in "
          "train/; accepted are classes of train/"
        )
      return train, test
    if tests and os.path.isdir(root / "train"):
      raise DataError(
        f"config.data.test_fraction={test_fraction} is not accepted where "
        f"there is {tests[0]}/, in {where}; accepted is 0"
      )
    part = "train" if os.path.isdir(root / "train") else ""
    return self._classes(part), {}

  def notes(self) -> list[str]:
    """Lines on what is not read."""
    notes = []
    if self._unused:
      notes.append(f"{self._where}: {self._unused} is not read")
    if self.passed:
      kinds = collections.Counter(
        pathlib.Path(name).suffix.lower() or name for name in self.passed
      )
      words = ", ".join(
        f"{n} {kind[:30]!r}" for kind, n in kinds.most_common(8)
      )
      notes.append(
        f"{self._where}: {len(self.passed)} files are no images and passed "
        f"over ({words}{', ...' if len(kinds) > 8 else ''})"
      )
    return notes

  def _classes(
    self, part: str, may_lack: bool = False
  ) -> dict[str, list[pathlib.Path]]:
    """Image files of every class, both by name; empty classes may lack."""
    found = {}
    for entry in self._entries(part):
      name = "/".join(filter(None, (part, entry.name)))
      suffix = pathlib.Path(entry.name).suffix.lower()
      if os.path.isdir(entry.path):  # False for a loop of links too
        files = self._files(name)
        if files or not may_lack:
          found[entry.name] = files
      elif suffix in images.FORMATS or not os.path.isfile(entry.path):
        raise DataError(
          f"{self._where}: {name[:90]!r} is no folder; accepted are folders of "
          "images, one for each class"
        )
      else:
        self.passed.append(entry.name)
    if not found:
      raise DataError(
        f"{self._where}: {f'{part}/' if part else 'it'} holds no class; "
        "accepted is at least one folder of images"
      )
    for name, files in found.items():
      if not files:
        raise DataError(
          f"{self._where}: {'/'.join(filter(None, (part, name)))[:90]!r} holds "
          f"no image; accepted is at least one in every class, of "
          f"{', '.join(images.FORMATS)}"
        )
    return found

  def _files(self, name: str) -> list[pathlib.Path]:
    files = []
    for entry in self._entries(name):
      suffix = pathlib.Path(entry.name).suffix.lower()
      if os.path.isdir(entry.path):
        raise DataError(
          f"{self._where}: {name[:90]!r} holds the folder {entry.name[:90]!r}; "
          "accepted are images"
        )
      if suffix in images.FORMATS or images.is_unread_picture(suffix):
        files.append(self._root / name / entry.name)
      else:
        self.passed.append(entry.name)
    return files

  def _entries(self, name: str) -> list[os.DirEntry]:
    """What is in a folder, by name."""
    try:
      with os.scandir(self._root / name) as entries:
        listed = [entry for entry in entries if not entry.name.startswith(".")]
    except (OSError, ValueError) as error:
      reason = getattr(error, "strerror", None) or "no path"
      raise DataError(
        f"{self._where}: {name[:90] or '.'!r} cannot be listed ({reason}); "
        f"accepted is a folder with {LAYOUT}"
      ) from error
    return sorted(listed, key=lambda entry: entry.name)
