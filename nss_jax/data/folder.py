"""Image files in folders, one for each class."""

import collections
import pathlib

import numpy as np

from nss_jax.data import images
from nss_jax.data.dataset import Part, Parts, given_path
from nss_jax.data.reading import Decoded, StreamedImages
from nss_jax.data.split import draws_test
from nss_jax.errors import UserError

# Names of the folder of test images; the first that is there is read.
_TESTS = ("test", "val", "valid", "validation")
ACCEPTED = (
  "a folder with train/<class>/<image> and test/<class>/<image> (or val/), or "
  "one of them with config.data.test_fraction"
)
# Image files of each class, both in the order of their names.
_Classes = dict[str, list[pathlib.Path]]


def load(
  *,
  path: str,
  image_size: int,
  channels: int,
  background: int,
  skip_bad: bool,
  test_fraction: float,
) -> Parts:
  """Reads `train/<class>/<image>` and `test/<class>/<image>`.

  The test folder may also be called `val`, `valid` or `validation`. If test
  images are drawn, the classes may lie in the folder itself instead of in
  `train`. They are numbered in the order of their names. Passed over are names
  that begin with a dot, and files whose suffix is not that of an image, which a
  note counts.
  """
  root, where = given_path(path), f"config.data.path={path!r}"
  form = images.Form(image_size, channels, background)
  passed: list[pathlib.Path] = []
  tests = [name for name in _TESTS if (root / name).is_dir()]
  has_train = (root / "train").is_dir()
  test: _Classes = {}
  if draws_test(test_fraction, f"{tests[0]}/" if tests and has_train else ""):
    train, tests = _list(root, "train" if has_train else "", passed), []
  else:
    name = tests[0] if tests else "test"
    train = _list(root, "train", passed)
    test = _list(root, name, passed, may_lack=True)
    if extra := sorted(test.keys() - train.keys()):
      raise ValueError(
        f"the class {extra[0][:80]!r} is in {name}/ and not in train/; "
        "accepted are classes of train/"
      )
  parts, left_out, total, names = [], [], 0, [*train]
  for found in filter(None, (train, test)):
    files = [file for listed in found.values() for file in listed]
    numbers = [names.index(n) for n, listed in found.items() for _ in listed]
    part = _open(files, form, where), np.array(numbers)
    if skip_bad:
      # A class may be without test images, but not without training images.
      part, lines = _leave_out(*part, names if found is train else [])
      left_out += lines
    total += len(files)
    parts.append(part)
  if left_out:
    count = f"leaves out {len(left_out)} of {total} images"
    left_out.insert(0, f"warning: config.data.skip_bad=True {count}")
  notes = [f"{where}: {note}" for note in _describe(passed, tests[1:])]
  return Parts(
    *parts,
    num_classes=len(train),
    class_names=[name[:40] for name in names],
    notes=[*notes, *left_out],
  )


def _open(
  files: list[pathlib.Path], form: images.Form, where: str
) -> StreamedImages:
  """Opens image files, which are named by their path within the folder."""

  def decode(file: pathlib.Path) -> np.ndarray:
    return images.decode(file, form)

  def name(index: int) -> str:
    return repr("/".join(x[:60] for x in files[index].parts[-3:]))

  return StreamedImages.of(Decoded(files, decode, name), where)


def _leave_out(
  read: StreamedImages, labels: np.ndarray, names: list[str]
) -> tuple[Part, list[str]]:
  """Returns the images that can be read, and a line for each of the others."""
  faults = read.faults(images.BadImage)
  lines = [f"  left out: {fault}" for fault in faults if fault]
  kept = np.array([not fault for fault in faults])
  if (lost := np.setdiff1d(labels, labels[kept])).size and names:
    raise UserError(
      f"{read.where}: no image of the class {names[lost[0]][:80]!r} can be "
      "read; accepted is at least one in every class",
      lines,
    )
  return (read.take(np.flatnonzero(kept)), labels[kept]), lines


def _list(
  root: pathlib.Path,
  part: str,
  passed: list[pathlib.Path],
  may_lack: bool = False,
) -> _Classes:
  """Lists the files of every class, and adds to `passed` those of no image."""
  found = {}
  for entry in _entries(root / part):
    name = str(entry.relative_to(root))[:90]
    if entry.is_dir():  # False for a loop of links too
      files = []
      for file in _entries(entry):
        if file.is_dir():
          raise ValueError(
            f"{name!r} holds the folder {file.name[:90]!r}; accepted are images"
          )
        is_picture = images.is_picture(file.suffix)
        (files if is_picture else passed).append(file)
      if files:
        found[entry.name] = files
      elif not may_lack:
        raise ValueError(
          f"{name!r} holds no image; accepted is at least one in every class; "
          f"{images.ACCEPTED}"
        )
    elif images.is_picture(entry.suffix) or not entry.is_file():
      raise ValueError(
        f"{name!r} is no folder; accepted are folders of images, one for each "
        "class"
      )
    else:
      passed.append(entry)
  if not found:
    raise ValueError(
      f"{f'{part}/' if part else 'it'} holds no class; accepted is at least "
      "one folder of images"
    )
  return found


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the entries of a folder that are not hidden, ordered by name."""
  listed = [x for x in folder.iterdir() if not x.name.startswith(".")]
  return sorted(listed, key=lambda entry: entry.name)


def _describe(passed: list[pathlib.Path], unused: list[str]) -> list[str]:
  """Returns notes on files that are no images and folders that are not read."""
  notes = []
  if unused:
    notes.append(f"{', '.join(f'{name}/' for name in unused)} is not read")
  if passed:
    kinds = collections.Counter(x.suffix.lower() or x.name for x in passed)
    words = ", ".join(f"{n} {kind[:30]!r}" for kind, n in kinds.most_common(8))
    notes.append(
      f"{len(passed)} files are no images and passed over "
      f"({words}{', ...' if len(kinds) > 8 else ''})"
    )
  return notes
