"""Faults of this process, at a chosen file operation below a folder.

Python tells its audit hooks of every file that it opens, renames or removes,
before it does: moments that are the same in every run, in saves and between.
"""

import errno
import os
import resource
import signal
import sys
import threading
import time

ERRORS = ("ENOSPC", "EROFS")
_WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
# A full disk takes no new file; it can still rename and remove.
_NEEDS_SPACE = ("os.mkdir",)


class Watch:
  """Counts file operations, and acts at some of them.

  Args:
    inside: folder whose operations count.
    part: text that their paths hold.
    at: numbers of the operations, from 1, at which something happens.
    do: `kill` or the name of a signal; `ENOSPC` or `EROFS`, the error of that
      and all later operations that write, which alone count then.
    delay: seconds from the operation to a kill.

  Attributes:
    counts: of all operations, by "", and of those that would fail, by error.
    signalled: `time.monotonic` of the first signal, or None.
    calls_after: calls of the device that began after it; see `server`.
  """

  def __init__(self, inside, part="", at=(), do="", delay=0.0):
    self.counts = dict.fromkeys(("", *ERRORS), 0)
    self.signalled, self.calls_after = None, 0
    self._inside, self._part = inside, part
    self._at, self._do, self._delay = at, do, delay
    self._counted = do if do in ERRORS else ""
    self._failing = False

  def __call__(self, event, arguments):
    if event != "open" and event not in _WRITES:
      return
    path = arguments[0]
    if not isinstance(path, str) or not path.startswith(self._inside):
      return
    kinds = ["", *(e for e in ERRORS if _fails(e, event, arguments))]
    is_part = self._part in path
    for kind in kinds:
      self.counts[kind] += is_part
    if self._counted not in kinds:
      return
    if is_part and self.counts[self._counted] in self._at:
      self._failing = self._counted != ""
      if not self._failing:
        self._kill()
    if self._failing:
      code = getattr(errno, self._do)
      raise OSError(code, os.strerror(code), path)

  def _kill(self):
    if self._delay:
      timer = threading.Timer(self._delay, self._send)
      timer.daemon = True
      timer.start()
    else:
      self._send()

  def _send(self):
    if self.signalled is None:
      self.signalled = time.monotonic()
    os.kill(os.getpid(), getattr(signal, self._do))


def _fails(error, event, arguments):
  """Returns whether an operation meets the error."""
  if event == "open":
    return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
  return event in (_NEEDS_SPACE if error == "ENOSPC" else _WRITES)


def inject(*, limit=0, offset=0.0, zone="", **watched) -> Watch:
  """Sets the faults of this process.

  Args:
    limit: bytes that a file may have; 0: any.
    offset: seconds that the clock is wrong by, more at each look at it.
    zone: the time zone.
    **watched: see `Watch`.
  """
  if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  if zone:
    os.environ["TZ"] = zone
    time.tzset()
  if offset:
    _set_clock(offset)
  watch = Watch(**watched)
  sys.addaudithook(watch)
  return watch


def _set_clock(offset):
  """Lets the time of day jump by an offset, again at each look."""
  looks, now, now_ns = [], time.time, time.time_ns

  def jump():
    looks.append(None)
    return offset * len(looks)

  time.time = lambda: now() + jump()
  time.time_ns = lambda: now_ns() + int(1e9 * jump())
