"""The processes of one run: all compute, the first writes.

Every process runs the same program in the same order. What only one may do,
such as writing a file, goes through `run_once`; all go on when it is done, so
that what one has written the others can read. Files must be on a file system
that all of them share.
"""

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Generator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from nss_jax.errors import NotWritten, UserError

T = TypeVar("T")

# Of what the first process tells the others; a longer error is cut.
_MESSAGE_BYTES = 4096
_ADDRESS = re.compile(r".+:\d{1,5}")
_FAILURES = {kind.__name__: kind for kind in (UserError, NotWritten)}
# Whether this process is in the middle of `run_once`: what it calls is its own.
_is_alone = False


def join(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  heartbeat_seconds: int = 100,
) -> None:
  """Joins the other processes, which must come before any other use of jax.

  Where nothing says where this process stands, jax asks Slurm (inside `srun`),
  Open MPI, TPU pods, GKE or Kubernetes. The coordinator is `host:port` of
  process 0. A process that is silent for `heartbeat_seconds` is taken for dead,
  and the run ends with it. Raises UserError if they do not come together.
  """
  if coordinator is not None and not _ADDRESS.fullmatch(coordinator):
    raise UserError(
      f"--coordinator: {coordinator!r} is not accepted; expected host:port of "
      "process 0"
    )
  if num_processes is not None and num_processes < 1:
    raise UserError(
      f"--num_processes: {num_processes} is not accepted; expected 1 or more"
    )
  if process_id is not None and not 0 <= process_id < (num_processes or 1):
    raise UserError(
      f"--process_id: {process_id} is not accepted; expected 0 to "
      f"{(num_processes or 1) - 1}"
    )
  try:
    with _without_proxies():
      jax.distributed.initialize(
        coordinator_address=coordinator,
        num_processes=num_processes,
        process_id=process_id,
        heartbeat_timeout_seconds=heartbeat_seconds,
      )
  except (RuntimeError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(
      f"--distributed: the processes did not come together: {reason}; expected "
      "to be started by srun, mpirun or on a TPU pod, or with --coordinator, "
      "--num_processes and --process_id"
    ) from error


@contextlib.contextmanager
def _without_proxies() -> Generator[None]:
  """Hides the proxies of the web, which downloads may need later.

  gRPC would ask them for the way to process 0, and wait for ever.
  """
  names = [x for x in os.environ if x.lower() in ("http_proxy", "https_proxy")]
  values = {name: os.environ.pop(name) for name in names}
  try:
    yield
  finally:
    os.environ.update(values)


def are_many() -> bool:
  """Returns whether others must be told what this process does."""
  return jax.process_count() > 1 and not _is_alone


def is_first() -> bool:
  """Returns whether this process is the one that writes."""
  return jax.process_index() == 0


def describe_own() -> str:
  """Says which process this is, from 0: `process 1 of 4 on node7`."""
  host = socket.gethostname()
  try:
    return f"process {jax.process_index()} of {jax.process_count()} on {host}"
  except RuntimeError:  # no backend: that may be what is told of
    return f"process {os.getpid()} on {host}"


def run_once(work: Callable[[], T]) -> T | None:
  """Calls a function in the first process only; all go on when it has ended.

  All processes must call this, in the same order. It begins when all are there:
  what they have looked at before, such as whether a file exists, was as it is
  for the first. What the function calls in turn is called there alone.

  The others get None. If the function raises OSError or NotWritten in the
  first, the others raise NotWritten; if it raises something else, UserError.
  """
  global _is_alone
  if not are_many():
    return work()
  _meet()
  if not is_first():
    name, _, told = _receive().partition(":")
    if name:
      raise _FAILURES[name](told)
    return None
  _is_alone = True
  try:
    result = work()
  except Exception as error:
    not_written = isinstance(error, (OSError, NotWritten))
    failure = NotWritten if not_written else UserError
    _send(f"{failure.__name__}:process 0: {error}")
    raise
  finally:
    _is_alone = False
  _send("")
  return result


def broadcast(value: T) -> T:
  """Returns the first process's value, of what JSON can say, in all of them."""
  if not are_many():
    return value
  if not is_first():
    return json.loads(_receive())
  _send(json.dumps(value))
  return value


def _meet() -> None:
  multihost_utils.broadcast_one_to_all(np.zeros(1, np.uint8))


def _send(text: str) -> None:
  # Never cut in the middle of a character: only ASCII.
  data = json.dumps(text).encode()
  if len(data) > _MESSAGE_BYTES:
    data = json.dumps(text[: _MESSAGE_BYTES // 12]).encode()
  buffer = np.frombuffer(data.ljust(_MESSAGE_BYTES), np.uint8)
  multihost_utils.broadcast_one_to_all(buffer)


def _receive() -> str:
  buffer = np.zeros(_MESSAGE_BYTES, np.uint8)
  return json.loads(bytes(multihost_utils.broadcast_one_to_all(buffer)))
