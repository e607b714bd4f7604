"""One run at a time in a folder; a dead one leaves it free.

The system's lock ends with its process, whatever ends it. But some network file
systems keep locks on each host to themselves, and some have none, so the file
also names its owner and is emptied at the end. Who is named and runs on another
host may be alive; who is named and runs here can be looked for. (filelock's
SoftFileLock goes by the name alone, so it never takes a file that a process
left empty, killed before it could write to it.)
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import socket
import time
from collections.abc import Callable, Generator
from typing import TextIO

from nss_jax.errors import UserError
from nss_jax.runtime import processes

_LOCK = ".lock"
_POLL_SECONDS = 0.5
_OWNER = re.compile(r"process (\d+) on (\S+)")
_MAX_OWNER = 300  # characters
# Of file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


@contextlib.contextmanager
def exclusive(
  folder: pathlib.Path,
  wait: Callable[[str], None] | None = None,
  *,
  take_over: bool = False,
) -> Generator[None]:
  """Holds a folder for as long as the block runs; makes it if it is missing.

  Of the processes of a run, the first holds it for all. While another process
  has it, `wait` is called with the owner's name again and again, and raises
  something to give up; without `wait` there is a UserError that names the
  owner. `take_over` says that an owner on another host is known to have ended.
  """
  with contextlib.ExitStack() as held:
    processes.run_once(lambda: _hold(folder, wait, take_over, held))
    yield


def _hold(
  folder: pathlib.Path,
  wait: Callable[[str], None] | None,
  take_over: bool,
  held: contextlib.ExitStack,
) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  file = held.enter_context((folder / _LOCK).open("a+", errors="replace"))
  while owner := _take(file, take_over):
    if wait is None:
      raise UserError(
        f"--workdir: {folder}: in use by {owner}; expected to be the only one"
      )
    wait(owner)
    time.sleep(_POLL_SECONDS)
  held.callback(_let_go, file)
  file.truncate(0)
  file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
  file.flush()


def _let_go(file: TextIO) -> None:
  with contextlib.suppress(OSError):  # of a folder that was taken away
    file.truncate(0)


def _take(file: TextIO, take_over: bool) -> str:
  """Takes the lock and returns an empty string, or says who has it."""
  locked = _lock(file)
  file.seek(0)
  text = " ".join(file.read(_MAX_OWNER).split())
  if locked is False:
    return text or "another process"
  named = _OWNER.fullmatch(text)
  if named is None:  # it was let go, or never written whole
    return ""
  process, host, here = int(named[1]), named[2], socket.gethostname()
  if host == here:
    # The system knows better, if it has a lock.
    return "" if locked or not _is_alive(process) else text
  if take_over:
    return ""
  if locked:  # the owner may come back, and must find it free
    fcntl.flock(file, fcntl.LOCK_UN)
  return f"{text} (not to be seen from {here}; --take_over if it has ended)"


def _lock(file: TextIO) -> bool | None:
  """Returns whether the system gives the lock; None: it has none there."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    return None
  return True


def _is_alive(process: int) -> bool:
  """Returns whether another process has this number."""
  # Containers that are started again have the name and the numbers of before.
  if process == os.getpid():
    return False
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:
    pass
  return True
