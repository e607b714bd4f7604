"""One trained network: what it says of images, and the folder it is kept in."""

import dataclasses
import functools
import os
import pathlib
import stat
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.data import images as image_lib
from nss_jax.data.batches import normalize
from nss_jax.errors import UserError, one_line
from nss_jax.runtime import files
from nss_jax.spaces.search_space import Arch, Array, SearchSpace
from nss_jax.supernet import network

# Images that go through the network at a time.
_BATCH = 256


class Prediction(NamedTuple):
  """What a network says of one image.

  Attributes:
    name: of the most probable class.
    probability: of that class.
    probabilities: of all classes by their names, see
      `TrainedNetwork.names`, falling.
  """

  name: str
  probability: float
  probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNetwork:
  """One network, trained alone.

  Attributes:
    search_space: of this network and nothing else.
    params: its weights.
    averages: running averages of its normalisations.
    mean: `[channels]` of its training images, in units of pixel / 255.
    std: `[channels]`, likewise.
    class_names: of its outputs, or of the first of them.
    background: grey level behind what is transparent in an image.
    about: what else is known of it, such as how it was found and its test
      error; what JSON has.

  Raises:
    ValueError: if the numbers of names, means or deviations do not fit.
  """

  search_space: SearchSpace
  params: Any
  averages: Any
  mean: tuple[float, ...]
  std: tuple[float, ...]
  class_names: tuple[str, ...] = ()
  background: int = 255
  about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    channels = self.search_space.image_shape[-1]
    for name in ("mean", "std"):
      if (given := len(getattr(self, name))) != channels:
        raise ValueError(f"{name}: expected {channels} numbers, got {given}")
    outputs = self.search_space.num_classes
    if len(self.class_names) > outputs:
      raise ValueError(
        f"class_names: {len(self.class_names)} names of {outputs} outputs"
      )

  @property
  def arch(self) -> Arch:
    """Returns its depths and widths `[S]`."""
    space = self.search_space
    return Arch(
      depth=np.array(space.max_depths, np.int32),
      width=np.array(space.max_widths, np.int32),
    )

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """Returns a name for each output, all different.

    An output without one has its number; what another has too is followed by
    the number in brackets.
    """
    names: dict[str, int] = {}
    for number in range(self.search_space.num_classes):
      given = self.class_names[number : number + 1] or (str(number),)
      name = given[0]
      while name in names:
        name = f"{name} ({number})"
      names[name] = number
    return tuple(names)

  def logits(self, images: Array) -> jax.Array:
    """Returns `[B, C]` in float32, of images `[B, H, W, channels]`, uint8."""
    normal = normalize(images, self.mean, self.std)
    weights = self.params, self.averages
    return _logits(self.search_space, *weights, normal)

  def prepare(self, image: Any) -> np.ndarray:
    """Brings an image to the form that the network was trained on.

    Args:
      image: a path, a PIL image, or an array `[H, W]` or `[H, W, channels]` of
        uint8, of any size.

    Returns:
      `[H, W, channels]` uint8: turned upright, what is transparent on
      `background`, cut in the middle to the shape of the network's images, and
      resized.

    Raises:
      UserError: in one line, if it is no such image.
    """
    return self._prepare(image, type(image).__name__)

  def _prepare(self, image: Any, where: str) -> np.ndarray:
    height, width, channels = self.search_space.image_shape
    if isinstance(image, str | os.PathLike):
      where = one_line(str(image), 300)
      try:
        is_folder = stat.S_ISDIR(os.stat(image).st_mode)
      except (OSError, ValueError) as error:  # a path can hold a null byte
        raise UserError(f"{where}: {files.reason(error)}") from error
      if is_folder:
        raise UserError(f"{where}: is a folder; expected an image")
      image = pathlib.Path(image)
    form = image_lib.Form((height, width), channels, self.background)
    try:
      return image_lib.bring_to(image, form)
    except image_lib.ImageError as error:
      raise UserError(f"{where}: {error}") from error

  def predict(self, images: Any) -> Any:
    """Says which classes images are of.

    Args:
      images: one image, as `prepare` takes it; or several, in a list or
        another iterable or as an array `[B, H, W, channels]`.

    Returns:
      A `Prediction`; a list of them for several images.

    Raises:
      UserError: as `prepare`.
    """
    given = [images]
    several = _are_several(images)
    if several:
      given = list(images)
    found = []
    for start in range(0, len(given), _BATCH):
      part = []
      for number, image in enumerate(given[start : start + _BATCH], start):
        kind = type(image).__name__
        where = f"image {number} ({kind})" if several else kind
        part.append(self._prepare(image, where))
      found += map(self._tell, jax.nn.softmax(self.logits(np.stack(part))))
    return found if several else found[0]

  def _tell(self, probabilities: Any) -> Prediction:
    values = np.asarray(probabilities, np.float64)
    order = np.argsort(-values, kind="stable")
    by_name = {self.names[i]: float(values[i]) for i in order}
    return Prediction(self.names[order[0]], float(values[order[0]]), by_name)

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the network to a folder that is read without this library.

    It has `model.safetensors`, `network.json` and `README.md`, which says what
    is in the two others; `load_network` reads it.

    Raises:
      OSError: if it cannot be written.
    """
    from nss_jax.deploy import saved

    saved.write(self, pathlib.Path(path))

  def export(self, path: str | os.PathLike[str], format: str) -> pathlib.Path:
    """Writes the network for another runtime.

    Its input is images `[B, H, W, channels]` uint8, its output logits `[B, C]`
    float32, in every format: the normalisation is part of it.

    Args:
      path: the folder to write to.
      format: stablehlo | onnx | tflite | torch | npz.

    Returns:
      The file that was written; for torch the module, beside which are the
      files of `save` that it reads.

    Raises:
      UserError: in one line, if there is no such format, or a library that it
        needs is not installed.
    """
    from nss_jax.deploy import exports

    return exports.export(self, pathlib.Path(path), format)


def _are_several(images: Any) -> bool:
  """Returns whether it is no single image; arrays of one are iterable too."""
  if hasattr(images, "ndim"):
    return images.ndim == 4
  single = str | bytes | os.PathLike
  return isinstance(images, Iterable) and not isinstance(images, single)


@functools.partial(jax.jit, static_argnums=0)
def _logits(
  search_space: SearchSpace, params: Any, averages: Any, images: jax.Array
) -> jax.Array:
  weights = params, averages
  return network.apply_alone(search_space, *weights, images, train=False)[0]
