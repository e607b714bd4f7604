"""Image files, decoded and brought to one form."""

import dataclasses
import functools
import pathlib
import re
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
  import PIL.Image

# Pillow reads many more; decoders that are seldom used are seldom checked.
FORMATS = {
  **dict.fromkeys((".jfif", ".jpe", ".jpeg", ".jpg"), "JPEG"),
  **{".bmp": "BMP", ".gif": "GIF", ".png": "PNG", ".webp": "WEBP"},
  **{".pgm": "PPM", ".ppm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"},
}
ACCEPTED = f"accepted are files of {', '.join(sorted(FORMATS))}"
_DEPTH = "accepted are 8 bits per channel, grey or RGB"
# A side of 8192 pixels; a small file can claim to be far larger.
_MAX_PIXELS = 2**26
# Suffixes of pictures that Pillow has no decoder for.
_UNKNOWN_TO_PILLOW = {".arw", ".cr2", ".dng", ".heic", ".heif", ".jxl"}
_UNKNOWN_TO_PILLOW |= {".nef", ".raw", ".svg"}
# Pillow's names of 8-bit modes, and the channels that they come to.
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3}
_CHANNELS |= {"YCbCr": 3, "PA": 3, "RGBX": 3}
_MODES = {1: "L", 3: "RGB"}


class ImageError(ValueError):
  """Says that an image differs in form from the others."""


class BadImage(ImageError):
  """Says that a file is no picture, or none that is read without loss."""


@dataclasses.dataclass(frozen=True)
class Form:
  """Says what every picture is brought to.

  Attributes:
    size: pixels of a side, or of height and width, to which the middle of a
      picture is cut and resized; 0 to leave it as it is.
    channels: 1 for grey, 3 for RGB; 0 to leave it as it is.
    background: grey level behind transparent pixels.
  """

  size: int | tuple[int, int] = 0
  channels: int = 0
  background: int = 255


@functools.cache
def is_picture(suffix: str) -> bool:
  """Returns whether files of that suffix are pictures, read here or not."""
  from PIL import Image

  suffix = suffix.lower()
  others = suffix in Image.registered_extensions()
  return suffix in FORMATS or others or suffix in _UNKNOWN_TO_PILLOW


def decode(file: pathlib.Path | IO[bytes], form: Form) -> np.ndarray:
  """Decodes the first picture in a file, `[H, W, C]` uint8.

  It is turned as its EXIF orientation says, and put on the background where it
  is transparent. What has no 8 bits per channel or is too large is refused.
  """
  from PIL import Image, ImageOps

  # A pipe would block.
  if isinstance(file, pathlib.Path) and not file.is_file():
    raise BadImage(f"is a pipe, a link to nothing or the like; {ACCEPTED}")
  try:
    with Image.open(file, formats=sorted(set(FORMATS.values()))) as picture:
      if picture.width * picture.height > _MAX_PIXELS:
        raise BadImage(
          f"has {picture.width} x {picture.height} pixels; accepted are at "
          f"most {_MAX_PIXELS:,}"
        )
      if picture.mode not in _CHANNELS:
        raise BadImage(f"is of Pillow's mode {picture.mode}; {_DEPTH}")
      if _is_deep(picture):
        raise BadImage(f"has 16 bits per channel; {_DEPTH}")
      picture.load()
      return _array(ImageOps.exif_transpose(picture), form)
  except BadImage:
    raise
  # Decoders raise errors of many types on damaged files.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise BadImage(f"is damaged or no image ({reason}); {ACCEPTED}") from error


def _is_deep(picture: "PIL.Image.Image") -> bool:
  """Returns whether a file that is not loaded yet has 16 bits per channel.

  Pillow cuts colours to their high byte (PNG, TIFF), or scales them (PPM). Only
  the layout of the raw pixels tells: `RGB;16B` is 16 bits per channel, `BGR;16`
  is 16 bits per pixel.
  """
  for tile in getattr(picture, "tile", ()):
    words = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    for word in words:
      if isinstance(word, str) and re.search(r";16[A-Z]", word):
        return True
    if tile[0] in ("ppm", "ppm_plain") and words[-1] > 255:
      return True
  return False


def _array(picture: "PIL.Image.Image", form: Form) -> np.ndarray:
  """Returns `[H, W, C]` uint8 of a picture in memory."""
  from PIL import Image

  mode = _MODES[form.channels or _CHANNELS[picture.mode]]
  if picture.has_transparency_data:
    ground = Image.new("RGBA", picture.size, (*3 * [form.background], 255))
    picture = Image.alpha_composite(ground, picture.convert("RGBA"))
  if picture.mode != mode:
    picture = picture.convert(mode)
  if form.size:
    size = form.size
    height, width = (size, size) if isinstance(size, int) else size
    if picture.size != (width, height):
      # Cut first: resizing a part of a picture looks beyond its edges.
      picture = _cut(picture, height, width).resize((width, height))
  array = np.asarray(picture)
  return array[..., None] if array.ndim == 2 else array


def _cut(
  picture: "PIL.Image.Image", height: int, width: int
) -> "PIL.Image.Image":
  """Cuts the largest part of a shape out of the middle of a picture."""
  scale = min(picture.width / width, picture.height / height)
  across = max(min(round(width * scale), picture.width), 1)
  down = max(min(round(height * scale), picture.height), 1)
  left, top = (picture.width - across) // 2, (picture.height - down) // 2
  return picture.crop((left, top, left + across, top + down))


def bring_to(
  image: "pathlib.Path | PIL.Image.Image | np.ndarray", form: Form
) -> np.ndarray:
  """Brings a file, a picture or an array `[H, W]` or `[H, W, C]` to a form.

  Raises:
    BadImage: if it is none of these, or not of 8 bits per channel.
  """
  from PIL import Image, ImageOps

  pictured = form.channels in (0, *_MODES)
  if isinstance(image, pathlib.Path | Image.Image) and not pictured:
    raise BadImage(
      f"is a picture; accepted are arrays of {form.channels} channels"
    )
  if isinstance(image, pathlib.Path):
    return decode(image, form)
  if isinstance(image, Image.Image):
    if image.mode not in _CHANNELS:
      raise BadImage(f"is of Pillow's mode {image.mode}; {_DEPTH}")
    try:
      return _array(ImageOps.exif_transpose(image), form)
    except (OSError, ValueError, SyntaxError) as error:  # it is read only now
      raise BadImage(f"cannot be read ({error})") from error
  try:
    array = np.asarray(image)
  except ValueError as error:  # lists of several lengths
    raise BadImage(f"is no array ({error})") from error
  array = array[..., None] if array.ndim == 2 else array
  if array.ndim != 3 or array.dtype != np.uint8:
    raise BadImage(
      f"is {array.dtype} of shape {array.shape}; accepted is uint8 of shape "
      "[H, W, C]"
    )
  size = (form.size, form.size) if isinstance(form.size, int) else form.size
  if array.shape[:2] == size and array.shape[2] == form.channels:
    return array  # whatever its channels are
  if array.shape[2] not in (1, 3, 4) or not pictured or not array.size:
    raise BadImage(
      f"is of shape {array.shape}; accepted are {form.channels} channels of "
      f"{size} pixels"
    )
  # Pillow takes one channel as [H, W].
  return _array(
    Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array), form
  )
