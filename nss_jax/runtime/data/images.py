"""Image files and arrays, decoded and brought to one form."""

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from nss_jax.runtime.data.dataset import DataError

if TYPE_CHECKING:
  import PIL.Image

# Pillow reads many more; decoders that are seldom used are seldom checked.
FORMATS = {
  ".bmp": "BMP",
  ".gif": "GIF",
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
# Pillow's names of 8-bit modes, and the channels that they come to. Any
# transparency is dropped.
_CHANNELS = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3}
_CHANNELS |= {"YCbCr": 3, "PA": 3, "RGBX": 3}
_MODES = {1: "L", 3: "RGB"}


def read(file: pathlib.Path, name: str, size: int, channels: int) -> np.ndarray:
  """Decodes the first picture in a file.

  Args:
    file: to be read.
    name: of the file, for messages.
    size: pixels of a side; a picture of another form is cut to its central
      square and resized. 0: as it is.
    channels: 1 for grey, 3 for RGB; 0: as it is.

  Returns:
    `[H, W, C]` uint8.

  Raises:
    DataError: if it is no picture that can be read, or too large.
  """
  from PIL import Image

  try:
    with Image.open(file, formats=sorted(set(FORMATS.values()))) as picture:
      if picture.width * picture.height > _MAX_PIXELS:
        raise DataError(
          f"{name} has {picture.width} x {picture.height} pixels; accepted are "
          f"at most {_MAX_PIXELS:,}"
        )
      if picture.mode not in _CHANNELS:
        raise DataError(
          f"{name} is of Pillow's mode {picture.mode}; accepted are 8 bits per "
          "channel, grey or RGB"
        )
      picture.load()
      return _array(picture, size, channels)
  except DataError:
    raise
  # Decoders raise errors of many types on damaged files, and Pillow's warnings
  # of a huge picture may have been made errors.
  except Exception as error:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    raise DataError(
      f"{name} is damaged or no image ({reason}); accepted are files of "
      f"{', '.join(FORMATS)}"
    ) from error


def resize(image: np.ndarray, size: int, channels: int) -> np.ndarray:
  """The same for an array.

  Args:
    image: `[H, W, C]` uint8, C 1 or 3.
    size: as for `read`.
    channels: as for `read`.
  """
  from PIL import Image

  squeezed = image[..., 0] if image.shape[-1] == 1 else image
  return _array(Image.fromarray(squeezed), size, channels)


def _array(picture: "PIL.Image.Image", size: int, channels: int) -> np.ndarray:
  """`[H, W, C]` uint8 of a picture in memory."""
  mode = _MODES[channels or _CHANNELS[picture.mode]]
  if picture.mode != mode:
    picture = picture.convert(mode)
  if size and picture.size != (size, size):
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    # Cut first: resizing a part of a picture looks beyond its edges.
    square = picture.crop((left, top, left + side, top + side))
    picture = square.resize((size, size))
  array = np.asarray(picture)
  return array[..., None] if array.ndim == 2 else array
