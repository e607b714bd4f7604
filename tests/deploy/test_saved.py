"""The folder of a saved network: whole, enough by itself, or refused."""

import copy
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import trained_networks

import nss_jax as nss
from nss_jax.deploy import layers, saved
from nss_jax.errors import UserError
from nss_jax.spaces import blocks

ABOUT = {
  "data": "photos",
  "test_images": 90,
  "test_error": 8 / 90,
  "test_error_interval": [0.0392, 0.1677],
  "num_seeds": 2,
  "mean_error": 0.09,
  "standard_error": 0.004,
  "found": "from 300 archs, by loss",
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
  """A network of an own block, as it was and in its folder."""
  nss.register_block("own_of_exports", trained_networks.OWN_BLOCK)
  network = trained_networks.make(
    *("own_of_exports", (5, 8, 3), "d3-1_w4-7"),
    class_names=("cat", "dog", "owl", "ünï", "5 | <b>"),
    background=7,
    about=ABOUT,
  )
  folder = tmp_path_factory.mktemp("saved") / "net"
  network.save(folder)
  return network, folder


@pytest.fixture
def copied(kept, tmp_path):
  return shutil.copytree(kept[1], tmp_path / "net")


def change(folder, content, whole=True):
  """Writes a description; with the digest of it if it is to be `whole`."""
  if whole:
    content["digest"] = saved.digest(content)
  (folder / saved.DESCRIPTION).write_text(json.dumps(content))


def refused(folder):
  """Reads what cannot be used; returns the one line that says why."""
  with pytest.raises(UserError) as caught:
    nss.load_network(folder)
  assert len(str(caught.value).splitlines()) == 1
  return str(caught.value)


def same_tensors(a, b):
  def compare(x, y):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

  jax.tree.map(compare, (a.params, a.averages), (b.params, b.averages))


def test_what_is_read_is_what_was_saved(kept, tmp_path):
  network, folder = kept
  found = nss.load_network(folder)
  same_tensors(found, network)
  for field in dataclasses.fields(network):
    if field.name not in ("params", "averages"):
      assert getattr(found, field.name) == getattr(network, field.name), field
  found.save(tmp_path / "again")
  for name in (saved.WEIGHTS, saved.DESCRIPTION, saved.CARD):
    again = (tmp_path / "again" / name).read_bytes()
    assert again == (folder / name).read_bytes(), name


def test_a_process_that_knows_no_block_reads_it(kept, tmp_path):
  network, folder = kept
  images = trained_networks.images_of(network, 6)
  np.save(tmp_path / "images.npy", images)
  code = """
import pathlib, sys
import numpy as np, nss_jax as nss
folder, work = map(pathlib.Path, sys.argv[1:])
assert "own_of_exports" not in nss.find_block.__globals__["BLOCKS"]
network = nss.load_network(folder)
network.save(work / "again")
np.save(work / "logits.npy", network.logits(np.load(work / "images.npy")))
"""
  arguments = [sys.executable, "-c", code, str(folder), str(tmp_path)]
  subprocess.run(arguments, check=True)
  for name in (saved.WEIGHTS, saved.DESCRIPTION, saved.CARD):
    again = (tmp_path / "again" / name).read_bytes()
    assert again == (folder / name).read_bytes(), name
  found, expected = np.load(tmp_path / "logits.npy"), network.logits(images)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def _numpy_conv(x, kernel, layer):
  """As the card has it: zeros around, windows, products, sums."""
  size, stride = layer["size"], layer["stride"]
  pad = (size - 1) // 2
  x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))
  windows = windows[:, ::stride, ::stride]
  if layer["groups"] > 1:
    return np.einsum("bhwckl,klc->bhwc", windows, kernel[:, :, 0])
  return np.einsum("bhwckl,klco->bhwo", windows, kernel)


def _numpy_network(folder, images):
  """Logits by `network.json` and `model.safetensors`, in float64."""
  content = json.loads((folder / "network.json").read_text())
  tensors = safetensors.numpy.load_file(folder / "model.safetensors")
  tensors = {name: x.astype(np.float64) for name, x in tensors.items()}
  described, form = content["layers"], content["preprocessing"]

  def sigmoid(x):
    return 1 / (1 + np.exp(-x))

  activations = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "silu": lambda x: x * sigmoid(x),
  }

  def conv(layer, x):
    of = {
      key: tensors[f"{layer['name']}.{key}"]
      for key in ("kernel", "scale", "offset", "mean", "variance")
    }
    y = _numpy_conv(x, of["kernel"], layer) - of["mean"]
    deviation = np.sqrt(of["variance"] + described["epsilon"])
    y = y / deviation * of["scale"] + of["offset"]
    return activations[layer["activation"]](y)

  def linear(name, x):
    return x @ tensors[f"{name}.kernel"] + tensors[f"{name}.bias"]

  def excite(layer, x):
    hidden = np.maximum(linear(f"{layer['name']}.squeeze", x.mean((1, 2))), 0)
    factors = sigmoid(linear(f"{layer['name']}.excite", hidden))
    return x * factors[:, None, None]

  kinds = {"conv": conv, "squeeze_excite": excite}
  x = (images / 255 - form["mean"]) / form["std"]
  x = conv(described["stem"], x)
  for block in described["blocks"]:
    y = x
    for layer in block["layers"]:
      y = kinds[layer["kind"]](layer, y)
    shortcut = block["shortcut"]
    if shortcut is not None:
      y = y + (x if shortcut == "identity" else conv(shortcut, x))
    x = activations[block["activation"]](y)
  return linear("head", x.mean((1, 2)))


def test_the_folder_is_all_that_it_takes(tmp_path):
  """For all blocks, by numpy and the words of the card."""
  for name, network in trained_networks.make_all().items():
    network.save(tmp_path / name)
    images = trained_networks.images_of(network)
    found = _numpy_network(tmp_path / name, images)
    logits = np.asarray(network.logits(images))
    scale = np.abs(logits).max()
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5 * scale)


def test_the_card_says_what_there_is_to_know(kept):
  network, folder = kept
  text = (folder / saved.CARD).read_text()
  assert text.startswith("---\nlibrary_name: nss_jax\n")
  for words in (
    "# Image classifier d3-1_w4-7",
    "cat, dog, owl, ünï, 5 | <b>",
    "8.9% of 90 images (95 % interval 3.9% to 16.8%)",
    "5 x 8 pixels (height x width), RGB",
    "grey of level 7",
    "2 seeds",
    "from 300 archs, by loss",
    f"{nss.arch_macs(network.search_space, network.arch):,} multiply-adds",
  ):
    assert words in text, words
  assert text.count("\n\n\n") == 0


@pytest.mark.parametrize(
  "about",
  [
    {},
    {"test_error": "low", "test_images": None, "test_error_interval": 3},
    {"test_error": 0.1, "test_error_interval": ["a", "b"]},
    {"mean_error": 0.1, "num_seeds": [], "standard_error": {}},
    {"data": {"path": "x\ny"}, "found": ["a"], "space": 3},
  ],
)
def test_a_card_takes_whatever_is_told(about, tmp_path):
  network = trained_networks.make(about=about)
  network.save(tmp_path)
  assert nss.load_network(tmp_path).about == about
  assert "x\ny" not in (tmp_path / saved.CARD).read_text()


def test_what_json_has_not_is_refused_before_anything_is_written(tmp_path):
  for value in (object(), float("nan")):
    network = trained_networks.make(about={"what": value})
    with pytest.raises((TypeError, ValueError)):
      network.save(tmp_path / "net")
  assert not (tmp_path / "net").exists()


def test_damaged_weights_are_refused(copied):
  path = copied / saved.WEIGHTS
  data = path.read_bytes()
  for place in np.linspace(0, len(data) - 1, 40).astype(int):
    flipped = bytearray(data)
    flipped[place] ^= 1 << (place % 8)
    path.write_bytes(flipped)
    assert "is damaged" in refused(copied)
  for end in (0, 7, 100, len(data) - 1):
    path.write_bytes(data[:end])
    assert "is damaged" in refused(copied)
  path.unlink()
  assert "No such file" in refused(copied)
  path.mkdir()
  assert "directory" in refused(copied)


def _write_tensors(folder, tensors):
  data = safetensors.numpy.save(tensors)
  (folder / saved.WEIGHTS).write_bytes(data)
  content = json.loads((folder / saved.DESCRIPTION).read_text())
  content["sha256"] = hashlib.sha256(data).hexdigest()
  change(folder, content)


def test_every_tensor_is_needed_as_it_is(kept, copied):
  network, _ = kept
  tensors = layers.to_tensors(network.params, network.averages)
  for name in tensors:
    _write_tensors(copied, {k: x for k, x in tensors.items() if k != name})
    assert refused(copied).endswith(f"the tensor {name} is missing")
  last = "stage_1.block_3.look.variance"
  for value, reason in (
    (tensors[last][:-1], "of shape"),
    (tensors[last].astype(np.float64), "float64"),
    (tensors[last] * np.float32("nan"), "finite"),
    (-tensors[last], "at least 0"),
  ):
    _write_tensors(copied, tensors | {last: value})
    line = refused(copied)
    assert last in line and reason in line
  _write_tensors(copied, tensors | {"more": tensors[last]})
  assert refused(copied).endswith("no tensor more")
  data = b"no safetensors"
  (copied / saved.WEIGHTS).write_bytes(data)
  content = json.loads((copied / saved.DESCRIPTION).read_text())
  content["sha256"] = hashlib.sha256(data).hexdigest()
  change(copied, content)
  assert saved.WEIGHTS in refused(copied)


def _paths(value, path=()):
  """Paths to all that is in a description."""
  yield path
  items = {dict: lambda: value.items(), list: lambda: enumerate(value)}
  for key, inner in items.get(type(value), lambda: ())():
    yield from _paths(inner, (*path, key))


def _edited(content, path, value):
  made = copy.deepcopy(content)
  *outer, last = path
  inner = made
  for key in outer:
    inner = inner[key]
  if value is _GONE:
    del inner[last]
  else:
    inner[last] = value
  return made


_GONE = object()
_OTHERS = (_GONE, None, True, -1, 0, 3, 2.5, "", "basic", [], {}, 10**400, [[]])


def test_no_edit_is_taken_for_the_network(kept, copied):
  """Only what may be edited, and then it is what the edit says."""
  content = json.loads((kept[1] / saved.DESCRIPTION).read_text())
  count = 0
  for k, path in enumerate(_paths(content)):
    if not path:
      continue
    value = _OTHERS[k % len(_OTHERS)]
    made = _edited(content, path, value)
    if json.dumps(made) == json.dumps(content):
      continue
    change(copied, made, whole=False)
    count += 1
    free = path[0] in ("about", "classes") and len(path) > 1
    if not free:
      line = refused(copied)
      assert saved.DESCRIPTION in line or saved.WEIGHTS in line
      continue
    try:
      found = nss.load_network(copied)
    except UserError:
      continue
    assert dict(found.about) == made["about"]
    assert found.class_names == tuple(made["classes"])
    same_tensors(found, kept[0])
  assert count > 250


def test_no_edit_that_is_signed_ends_in_a_traceback(kept, copied):
  """What someone made on purpose: a line, or a network that computes."""
  content = json.loads((kept[1] / saved.DESCRIPTION).read_text())
  known = dict(blocks.BLOCKS)
  read = [
    path
    for path in _paths(content)
    if path and path[0] in ("preprocessing", "block", "search_space", "format")
  ]
  for k, path in enumerate(read):
    for value in _OTHERS[k % 3 :: 3]:
      change(copied, _edited(content, path, value))
      try:
        nss.load_network(copied)
      except UserError as error:
        assert len(str(error).splitlines()) == 1
  assert dict(blocks.BLOCKS) == known


def test_a_block_is_registered_only_as_its_digest_says(kept, copied):
  content = json.loads((kept[1] / saved.DESCRIPTION).read_text())
  content["block"]["name"] = content["search_space"]["block"] = "never_known"
  content["block"]["description"]["activation"] = "relu"
  change(copied, content)
  assert "not that of its digest" in refused(copied)
  assert "never_known" not in blocks.BLOCKS


@pytest.mark.parametrize(
  "text", ["", "[]", "{", '{"format": 1}', "[" * 100_000, '{"a": NaN}', "\xff"]
)
def test_what_is_no_description_is_refused(copied, text):
  (copied / saved.DESCRIPTION).write_bytes(text.encode("latin-1"))
  assert saved.DESCRIPTION in refused(copied)
