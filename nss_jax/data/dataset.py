"""The form that every source delivers, and the check that it is kept."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from nss_jax.errors import NotWritten, UserError

if TYPE_CHECKING:
  from nss_jax.data.reading import StreamedImages

# Images and numbers summed at a time: bounds the memory of the statistics.
_CHUNK = 1000
_CHUNK_NUMBERS = 2**24
CONTAINER_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")
# The statistics of larger sets are those of so many of their images.
MAX_SAMPLED = 2**16
# Characters of an error that are shown: of other libraries, and of our own.
_THEIR_LENGTH, _OUR_LENGTH = 160, 700


@contextlib.contextmanager
def refusing(prefix: str, accepted: str = "") -> Generator[None]:
  """Turns whatever is raised inside into a `UserError` of one line.

  The line begins with the prefix, a field and its value, unless the error
  begins with another field, and ends with what is accepted, unless the error
  says so itself. A `ValueError` is taken to say what is wrong; of other errors
  the type is named.
  """
  try:
    yield
  except (UserError, NotWritten):
    raise
  except Exception as error:
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError) or isinstance(error, UnicodeError):
      text = f"cannot be read ({type(error).__name__}: {text[:_THEIR_LENGTH]})"
    text = "".join(x if x.isprintable() else "?" for x in text[:_OUR_LENGTH])
    if not text.startswith("config."):
      text = prefix + text
    if accepted and "accepted" not in text:
      text = f"{text}; accepted is {accepted}"
    raise UserError(text) from error


# Images `[N, H, W, C]` uint8: an index array `[n]` or a slice gives an array.
Images: TypeAlias = "np.ndarray | StreamedImages"
# Images and integer labels `[N]`.
Part = tuple[Any, np.ndarray]


class Parts(NamedTuple):
  """Holds what a source has read, before it is checked.

  Images are an array `[N, H, W, C]` uint8, or any object with a length that
  gives an image `[H, W, C]` for an index, to several threads at a time.

  Attributes:
    train: images and labels.
    test: images and labels; None where they are to be drawn from `train`.
    num_classes: number of classes, some of which may have no training image;
      None to count those of the training labels, all of which must have one.
    class_names: names of all classes; empty where they have numbers only.
    notes: lines for the log on what else to know about the data.
  """

  train: Part
  test: Part | None = None
  num_classes: int | None = None
  class_names: Sequence[str] = ()
  notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """Holds a data set, in memory or with images that are read when asked for.

  Attributes:
    name: name of the data set, for logs.
    train_images: `[N, H, W, C]` uint8.
    train_labels: `[N]` int32, in `0..num_classes - 1`.
    test_images: `[M, H, W, C]` uint8.
    test_labels: `[M]` int32.
    num_classes: number of classes.
    mean: `[C]` mean of the training images, in units of pixel / 255; where
      there are more than 2^16 images, the mean of a fixed sample of 2^16.
    std: `[C]` their standard deviation; 1 for a constant channel, never 0.
    notes: lines for the log on what else to know about the data.
    class_names: names of all classes; empty where they have numbers only.
  """

  name: str
  train_images: Images
  train_labels: np.ndarray
  test_images: Images
  test_labels: np.ndarray
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  notes: tuple[str, ...] = ()
  class_names: tuple[str, ...] = ()


def given_path(path: str) -> pathlib.Path:
  """Returns `config.data.path`, with the home folder for `~`."""
  if not path:
    raise ValueError("is no path")
  return pathlib.Path(path).expanduser()


def host_memory() -> int:
  """Returns the bytes of memory of this machine, or of our container."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  # No file, or the word max: no limit.
  with contextlib.suppress(OSError, ValueError):
    memory = min(memory, int(CONTAINER_LIMIT.read_text()))
  return memory


def check_memory(claim: str, needed: int) -> None:
  """Refuses what is larger than the memory of the machine.

  Linux would grant more than there is, and kill the process that uses it.
  """
  memory = host_memory()
  if needed > memory:
    raise ValueError(
      f"{claim} {needed / 2**30:.1f} GiB; accepted is what the "
      f"{memory / 2**30:.1f} GiB of memory hold"
    )


def allocate(claim: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns memory for images `[N, H, W, C]`, if the machine has it."""
  check_memory(
    f"{claim}: {shape[0]:,} images of {shape[1:]} are", math.prod(shape)
  )
  return np.empty(shape, np.uint8)


def make(name: str, where: str, parts: Parts) -> Dataset:
  """Checks images and labels, in arrays or streamed, and adds statistics."""
  assert parts.test is not None
  (images, labels), (test_images, test_labels) = parts.train, parts.test
  check_part("train", images, labels)
  check_part("test", test_images, test_labels)
  shape = test_images[:1].shape[1:]  # it is the first of them to be read
  if images.shape[1:] != shape:
    raise ValueError(
      f"train images are {images.shape[1:]} and test images {shape}; accepted "
      "is one size, or config.data.image_size where the source resizes"
    )
  count = parts.num_classes or max(int(labels.max()) + 1, 1)
  _check_classes(labels, test_labels, count, parts.num_classes is not None)
  mean, std, constant = _statistics(images)
  unusual = _describe(constant, test_labels, parts, count)
  notes = *parts.notes, *(f"warning: {where}: {line}" for line in unusual)
  # Labels are cast after the check, so that a wild one cannot wrap around.
  return Dataset(
    name,
    images,
    labels.astype(np.int32),
    test_images,
    test_labels.astype(np.int32),
    num_classes=count,
    mean=mean,
    std=std,
    notes=notes,
    class_names=tuple(parts.class_names),
  )


def check_part(part: str, images: Images, labels: np.ndarray) -> None:
  """Refuses a part that does not consist of images and their labels."""
  shape = images.shape
  if images.dtype != np.uint8 or len(shape) != 4:
    raise ValueError(
      f"{part} images are {images.dtype} of shape {shape}; accepted is uint8 "
      "of shape [N, H, W, C]"
    )
  if axes := _other_axes(*shape, num_labels=len(labels)):
    raise ValueError(
      f"{part} images are of shape {shape}, whose axes are in another order; "
      f"accepted is [N, H, W, C]: images.transpose({axes})"
    )
  if labels.ndim != 1 or labels.dtype.kind not in "iu":
    raise ValueError(
      f"{part} labels are {labels.dtype} of shape {labels.shape}; accepted are "
      "integers of shape [N]"
    )
  if len(images) != len(labels) or not images.size:
    raise ValueError(
      f"{part} has {len(images)} images of shape {shape[1:]} and {len(labels)} "
      "labels; accepted are equal numbers, at least one"
    )


def _other_axes(
  first: int, second: int, third: int, last: int, *, num_labels: int
) -> str:
  """Returns the transpose to apply where the axes are in another order.

  PyTorch has them as `[N, C, H, W]`, Matlab as `[H, W, C, N]`.
  """
  if first == num_labels:
    is_colour = second in (3, 4) and min(third, last) > 4
    is_grey = second == 1 and third == last > 4
    return "0, 2, 3, 1" if is_colour or is_grey else ""
  return "3, 0, 1, 2" if last == num_labels and third in (1, 3, 4) else ""


def _check_classes(
  train: np.ndarray, test: np.ndarray, count: int, may_lack: bool
) -> None:
  """Refuses labels that are not of so many classes, or of a single one."""
  for part, labels in (("train", train), ("test", test)):
    if labels.min() < 0 or labels.max() >= count:
      raise ValueError(
        f"{part} labels lie in {labels.min()}..{labels.max()}; accepted is "
        f"0..{count - 1}"
      )
  classes = np.unique(train)
  if extra := np.setdiff1d(test, classes)[:10].tolist():
    raise ValueError(
      f"test has classes that train lacks, {extra}; accepted are classes of "
      "train"
    )
  if len(classes) < count and not may_lack:
    # They are sorted, so the first that is not at its place is missing.
    places = np.append(classes, -1) != np.arange(len(classes) + 1)
    raise ValueError(
      f"train has no image of class {places.argmax()}; accepted is at least "
      f"one of every class 0..{count - 1}"
    )
  if len(classes) < 2:
    raise ValueError(
      "all training images are of one class; accepted are two classes or more"
    )


def _describe(
  constant: Sequence[bool], test: np.ndarray, parts: Parts, num_classes: int
) -> Generator[str]:
  """Yields what is unusual about a data set, in lines."""
  count = len(constant)
  if count not in (1, 3):
    yield (
      f"images have {count} channels, and the network sees all of them; "
      "opacity, if one is that, should be composited before"
    )
  for channel in np.flatnonzero(constant):
    yield f"channel {channel} of {count} has one value in all training images"
  if missing := np.setdiff1d(range(num_classes), test).tolist():
    words = [
      parts.class_names[i] if parts.class_names else str(i) for i in missing
    ]
    more = ", ..." if len(missing) > 10 else ""
    yield (
      f"test has no image of {len(missing)} of the {num_classes} classes "
      f"({', '.join(words)}{more}); test errors say nothing of them"
    )


def _statistics(
  images: Images,
) -> tuple[tuple[float, ...], tuple[float, ...], list[bool]]:
  """Returns mean and deviation of each channel, and whether it is constant.

  Integers are summed, so the result is exact and the same everywhere. Of many
  images a sample is drawn, the same one in memory and streamed, so that a
  streamed run does not begin with a pass over all files.
  """
  rows = np.arange(len(images))
  if len(rows) > MAX_SAMPLED:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(rows, MAX_SAMPLED, replace=False))
  counts = np.zeros((images.shape[-1], 256), np.int64)
  first, alike = images[rows[:1]], True
  step = min(_CHUNK, max(_CHUNK_NUMBERS // math.prod(images.shape[1:]), 1))
  for start in range(0, len(rows), step):
    pixels = images[rows[start : start + step]]
    alike = alike and bool((pixels == first).all())
    for channel, count in enumerate(counts):
      count += np.bincount(pixels[..., channel].reshape(-1), minlength=256)
  if alike:
    raise ValueError(
      "all training images are the same, pixel by pixel; accepted are images "
      "that differ (what is transparent is seen on config.data.background)"
    )
  values, count = np.arange(256), int(counts[0].sum())
  # Python's integers do not overflow in count * squares.
  sums = zip(
    (counts @ values).tolist(), (counts @ values**2).tolist(), strict=True
  )
  numbers = [
    (total / count / 255, math.sqrt(count * square - total**2) / count / 255)
    for total, square in (map(int, x) for x in sums)
  ]
  mean, std = zip(*numbers, strict=True)
  return mean, tuple(x or 1.0 for x in std), [not x for x in std]
