"""Any prepared TensorFlow Datasets image set, read without TensorFlow."""

import io
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from nss_jax.data import images
from nss_jax.data.dataset import Part, Parts, refusing
from nss_jax.data.reading import Decoded, StreamedImages, map_chunks
from nss_jax.data.split import draws_test
from nss_jax.errors import UserError

# No namespace ("huggingface:...") and no keyword arguments: those would run
# other loaders.
_NAME = re.compile(r"\w+(/\w[\w.-]*)?(:[\d.*]+)?", re.ASCII)
# Labels that a thread reads at a time.
_CHUNK = 256


def load(
  *,
  path: str,
  name: str,
  image_size: int,
  channels: int,
  background: int,
  test_fraction: float,
) -> Parts:
  """Reads the split `train`, and `test` or else `validation`.

  Images and labels are what the data set declares as its supervised keys, or
  else `image` and `label`. Encoded images are decoded as those of a folder are.
  Labels are read first, in a pass over the files that decodes no image.
  """
  if not _NAME.fullmatch(name):
    raise ValueError(
      "is no name of a data set; accepted are names like cifar10, "
      "imagenet_resized/32x32 or cifar10:3.0.2"
    )
  # Imported here: `import nss_jax` loads no data-set library.
  import tensorflow_datasets as tfds

  where = f"config.data.name={name!r}"
  folder, builder = path or None, None
  try:
    builder = tfds.builder(name, data_dir=folder)
    info, found = builder.info, [*builder.info.splits]
    with refusing(f"{where}: "):
      splits = choose_splits(found, test_fraction)
      (image_key, label_key), num_classes = _keys(info)
    feature = info.features[image_key]
    # Undecoded: TFDS would cut 16 bits, and take palettes for grey.
    encoded = isinstance(feature, tfds.features.Image)
    encoded = encoded and feature.np_dtype == np.uint8
    sources = tfds.data_source(
      name,
      split=splits,
      data_dir=folder,
      download=False,
      decoders={image_key: tfds.decode.SkipDecoding()} if encoded else None,
    )
  except UserError:
    raise
  # Unknown, unprepared, half-prepared and unreadable data sets raise errors
  # of at least five unrelated types, AssertionError among them.
  except Exception as error:
    raise ValueError(_unprepared(name, path, builder, error)) from error
  if encoded and not channels:
    channels = 1 if feature.shape[-1] == 1 else 3
  form = images.Form(image_size, channels, background)

  def decode(example: dict[str, Any]) -> np.ndarray:
    image = example[image_key]
    if isinstance(image, bytes):
      return images.decode(io.BytesIO(image), form)
    return image

  def part(source: Sequence[Any]) -> Part:
    name = f"example {{}} of {len(source)}".format
    read = StreamedImages.of(Decoded(source, decode, name), where)
    return read, _read_labels(source, label_key)

  # The classes are those that the data set declares, seen or not.
  return Parts(*map(part, sources), num_classes=num_classes)


def choose_splits(found: list[str], test_fraction: float) -> list[str]:
  """Chooses which splits to read; none are found where it is not known."""
  # Where labels of the test images are secret, there is no split of them.
  tests = [name for name in ("test", "validation") if name in found]
  if draws_test(test_fraction, f"a split {tests[0]}" if tests else ""):
    return ["train"]
  if found and not tests:
    raise ValueError(
      f"has the splits {', '.join(found)[:200]}; accepted are data sets with "
      "test or validation, or config.data.test_fraction"
    )
  return ["train", *(tests[:1] or ["test"])]


def _keys(info: Any) -> tuple[tuple[str, str], int]:
  """Returns the keys of image and label, and the number of classes."""
  features = dict(info.features)
  for keys in (info.supervised_keys, ("image", "label")):
    if not (isinstance(keys, tuple) and len(keys) == 2):
      continue
    if not all(isinstance(key, str) and key in features for key in keys):
      continue
    found = getattr(features[keys[1]], "num_classes", None)
    if len(features[keys[0]].shape or ()) == 3 and found:
      return keys, int(found)
  raise ValueError(
    f"has the features {', '.join(sorted(features))}; accepted are data sets "
    "with an image and a class label"
  )


def _read_labels(source: Sequence[Any], key: str) -> np.ndarray:
  """Reads the labels of a split, `[N]` int64."""

  def read(rows: range) -> list[int]:
    return [int(source[row][key]) for row in rows]

  parts = map_chunks(read, len(source), _CHUNK)
  return np.array([label for part in parts for label in part], np.int64)


def _unprepared(name: str, path: str, builder: Any, error: Exception) -> str:
  """Says what is wrong with a data set that cannot be opened."""
  lines = str(error).strip().splitlines() or [""]
  reason = f"{type(error).__name__}: {lines[0][:160]}"
  if path and not os.path.isdir(path):
    reason = "there is no such folder"
  elif builder is not None and not builder.data_path.exists():
    reason = f"there is no folder {str(builder.data_path)!r}"
  elif builder is not None and not os.listdir(builder.data_path):
    reason = f"the folder {str(builder.data_path)!r} is empty"
  folder = f", data_dir={path!r}" if path else ""
  # The command `tfds build` needs apache_beam as well, whatever is built.
  return (
    f"cannot be read from config.data.path={path!r} ({reason}); accepted are "
    'data sets prepared once, where TensorFlow is installed, by: python -c "'
    f"import tensorflow_datasets as tfds; tfds.builder({name!r}{folder}, "
    "file_format='array_record').download_and_prepare()\""
  )
