"""Settings of a run, chosen by its images, its constraints and the effort."""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.spaces.cost import arch_cost
from nss_jax.spaces.metrics import METRICS
from nss_jax.spaces.search_space import Arch, SearchSpace

# How many steps of everything, next to those of quick.
EFFORTS = {"quick": 1, "normal": 3, "thorough": 10}
# Pixels of a side that larger pictures are resized to.
_SIDES = {"quick": 32, "normal": 64, "thorough": 96}
_TEST_FRACTION = 0.2
_DEPTH, _WIDTHS = 4, (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# The largest network costs so many times each constraint, and one of them.
_ROOM, _MOST_ROOM = 3, 8
_STEPS = {"search": 400, "evaluate": 1000, "race": 300, "train": 800}


def check(limits: Mapping[str, float], effort: str) -> None:
  """Refuses limits that are none, and efforts that are unknown."""
  if not limits:
    raise UserError(
      "find: what may the network cost? expected flops=, params=, "
      "activations= or latency=, such as flops=5e6"
    )
  for name, value in limits.items():
    if isinstance(value, bool) or not (
      isinstance(value, int | float) and 0 < value < math.inf
    ):
      raise UserError(
        f"find: {name}={value!r} is not accepted; expected a number above 0"
      )
  if effort not in EFFORTS:
    raise UserError(
      f"find: effort={effort!r} is not accepted; expected one of "
      f"{', '.join(EFFORTS)}"
    )


def name_of(images: Any) -> str:
  """Returns what the run is called by its images."""
  if isinstance(images, str | os.PathLike):
    return pathlib.Path(images).stem or "images"
  return getattr(images, "name", "arrays")


def find_source(
  images: Any,
  labels: Any,
  folder: pathlib.Path,
  image_size: int | None,
  effort: str,
) -> dict[str, Any]:
  """Returns the fields of `config.data` that the images are read by.

  Arrays are kept in the folder of the run.
  """
  if isinstance(images, data.Dataset):
    content = {
      "x_train": images.train_images[:],
      "y_train": images.train_labels,
      "x_test": images.test_images[:],
      "y_test": images.test_labels,
    }
    if images.class_names:
      content["class_names"] = np.array(images.class_names)
    return _keep(content, folder)
  if not isinstance(images, str | os.PathLike):
    if labels is None:
      raise UserError(
        "find: arrays of images need labels; expected find(images, labels)"
      )
    content = {"x_train": np.asarray(images)}
    numbers = np.asarray(labels)
    if numbers.dtype.kind == "O" and all(isinstance(x, str) for x in numbers):
      numbers = numbers.astype(str)  # as pandas has names
    if numbers.dtype.kind == "O" or content["x_train"].dtype.kind == "O":
      raise UserError(
        "find: arrays of Python objects are not accepted; expected images of "
        "one shape, and labels that are integers or names"
      )
    if numbers.dtype.kind in "US":
      names, numbers = np.unique(numbers, return_inverse=True)
      content["class_names"] = names
    content["y_train"] = numbers
    return _keep(content, folder) | {"test_fraction": _TEST_FRACTION}
  if labels is not None:
    raise UserError("find: labels are for arrays of images; expected none here")
  path = pathlib.Path(images).expanduser()
  if str(images) in data.SOURCES and not path.exists():
    return {"source": str(images)}
  if not path.exists():
    raise UserError(
      f"find: {str(images)!r}: no such file or folder, nor a source of "
      f"{', '.join(data.SOURCES)}"
    )
  if path.is_file():
    return _with_test({"source": "npz", "path": str(path)})
  fields = {
    "source": "folder",
    "path": str(path),
    "image_size": image_size or _SIDES[effort],
  }
  return _with_test(fields)


def _keep(content: dict[str, Any], folder: pathlib.Path) -> dict[str, Any]:
  """Writes arrays beside the run, so that it can be gone on with.

  What a call has left that was refused before it began is replaced.
  """
  path = folder / "images.npz"
  if path.exists() and (folder / "config.json").exists():
    try:
      with np.load(path) as kept:
        same = set(kept) == set(content) and all(
          np.array_equal(kept[name], value) for name, value in content.items()
        )
    except Exception as error:  # a damaged archive raises many types
      raise UserError(
        f"find: {path} is damaged ({type(error).__name__}); expected the file "
        "untouched, or another workdir="
      ) from error
    if not same:
      raise UserError(
        f"find: {path} holds other images; expected another workdir="
      )
  else:
    files.make_folder(folder)
    with files.atomic_path(path) as temporary:
      np.savez(temporary, **content)
  return {"source": "npz", "path": str(path)}


def _with_test(fields: dict[str, Any]) -> dict[str, Any]:
  """Adds a share for test where there are no test images."""
  drawn = fields | {"test_fraction": _TEST_FRACTION}
  try:
    data.load(**drawn, progress=False)
  except UserError as error:
    if "test_fraction" not in str(error):
      raise
    return fields  # they are there
  return drawn


def make_config(
  source: Mapping[str, Any],
  limits: Mapping[str, float],
  *,
  effort: str = "quick",
  seed: int = 0,
) -> ml_collections.ConfigDict:
  """Chooses the settings of a run for its images and constraints.

  The search space is as wide as the constraints need; epochs are what a number
  of steps takes, so that small data sets are seen more often.

  Args:
    source: fields of `config.data`.
    limits: at most so much of each metric.
    effort: one of `EFFORTS`.
    seed: of the run.

  Raises:
    UserError: if the images cannot be read.
  """
  config, more = config_lib.base(), EFFORTS[effort]
  config.seed = seed
  config.data.update(source)
  dataset = data.load_settings(config.data.to_dict(), progress=False)
  count = len(dataset.train_labels)
  _, height, width, channels = dataset.train_images.shape
  side = min(height, width)
  if side >= 24:  # smaller ones have no edge to spare
    config.data.crop_padding = side // 8
    config.data.flip = source["source"] == "folder" and channels == 3
  config.data.balanced_split = True
  config.objective.cost_weight = 0.0
  config.objective.constraints = tuple(
    {"metric": name, "target": float(x), "mode": "at_most"}
    for name, x in limits.items()
  )
  config.space.strides = (1, 2, 2) if side <= 48 else (2, 2, 2, 2)
  config.space.stem_stride = 1 if side < 64 else 2
  config.space.max_depth = _DEPTH
  config.space.max_width = _width(config, dataset, limits)
  config.supernet.bucket_shares = (0.5, 1.0)

  devices = jax.device_count()

  def batch_of(images: int, most: int) -> int:
    """Returns a batch that all devices share, of four or more for each."""
    wanted = max(min(most, images // 6), min(4 * devices, images // 2), 8)
    return -(-wanted // devices) * devices

  def epochs_of(name: str, images: int, batch: int, least: int = 4) -> int:
    steps = max(images // batch, 1)
    return min(max(math.ceil(_STEPS[name] * more / steps), least), 400)

  batch = batch_of(count // 2, 32)
  config.search.batch_size = batch
  config.search.epochs = epochs_of("search", count // 2, batch, 8)
  config.search.warmup_epochs = config.search.epochs // 4
  config.logits.learning_rate = 0.1 if more == 1 else 0.05
  held_out = round(0.2 * count)
  config.evaluate.score_batch_size = max(min(250, held_out), 1)
  config.evaluate.calibration_images = max(min(250, count // 3), 2)
  left = count - held_out
  config.evaluate.batch_size = batch_of(left, 32)
  config.evaluate.epochs = epochs_of(
    "evaluate", left, config.evaluate.batch_size
  )
  config.evaluate.coin_epochs = config.evaluate.epochs // 4
  config.evaluate.num_archs = 60 * more
  config.evaluate.num_spaces = 16 * more
  config.evaluate.archs_per_space = 8
  config.evaluate.oracle_spaces = 0 if more == 1 else 200
  # Below the limits by up to a tenth: an Elite Space may have few archs.
  config.nas.tolerance = 0.1
  config.nas.num_scored = 300 * more
  config.nas.num_finalists = 4 if more == 1 else 8
  config.train.batch_size = batch_of(count, 64)
  fixed = count, config.train.batch_size
  config.nas.race_epochs = epochs_of("race", *fixed, 2)
  config.train.epochs = epochs_of("train", *fixed)
  config.train.learning_rate = 0.1 * config.train.batch_size / 128
  config.train.num_seeds = 2 if more == 1 else 3
  config.train.networks = ("elite", "handmade")
  return config


def _width(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  limits: Mapping[str, float],
) -> int:
  """Returns a largest width with room for what the constraints allow."""
  shape = dataset.train_images.shape[1:]
  known = {name: x for name, x in limits.items() if name in METRICS}
  for width in _WIDTHS:
    space = SearchSpace.expanded(
      max_depth=_DEPTH,
      max_width=width,
      strides=config.space.strides,
      stem_width=config.space.stem_width,
      stem_stride=config.space.stem_stride,
      image_shape=shape,
      num_classes=dataset.num_classes,
    )
    largest = Arch(
      depth=np.array(space.max_depths), width=np.array(space.max_widths)
    )
    room = [
      arch_cost(space, METRICS[name], largest).item() / limit
      for name, limit in known.items()
    ]
    if not room or (min(room) >= _ROOM and max(room) >= _MOST_ROOM):
      return width if room else 64
  return _WIDTHS[-1]


def change(
  config: ml_collections.ConfigDict, settings: Mapping[str, Any]
) -> None:
  """Sets fields of a config by their paths, such as `data.flip`."""
  for path, value in settings.items():
    if wrong := config_lib.missing_field(config.to_dict(), f"config.{path}"):
      raise UserError(f"find: {wrong}")
    *groups, name = path.split(".")
    group = config
    for key in groups:
      group = group[key]
    with group.ignore_type():
      group[name] = value
