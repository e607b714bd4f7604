"""Exports in their own runtimes: opened, and timed."""

import importlib
import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.errors import UserError

# Logits `[B, classes]` of images `[B, H, W, channels]` uint8.
Run = Callable[[np.ndarray], np.ndarray]
_WARMUP, _TIMED = 10, 50


class Measured(NamedTuple):
  """What an export takes.

  Attributes:
    bytes: of the file, for torch with the two that it reads.
    seconds: median of an image, one at a time on this machine; None where the
      format has no runtime.
    runtime: its name and version.
  """

  bytes: int
  seconds: float | None
  runtime: str


def measure(
  path: pathlib.Path, name: str, image_shape: tuple[int, ...]
) -> Measured:
  """Measures a file that `export` has written in a format.

  Args:
    path: what `export` has returned.
    name: of the format.
    image_shape: height, width and channels.

  Raises:
    UserError: in one line, if the runtime is not installed.
  """
  read = [path]
  if name == "torch":
    read += [path.with_name(x) for x in ("network.json", "model.safetensors")]
  size = sum(file.stat().st_size for file in read)
  if name not in _RUNTIMES:
    return Measured(size, None, "")
  distribution, _ = _RUNTIMES[name]
  run = open_export(path, name)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1, *image_shape), np.uint8)
  seconds = []
  for _ in range(_WARMUP + _TIMED):
    start = time.perf_counter()
    run(images)
    seconds.append(time.perf_counter() - start)
  median = statistics.median(seconds[_WARMUP:])
  version = metadata.version(distribution)
  return Measured(size, median, f"{distribution} {version}")


def open_export(path: pathlib.Path, name: str) -> Run:
  """Opens a file of a format by its own runtime.

  Raises:
    UserError: in one line, if that is not installed, or there is none.
  """
  if name not in _RUNTIMES:
    raise UserError(f"format: {name} has no runtime")
  distribution, opened = _RUNTIMES[name]
  try:
    return opened(path)
  except ImportError as error:
    raise UserError(
      f"format: {name} is run by {distribution}, which is not installed; "
      f"expected pip install 'nss_jax[{name}]' before"
    ) from error


def _stablehlo(path: pathlib.Path) -> Run:
  call = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
  return lambda images: np.asarray(call(images))


def _onnx(path: pathlib.Path) -> Run:
  runtime = importlib.import_module("onnxruntime")
  providers = ["CPUExecutionProvider"]
  session = runtime.InferenceSession(str(path), providers=providers)
  return lambda images: session.run(["logits"], {"images": images})[0]


def _tflite(path: pathlib.Path) -> Run:
  runtime = importlib.import_module("ai_edge_litert.interpreter")
  network = runtime.Interpreter(str(path))
  (given,), (found,) = network.get_input_details(), network.get_output_details()

  def run(images: np.ndarray) -> np.ndarray:
    if tuple(network.get_input_details()[0]["shape"]) != images.shape:
      network.resize_tensor_input(given["index"], images.shape)
    network.allocate_tensors()
    network.set_tensor(given["index"], images)
    network.invoke()
    return network.get_tensor(found["index"])

  return run


def _torch(path: pathlib.Path) -> Run:
  torch: Any = importlib.import_module("torch")
  spec: Any = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  network = module.load(path.parent)

  def run(images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
      return network(torch.from_numpy(images)).numpy()

  return run


_RUNTIMES: dict[str, tuple[str, Callable[[pathlib.Path], Run]]] = {
  "stablehlo": ("jax", _stablehlo),
  "onnx": ("onnxruntime", _onnx),
  "tflite": ("ai-edge-litert", _tflite),
  "torch": ("torch", _torch),
}
