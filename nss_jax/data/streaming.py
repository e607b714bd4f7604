"""Batches that are read while the devices work, instead of kept on them."""

import collections
import functools
from collections.abc import Collection, Mapping, Sequence
from concurrent import futures
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nss_jax.data.batches import epoch_order
from nss_jax.data.dataset import Dataset, host_memory
from nss_jax.data.reading import StreamedImages, num_threads
from nss_jax.runtime import sharding

# Images and labels of each part, by its name.
Batch = dict[str, tuple[Any, Any]]


def image_memory() -> int:
  """Returns the bytes of memory of the host or of a device, whichever is less.

  Each CPU device keeps a copy of its own in the memory of the host.
  """
  devices = jax.local_devices()
  if devices[0].platform == "cpu":
    return host_memory() // len(devices)
  stats = [device.memory_stats() or {} for device in devices]
  limits = [found["bytes_limit"] for found in stats if "bytes_limit" in found]
  return min([host_memory(), *limits])


class Feed:
  """Gives the batches of a run, in the order of a run in memory.

  Key, epoch and step alone decide which images a step has, so there is nothing
  to save. While the devices compute one call, threads read the steps of the
  next. Memory holds the batches of about three calls: one read ahead, one being
  put together, and one on the devices. `rows` says which training images each
  part has, `batch_size` how many images of a part a step has on all devices
  together, and `idle_in_warmup` which parts no step of warmup takes.
  """

  def __init__(
    self,
    dataset: Dataset,
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
    # Places in the global batch of the images of this process.
    shares = np.arange(batch_size).reshape(mesh.size, -1)
    self._columns = shares[_own_devices(mesh)].reshape(-1)
    self._pool: futures.ThreadPoolExecutor | None = None
    self._key: np.ndarray | None = None
    self._next = 0
    # Steps that are read ahead, and rows in their order by part and epoch.
    self._read: collections.deque[futures.Future[Batch]] = collections.deque()
    self._orders: dict[tuple[str, int], np.ndarray] = {}

  def take(self, key: np.ndarray, step: int, length: int) -> Batch:
    """Reads images `[length * B, H, W, C]` and labels of steps of an epoch.

    They are sharded: those of a device are together, step after step. Where the
    last call ended, what was read ahead is used; elsewhere, or with another
    key, reading begins anew.
    """
    follows = self._key is not None and np.array_equal(key, self._key)
    if step != self._next or not follows:
      self.close()
      self._key, self._next = key, step
    self._order_epochs(key, step // self._schedule.steps_per_epoch)
    self._read_until(step + length)
    try:
      batches = [self._read.popleft().result() for _ in range(length)]
    except BaseException:
      self.close()
      raise
    self._next = step + length
    if self._next == self._schedule.num_steps:
      self.close()
    return _shard(batches, self._mesh)

  def shapes(self, length: int, *, warmup: bool) -> Batch:
    """Returns the shapes of what `take` gives for so many steps; reads none."""
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
    if self._pool:
      self._pool.shutdown(wait=False, cancel_futures=True)
    self._pool = self._key = None
    self._read.clear()
    self._orders.clear()

  def _order_epochs(self, key: np.ndarray, epoch: int) -> None:
    """Orders this epoch and the next, beyond which no thread reads ahead.

    The threads do not, since on an accelerator they would wait for the steps
    that run there.
    """
    orders = {}
    for stream, (name, rows) in enumerate(self._rows.items()):
      for place in ((name, epoch), (name, epoch + 1)):
        if place not in self._orders:
          order = _order(key, stream, place[1], len(rows))
          self._orders[place] = rows[np.asarray(order)]
        orders[place] = self._orders[place]
    self._orders = orders

  def _read_until(self, step: int) -> None:
    """Lets threads read all steps before this one, and one more call ahead."""
    ahead = max(length for _, length in self._schedule.dispatches)
    if not self._pool:
      threads = min(num_threads(), ahead)
      self._pool = futures.ThreadPoolExecutor(threads, "nss-read")
    first = self._next + len(self._read)
    for one in range(first, min(step + ahead, self._schedule.num_steps)):
      self._read.append(self._pool.submit(self._read_step, one, self._orders))

  def _read_step(
    self, step: int, orders: Mapping[tuple[str, int], np.ndarray]
  ) -> Batch:
    epoch, place = divmod(step, self._schedule.steps_per_epoch)
    idle = self._idle if step < self._schedule.warmup_steps else ()
    images = cast(StreamedImages, self._dataset.train_images)
    found = {}
    for name in self._rows:
      if name not in idle:
        rows = orders[name, epoch][place * self._batch_size + self._columns]
        found[name] = images.read(rows), self._dataset.train_labels[rows]
    return found


@functools.partial(jax.jit, static_argnums=3)
def _order(
  key: jax.Array, stream: int, epoch: int, num_images: int
) -> jax.Array:
  rng = jax.random.fold_in(jax.random.wrap_key_data(key), stream)
  return epoch_order(rng, epoch, num_images)


def _own_devices(mesh: jax.sharding.Mesh) -> list[int]:
  """Returns the places in the mesh of the devices of this process."""
  own = jax.process_index()
  devices = enumerate(mesh.devices.flat)
  return [place for place, device in devices if device.process_index == own]


def _shard(batches: Sequence[Batch], mesh: jax.sharding.Mesh) -> Batch:
  """Makes arrays on all devices from the steps that each process has read.

  The images of a device in all steps are together.
  """
  split = NamedSharding(mesh, P(sharding.AXIS))
  num_own = len(_own_devices(mesh))

  def join(*steps: np.ndarray) -> jax.Array:
    parts = [step.reshape(num_own, -1, *step.shape[1:]) for step in steps]
    own = np.concatenate(parts, axis=1).reshape(-1, *steps[0].shape[1:])
    shape = len(own) * mesh.size // num_own, *own.shape[1:]
    return jax.make_array_from_process_local_data(split, own, shape)

  return jax.tree.map(join, *batches)
