"""Runs Python code as on a machine without network: `tfds_offline.py CODE`.

TFDS then takes any archive that lies in `downloads/manual` of a data folder for
the official one: its size and digest replace those recorded. Where TensorFlow
is not installed, a stand-in does what TFDS asks of it while it writes: opens
files and encodes arrays as PNG.
"""

import hashlib
import importlib.machinery
import importlib.util
import io
import pathlib
import socket
import sys
import types

import numpy as np
from PIL import Image


class _Encoded(bytes):
  """What an eager tensor of a string is to TFDS."""

  def numpy(self) -> bytes:
    return bytes(self)


def _encode_png(array: np.ndarray) -> _Encoded:
  file = io.BytesIO()
  Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(
    file, "PNG"
  )
  return _Encoded(file.getvalue())


class _Never:
  pass


def _stand_in() -> types.ModuleType:
  tensorflow = types.ModuleType("tensorflow")
  tensorflow.__dict__.update(
    __spec__=importlib.machinery.ModuleSpec("tensorflow", None),
    __version__="2.20.0",
    executing_eagerly=lambda: True,
    # Types that nothing here has.
    dtypes=types.SimpleNamespace(DType=_Never),
    Tensor=_Never,
    RaggedTensor=_Never,
    TensorShape=_Never,
    compat=types.SimpleNamespace(as_text=str),
    image=types.SimpleNamespace(encode_png=_encode_png),
    io=types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open)),
  )
  return tensorflow


def _refuse(*_args, **_kwargs):
  raise OSError("there is no network")


def _record(manual: pathlib.Path) -> None:
  """Makes the files of a folder the official ones."""
  from tensorflow_datasets.core.download import checksums

  given = {
    file.name: checksums.UrlInfo(
      size=file.stat().st_size,
      checksum=hashlib.sha256(file.read_bytes()).hexdigest(),
      filename=file.name,
    )
    for file in manual.iterdir()
  }
  load = checksums.load_url_infos

  def load_as_given(path):
    return {
      url: given.get(url.rsplit("/", 1)[-1], info)
      for url, info in load(path).items()
    }

  checksums.load_url_infos = load_as_given


def main(manual: str, code: str) -> None:
  socket.socket.connect = _refuse
  socket.getaddrinfo = _refuse
  if importlib.util.find_spec("tensorflow") is None:
    sys.modules["tensorflow"] = _stand_in()
  _record(pathlib.Path(manual))
  exec(compile(code, "recipe", "exec"), {})


if __name__ == "__main__":
  main(*sys.argv[1:])
