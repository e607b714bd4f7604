"""Each export says of images what the network says, by its own runtime."""

import ast
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import trained_networks

import nss_jax as nss
from nss_jax.deploy import exports, runtimes
from nss_jax.errors import UserError

NAMES = ("basic", "bottleneck", "inverted_residual", "mobilenet_v2")
NAMES = (*NAMES, "own_of_exports")
TEMPLATE = pathlib.Path(exports.__file__).with_name("torch_module.txt")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """By block: the network, images, their logits, and a folder of exports."""
  made = {}
  for name, network in trained_networks.make_all().items():
    folder = tmp_path_factory.mktemp(name)
    images = trained_networks.images_of(network)
    logits = np.asarray(network.logits(images))
    assert len(set(logits.argmax(-1))) > 1  # else any classes are right
    for format in exports.FORMATS:
      assert network.export(folder, format).parent == folder
    np.save(folder / "images.npy", images)
    made[name] = network, images, logits, folder
  return made


def check(found, expected):
  """The same to rounding, and the same classes."""
  assert found.dtype == np.float32
  assert found.shape == expected.shape
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)
  np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))


def run_alone(exported, name, code):
  """Runs code in each folder, in one process that cannot import nss_jax."""
  script = f"import sys\nsys.modules['nss_jax'] = None\n{code}"
  done = subprocess.run(
    [sys.executable, "-c", script, *(str(x[3]) for x in exported.values())],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f"{name}: {done.stderr}"
  for _, _, logits, folder in exported.values():
    check(np.load(folder / f"{name}.npy"), logits)


def test_stablehlo_runs_without_this_library(exported):
  code = """
import pathlib
import jax, numpy as np
for folder in map(pathlib.Path, sys.argv[1:]):
  data = (folder / "network.stablehlo").read_bytes()
  call = jax.export.deserialize(bytearray(data)).call
  images = np.load(folder / "images.npy")
  one = np.asarray(call(images[:1]))
  logits = np.asarray(call(images))
  assert np.allclose(one, logits[:1], rtol=1e-5, atol=1e-5)
  np.save(folder / "stablehlo.npy", logits)
"""
  run_alone(exported, "stablehlo", code)


@pytest.mark.slow
def test_torch_runs_without_this_library(exported):
  """Needs the extra: pip install -e '.[torch]'."""
  code = """
import importlib.util, pathlib
import numpy as np, torch
for folder in map(pathlib.Path, sys.argv[1:]):
  spec = importlib.util.spec_from_file_location("own", folder / "network.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  model = module.load()
  images = torch.from_numpy(np.load(folder / "images.npy"))
  with torch.inference_mode():
    logits = model(images)
    assert torch.allclose(model(images[:1]), logits[:1], rtol=1e-5, atol=1e-5)
  assert logits.shape[1] == len(model.classes)
  np.save(folder / "torch.npy", logits.numpy())
assert "jax" not in sys.modules
"""
  run_alone(exported, "torch", code)


@pytest.mark.slow
def test_torch_trains_on(exported):
  """Needs the extra, too. Every tensor gets a gradient, averages move."""
  _, _, _, folder = exported["bottleneck"]
  code = f"""
import sys
sys.path.insert(0, {str(folder)!r})
import numpy as np, torch, network
model = network.load().train()
before = {{k: x.clone() for k, x in model.state_dict().items()}}
images = torch.from_numpy(np.load({str(folder / "images.npy")!r}))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
labels = images[:, 0, 0, 0].long() % 5
torch.nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
same = [k for k, x in model.state_dict().items() if torch.equal(x, before[k])]
assert same == ["mean", "std"], same
"""
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_other_runtimes_agree(exported, name, format):
  _, images, logits, folder = exported[name]
  file = folder / exports.FORMATS[format].file
  run = runtimes.open_export(file, format)
  check(run(images), logits)
  scale = np.abs(logits).max()
  for count in (1, 7):  # after another number of images, too
    few = run(images[:count])
    np.testing.assert_allclose(few, logits[:count], rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_file_takes_and_gives_is_named(exported, name):
  import onnx
  import onnxruntime

  network, _, _, folder = exported[name]
  path = str(folder / "network.onnx")
  session = onnxruntime.InferenceSession(path)
  (images,), (logits,) = session.get_inputs(), session.get_outputs()
  shape = ["batch", *network.search_space.image_shape]
  assert (images.name, images.type, images.shape) == (
    *("images", "tensor(uint8)"),
    shape,
  )
  assert (logits.name, logits.type) == ("logits", "tensor(float)")
  assert logits.shape == ["batch", network.search_space.num_classes]
  properties = {x.key: x.value for x in onnx.load(path).metadata_props}
  assert properties["classes"].split("\n") == list(network.names)

  from ai_edge_litert.interpreter import Interpreter

  runner = Interpreter(str(folder / "network.tflite")).get_signature_runner()
  (given,) = runner.get_input_details().items()
  assert given[0] == "images"
  assert given[1]["dtype"] == np.uint8
  assert list(given[1]["shape_signature"]) == [-1, *shape[1:]]
  assert list(runner.get_output_details()) == ["logits"]


def test_constants_of_tflite_lie_where_sixteen_divides(exported):
  """As the schema asks, for devices that read the file in place."""
  network, _, _, folder = exported["basic"]
  data = (folder / "network.tflite").read_bytes()
  kernel = np.asarray(network.params["head"]["kernel"]).T
  place = data.find(np.ascontiguousarray(kernel).tobytes())
  assert place > 0
  assert place % 16 == 0


@pytest.mark.parametrize("name", NAMES)
def test_npz_holds_the_tensors_of_the_folder(exported, name):
  import safetensors.numpy

  folder = exported[name][3]
  kept = safetensors.numpy.load_file(folder / "model.safetensors")
  with np.load(folder / "network.npz", allow_pickle=False) as found:
    assert set(found) == set(kept)
    for key, tensor in kept.items():
      np.testing.assert_array_equal(found[key], tensor)


def test_equal_networks_give_equal_files(exported, tmp_path):
  network, _, _, folder = exported["bottleneck"]
  for format in ("onnx", "tflite", "torch", "npz"):
    again = network.export(tmp_path, format)
    assert again.read_bytes() == (folder / again.name).read_bytes()


def test_the_torch_folder_is_a_saved_network(exported):
  network, _, _, folder = exported["own_of_exports"]
  assert nss.load_network(folder).names == network.names


def test_the_module_of_torch_is_short_and_stands_alone():
  text = TEMPLATE.read_text()
  assert len(text.splitlines()) < 100
  roots = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      roots |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      roots.add(node.module.split(".")[0])
  assert roots - set(sys.stdlib_module_names) == {"torch", "safetensors"}
  for command in (["check"], ["format", "--check"]):
    name = ["--stdin-filename", str(TEMPLATE.with_suffix(".py"))]
    ruff = [sys.executable, "-m", "ruff", *command, *name, "-"]
    subprocess.run(ruff, input=text.encode(), check=True)


def test_wrong_formats_are_refused_in_one_line(tmp_path, monkeypatch):
  network = trained_networks.make()
  with pytest.raises(UserError, match="format: 'coreml' is not accepted; exp"):
    network.export(tmp_path, "coreml")
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(UserError, match=r"needs onnx, .*'nss_jax\[onnx\]'"):
    network.export(tmp_path / "new", "onnx")
  assert not (tmp_path / "new").exists()
  monkeypatch.setitem(sys.modules, "torch", None)
  module = network.export(tmp_path, "torch")  # which needs none to be written
  with pytest.raises(UserError, match=r"run by torch, .*'nss_jax\[torch\]'"):
    runtimes.open_export(module, "torch")
  with pytest.raises(UserError, match="npz has no runtime"):
    runtimes.open_export(module, "npz")


@pytest.mark.parametrize(
  ("format", "runtime"),
  [
    ("stablehlo", "jax"),
    ("onnx", "onnxruntime"),
    ("tflite", "ai-edge-litert"),
    ("npz", ""),
  ],
)
def test_exports_are_measured(exported, format, runtime):
  network, _, _, folder = exported["basic"]
  path = folder / exports.FORMATS[format].file
  shape = network.search_space.image_shape
  found = runtimes.measure(path, format, shape)
  assert found.bytes == path.stat().st_size
  assert found.runtime.startswith(runtime)
  if format == "npz":
    assert found.seconds is None
  else:
    assert 0 < found.seconds < 10


def test_the_normalisation_is_folded_exactly_enough(tmp_path):
  """Also where means are far from zero and variances tiny."""
  network = trained_networks.make(arch="d3-3_w5-7")
  moments = jnp.asarray([[9, -7, 5], [1e-4, 0, 30]], jnp.float32)
  network.averages["stem"]["moments"] = moments
  images = trained_networks.images_of(network, 20)
  logits = np.asarray(network.logits(images))
  for format in ("onnx", "tflite"):
    run = runtimes.open_export(network.export(tmp_path, format), format)
    check(run(images), logits)
