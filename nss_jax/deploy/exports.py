"""A trained network for other runtimes: one writer for each format."""

import importlib
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nss_jax.deploy import layers, saved
from nss_jax.errors import UserError
from nss_jax.runtime import files

if TYPE_CHECKING:
  from nss_jax.deploy.trained_network import TrainedNetwork


class Format(NamedTuple):
  """How a format is written.

  Attributes:
    file: what it writes, in the folder it is given.
    write: writes that file.
    needs: modules that do not come with nss_jax, but with its extra of the
      format's name.
  """

  file: str
  write: Callable[["TrainedNetwork", pathlib.Path], None]
  needs: tuple[str, ...] = ()


def export(
  network: "TrainedNetwork", folder: pathlib.Path, name: str
) -> pathlib.Path:
  """Writes a network in a format, see `TrainedNetwork.export`."""
  check([name])
  found = FORMATS[name]
  files.make_folder(folder)
  found.write(network, folder / found.file)
  return folder / found.file


def check(names: Iterable[str]) -> None:
  """Refuses formats that are none, or that lack a library they need.

  Raises:
    UserError: in one line.
  """
  for name in names:
    if name not in FORMATS:
      raise UserError(
        f"format: {name!r} is not accepted; expected one of "
        f"{', '.join(FORMATS)}"
      )
    for module in FORMATS[name].needs:
      try:
        importlib.import_module(module)
      except ImportError as error:
        raise UserError(
          f"format: {name} needs {module}, which is not installed; expected "
          f"pip install 'nss_jax[{name}]' before"
        ) from error


def _write_stablehlo(network: "TrainedNetwork", path: pathlib.Path) -> None:
  """Writes what `jax.export.deserialize` reads, for any number of images."""
  import jax

  batch = jax.export.symbolic_shape("batch")
  shape = (*batch, *network.search_space.image_shape)
  export = jax.export.export(
    jax.jit(network.logits), platforms=("cpu", "cuda", "tpu")
  )
  exported = export(jax.ShapeDtypeStruct(shape, np.uint8))
  files.write_bytes(path, bytes(exported.serialize()))


def _write_npz(network: "TrainedNetwork", path: pathlib.Path) -> None:
  tensors = layers.to_tensors(network.params, network.averages)
  with files.atomic_path(path) as temporary:
    np.savez(temporary, allow_pickle=False, **tensors)


def _write_onnx(network: "TrainedNetwork", path: pathlib.Path) -> None:
  from nss_jax.deploy import onnx_graph

  _build(network, path, onnx_graph.build)


def _write_tflite(network: "TrainedNetwork", path: pathlib.Path) -> None:
  from nss_jax.deploy import lite_graph

  _build(network, path, lite_graph.build)


def _build(
  network: "TrainedNetwork", path: pathlib.Path, build: Callable[..., bytes]
) -> None:
  """Writes what is made of the description and the tensors."""
  tensors = layers.to_tensors(network.params, network.averages)
  files.write_bytes(path, build(saved.describe(network), tensors))


def _write_torch(network: "TrainedNetwork", path: pathlib.Path) -> None:
  """Writes a module of PyTorch, and beside it the folder that it reads."""
  saved.write(network, path.parent)
  template = pathlib.Path(__file__).with_name("torch_module.txt")
  files.write_bytes(path, template.read_bytes())


FORMATS = {
  "stablehlo": Format("network.stablehlo", _write_stablehlo),
  "onnx": Format("network.onnx", _write_onnx, ("onnx",)),
  "tflite": Format("network.tflite", _write_tflite, ("ai_edge_litert",)),
  "torch": Format("network.py", _write_torch),
  "npz": Format("network.npz", _write_npz),
}
