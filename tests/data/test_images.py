"""Image files against Pillow's own conversions, one after the other."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from nss_jax.data import images

WIDTH, HEIGHT = 7, 4
ORIENTATION = 0x112
# name: (mode, suffix, options of saving)
KINDS = {
  "grey png": ("L", "png", {}),
  "grey png, one grey transparent": ("L", "png", {"transparency": 90}),
  "grey and alpha png": ("LA", "png", {}),
  "bits png": ("1", "png", {}),
  "bits png, black transparent": ("1", "png", {"transparency": 0}),
  "palette png": ("P", "png", {}),
  "palette png, one transparent": ("P", "png", {"transparency": 3}),
  "palette png, alphas": ("P", "png", {"transparency": bytes(range(200))}),
  "RGB png": ("RGB", "png", {}),
  "RGB png, one transparent": ("RGB", "png", {"transparency": (0, 0, 0)}),
  "RGBA png": ("RGBA", "png", {}),
  "RGBA webp": ("RGBA", "webp", {"lossless": True, "exact": True}),
  "RGBA tiff": ("RGBA", "tif", {}),
  "palette gif, one transparent": ("P", "gif", {"transparency": 3}),
  "RGB jpeg": ("RGB", "jpg", {}),
  "RGB jfif": ("RGB", "jfif", {"format": "JPEG"}),
  "grey jpeg": ("L", "jpeg", {}),
  "CMYK jpeg": ("CMYK", "jpg", {}),
  "CMYK tiff": ("CMYK", "tif", {}),
  "RGB bmp": ("RGB", "bmp", {}),
  "grey pgm": ("L", "pgm", {}),
}


def draw(mode: str) -> Image.Image:
  """Random pixels, some of them black."""
  rng = np.random.default_rng(0)
  bands = {"1": 1, "P": 1}.get(mode) or len(mode)
  shape = (HEIGHT, WIDTH, bands)
  pixels = rng.integers(0, 256, shape, np.uint8)
  pixels[0, :3] = 0
  pixels[..., -1] = np.where(pixels[..., -1] > 128, pixels[..., -1], 90)
  if mode == "1":
    return Image.fromarray(pixels[..., 0] > 128)
  if mode == "P":
    # Indices, and a palette of many colours.
    picture = Image.new("P", (WIDTH, HEIGHT))
    picture.putdata((pixels[..., 0] % 8).reshape(-1).tolist())
    picture.putpalette(rng.integers(0, 256, 768, np.uint8).tolist())
    return picture
  if bands == 1:
    return Image.fromarray(pixels[..., 0])
  return Image.frombytes(mode, (WIDTH, HEIGHT), pixels.tobytes())


def by_pillow(file, size=0, channels=0, background=255) -> np.ndarray:
  """The picture upright, pasted on the background, converted and resized."""
  with Image.open(file) as opened:
    picture = ImageOps.exif_transpose(opened)
    is_grey = opened.mode in ("1", "L", "LA")
  ground = Image.new("RGB", picture.size, 3 * (background,))
  if picture.has_transparency_data:
    layer = picture.convert("RGBA")
    ground.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
  else:
    ground = picture.convert("RGB")
  if channels == 1 or (is_grey and not channels):
    ground = ground.convert("L")
  if size:
    side = min(ground.size)
    left, top = (x - side for x in ground.size)
    ground = ground.crop(
      (left // 2, top // 2, left // 2 + side, top // 2 + side)
    )
    ground = ground.resize((size, size), Image.Resampling.BICUBIC)
  array = np.asarray(ground)
  return array[..., None] if array.ndim == 2 else array


@pytest.mark.parametrize("kind", KINDS)
def test_image_is_that_of_pillow(kind, tmp_path):
  mode, suffix, options = KINDS[kind]
  file = tmp_path / f"x.{suffix}"
  draw(mode).save(file, **options)
  for size, channels, background in (
    *((0, 0, 255), (0, 0, 0), (0, 3, 77)),
    *((0, 1, 255), (3, 0, 255), (9, 3, 12)),
  ):
    found = images.decode(file, images.Form(size, channels, background))
    expected = by_pillow(file, size, channels, background)
    assert found.dtype == np.uint8 and found.shape == expected.shape
    # Pasting and compositing round in their own ways.
    is_partial = "alpha" in kind or "RGBA" in kind
    far = np.abs(found.astype(int) - expected.astype(int)).max()
    assert far <= (1 if is_partial else 0), (size, channels, background)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "jfif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_is_upright(orientation, suffix, tmp_path):
  """By numpy, which has no part in it."""
  pixels = np.zeros((16, 32, 3), np.uint8)
  pixels[:8, :16] = 250  # one corner of four
  methods = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
  }
  stored = Image.fromarray(pixels)
  if orientation > 1:  # as a camera stores it that was held so
    stored = stored.transpose(methods[orientation])
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  file = tmp_path / f"x.{suffix}"
  stored.save(
    file, format="JPEG" if suffix == "jfif" else None, exif=exif, quality=100
  )
  found = images.decode(file, images.Form())
  assert found.shape == pixels.shape
  np.testing.assert_allclose(found.astype(int), pixels, atol=6)


def png(colour: int, bits: int, channels: int) -> bytes:
  """A PNG of the size of the others, by hand: Pillow writes no 16 bits."""

  def chunk(kind, content):
    body = kind + content
    return (
      struct.pack(">I", len(content))
      + body
      + struct.pack(">I", zlib.crc32(body))
    )

  head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0)
  row = b"\0" + bytes(range(1, 1 + WIDTH * channels * bits // 8))
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    chunk(kind, content)
    for kind, content in (
      (b"IHDR", head),
      (b"IDAT", zlib.compress(row * HEIGHT)),
      (b"IEND", b""),
    )
  )


def tiff(bits: int) -> bytes:
  """RGB, uncompressed, little-endian."""
  pixels = bytes(range(WIDTH * 3)) * HEIGHT * (bits // 8)
  of_bits = 8 + len(pixels)
  fields = (
    *((256, 3, 1, WIDTH), (257, 3, 1, HEIGHT), (258, 3, 3, of_bits)),
    *((259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3)),
    *((278, 3, 1, HEIGHT), (279, 4, 1, len(pixels))),
  )
  directory = struct.pack("<H", len(fields))
  directory += b"".join(struct.pack("<HHII", *field) for field in fields)
  head = b"II*\0" + struct.pack("<I", of_bits + 6)
  return head + pixels + struct.pack("<3H", *3 * [bits]) + directory + bytes(4)


# name: (suffix, content of 16 bits, of 8 bits)
DEEP = {
  "RGB png": ("png", png(2, 16, 3), png(2, 8, 3)),
  "RGBA png": ("png", png(6, 16, 4), png(6, 8, 4)),
  "grey and alpha png": ("png", png(4, 16, 2), png(4, 8, 2)),
  "grey png": ("png", png(0, 16, 1), png(0, 8, 1)),
  "RGB tiff": ("tif", tiff(16), tiff(8)),
  "RGB ppm": (
    "ppm",
    b"P6 7 4 65535\n" + bytes(7 * 4 * 6),
    b"P6 7 4 255\n" + bytes(7 * 4 * 3),
  ),
  "RGB ppm in words": (
    "ppm",
    b"P3 7 4 1000\n" + b"999 " * 7 * 4 * 3,
    b"P3 7 4 100\n" + b"99 " * 7 * 4 * 3,
  ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_16_bits_per_channel_are_refused(kind, tmp_path):
  suffix, deep, plain = DEEP[kind]
  file = tmp_path / f"x.{suffix}"
  file.write_bytes(deep)
  with pytest.raises(images.BadImage, match="8 bits per channel") as caught:
    images.decode(file, images.Form())
  assert "16" in str(caught.value)
  file.write_bytes(plain)
  found = images.decode(file, images.Form())
  np.testing.assert_array_equal(found, by_pillow(file))


def test_16_bits_per_pixel_are_read(tmp_path):
  """BMP's 5 bits per channel, and not 16."""
  header = struct.pack(
    "<2sIHHIIiiHHIIiiII",
    *(b"BM", 54 + 8, 0, 0, 54, 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0),
  )
  (tmp_path / "x.bmp").write_bytes(header + struct.pack("<4H", *range(0, 4)))
  found = images.decode(tmp_path / "x.bmp", images.Form())
  np.testing.assert_array_equal(found, by_pillow(tmp_path / "x.bmp"))
