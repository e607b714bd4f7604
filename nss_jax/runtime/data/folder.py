"""Image files in folders, one for each class."""

import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nss_jax.runtime.data import images
from nss_jax.runtime.data.dataset import (
  DataError,
  Dataset,
  given_path,
  make,
)
from nss_jax.runtime.data.stream import StreamedImages

_PARTS = ("train", "test")
_LAYOUT = "train/<class>/<image> and test/<class>/<image>"


def load(
  *,
  path: str,
  image_size: int,
  channels: int,
  streams: Callable[[int], bool],
  **_: Any,
) -> Dataset:
  """Reads `train/<class>/<image>` and `test/<class>/<image>`.

  Classes are numbered in the order of their names. Names that begin with a
  dot are passed over. A streamed file is read, and checked, when it is used.

  Args:
    path: the folder that holds `train` and `test`.
    image_size: pixels of a side; an image of another form is cut to its
      central square and resized. 0: images have one size and keep it.
    channels: 1 for grey, 3 for RGB; 0: as the files, which must agree.
    streams: whether training images of so many bytes are streamed.

  Raises:
    DataError: if a folder is missing or empty, the classes of the two parts
      differ, or a file is no image of that form.
  """
  root = given_path(path, f"a folder with {_LAYOUT}")
  where = f"config.data.path={str(root)!r}"
  found = {part: _classes(where, root / part, part) for part in _PARTS}
  train, test = (set(found[part]) for part in _PARTS)
  if train != test:
    name = min(train ^ test)
    here, there = _PARTS if name in train else _PARTS[::-1]
    raise DataError(
      f"{where}: the class {name[:80]!r} is in {here}/ and not in {there}/; "
      "accepted are the same classes in both"
    )
  from PIL import Image

  form = _Form(image_size, channels)
  # A huge picture is refused, like any other; Pillow only warns.
  with warnings.catch_warnings():
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    parts = [_open(where, found[part], form) for part in _PARTS]
    train_images = parts[0][0]
    if not streams(train_images.size):
      parts = [(read[:], labels) for read, labels in parts]
    return make("folder", parts[0], parts[1], len(train), field=where)


def _entries(where: str, folder: pathlib.Path, name: str) -> list[os.DirEntry]:
  """What is in a folder, by name."""
  try:
    with os.scandir(folder) as entries:
      listed = [entry for entry in entries if not entry.name.startswith(".")]
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or "no path"
    raise DataError(
      f"{where}: {name[:90]!r} cannot be listed ({reason}); accepted is a "
      f"folder with {_LAYOUT}"
    ) from error
  return sorted(listed, key=lambda entry: entry.name)


def _classes(
  where: str, folder: pathlib.Path, part: str
) -> dict[str, list[pathlib.Path]]:
  """Image files of every class, both by name."""
  found = {}
  for entry in _entries(where, folder, part):
    name = f"{part}/{entry.name}"
    if not os.path.isdir(entry.path):  # False for a loop of links too
      raise DataError(
        f"{where}: {name[:90]!r} is no folder; accepted are folders of images, "
        "one for each class"
      )
    found[entry.name] = _files(where, folder / entry.name, name)
  if not found:
    raise DataError(
      f"{where}: {part}/ holds no class; accepted is at least one folder of "
      "images"
    )
  return found


def _files(where: str, folder: pathlib.Path, name: str) -> list[pathlib.Path]:
  entries = _entries(where, folder, name)
  for entry in entries:
    # Nothing is passed over in silence; a pipe would block.
    suffix = pathlib.Path(entry.name).suffix.lower()
    if suffix not in images.FORMATS or not os.path.isfile(entry.path):
      raise DataError(
        f"{where}: {name[:90]!r} holds {entry.name[:90]!r}, which is no image; "
        f"accepted are files of {', '.join(images.FORMATS)}"
      )
  if not entries:
    raise DataError(
      f"{where}: {name[:90]!r} holds no image; accepted is at least one in "
      "every class"
    )
  return [folder / entry.name for entry in entries]


class _Form:
  """The one form of all images: as configured, or that of the first."""

  def __init__(self, size: int, channels: int):
    self._size, self._channels = size, channels
    self._first: tuple[str, tuple[int, ...]] | None = None

  def read(self, where: str, file: pathlib.Path) -> np.ndarray:
    """`[H, W, C]` uint8 of a file.

    Raises:
      DataError: if it is no image, or of another form than the first.
    """
    name = "/".join(part[:60] for part in file.parts[-3:])
    where = f"{where}: {name!r}"
    image = images.read(file, where, self._size, self._channels)
    if self._first is None:
      self._first = name, image.shape
    first, shape = self._first
    if image.shape[-1] != shape[-1]:
      raise DataError(
        f"{where} is {_colour(image.shape)} and {first!r} is {_colour(shape)}; "
        "accepted is one of them, or config.data.channels=1 (grey) or 3 (RGB) "
        "to convert"
      )
    if image.shape != shape:
      raise DataError(
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


def _open(
  where: str, found: dict[str, list[pathlib.Path]], form: _Form
) -> tuple[StreamedImages, np.ndarray]:
  """Images and labels `[N]` of a part, class by class; reads the first one."""
  files = [file for listed in found.values() for file in listed]
  labels = np.repeat(np.arange(len(found)), [len(x) for x in found.values()])
  source = _Files(where, files, form)
  shape = len(files), *source[0].shape
  return StreamedImages(source, shape, where), labels
