"""Batches that are read while the devices work, instead of kept on them."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nss_jax import data
from nss_jax.data.batches import epoch_order
from nss_jax.runtime import sharding

# Images and labels of each part, by its name.
Batch = dict[str, tuple[Any, Any]]


def image_memory() -> int:
  """Bytes of the host or of a device, whichever has less.

  Devices of a CPU have a copy each in the memory of the host.
  """
  devices = jax.local_devices()
  if devices[0].platform == "cpu":
    return data.host_memory() // len(devices)
  stats = [device.memory_stats() or {} for device in devices]
  limits = [found["bytes_limit"] for found in stats if "bytes_limit" in found]
  return min([data.host_memory(), *limits])


class Feed:
  """The batches of a run, in the order that a run in memory has.

  Which images a step has follows from key, epoch and step alone, so there is
  nothing to be saved. grain's threads read the steps of the next call of the
  devices while they compute this one. In memory are the batches of about three
  calls: read ahead, put together, and on the devices.

  Args:
    dataset: its training images are `StreamedImages`.
    rows: of the training images, in each part.
    schedule: a `Schedule`.
    batch_size: images of a step and part, on all devices together.
    mesh: the devices.
    idle_in_warmup: parts that no step of warmup takes.
  """

  def __init__(
    self,
    dataset: data.Dataset,
    rows: Mapping[str, np.ndarray],
    *,
    schedule: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    idle_in_warmup: Collection[str] = (),
  ):
    self._dataset, self._rows = dataset, dict(sorted(rows.items()))
    self._schedule, self._idle = schedule, idle_in_warmup
    self._batch_size, self._mesh = batch_size, mesh
    self._steps: _Steps | None = None
    self._reader: Any = None
    self._next = 0

  def take(self, key: np.ndarray, step: int, length: int) -> Batch:
    """The images of some steps, on the devices that train on them.

    Args:
      key: data of the key of the order of images.
      step: the first one. Where the last call ended, what was read ahead is
        used; elsewhere, or with another key, reading begins anew.
      length: steps, all of one epoch.

    Returns:
      Images `[length * B, H, W, C]` and labels of each part, sharded: those of
      a device are together, step after step.

    Raises:
      DataError: at an image that cannot be read.
    """
    steps = self._steps
    follows = steps is not None and step == self._next
    if steps is None or not (follows and np.array_equal(key, steps.key)):
      steps = self._begin(key, step)
    steps.order(step // self._schedule.steps_per_epoch)
    try:
      batches = (next(self._reader) for _ in range(length))
      window = _by_device(batches, length, len(_own_devices(self._mesh)))
    except BaseException:
      self.close()
      raise
    self._next = step + length
    if self._next == self._schedule.num_steps:
      self.close()
    return shard(window, self._mesh)

  def shapes(self, length: int, *, warmup: bool) -> Batch:
    """The shapes of what `take` gives of so many steps; nothing is read."""
    count, images = length * self._batch_size, self._dataset.train_images
    window = (
      np.broadcast_to(np.uint8(0), (count, *images.shape[1:])),
      np.broadcast_to(self._dataset.train_labels[:1], (count,)),
    )
    names = [n for n in self._rows if not (warmup and n in self._idle)]
    shapes = sharding.abstract(window, self._mesh, P(sharding.AXIS))
    return dict.fromkeys(names, shapes)

  def close(self) -> None:
    """Ends the reading; a later `take` begins anew."""
    if self._reader is not None:
      self._reader.close()
    self._reader = self._steps = None

  def _begin(self, key: np.ndarray, step: int) -> "_Steps":
    self.close()
    steps = self._steps = _Steps(
      dataset=self._dataset,
      rows=self._rows,
      schedule=self._schedule,
      batch_size=self._batch_size,
      columns=_own_columns(self._mesh, self._batch_size),
      idle=self._idle,
      key=key,
      first=step,
    )
    ahead = max(length for _, length in self._schedule.dispatches)
    self._reader = data.read_ahead(steps, ahead)
    return steps


@dataclasses.dataclass(frozen=True, eq=False)
class _Steps:
  """grain's random access to the batches of a run, from a step on.

  Attributes:
    columns: places in the batch of what this process reads.
    first: step of index 0.
    orders: rows of the training images in their order, by part and epoch.
    The others are those of `Feed`.
  """

  dataset: data.Dataset
  rows: dict[str, np.ndarray]
  schedule: Any
  batch_size: int
  columns: np.ndarray
  idle: Collection[str]
  key: np.ndarray
  first: int
  orders: dict[tuple[str, int], np.ndarray] = dataclasses.field(
    default_factory=dict
  )

  def __len__(self) -> int:
    return self.schedule.num_steps - self.first

  def __getitem__(self, index: int) -> Batch:
    step, images = self.first + index, self.dataset.train_images
    epoch, place = divmod(step, self.schedule.steps_per_epoch)
    idle = self.idle if step < self.schedule.warmup_steps else ()
    assert isinstance(images, data.StreamedImages)
    found = {}
    for name in self.rows:
      if name in idle:
        continue
      rows = self.orders[name, epoch]
      rows = rows[place * self.batch_size + self.columns]
      found[name] = images.read(rows), self.dataset.train_labels[rows]
    return found

  def order(self, epoch: int) -> None:
    """Orders this epoch and the next, beyond which no thread reads ahead.

    Not by the threads: on an accelerator they would wait for the steps that
    are running there.
    """
    wanted = {(n, e) for n in self.rows for e in (epoch, epoch + 1)}
    for gone in self.orders.keys() - wanted:
      del self.orders[gone]
    for stream, (name, rows) in enumerate(self.rows.items()):
      for number in (epoch, epoch + 1):
        if (name, number) not in self.orders:
          order = _order(self.key, stream, number, len(rows))
          self.orders[name, number] = rows[np.asarray(order)]


@functools.partial(jax.jit, static_argnums=3)
def _order(
  key: jax.Array, stream: int, epoch: int, num_images: int
) -> jax.Array:
  rng = jax.random.fold_in(jax.random.wrap_key_data(key), stream)
  return epoch_order(rng, epoch, num_images)


def _by_device(
  batches: Iterator[Batch], length: int, num_devices: int
) -> Batch:
  """Of every device its images of all steps, one device after the other."""
  window = None
  for step, batch in enumerate(batches):
    parts = jax.tree.map(
      lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch
    )
    if window is None:
      window = jax.tree.map(
        lambda x: np.empty((num_devices, length, *x.shape[1:]), x.dtype), parts
      )
    for whole, part in zip(*map(jax.tree.leaves, (window, parts)), strict=True):
      whole[:, step] = part
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), window)


def _own_devices(mesh: jax.sharding.Mesh) -> list[int]:
  """Places in the mesh of the devices of this process."""
  own = jax.process_index()
  devices = enumerate(mesh.devices.flat)
  return [place for place, device in devices if device.process_index == own]


def _own_columns(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray:
  """Places in the global batch of the images of this process."""
  shares = np.arange(batch_size).reshape(mesh.size, -1)
  return shares[_own_devices(mesh)].reshape(-1)


def shard(window: Batch, mesh: jax.sharding.Mesh) -> Batch:
  """From what each process has of its devices to arrays on all of them."""
  split = NamedSharding(mesh, P(sharding.AXIS))
  factor = mesh.size // len(_own_devices(mesh))
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(
      split, x, (factor * len(x), *x.shape[1:])
    ),
    window,
  )
