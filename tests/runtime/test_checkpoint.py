"""Checkpoints: bit-exact, and never restored when damaged."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from nss_jax.errors import NotWritten, UserError
from nss_jax.runtime import checkpoint, files
from nss_jax.runtime.checkpoint import Checkpoints


@functools.cache
def make_state(seed=0):
  """Makes all kinds of leaves, with a copy of each array on all devices."""
  rng = np.random.default_rng(seed)
  params = {
    "stem": {"w": jnp.asarray(rng.normal(size=(3, 3, 4)), jnp.float32)},
    "blocks": [
      jnp.asarray(rng.normal(size=(5,)), jnp.bfloat16),
      jnp.asarray(rng.integers(0, 99, (2, 3)), jnp.uint8),
    ],
  }
  optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
  arrays = {
    "step": jnp.int32(seed),
    "params": params,
    "opt_state": optimizer.init(params),
  }
  mesh = jax.make_mesh((len(jax.devices()),), ("data",))
  place = NamedSharding(mesh, P())
  return {**jax.device_put(arrays, place), "epoch": seed + 1}


def abstract(placed=True):
  """Returns shapes and types of a state, without its numbers."""

  def describe(x):
    if not hasattr(x, "dtype"):
      return x
    place = x.sharding if placed else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

  return jax.tree.map(describe, make_state())


def assert_same(actual, expected):
  chex.assert_trees_all_equal(actual, expected, strict=True)
  places = [
    [getattr(leaf, "sharding", type(leaf)) for leaf in jax.tree.leaves(tree)]
    for tree in (actual, expected)
  ]
  assert places[0] == places[1]


def names(folder):
  return sorted(os.listdir(folder))


def saved_names(*steps):
  return [f"{n:08d}{end}" for n in steps for end in ("", ".sha256.json")]


def restore(folder):
  """Reads everything from the folder again; `(restored, warnings)`."""
  warned = []
  checkpoints = Checkpoints(folder, warn=warned.append)
  return checkpoints.restore(abstract()), warned


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp("saved")
  checkpoints = Checkpoints(folder)
  for step in (1, 2):
    checkpoints.save(step, make_state(step))
  checkpoints.wait()
  return folder


@pytest.fixture
def two(two_saved, tmp_path):
  """Copies a folder with the checkpoints of steps 1 and 2."""
  return shutil.copytree(two_saved, tmp_path / "checkpoints")


def files_of(folder, step):
  """Returns all the files of a checkpoint, and its digest."""
  found = [p for p in (folder / f"{step:08d}").rglob("*") if p.is_file()]
  return sorted([*found, folder / f"{step:08d}.sha256.json"])


def test_round_trip_is_bit_exact(tmp_path):
  checkpoints = Checkpoints(tmp_path / "a" / "b")
  assert checkpoints.latest_step is None
  assert checkpoints.restore(abstract()) is None
  assert not (tmp_path / "a").exists()
  checkpoints.save(7, make_state(7), block=True)
  assert checkpoints.latest_step == 7
  (step, state), warned = restore(tmp_path / "a" / "b")
  assert step == 7 and not warned
  assert_same(state, make_state(7))
  digest = files.read_json(tmp_path / "a" / "b" / "00000007.sha256.json")
  assert all(len(value) == 64 for value in digest.values())


def test_restore_takes_arrays_and_shapes_without_sharding(two):
  expected = make_state(2)["params"]["stem"]["w"]
  for template in (make_state(), abstract(placed=False)):
    step, state = Checkpoints(two).restore(template)
    assert step == 2
    assert np.array_equal(state["params"]["stem"]["w"], expected)
  read = Checkpoints(two).read()
  assert np.array_equal(read["params"]["stem"]["w"], expected)


def test_keep_leaves_the_newest(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=2)
  for step in (1, 5, 30):
    checkpoints.save(step, make_state(step))
  checkpoints.wait()
  assert names(tmp_path) == saved_names(5, 30)


def test_oldest_is_deleted_after_the_newest_is_verified(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path, keep=1)
  checkpoints.save(1, make_state(1), block=True)
  write_json = files.write_json

  def write(path, obj):
    assert (tmp_path / "00000001.sha256.json").exists()
    assert (tmp_path / "00000002").exists()
    write_json(path, obj)
    # The disk has lied: what was hashed is not what is read back.
    (tmp_path / "00000002" / "commit_success.txt").write_text("?")

  monkeypatch.setattr(files, "write_json", write)
  checkpoints.save(2, make_state(2))
  with pytest.raises(NotWritten, match=r"commit_success.txt: damaged"):
    checkpoints.wait()
  (step, state), warned = restore(tmp_path)
  assert step == 1 and not warned
  assert_same(state, make_state(1))


def damages(path):
  """Yields what can happen to a file: `(name, new content or None)`."""
  data = path.read_bytes()
  yield "removed", None
  for size in sorted({0, len(data) // 2, max(len(data) - 1, 0)}):
    if size < len(data):
      yield f"cut to {size} of {len(data)}", data[:size]
  yield "longer", data + b"\0"
  for bit in range(8):
    if data:
      flipped = bytearray(data)
      position = bit * (len(data) - 1) // 7
      flipped[position] ^= 1 << bit
      yield f"bit {bit} of byte {position}", bytes(flipped)


def test_any_damage_to_any_file_falls_back(tmp_path):
  folder = tmp_path / "checkpoints"
  checkpoints = Checkpoints(folder)
  for step in (1, 2):
    checkpoints.save(step, {"w": jnp.arange(300.0) + step, "n": step})
  checkpoints.wait()
  digest_file = folder / "00000002.sha256.json"
  template = {"w": jnp.zeros(300), "n": 0}
  count = 0
  for path in files_of(folder, 2):
    original = path.read_bytes()
    for name, data in damages(path):
      if path == digest_file and (data is None or data == original[:-1]):
        continue  # no digest: the next test; no line end: nothing is lost
      path.unlink() if data is None else path.write_bytes(data)
      damage = checkpoints.find_damage(2)
      assert damage and damage.isprintable(), (path, name)
      if path != digest_file or "cut" in name:
        assert damage.startswith(f"{path}: "), (damage, name)
      if not count % 10:
        warned = []
        step, state = Checkpoints(folder, warn=warned.append).restore(template)
        assert (step, state["n"]) == (1, 1)
        assert np.array_equal(state["w"], np.arange(300.0) + 1)
        assert warned == [f"{damage}; using the checkpoint before, of step 1"]
      path.write_bytes(original)
      count += 1
  assert count > 110
  assert Checkpoints(folder).restore(template)[0] == 2


def test_missing_and_unknown_files(two):
  stray = two / "00000002" / "state" / "stray"
  stray.write_text("")
  (step, _), warned = restore(two)
  assert step == 1 and f"{stray}: not a file of this checkpoint" in warned[0]
  shutil.rmtree(two / "00000002")
  (step, _), warned = restore(two)
  assert step == 1 and "00000002: missing" in warned[0]
  (two / "00000002.sha256.json").unlink()
  (step, _), warned = restore(two)
  assert step == 1 and not warned
  (two / "00000001.sha256.json").unlink()
  assert Checkpoints(two).latest_step is None
  assert restore(two) == (None, [])


def test_all_damaged_is_an_error_and_no_new_start(two):
  for step in (1, 2):
    path = two / f"{step:08d}" / "state" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match="every checkpoint is dam") as error:
    restore(two)
  assert str(error.value).startswith(f"{two}: ")
  assert str(error.value).isprintable()


@pytest.mark.parametrize("damaged", [2, 9])
def test_run_goes_on_after_falling_back(two, damaged):
  """A damaged newest neither counts for `keep` nor blocks its name."""
  for end in ("", ".sha256.json"):
    (two / f"00000002{end}").rename(two / f"{damaged:08d}{end}")
  (two / f"{damaged:08d}" / "state" / "manifest.ocdbt").write_bytes(b"")
  warned = []
  checkpoints = Checkpoints(two, keep=1, warn=warned.append)
  checkpoints.restore(abstract())
  assert len(warned) == 1 and checkpoints.latest_step == 1
  checkpoints.save(2, make_state(2), block=True)
  assert checkpoints.latest_step == 2
  kept = {2, damaged}
  assert {int(name[:8]) for name in names(two)} == kept
  (step, state), warned = restore(two)
  assert step == 2 and len(warned) == len(kept) - 1
  assert_same(state, make_state(2))


def test_current_step_is_not_written_again(two, monkeypatch):
  checkpoints = Checkpoints(two)
  checkpoints.restore(abstract())
  monkeypatch.setattr(checkpoint.ocp, "save_async", None)
  checkpoints.save(2, make_state(2), block=True)
  monkeypatch.undo()
  # Without a restore the folder is of another run, and is written over.
  Checkpoints(two).save(2, make_state(3), block=True)
  assert_same(restore(two)[0][1], make_state(3))


def test_leftovers_of_killed_saves_are_ignored_then_removed(two):
  for name in ("00000000.orbax-checkpoint-tmp", "00000004"):
    (two / name / "state").mkdir(parents=True)
  (two / "00000003.orbax-checkpoint-tmp").mkdir()
  (two / "notes").mkdir()
  assert restore(two)[0][0] == 2
  checkpoints = Checkpoints(two, keep=1)
  assert checkpoints.latest_step == 2
  checkpoints.save(3, make_state(3), block=True)
  assert names(two) == [*saved_names(3), "00000004", "notes"]
  checkpoints.save(4, make_state(4), block=True)
  assert_same(restore(two)[0][1], make_state(4))


class _Response:
  """Stands for a save that orbax can not end."""

  def result(self):
    raise OSError(28, "No space left on device")


def _no_space(*_):
  raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
  ("where", "name", "fault"),
  [
    (files, "write_json", _no_space),
    (files, "fsync", _no_space),
    (checkpoint.ocp, "save_async", lambda *_: _Response()),
    (checkpoint.ocp, "save_async", _no_space),
  ],
)
def test_a_failed_save_is_told_once(two, monkeypatch, where, name, fault):
  """Whoever waits or saves next is told, and older checkpoints stay."""
  checkpoints = Checkpoints(two)
  for surface in (checkpoints.wait, lambda: checkpoints.save(4, make_state(4))):
    with (
      monkeypatch.context() as patch,
      pytest.raises(NotWritten, match=r"00000003: .*No space") as error,
    ):
      patch.setattr(where, name, fault)
      checkpoints.save(3, make_state(3))
      surface()
    assert str(error.value).isprintable()
    checkpoints.wait()
    assert checkpoints.latest_step == 2
    assert restore(two)[0][0] == 2
  # The caller may try again.
  checkpoints.save(3, make_state(3), block=True)
  assert_same(restore(two)[0][1], make_state(3))


def test_folder_that_can_not_be_made(tmp_path):
  (tmp_path / "file").write_text("")
  checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
  with pytest.raises(NotWritten, match="could not be saved"):
    checkpoints.save(1, make_state(), block=True)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"step": jnp.float32(0)},
      r"step is int32\[\] in the checkpoint and float32\[\] in the program",
    ),
    ({"more": jnp.zeros(2)}, "more is nothing in the checkpoint"),
    (
      {"params": {"stem": {"w": jnp.zeros((3, 3, 5))}}},
      r"params.blocks.0 is bfloat16\[5\] in the checkpoint and nothing",
    ),
    ({"opt_state": ()}, "opt_state.*nothing in the program"),
    ({"epoch": 0.5}, "epoch is int in the .* and float in"),
  ],
)
def test_other_structure_is_an_error(two, change, message):
  with pytest.raises(UserError, match=message) as error:
    Checkpoints(two).restore({**make_state(), **change})
  assert str(error.value).startswith(f"{two / '00000002'}: ")
  assert str(error.value).isprintable()


def test_donation_right_after_save(tmp_path):
  """The next step may write to the memory of the state that is being saved."""
  update = jax.jit(
    lambda x: jax.tree.map(lambda a: a * 1.5 + 1, x), donate_argnums=0
  )
  checkpoints = Checkpoints(tmp_path, keep=8)
  leaf = np.ones((256, 256), np.float32)
  state = {
    "a": jnp.ones((256, 256)),
    "b": jnp.arange(5.0),
    "zero": np.float32(3),
  }
  saved = []
  for step in range(6):
    saved.append(jax.tree.map(lambda x: np.array(x, copy=True), state))
    checkpoints.save(step, state)
    before, state = state, update(state)
    assert before["b"].is_deleted()
  # What the caller owns is read before `save` returns.
  checkpoints.save(6, leaf)
  leaf[:] = 0
  checkpoints.wait()
  assert np.array_equal(checkpoints.read(), np.ones((256, 256)))
  for step, expected in reversed([*enumerate(saved)]):
    (tmp_path / f"{step + 1:08d}.sha256.json").unlink()
    found, restored = Checkpoints(tmp_path).restore(state)
    assert found == step
    for name, value in expected.items():
      assert np.array_equal(restored[name], value)
    update(restored)  # and memory that was restored may be donated


CHILD = textwrap.dedent(
  """
  import os, signal, sys
  import jax, jax.numpy as jnp
  from jax.sharding import NamedSharding, PartitionSpec as P
  from nss_jax.runtime import files, checkpoint

  folder, moment = sys.argv[1:]
  checkpoints = checkpoint.Checkpoints(folder, keep=2)

  def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

  def arm():
    if moment == "rename":
      files.os.replace = die
    elif moment == "delete":
      checkpoint.shutil.rmtree = die
    else:
      save_async = checkpoint.ocp.save_async
      checkpoint.ocp.save_async = lambda *a: (save_async(*a), die())

  mesh = jax.make_mesh((2,), ("data",))
  for step in range(1, 9):
    if step == 4:
      arm()
    state = {"w": jnp.full((400, 400), step, jnp.float32)}
    state = jax.device_put(state, NamedSharding(mesh, P()))
    checkpoints.save(step, state)
    if step == 3:
      checkpoints.wait()
  """
)


def start_child(folder, moment):
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
  }
  return subprocess.Popen(
    [sys.executable, "-c", CHILD, str(folder), moment], env=env
  )


def test_sigkill_during_save_leaves_a_restorable_folder(tmp_path):
  """Killed inside each part of a save; `tests/faults` kills at any moment."""
  newest = {"orbax": 3, "rename": 3, "delete": 4}
  children = [start_child(tmp_path / moment, moment) for moment in newest]
  try:
    for child in children:
      assert child.wait(100) == -signal.SIGKILL
  finally:
    for child in children:
      child.kill()
      child.wait()
  template = {"w": jnp.zeros((400, 400))}
  for moment, expected in newest.items():
    warned = []
    checkpoints = Checkpoints(tmp_path / moment, keep=2, warn=warned.append)
    step, state = checkpoints.restore(template)
    assert not warned and step == expected
    assert np.all(np.asarray(state["w"]) == step)
    # The next save clears up and uses the name that the killed one took.
    for later in (step + 1, step + 2):
      checkpoints.save(later, {"w": jnp.full((400, 400), later, jnp.float32)})
    checkpoints.wait()
    kept = [n for n in names(tmp_path / moment) if n[0] != "."]
    assert kept == saved_names(step + 1, step + 2)
