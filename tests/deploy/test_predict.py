"""What a network says of images of all kinds, and what it refuses."""

import dataclasses
import io
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import trained_networks
from PIL import Image

import nss_jax as nss
from nss_jax.errors import UserError

NAMES = ("cat", "dog", "owl", "fox", "ant")


@pytest.fixture(scope="module")
def network():
  return trained_networks.make(image_shape=(8, 6, 3), class_names=NAMES)


@pytest.fixture(scope="module")
def grey():
  return trained_networks.make(image_shape=(8, 6, 1), background=0)


def probabilities(network, image):
  """By logits of the image as it is."""
  logits = np.asarray(network.logits(image[None]), np.float64)[0]
  shares = np.exp(logits - logits.max())
  return shares / shares.sum()


def check(network, given, image):
  """What is given is taken for an image of the network's own form."""
  np.testing.assert_array_equal(network.prepare(given), image)
  found, expected = network.predict(given), probabilities(network, image)
  assert isinstance(found, nss.Prediction)
  assert found.name == network.names[expected.argmax()]
  assert found.probability == next(iter(found.probabilities.values()))
  assert list(found.probabilities.values()) == sorted(
    found.probabilities.values(), reverse=True
  )
  assert found.probabilities == pytest.approx(
    dict(zip(network.names, expected, strict=True)), abs=1e-5
  )


def test_one_image_of_its_own_form(network, tmp_path):
  (image,) = trained_networks.images_of(network, 1)
  path = tmp_path / "a.png"
  Image.fromarray(image).save(path)
  for given in (
    *(image, jnp.asarray(image), Image.fromarray(image)),
    *(path, str(path), Image.open(path)),
  ):
    check(network, given, image)


def test_images_of_other_sizes_are_cut_and_resized(network):
  rng = np.random.default_rng(0)
  block = rng.integers(0, 256, (4, 3, 3), np.uint8)
  image = block.repeat(8, 0).repeat(8, 1)  # 32 x 24, the shape of the network
  wide = np.pad(image, ((0, 0), (10, 10), (0, 0)))
  found = network.prepare(wide)
  np.testing.assert_array_equal(found, network.prepare(image))
  assert found.shape == (8, 6, 3)
  for size in ((1, 1), (1, 1000), (1000, 1), (8, 7), (3, 2), (300, 200)):
    for channels in ((), (1,), (3,), (4,)):
      array = rng.integers(0, 256, (*size, *channels), np.uint8)
      prepared = network.prepare(array)
      assert prepared.shape == (8, 6, 3)
      assert prepared.dtype == np.uint8
  narrow = trained_networks.make(image_shape=(100, 2, 3))
  assert narrow.prepare(wide[:1]).shape == (100, 2, 3)


def test_pictures_are_turned_upright(network, tmp_path):
  (image,) = trained_networks.images_of(network, 1)
  path, exif = tmp_path / "turned.png", Image.Exif()
  exif[0x0112] = 6  # to be turned by a quarter, clockwise
  turned = Image.fromarray(np.rot90(image))
  turned.save(path, exif=exif)
  check(network, path, image)
  check(network, Image.open(path), image)


def test_what_is_transparent_lies_on_the_background(network, grey):
  for one, level in ((network, 255), (grey, 0)):
    height, width, channels = one.search_space.image_shape
    clear = np.full((height, width, 4), 90, np.uint8)
    clear[..., 3] = 0
    plain = np.full((height, width, channels), level, np.uint8)
    for given in (clear, Image.fromarray(clear)):
      check(one, given, plain)
    clear[..., 3] = 255
    np.testing.assert_array_equal(one.prepare(clear), plain * 0 + 90)


def test_grey_and_colours_become_what_the_network_takes(network, grey):
  rng = np.random.default_rng(0)
  one = rng.integers(0, 256, (8, 6), np.uint8)
  three = np.stack([one] * 3, -1)
  for given in (one, one[..., None], three, Image.fromarray(one)):
    check(network, given, three)
    check(grey, given, one[..., None])


def test_any_channels_of_the_exact_shape(tmp_path):
  for channels in (2, 4, 5):
    network = trained_networks.make(image_shape=(4, 3, channels))
    (image,) = trained_networks.images_of(network, 1)
    check(network, image, image)
    path = tmp_path / "a.png"
    drawn = Image.fromarray(np.zeros((4, 3, 3), np.uint8))
    drawn.save(path)
    for given in (path, drawn, image[:2], image[..., :1]):
      with pytest.raises(UserError, match=rf"accepted are .*{channels} chann"):
        network.predict(given)


def test_several_images(network, tmp_path):
  images = trained_networks.images_of(network, 3)
  paths = [tmp_path / f"{k}.png" for k in range(3)]
  for path, image in zip(paths, images, strict=True):
    Image.fromarray(image).save(path)
  expected = [network.predict(image) for image in images]
  for given in (
    *(images, jnp.asarray(images), list(images), tuple(paths)),
    *(sorted(tmp_path.glob("*.png")), (p for p in paths)),
    [str(paths[0]), Image.open(paths[1]), images[2]],
  ):
    found = network.predict(given)
    assert [one.name for one in found] == [one.name for one in expected]
    for one, other in zip(found, expected, strict=True):
      assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
  assert len(network.predict(images[:1])) == 1
  assert len(network.predict(trained_networks.images_of(network, 300))) == 300
  for empty in ([], (), images[:0], iter(())):
    assert network.predict(empty) == []


def test_the_logits_are_of_the_batch_alone(network):
  images = trained_networks.images_of(network, 5)
  logits = network.logits(images)
  assert logits.dtype == jnp.float32
  alone = np.concatenate([network.logits(x[None]) for x in images])
  np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)


def test_every_output_has_a_name_of_its_own(network):
  (image,) = trained_networks.images_of(network, 1)
  for given, expected in (
    ((), ("0", "1", "2", "3", "4")),
    (("cat", "dog"), ("cat", "dog", "2", "3", "4")),
    (("3", "1"), ("3", "1", "2", "3 (3)", "4")),
    (
      ("cat", "cat", "cat (1)", "cat", "dog"),
      ("cat", "cat (1)", "cat (1) (2)", "cat (3)", "dog"),
    ),
  ):
    named = dataclasses.replace(network, class_names=given)
    assert named.names == expected
    found = named.predict(image)
    assert len(found.probabilities) == 5
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_names_of_one_sound_are_saved_apart(network, tmp_path):
  twice = dataclasses.replace(network, class_names=("cat", "cat"))
  twice.save(tmp_path)
  assert nss.load_network(tmp_path).names == twice.names


def test_what_does_not_fit_the_network_is_refused(network):
  for field, value in (
    ("class_names", (*NAMES, "more")),
    ("mean", (0.5,)),
    ("std", (0.5,) * 4),
  ):
    with pytest.raises(ValueError, match=field):
      dataclasses.replace(network, **{field: value})


def test_no_image_is_one_line(network, tmp_path):
  text = tmp_path / "notes.txt"
  text.write_text("no picture\n")
  cut = tmp_path / "cut.png"
  noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
  Image.fromarray(noise).save(cut)
  cut.write_bytes(cut.read_bytes()[:900])
  deep = Image.fromarray(np.zeros((8, 6), np.uint16))
  late = Image.open(io.BytesIO(cut.read_bytes()))
  wrong = [
    (text, "notes.txt: is damaged or no image"),
    (tmp_path, "is a folder"),
    (tmp_path / "gone.png", "gone.png: No such file"),
    ("a\0b", "null"),
    ("x" * 5000, "too long"),
    ("", "No such file"),
    (cut, "cut.png: is damaged"),
    (late, "PngImageFile: cannot be read"),
    (deep, "mode I;16"),
    (noise.astype(np.float32), "float32"),
    (noise[:0], "shape"),
    (noise[:, :0], "shape"),
    (noise[..., :2], "shape"),
    (noise[0, 0], "shape"),
    (noise[None, None], "shape"),
    (None, "NoneType: is object"),
    (7, "int: is int64"),
    (b"bytes", "bytes: is"),
    ([[1, 2], [3]], "image 0 (list)"),
    ([noise, noise.astype(int)], "image 1 (ndarray): is int64"),
    (noise[None].astype(np.float64), "image 0 (ndarray): is float64"),
    ([noise, text], "notes.txt"),
  ]
  for given, words in wrong:
    with pytest.raises(UserError) as caught:
      network.predict(given)
    line = str(caught.value)
    assert words in line, line
    assert len(line.splitlines()) == 1
    assert len(line) < 1001


def test_a_network_is_light_to_import():
  """What is read or exported is loaded when it is."""
  code = (
    "import sys, nss_jax, nss_jax.main\n"
    "print([m for m in ('safetensors', 'PIL', 'onnx', 'onnxruntime', 'torch', "
    "'ai_edge_litert') if m in sys.modules])"
  )
  root = pathlib.Path(nss.__file__).parent.parent
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=root, capture_output=True, check=True
  )
  assert done.stdout.strip() == b"[]"
