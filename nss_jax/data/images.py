"""Image files and arrays, decoded and brought to one form."""

import dataclasses
import functools
import pathlib
import re
from typing import IO, TYPE_CHECKING

import numpy as np

from nss_jax.data.dataset import DataError

if TYPE_CHECKING:
  import PIL.Image

# Pillow reads many more; decoders that are seldom used are seldom checked.
FORMATS = {
  ".bmp": "BMP",
  ".gif": "GIF",
  ".jfif": "JPEG",
  ".jpe": "JPEG",
  ".jpeg": "JPEG",
  ".jpg": "JPEG",
  ".pgm": "PPM",
  ".png": "PNG",
  ".ppm": "PPM",
  ".tif": "TIFF",
  ".tiff": "TIFF",
  ".webp": "WEBP",
}
# A side of 8192 pixels; a small file can claim to be far larger.
_MAX_PIXELS = 2**26
# Suffixes of pictures that Pillow has no decoder for.
_UNKNOWN_TO_PILLOW = {".arw", ".cr2", ".dng", ".heic", ".heif", ".jxl"}
_UNKNOWN_TO_PILLOW |= {".nef", ".raw", ".svg"}
# Pillow's names of 8-bit modes, and the channels that they come to.
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3}
_CHANNELS |= {"YCbCr": 3, "PA": 3, "RGBX": 3}
_MODES = {1: "L", 3: "RGB"}
# Of an array that is a picture, by its channels.
_ARRAY_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class BadImage(DataError):
  """A file that is no picture, or none that can be read as it is meant."""


@dataclasses.dataclass(frozen=True)
class Form:
  """What every picture is brought to.

  Attributes:
    size: pixels of a side; a picture of another form is cut to its central
      square and resized. 0: as it is.
    channels: 1 for grey, 3 for RGB; 0: as it is.
    background: grey level behind what is transparent.
  """

  size: int = 0
  channels: int = 0
  background: int = 255


def read(file: pathlib.Path, name: str, form: Form) -> np.ndarray:
  """Decodes a file, see `decode`."""
  if not file.is_file():  # a pipe would block
    raise BadImage(
      f"{name} is no image but a pipe, a link to nothing or the like; accepted "
      f"are files of {', '.join(FORMATS)}"
    )
  return decode(file, name, form)


def decode(file: pathlib.Path | IO[bytes], name: str, form: Form) -> np.ndarray:
  """Decodes the first picture in a file, upright.

  It is turned as its EXIF orientation says, and what is transparent is
  composited.

  Args:
    file: to be read.
    name: of the file, for messages.
    form: of the picture.

  Returns:
    `[H, W, C]` uint8.

  Raises:
    BadImage: if it is no picture of 8 bits per channel that can be read, or
      too large.
  """
  from PIL import Image, ImageOps

  try:
    with Image.open(file, formats=sorted(set(FORMATS.values()))) as picture:
      if picture.width * picture.height > _MAX_PIXELS:
        raise BadImage(
          f"{name} has {picture.width} x {picture.height} pixels; accepted are "
          f"at most {_MAX_PIXELS:,}"
        )
      if picture.mode not in _CHANNELS:
        raise BadImage(
          f"{name} is of Pillow's mode {picture.mode}; accepted are 8 bits per "
          "channel, grey or RGB"
        )
      if _is_deep(picture):
        raise BadImage(
          f"{name} has 16 bits per channel; accepted are 8 bits per channel, "
          "grey or RGB"
        )
      picture.load()
      return _array(ImageOps.exif_transpose(picture), form)
  except DataError:
    raise
  # Decoders raise errors of many types on damaged files, and Pillow's warnings
  # of a huge picture may have been made errors.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise BadImage(
      f"{name} is damaged or no image ({reason}); accepted are files of "
      f"{', '.join(FORMATS)}"
    ) from error


def is_unread_picture(suffix: str) -> bool:
  """Whether files of that suffix are pictures of a format not in `FORMATS`."""
  return suffix in _picture_suffixes() and suffix not in FORMATS


@functools.cache
def _picture_suffixes() -> frozenset[str]:
  from PIL import Image

  return frozenset(Image.registered_extensions()) | _UNKNOWN_TO_PILLOW


def _is_deep(picture: "PIL.Image.Image") -> bool:
  """Whether a file that was opened, not loaded, has 16 bits per channel.

  Pillow cuts colours to their high byte (PNG, TIFF), or scales them (PPM), and
  says so in the layout of the raw pixels alone: `RGB;16B`, where `BGR;16` is 16
  bits per pixel.
  """
  for tile in getattr(picture, "tile", ()):
    words = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    for word in words:
      if isinstance(word, str) and re.search(r";16[A-Z]", word):
        return True
    if tile[0] in ("ppm", "ppm_plain") and words[-1] > 255:
      return True
  return False


def bring_to(image: np.ndarray, form: Form) -> np.ndarray:
  """The same for an array.

  Args:
    image: `[H, W, C]` uint8; the last of 2 or 4 channels is opacity.
    form: of the picture.

  Returns:
    `[H, W, C]` uint8.
  """
  from PIL import Image

  mode = _ARRAY_MODES[image.shape[-1]]
  height, width, _ = image.shape
  pixels = np.ascontiguousarray(image).tobytes()
  return _array(Image.frombytes(mode, (width, height), pixels), form)


def _array(picture: "PIL.Image.Image", form: Form) -> np.ndarray:
  """`[H, W, C]` uint8 of a picture in memory."""
  from PIL import Image

  mode = _MODES[form.channels or _CHANNELS[picture.mode]]
  if picture.has_transparency_data:
    ground = Image.new("RGBA", picture.size, (*3 * [form.background], 255))
    picture = Image.alpha_composite(ground, picture.convert("RGBA"))
  if picture.mode != mode:
    picture = picture.convert(mode)
  size = form.size
  if size and picture.size != (size, size):
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Cut first: resizing a part of a picture looks beyond its edges.
    square = picture.crop((left, top, left + side, top + side))
    picture = square.resize((size, size))
  array = np.asarray(picture)
  return array[..., None] if array.ndim == 2 else array
