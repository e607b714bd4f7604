"""The form that every source delivers, and the check that it is kept."""

import contextlib
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

# Images and numbers summed at a time: bounds the memory of the statistics.
_CHUNK = 1000
_CHUNK_NUMBERS = 2**24
_CONTAINER_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")
# The statistics of larger sets are those of so many of their images.
_MAX_SAMPLED = 2**16


class DataError(ValueError):
  """A data set that cannot be had or used; the message is one line.

  It names the field, its value and what is accepted.

  Attributes:
    details: further lines, such as one for each bad image, to be shown before.
  """

  def __init__(self, message: str, details: Sequence[str] = ()):
    super().__init__(message)
    self.details = tuple(details)


class Images(Protocol):
  """Images `[N, H, W, C]` uint8: an array, or `StreamedImages`.

  An index array `[n]` or a slice of the first dimension gives an array.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def dtype(self) -> np.dtype: ...

  @property
  def ndim(self) -> int: ...

  @property
  def size(self) -> int: ...

  def __len__(self) -> int: ...

  def __getitem__(self, rows: np.ndarray | slice, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
  """A data set in host memory, or of images that are read when asked for.

  Attributes:
    name: name of the data set, for logs.
    train_images: `[N, H, W, C]` uint8.
    train_labels: `[N]` int32, in `0..num_classes - 1`.
    test_images: `[M, H, W, C]` uint8.
    test_labels: `[M]` int32.
    num_classes: number of classes.
    mean: `[C]` mean of the training images, in units of pixel / 255; of more
      than 2^16 images, that of 2^16 drawn from them, always the same.
    std: `[C]` their standard deviation; 1 for a constant channel, never 0.
    notes: what else is to be known of the data, in lines for the log.
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


def given_path(path: str, accepted: str) -> pathlib.Path:
  """`config.data.path` with the home folder for `~`.

  Raises:
    DataError: if it is empty, or its user is unknown; with what is accepted.
  """
  reason = "is no path"
  if path:
    try:
      return pathlib.Path(path).expanduser()
    except RuntimeError as error:
      reason = f"names no home folder ({error})"
  raise DataError(f"config.data.path={path!r} {reason}; accepted is {accepted}")


def allocate(field: str, count: int, shape: tuple[int, ...]) -> np.ndarray:
  """Memory for `count` images of a shape, uint8 `[count, *shape]`.

  Linux grants more memory than there is and kills who uses it, so the refusal
  has to come first.

  Args:
    field: the config field and value that asks for them, for the message.
    count: number of images.
    shape: of one.

  Raises:
    DataError: if they are larger than the memory of the machine.
  """
  needed = count * math.prod(shape)
  check_memory(f"{field}: {count:,} images of {shape} are", needed)
  return np.empty((count, *shape), np.uint8)


def check_memory(claim: str, needed: int) -> None:
  """Raises `DataError`, which begins with a claim, if so many bytes are more
  than the memory of the machine."""
  memory = host_memory()
  if needed > memory:
    raise DataError(
      f"{claim} {needed / 2**30:.1f} GiB; accepted is what the "
      f"{memory / 2**30:.1f} GiB of memory hold"
    )


def host_memory() -> int:
  """Bytes of memory of this machine, or of the container that we are in."""
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  # No file, or the word max: no limit.
  with contextlib.suppress(OSError, ValueError):
    memory = min(memory, int(_CONTAINER_LIMIT.read_text()))
  return memory


def make(
  name: str,
  train: tuple[Images, np.ndarray],
  test: tuple[Images, np.ndarray],
  num_classes: int | None = None,
  *,
  field: str = "",
  unused_classes: bool = False,
  class_names: Sequence[str] = (),
  notes: Sequence[str] = (),
) -> Dataset:
  """Checks images and labels and adds the statistics.

  Args:
    name: name of the data set.
    train: images `[N, H, W, C]` uint8 and integer labels `[N]`.
    test: images `[M, H, W, C]` uint8 and integer labels `[M]`.
    num_classes: number of classes; None: one more than the largest label of a
      training image.
    field: the config field and value that gave the data, for messages.
    unused_classes: whether a class may have no training images.
    class_names: of all classes, for messages; none: their numbers.
    notes: of the source, see `Dataset`.

  Raises:
    DataError: if the arrays are not a data set (see `_check`), or all training
      images are the same.
  """
  where = field or f"config.data.source={name!r}"
  for part, arrays in (("train", train), ("test", test)):
    _check_part(f"{where}: {part}", *arrays)
  if num_classes is None:
    num_classes = max(int(train[1].max()) + 1, 1)
  dataset = Dataset(name, *train, *test, num_classes, mean=(), std=())
  _check(where, dataset, unused_classes)
  mean, std, constant = _statistics(where, dataset.train_images)
  seen = [*notes, *_describe_channels(where, dataset, constant)]
  if missing := np.setdiff1d(range(num_classes), dataset.test_labels).tolist():
    words = [class_names[i] if class_names else str(i) for i in missing[:10]]
    more = ", ..." if len(missing) > 10 else ""
    seen.append(
      f"warning: {where}: test has no image of {len(missing)} of the "
      f"{num_classes} classes ({', '.join(words)}{more}); test errors say "
      "nothing of them"
    )
  # Labels are cast after the check, so that a wild one cannot wrap around.
  return dataclasses.replace(
    dataset,
    train_labels=dataset.train_labels.astype(np.int32),
    test_labels=dataset.test_labels.astype(np.int32),
    mean=mean,
    std=std,
    notes=tuple(seen),
  )


def _check_part(where: str, images: Images, labels: np.ndarray) -> None:
  """Raises `DataError` unless these are images and their labels."""
  if images.dtype != np.uint8 or images.ndim != 4:
    raise DataError(
      f"{where} images are {images.dtype} of shape {images.shape}; "
      "accepted is uint8 of shape [N, H, W, C]"
    )
  if axes := _other_axes(images.shape, len(labels)):
    raise DataError(
      f"{where} images are of shape {images.shape}, whose axes are in another "
      f"order; accepted is [N, H, W, C]: images.transpose({axes})"
    )
  if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
    raise DataError(
      f"{where} labels are {labels.dtype} of shape {labels.shape}; "
      "accepted are integers of shape [N]"
    )
  if len(images) != len(labels) or images.size == 0:
    raise DataError(
      f"{where} has {len(images)} images of shape {images.shape[1:]} and "
      f"{len(labels)} labels; accepted are equal numbers, at least one"
    )


def _other_axes(shape: tuple[int, ...], num_labels: int) -> str:
  """The transpose that is meant, if images are not `[N, H, W, C]` by far.

  PyTorch has `[N, C, H, W]`, Matlab `[H, W, C, N]`.
  """
  first, second, third, last = shape
  if first == num_labels:
    is_colour = second in (3, 4) and min(third, last) > 4
    is_grey = second == 1 and third == last > 4
    return "0, 2, 3, 1" if is_colour or is_grey else ""
  return "3, 0, 1, 2" if last == num_labels and third in (1, 3, 4) else ""


def _check(where: str, dataset: Dataset, unused_classes: bool) -> None:
  """Raises `DataError` unless the two parts form a data set."""
  shapes = dataset.train_images.shape[1:], dataset.test_images.shape[1:]
  if shapes[0] != shapes[1]:
    raise DataError(
      f"{where}: train images are {shapes[0]} and test images {shapes[1]}; "
      "accepted is one size"
    )
  found = {}
  for part in ("train", "test"):
    labels = getattr(dataset, f"{part}_labels")
    if labels.min() < 0 or labels.max() >= dataset.num_classes:
      raise DataError(
        f"{where}: {part} labels lie in {labels.min()}..{labels.max()}; "
        f"accepted is 0..{dataset.num_classes - 1}"
      )
    found[part] = np.unique(labels)
  extra = np.setdiff1d(found["test"], found["train"])
  if extra.size:
    raise DataError(
      f"{where}: test has classes that train lacks, {extra[:10].tolist()}; "
      "accepted are classes of train"
    )
  classes = found["train"]
  if len(classes) < dataset.num_classes and not unused_classes:
    # They are sorted, so the first that is not at its place is missing.
    places = np.append(classes, -1) != np.arange(len(classes) + 1)
    raise DataError(
      f"{where}: train has no image of class {places.argmax()}; accepted is "
      f"at least one of every class 0..{dataset.num_classes - 1}"
    )
  if len(classes) < 2:
    raise DataError(
      f"{where}: all training images are of one class; accepted are two "
      "classes or more"
    )


def _describe_channels(
  where: str, dataset: Dataset, constant: Sequence[bool]
) -> list[str]:
  """Lines on channels that are not what images usually have."""
  lines = []
  count = len(constant)
  if count not in (1, 3):
    lines.append(
      f"warning: {where}: images have {count} channels, and the network sees "
      "all of them; opacity, if one is that, should be composited before"
    )
  if any(constant):
    which = ", ".join(str(i) for i, is_one in enumerate(constant) if is_one)
    lines.append(
      f"warning: {where}: channel {which} of {count} has the same value in all "
      "training images"
    )
  return lines


def _statistics(
  where: str, images: Images
) -> tuple[tuple[float, ...], tuple[float, ...], list[bool]]:
  """Mean and standard deviation per channel, in units of pixel / 255, and
  whether a channel is constant.

  Sums are of integers, so the result is exact and the same everywhere. Of more
  than 2^16 images, so many are drawn, the same ones whether they are in memory
  or read from files: a streamed run has the numbers of one in memory, and does
  not begin with a pass over all files.

  Args:
    where: of the data, for messages.
    images: `[N, H, W, C]` uint8.

  Raises:
    DataError: if all of them are the same.
  """
  rows = np.arange(len(images))
  if len(rows) > _MAX_SAMPLED:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(rows, _MAX_SAMPLED, replace=False))
  count = len(rows) * math.prod(images.shape[1:-1])
  sums = np.zeros((2, images.shape[-1]), np.uint64)
  first, alike = images[rows[:1]], True
  step = min(_CHUNK, max(_CHUNK_NUMBERS // math.prod(images.shape[1:]), 1))
  for start in range(0, len(rows), step):
    pixels = images[rows[start : start + step]]
    alike = alike and bool((pixels == first).all())
    chunk = pixels.astype(np.uint32)
    # Over the images first, which is fast and fits: 1000 * 255**2 < 2**32.
    for row, values in enumerate((chunk, chunk * chunk)):
      over_images = values.sum(0, dtype=np.uint32)
      sums[row] += over_images.sum((0, 1), dtype=np.uint64)
  # Python's integers do not overflow in count * squares.
  totals, squares = sums.tolist()
  if alike:
    raise DataError(
      f"{where}: all training images are the same, pixel by pixel; accepted "
      "are images that differ (what is transparent is seen on "
      "config.data.background)"
    )
  mean = tuple(total / count / 255 for total in totals)
  spread = [
    math.sqrt(count * square - total**2) / count / 255
    for total, square in zip(totals, squares, strict=True)
  ]
  return mean, tuple(x or 1.0 for x in spread), [not x for x in spread]
