"""Checkpoints that are restored as they were saved, or not at all.

The first process of a run writes them, and says which one all go on from.

orbax writes and reads the arrays, and restores one with a flipped bit without
a word. So every checkpoint `00000042/` has a file `00000042.sha256.json`
beside it, with a digest per file. It is written after orbax has finished and
is the last word: without it a checkpoint does not count, and if it disagrees
the one before is used.
"""

import collections
import contextlib
import hashlib
import itertools
import pathlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Generator
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from nss_jax.errors import NotWritten, UserError, one_line
from nss_jax.runtime import files, processes

# A checkpoint, its digest, or what a killed save has left of it.
_NAME = re.compile(r"(\d{8,})(\.sha256\.json|\.orbax-checkpoint-tmp.*)?")

# Of names and descriptions, which a save writes before any array.
_NEEDED_BYTES = 2**16


class Checkpoints:
  """The checkpoints of one run, in one folder, which the first save makes.

  So many verified checkpoints stay as `keep` says, 1 or more; 2 at least is
  wise, as a damaged newest falls back to the one before. `warn` receives one
  line for each damaged checkpoint that is passed over.
  """

  def __init__(
    self,
    directory: files.Path,
    keep: int = 3,
    *,
    warn: Callable[[str], None] = warnings.warn,
  ):
    # orbax takes absolute paths only.
    self._directory = pathlib.Path(directory).absolute()
    self._keep = keep
    self._warn = warn
    self._under_way: tuple[int, ocp.AsyncResponse[None]] | None = None
    self._current: int | None = None
    self._damaged: set[int] = set()

  @property
  def latest_step(self) -> int | None:
    """The newest step that has a digest and is not known to be damaged."""
    return max(self._steps(), default=None)

  def path(self, step: int) -> pathlib.Path:
    """Returns the folder of a step's checkpoint."""
    return self._directory / f"{step:08d}"

  def save(self, step: int, state: Any, *, block: bool = False) -> None:
    """Starts to save a pytree; `wait` ends it, which `block` asks for at once.

    The state is copied before this returns, so it may be donated at once. Its
    leaves are Python numbers and arrays that are whole on this process and not
    of size 0, which orbax cannot save. A save still under way is waited for.
    The step that was saved or restored last is not written again: the same step
    has the same state. NotWritten says that this save cannot start, or that the
    one before has failed; older checkpoints are as they were.
    """
    self.wait()
    if step == self._current:
      return
    with self._naming(step, NotWritten):
      host_state = _copy_to_host(state)
      processes.run_once(lambda: self._prepare(step))
      # Folders are made at once: threads of orbax would wait twenty minutes
      # for those of a full disk.
      context = ocp.Context()
      context.asynchronous.create_directories_asynchronously = False
      with context:
        response = ocp.save_async(str(self.path(step)), host_state)
    self._under_way = step, response
    if block:
      self.wait()

  def wait(self) -> None:
    """Returns when the last save and its digest are on disk.

    A checkpoint does not count before. orbax writes meanwhile, but the digest
    is computed here: call it while the devices have something to do. Raises
    NotWritten if that save has failed, once, so that a caller may try another.
    """
    if self._under_way is None:
      return
    (step, response), self._under_way = self._under_way, None
    with self._naming(step, NotWritten):
      # If it failed in the first, those of the others may wait for ever.
      processes.run_once(lambda: self._finish(step, response))
      response.result()
    self._current = step

  def restore(self, abstract_state: Any) -> tuple[int, Any] | None:
    """Loads step and state of the newest checkpoint that is not damaged.

    Returns None if there is no checkpoint. The leaves of `abstract_state` are
    arrays or `jax.ShapeDtypeStruct`, to whose shardings the arrays go (without
    one, to the first local device), and Python numbers. Raises UserError if
    every checkpoint is damaged, or if the state is not of the saved structure,
    shapes and types.
    """
    self.wait()
    step = processes.broadcast(processes.run_once(self._find_newest))
    if step is None:
      return None
    with self._naming(step, UserError):
      stored = ocp.metadata(str(self.path(step))).metadata
      if difference := find_difference(stored, abstract_state):
        raise UserError(
          f"{self.path(step)}: is of another program or config than this: "
          f"{difference}"
        )
      place = jax.tree.map(_place, abstract_state)
      state = ocp.load(str(self.path(step)), place)
    self._current = step
    return step, state

  def read(self) -> Any | None:
    """Loads what `restore` would, as dicts, lists and numpy arrays."""
    step = processes.broadcast(processes.run_once(self._find_newest))
    if step is None:
      return None
    with self._naming(step, UserError):
      return ocp.load(str(self.path(step)))

  def find_damage(self, step: int) -> str | None:
    """Returns what is wrong with a checkpoint, file first, or None."""
    folder = self.path(step)
    try:
      expected = files.read_json(self._digest_file(step))
      actual = _digest(folder)
    except UserError as error:
      return str(error)
    except OSError as error:
      return f"{error.filename or folder}: {error.strerror}"
    if not actual:
      return f"{folder}: missing"
    for name in sorted(expected.keys() | actual.keys()):
      if name not in actual:
        return f"{folder / name}: missing"
      if name not in expected:
        return f"{folder / name}: not a file of this checkpoint"
      if expected[name] != actual[name]:
        return f"{folder / name}: damaged, its digest differs"
    return None

  @contextlib.contextmanager
  def _naming(
    self, step: int, kind: type[NotWritten] | type[UserError]
  ) -> Generator[None]:
    """Says in one line what went wrong; orbax has no common type of error."""
    try:
      yield
    except (NotWritten, UserError):
      raise
    except Exception as error:
      if kind is UserError:
        raise kind(f"{self.path(step)}: can not be loaded: {error}") from error
      raise kind(
        f"{self.path(step)}: could not be saved: {type(error).__name__}: "
        f"{error}"
      ) from error

  def _prepare(self, step: int) -> None:
    """Makes room for a step.

    Within orbax the other processes wait for the first, and die if it fails. So
    what it cannot even begin to write fails here, where they hear of it.
    """
    self._remove(step)
    if jax.process_count() > 1:
      self._directory.mkdir(parents=True, exist_ok=True)
      with tempfile.TemporaryFile(dir=self._directory) as file:
        file.write(bytes(_NEEDED_BYTES))

  def _finish(self, step: int, response: ocp.AsyncResponse[None]) -> None:
    """Ends a save in the first process: all that comes after orbax."""
    with self._naming(step, NotWritten):
      response.result()
      folder = self.path(step)
      # The digest says that all is on disk; orbax syncs nothing it renames.
      for path in (self._directory, folder, *folder.rglob("*")):
        files.fsync(path)
      files.write_json(self._digest_file(step), _digest(folder))
      if damage := self.find_damage(step):
        self._digest_file(step).unlink()
        raise OSError(f"{damage} (right after it was written)")
      self._damaged.discard(step)
      # Steps after this one are of a run that was damaged: they do not count
      # here, and are written over when this run gets there.
      kept = sorted(other for other in self._steps() if other <= step)
      oldest = kept[-self._keep :][0]
      for other in sorted(self._entries()):
        if other < oldest:
          self._remove(other)

  def _remove(self, step: int) -> None:
    """Removes a checkpoint and what killed saves have left of it."""
    # First the digest: what a crash leaves of the rest then does not count.
    self._digest_file(step).unlink(missing_ok=True)
    for path in self._entries()[step]:
      shutil.rmtree(path)

  def _find_newest(self) -> int | None:
    """Returns the newest step whose files all agree with their digests."""
    self._damaged.clear()
    steps = sorted(self._steps(), reverse=True)
    for step, before in itertools.zip_longest(steps, steps[1:]):
      damage = self.find_damage(step)
      if damage is None:
        return step
      self._damaged.add(step)
      if before is None:
        raise UserError(
          f"{self._directory}: every checkpoint is damaged (the oldest: "
          f"{damage}); delete the folder to start anew"
        )
      self._warn(
        one_line(f"{damage}; using the checkpoint before, of step {before}")
      )
    return None

  def _steps(self) -> set[int]:
    """Returns the steps with a digest that are not known to be damaged."""
    entries = self._entries().items()
    steps = {
      step for step, paths in entries if self._digest_file(step) in paths
    }
    return steps - self._damaged

  def _entries(self) -> dict[int, list[pathlib.Path]]:
    """Returns all in the folder that belongs to a step, by the step."""
    found = collections.defaultdict(list)
    for path in self._directory.glob("*"):
      if match := _NAME.fullmatch(path.name):
        found[int(match[1])].append(path)
    return found

  def _digest_file(self, step: int) -> pathlib.Path:
    return self._directory / f"{step:08d}.sha256.json"


def find_difference(stored: Any, abstract_state: Any) -> str | None:
  """Says which leaf differs first; orbax would cast types without a word."""
  old, new = _describe(stored), _describe(abstract_state)
  for name in sorted(old.keys() | new.keys()):
    before, now = old.get(name, "nothing"), new.get(name, "nothing")
    if before != now:
      return f"{name} is {before} in the checkpoint and {now} in the program"
  return None


def _describe(tree: Any) -> dict[str, str]:
  """Returns type and shape of each leaf, by a name without kinds of nodes."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): (
      f"{leaf.dtype}{list(leaf.shape)}"
      if hasattr(leaf, "dtype")
      else type(leaf).__name__
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _copy_to_host(tree: Any) -> Any:
  """Copies all arrays to numpy arrays of their own.

  orbax would copy too, but on a CPU a jax array and "its" numpy array can be
  the same memory, which the caller's next step may be given to write to.
  """
  for leaf in jax.tree.leaves(tree):
    if isinstance(leaf, jax.Array):
      leaf.copy_to_host_async()  # all transfers at once
  return jax.tree.map(
    lambda x: np.array(x, copy=True) if hasattr(x, "dtype") else x, tree
  )


def _place(leaf: Any) -> Any:
  """Returns what tells orbax where an array goes."""
  if not isinstance(leaf, (jax.ShapeDtypeStruct, jax.Array)):
    return leaf
  sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(
    jax.local_devices()[0]
  )
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _digest(folder: pathlib.Path) -> dict[str, str]:
  """Returns the sha256 of every file below a folder, by its path in there."""
  digests = {}
  for path in sorted(folder.rglob("*")):
    if not path.is_dir():
      with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
      digests[path.relative_to(folder).as_posix()] = digest
  return digests
