"""Batches that are read as they are used: the numbers of a set in memory."""

import collections
import threading
import time
import tracemalloc
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from nss_jax import data
from nss_jax.data import streaming
from nss_jax.errors import UserError
from nss_jax.phases import (
  program,
  schedules,
  search,
  supernet,
  train,
)
from nss_jax.runtime import sharding

BATCH = 8
ROWS = {"train": np.arange(50)[::-2], "validation": np.arange(0, 50, 2)}
# 3 steps an epoch, in calls of 2 and 1; one epoch of warmup.
SCHEDULE = schedules.make_schedule(
  25, batch_size=BATCH, epochs=4, warmup_epochs=1, steps_per_dispatch=2
)


class Counted:
  """A source of images `[2, 3, 1]` that tells which were asked for."""

  def __init__(self, count=50, shape=(2, 3, 1)):
    self.count, self.shape = count, shape
    self.reads = collections.Counter()
    self._lock = threading.Lock()

  def __len__(self):
    return self.count

  def __getitem__(self, index):
    with self._lock:
      self.reads[index] += 1
    return np.full(self.shape, index % 251, np.uint8)


def make_dataset(images) -> data.Dataset:
  labels = np.arange(len(images), dtype=np.int32) % 10
  return data.Dataset(
    "counted", images, labels, images, labels, 10, (0.5,), (0.2,)
  )


def streamed(source) -> data.Dataset:
  shape = len(source), *source.shape
  return make_dataset(data.StreamedImages(source, shape, "config.data.path"))


def in_memory() -> data.Dataset:
  return make_dataset(np.stack([Counted()[i] for i in range(50)]))


def start(seed, mesh):
  state = program.LoopState(None, jnp.uint32(seed), {"loss": jnp.ones(())})
  return sharding.replicate(state, mesh)  # else it is compiled for once more


def batches(dataset, *, num_devices=1, first_step=0, seed=3, dispatch=None):
  """Images and labels of every part, of each step from one on."""

  def step_fn(state, parts, indices, positions, *, warmup):
    names = ["train"] if warmup else ["train", "validation"]
    found = {
      name: jax.tree.map(lambda x, n=name: x[indices[n]], parts[name])
      for name in names
    }
    found = {"positions": positions, **found}
    return state, jax.lax.all_gather(found, sharding.AXIS, tiled=True)

  mesh = sharding.make_mesh(num_devices)
  if dispatch is None:
    dispatch = program.make_dispatch(
      types.SimpleNamespace(dataset=dataset, mesh=mesh),
      step_fn,
      ROWS,
      schedule=SCHEDULE,
      batch_size=BATCH,
      order_key=lambda state: jax.random.key(state.search),
      idle_in_warmup=("validation",),
    )
  state = start(seed, mesh)
  step, steps = first_step, []
  while step < SCHEDULE.num_steps:
    epoch, first = divmod(step, SCHEDULE.steps_per_epoch)
    length = dict(SCHEDULE.dispatches)[first]
    warmup = epoch < SCHEDULE.warmup_epochs
    state, found = dispatch(state, epoch, first, length, warmup)
    found = jax.device_get(found)
    steps += [jax.tree.map(lambda x, t=t: x[t], found) for t in range(length)]
    step += length
  return steps, dispatch


def assert_same(found, expected):
  assert len(found) == len(expected)
  for one, other in zip(found, expected, strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def expected():
  return batches(in_memory())[0]


@pytest.mark.parametrize("num_devices", [2, 8])
def test_batches_are_those_of_a_set_in_memory(num_devices, expected):
  source = Counted()
  found, _ = batches(streamed(source), num_devices=num_devices)
  assert_same(found, expected)
  # Not by luck: a step has images of its own part, and epochs differ.
  assert len(found) == 12 and "validation" not in found[2]
  for part, rows in ROWS.items():
    seen = found[3][part][0][:, 0, 0, 0]
    assert set(seen) <= set(rows) and len(set(seen)) == BATCH
    np.testing.assert_array_equal(found[3][part][1], seen % 10)
    assert not np.array_equal(seen, found[6][part][0][:, 0, 0, 0])
    # Each image is read once an epoch, 24 of 25 of a part, and none in vain.
    epochs = 4 if part == "train" else 3
    assert sum(source.reads[i] for i in rows) == epochs * 24
  assert max(source.reads.values()) == 4


def test_resumed_runs_and_other_seeds_have_their_own_batches(expected):
  """By one program: from its middle, again, or with a seed after another."""
  rest, dispatch = batches(streamed(Counted()), first_step=8)
  assert_same(rest, expected[8:])
  for step in (2, 11, 3):
    rest, _ = batches(None, first_step=step, dispatch=dispatch)
    assert_same(rest, expected[step:])
  again, _ = batches(None, seed=2, dispatch=dispatch)
  assert_same(again, batches(in_memory(), seed=2)[0])
  with pytest.raises(AssertionError):
    assert_same(again, expected)
  # A seed that is broken off leaves nothing to the next one.
  mesh = sharding.make_mesh(1)
  dispatch(start(1, mesh), 0, 0, 2, True)
  _, found = dispatch(start(2, mesh), 0, 2, 1, True)
  np.testing.assert_array_equal(
    jax.device_get(found["train"][0][0]), again[2]["train"][0]
  )


def _wait_for(condition):
  for _ in range(200):
    if condition():
      return
    time.sleep(0.02)


def _feed(source, rows, *, batch, epochs=1):
  schedule = schedules.make_schedule(
    len(rows),
    batch_size=batch,
    epochs=epochs,
    warmup_epochs=epochs,
    steps_per_dispatch=2,
  )
  return streaming.Feed(
    streamed(source),
    {"train": rows},
    schedule=schedule,
    batch_size=batch,
    mesh=sharding.make_mesh(1),
  )


def test_the_next_call_is_read_ahead_and_no_more():
  source, key = Counted(1000), jax.random.key_data(jax.random.key(0))
  feed = _feed(source, np.arange(1000), batch=BATCH)
  for call in range(3):
    feed.take(np.asarray(key), 2 * call, 2)
    expected = (2 * call + 4) * BATCH
    _wait_for(lambda n=expected: source.reads.total() >= n)
    time.sleep(0.1)  # time to read too much
    assert source.reads.total() == expected
  feed.close()


def test_memory_does_not_grow_with_the_set():
  """A set of 20 GB; 80 steps of it would be 250 MB."""
  source = Counted(100_000, (256, 256, 3))
  feed = _feed(source, np.arange(100_000), batch=16)
  key = np.asarray(jax.random.key_data(jax.random.key(0)))
  call = 2 * 16 * 256 * 256 * 3
  feed.take(key, 0, 2)  # with what is made once
  tracemalloc.start()
  try:
    for step in range(2, 80, 2):
      feed.take(key, step, 2)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
    feed.close()
  # Read ahead, put together, not let go yet by the threads: of 40 calls.
  # And the order of an epoch.
  assert call < peak < 8 * call


def test_reading_ends_with_the_run_and_at_an_error():
  def is_reading():
    return any(x.name.startswith("nss-read") for x in threading.enumerate())

  def assert_ended():
    _wait_for(lambda: not is_reading())
    assert not is_reading()

  class Broken(Counted):
    def __getitem__(self, index):
      if is_broken and self.reads.total() > 60:
        raise UserError(f"config.data.path: image {index} is damaged")
      return super().__getitem__(index)

  is_broken = False
  assert_ended()
  _, dispatch = batches(streamed(Broken()))
  assert_ended()
  is_broken = True
  with pytest.raises(UserError, match=r"image \d+ is damaged"):
    batches(None, dispatch=dispatch)
  assert_ended()


def test_held_out_images_that_fit_no_device_are_refused(monkeypatch):
  job = runs.make_job(runs.load_config(**runs.TINY))
  held_out = len(supernet.split(job)[1])
  needed = held_out * 8 * 8 * 4  # float32
  monkeypatch.setattr(supernet, "image_memory", lambda: needed)
  supernet.check(job)
  monkeypatch.setattr(supernet, "image_memory", lambda: needed - 1)
  with pytest.raises(UserError) as caught:
    supernet.check(job)
  message = str(caught.value)
  assert "config.evaluate.holdout_fraction: 0.2 is not accepted" in message
  assert f"{held_out} images" in message


# The programs.

DIGITS = {
  stream: data.load("digits", stream=stream) for stream in ("always", "never")
}
FIELDS = {
  **runs.TINY,
  # One block of one stage compiles faster.
  "space.strides": (1,),
  "space.max_depth": 1,
  "space.num_depth_bins": 1,
  "space.max_width": 4,
  "space.num_width_bins": 2,
  "data.crop_padding": 1,
  "data.flip": True,
  "search.steps_per_dispatch": 2,
  "evaluate.batch_size": 64,
  "evaluate.epochs": 2,
  "train.batch_size": 64,
  "train.epochs": 2,
  "train.cutout": 3,
}


@pytest.mark.parametrize(
  "build, args, num_devices",
  [
    (train.build, (5,), 2),
    pytest.param(search.build, (), 8, marks=pytest.mark.slow),
    pytest.param(supernet.build_supernet, (), 1, marks=pytest.mark.slow),
  ],
)
def test_programs_compute_the_same(build, args, num_devices):
  config = runs.load_config(**FIELDS)
  states = {}
  for mode, dataset in DIGITS.items():
    job = runs.make_job(config, num_devices=num_devices, dataset=dataset)
    built = build(job)
    state = sharding.replicate(built.init(*args), job.mesh)
    warmup = built.schedule.warmup_epochs
    length = built.schedule.dispatches[0][1]
    for epoch in (0, min(warmup, built.schedule.epochs - 1)):
      state, losses = built.dispatch(state, epoch, 0, length, epoch < warmup)
    states[mode] = jax.device_get((state, losses))
  found, expected = states["always"], states["never"]
  assert np.isfinite(expected[1]).all()
  # Last bits differ, and grow in what few images see, to 0.001 of a leaf; an
  # image too few or another crop would be more. To the bit where XLA optimises:
  # `test_streamed_runs.py`, with --slow.
  chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
  for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    one, other = np.asarray(one, float), np.asarray(other, float)
    bound = 0.01 * np.linalg.norm(other) + 1e-6 * other.size**0.5
    assert np.linalg.norm(one - other) <= bound
