"""Scalars and pictures for TensorBoard, beside the files of a run."""

import importlib.util
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from nss_jax.errors import UserError

if TYPE_CHECKING:
  import tensorboardX

FOLDER = "tensorboard"


def check() -> None:
  """Raises UserError if the package that writes for it is missing."""
  if importlib.util.find_spec("tensorboardX") is None:
    raise UserError(
      "--tensorboard: needs tensorboardX, which is not installed; try pip "
      "install 'nss_jax[tensorboard]'"
    )


class Scalars:
  """The numbers of the lines of `metrics.jsonl`, as they come.

  Args:
    folder: of the phase; None writes nothing.
    step: of the run; what an earlier process has written beyond it is hidden.
  """

  def __init__(self, folder: pathlib.Path | None, step: int = 0):
    self._writer = None if folder is None else _writer(folder, step + 1)

  def write(self, line: dict[str, Any]) -> None:
    """Writes the numbers of a line, at its step."""
    if self._writer is None:
      return
    for name, value in line.items():
      if isinstance(value, (int, float)) and name != "step":
        self._writer.add_scalar(name, value, line["step"])
    self._writer.flush()

  def close(self) -> None:
    if self._writer is not None:
      self._writer.close()


def write_pictures(folder: pathlib.Path) -> None:
  """Shows the pictures of a phase that has ended."""
  from PIL import Image

  paths = sorted(folder.glob("*.png"))
  if not paths:
    return
  writer = _writer(folder)
  for path in paths:
    with Image.open(path) as picture:
      pixels = np.asarray(picture.convert("RGB"))
    writer.add_image(path.stem, pixels, dataformats="HWC")
  writer.close()


def _writer(
  folder: pathlib.Path, purge_step: int | None = None
) -> "tensorboardX.SummaryWriter":
  import tensorboardX

  return tensorboardX.SummaryWriter(
    str(folder / FOLDER), purge_step=purge_step, write_to_disk=True
  )
