"""Image files in folders, one for each class."""

import contextlib
import dataclasses
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nss_jax.data import images
from nss_jax.data.dataset import (
  DataError,
  Dataset,
  given_path,
  make,
)
from nss_jax.data.listing import LAYOUT, Listing
from nss_jax.data.split import draw_test
from nss_jax.data.stream import StreamedImages, read_ahead


def load(
  *,
  path: str,
  image_size: int,
  channels: int,
  background: int,
  skip_bad: bool,
  test_fraction: float,
  test_seed: int,
  streams: Callable[[int], bool],
  **_: Any,
) -> Dataset:
  """Reads `train/<class>/<image>` and `test/<class>/<image>`.

  `val`, `valid` or `validation` stand for `test`. Classes are numbered in the
  order of their names. Names that begin with a dot are passed over, and files
  that are no images by their suffix, which are counted in a note. A streamed
  file is read, and checked, when it is used.

  Args:
    path: the folder that holds `train` and `test`.
    image_size: pixels of a side; an image of another form is cut to its
      central square and resized. 0: images have one size and keep it.
    channels: 1 for grey, 3 for RGB; 0: as the files, which must agree.
    background: grey level behind what is transparent.
    skip_bad: whether to leave images out that cannot be read, with a note for
      each; all files are read for it at the start, streamed or not.
    test_fraction: of every class of `train`, or of folders of classes at the
      path itself, for test, where there is no other; 0: there is one.
    test_seed: of the draw of these.
    streams: whether training images of so many bytes are streamed.

  Raises:
    DataError: if a folder is missing or empty, test has a class that train
      lacks, or a file is no image of that form; its details have a line for
      each file.
  """
  root = given_path(path, f"a folder with {LAYOUT}")
  where = f"config.data.path={str(root)!r}"
  listing = Listing(where, root)
  train, test = listing.parts(test_fraction)
  notes, names = listing.notes(), list(train)
  form = _Form(images.Form(image_size, channels, background))
  from PIL import Image

  # A huge picture is refused, like any other; Pillow only warns.
  with warnings.catch_warnings():
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    parts = [_Part.of(where, found, names, form) for found in (train, test)]
    if skip_bad:
      parts, left_out = _leave_out(where, parts, names)
      notes += left_out
    if test_fraction:
      rows = draw_test(parts[0].labels, test_fraction, test_seed)
      parts = [parts[0].take(chosen) for chosen in rows]
    try:
      opened = [(part.open(), part.labels) for part in parts]
      if not streams(opened[0][0].size):
        opened = [(read[:], labels) for read, labels in opened]
      return make(
        "folder",
        opened[0],
        opened[1],
        len(train),
        field=where,
        class_names=[name[:40] for name in names],
        notes=notes,
      )
    except (images.BadImage, _Refused) as error:
      raise _all_bad(where, parts, error) from error


class _Refused(DataError):
  """An image that is another than the others."""


class _Form:
  """The one form of all images: as configured, or that of the first."""

  def __init__(self, form: images.Form):
    self._form = form
    self._first: tuple[str, tuple[int, ...]] | None = None

  def read(self, where: str, file: pathlib.Path) -> np.ndarray:
    """`[H, W, C]` uint8 of a file.

    Raises:
      BadImage: if it is no image.
      DataError: if it is of another form than the first.
    """
    name = "/".join(part[:60] for part in file.parts[-3:])
    where = f"{where}: {name!r}"
    image = images.read(file, where, self._form)
    if self._first is None:
      self._first = name, image.shape
    first, shape = self._first
    if image.shape[-1] != shape[-1]:
      raise _Refused(
        f"{where} is {_colour(image.shape)} and {first!r} is {_colour(shape)}; "
        "accepted is one of them, or config.data.channels=1 (grey) or 3 (RGB) "
        "to convert"
      )
    if image.shape != shape:
      raise _Refused(
        f"{where} is {_size(image.shape)} and {first!r} is {_size(shape)}; "
        "accepted is one size, or config.data.image_size to resize"
      )
    return image


def _colour(shape: tuple[int, ...]) -> str:
  return "grey" if shape[-1] == 1 else "RGB"


def _size(shape: tuple[int, ...]) -> str:
  return f"{shape[0]} high and {shape[1]} wide"


class _Files:
  """grain's random access to image files."""

  def __init__(self, where: str, files: list[pathlib.Path], form: _Form):
    self._where, self._files, self._form = where, files, form

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: int) -> np.ndarray:
    return self._form.read(self._where, self._files[index])


@dataclasses.dataclass(frozen=True)
class _Part:
  """Files of training or of test, class by class.

  Attributes:
    where: of the data, for messages.
    files: of images, N.
    labels: `[N]`.
    form: of all images.
  """

  where: str
  files: list[pathlib.Path]
  labels: np.ndarray
  form: _Form

  @classmethod
  def of(
    cls,
    where: str,
    found: dict[str, list[pathlib.Path]],
    names: list[str],
    form: _Form,
  ) -> "_Part":
    """All files by class, the classes numbered as their names are."""
    files = [file for listed in found.values() for file in listed]
    labels = [names.index(n) for n, listed in found.items() for _ in listed]
    return cls(where, files, np.array(labels, int), form)

  def take(self, rows: np.ndarray) -> "_Part":
    files = [self.files[row] for row in rows]
    return _Part(self.where, files, self.labels[rows], self.form)

  def open(self) -> StreamedImages:
    """The images, of which the first one is read."""
    source = _Files(self.where, self.files, self.form)
    return StreamedImages(source, (len(source), *source[0].shape), self.where)

  def faults(self, kinds: tuple[type[DataError], ...]) -> list[str]:
    """Reads all images: of each what is wrong, or an empty string.

    Args:
      kinds: of errors that are told; others are raised.
    """
    found: list[str] = []
    # One by one until there is a first image, which has the form of all.
    while len(found) < len(self.files) and (not found or found[-1]):
      rest = _Files(self.where, self.files[len(found) :], self.form)
      found.append(_Faults(rest, kinds)[0])
    rest = _Files(self.where, self.files[len(found) :], self.form)
    with contextlib.closing(read_ahead(_Faults(rest, kinds), 32)) as reader:
      return [*found, *reader]


@dataclasses.dataclass(frozen=True)
class _Faults:
  """What is wrong with each image."""

  images: _Files
  kinds: tuple[type[DataError], ...]

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> str:
    try:
      self.images[index]
    except self.kinds as error:
      return str(error)
    return ""


def _leave_out(
  where: str, parts: list[_Part], names: list[str]
) -> tuple[list[_Part], list[str]]:
  """The parts without images that cannot be read, and a line for each."""
  kept, lines = [], []
  for part in parts:
    faults = part.faults((images.BadImage,)) if part.files else []
    lines += [_short(where, fault) for fault in faults if fault]
    kept.append(part.take(np.array([not x for x in faults], bool).nonzero()[0]))
    if part is parts[0]:
      empty = np.setdiff1d(range(len(names)), kept[0].labels)
      if empty.size:
        raise DataError(
          f"{where}: no image of the class {names[empty[0]][:80]!r} can be "
          "read; accepted is at least one in every class",
          lines,
        )
  if parts[1].files and not kept[1].files:
    raise DataError(
      f"{where}: no test image can be read; accepted is at least one", lines
    )
  if not lines:
    return kept, []
  total = sum(len(part.files) for part in parts)
  count = (
    f"warning: config.data.skip_bad=True leaves out {len(lines)} of {total} "
    "images"
  )
  return kept, [count, *(f"  left out: {line}" for line in lines)]


def _all_bad(where: str, parts: list[_Part], first: DataError) -> DataError:
  """The error of one image, with a line for each that is to be mended."""
  kinds = (images.BadImage, _Refused)
  faults = [fault for part in parts for fault in part.faults(kinds)]
  lines = [_short(where, fault) for fault in faults if fault]
  text = str(first)
  if isinstance(first, images.BadImage):
    text += ", or config.data.skip_bad=True to leave it out"
  if len(lines) > 1:
    text += f"; and {len(lines) - 1} more of the {len(faults)} images"
  return DataError(text, lines if len(lines) > 1 else ())


def _short(where: str, fault: str) -> str:
  return fault.removeprefix(f"{where}: ").partition("; accepted")[0]
