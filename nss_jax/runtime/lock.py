"""One run at a time in a folder; the system lets go when it dies."""

import contextlib
import fcntl
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from nss_jax.runtime import processes

_LOCK = ".lock"
_POLL_SECONDS = 0.5


class InUse(RuntimeError):
  """Another process has the folder; the message names it."""


@contextlib.contextmanager
def exclusive(
  folder: pathlib.Path, wait: Callable[[str], bool] | None = None
) -> Iterator[None]:
  """Holds a folder for as long as the block runs.

  Of many processes of a run, the first holds it for all.

  Args:
    folder: made if need be.
    wait: asked with the owner's name again and again while another process has
      the folder; False gives up. None gives up at once.

  Raises:
    InUse: after giving up.
    OSError: if the folder cannot be written.
  """
  with contextlib.ExitStack() as held:
    processes.first(lambda: _hold(folder, wait, held))
    yield


def _hold(
  folder: pathlib.Path,
  wait: Callable[[str], bool] | None,
  held: contextlib.ExitStack,
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  file = held.enter_context((folder / _LOCK).open("a+"))
  while not _take(file):
    file.seek(0)
    owner = file.read().strip() or "another process"
    if wait is None or not wait(owner):
      raise InUse(f"{folder}: in use by {owner}; expected to be the only one")
    time.sleep(_POLL_SECONDS)
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()


def _take(file: TextIO) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True
