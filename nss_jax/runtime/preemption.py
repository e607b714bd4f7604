"""SIGTERM: save what there is, then exit with the code "run me again"."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Callable
from typing import ClassVar

import jax
from jax.experimental import multihost_utils

# EX_TEMPFAIL. Schedulers read 0 as "done" and never start the job again.
EXIT_SAVED = 75
# Every process counts the same; one count for the whole run.
_DISPATCHES = itertools.count()


def sigterm_line(saved: str) -> str:
  """What is said of a process that SIGTERM has ended."""
  return f"SIGTERM: {saved}; run the same command to go on"


def _end(saved: str) -> None:
  """Ends the process, from any thread, whatever the main one is doing."""
  with contextlib.suppress(OSError):  # nobody reads it
    # Not by `print`, whose lock the main thread may hold; all that was said
    # before has been flushed.
    os.write(1, f"{sigterm_line(saved)}\n".encode(errors="replace"))
  os._exit(EXIT_SAVED)


def end_at_once() -> None:
  """From now on SIGTERM ends the process, with a line and `EXIT_SAVED`.

  For the time before a `Preemption`, when there is nothing to be saved. A
  thread, since a process that waits for the others of its run does so outside
  Python, where no handler of Python's is called.
  """
  # A handler, or the signal would end the process; the thread is told of it.
  signal.signal(signal.SIGTERM, lambda *_: None)
  read, write = os.pipe()
  os.set_blocking(write, False)
  signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  threading.Thread(target=_end_when_told, args=(read,), daemon=True).start()


def _end_when_told(read: int) -> None:
  while byte := os.read(read, 1):
    if byte[0] == signal.SIGTERM:
      _end("nothing was under way that is to be saved")


class Preemption:
  """Notices SIGTERM at once, even while Python waits for a compilation.

  The loop asks `requested()` between dispatches, saves and exits. Python runs
  signal handlers only between its own instructions, so the signal also goes
  through a pipe to a thread: if the loop has not ended the process when the
  grace time is over, the thread does, with the same code. What was saved
  before then stays whole, since every file is renamed into place.

  A context manager; outside the main thread (notebooks' workers) it does
  nothing, and `requested()` stays False. Inside another it is that one: what
  came too late for the last question of a phase is there before the next.

  Where a run has many processes the signal belongs to jax: it tells all of
  them, and they agree after which dispatch they stop.

  Attributes:
    grace_seconds: time from the signal to the end of the process.
    came: whether SIGTERM has come, as far as this process alone knows.
  """

  _outermost: ClassVar["Preemption | None"] = None

  def __init__(self, grace_seconds: float = 9.0):
    self.grace_seconds = grace_seconds
    self._event = threading.Event()
    self._finished = threading.Event()
    self._saved: Callable[[], str] = lambda: "nothing is saved"

  @property
  def came(self) -> bool:
    return self._event.is_set()

  def tell(self, saved: Callable[[], str]) -> None:
    """Sets what is said if the grace time ends: in words, what is on disk."""
    (Preemption._outermost or self)._saved = saved

  def requested(self) -> bool:
    """Whether to save and stop now; asked by all processes, once a dispatch."""
    if jax.process_count() == 1:
      return self.came
    return multihost_utils.reached_preemption_sync_point(next(_DISPATCHES))

  def __enter__(self) -> "Preemption":
    in_main = threading.current_thread() is threading.main_thread()
    outer = Preemption._outermost
    self._active = in_main and jax.process_count() == 1 and outer is None
    if in_main and outer is not None:
      self._event = outer._event
    if not self._active:
      return self
    Preemption._outermost = self
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)
    self._old_handler = signal.signal(signal.SIGTERM, self._on_signal)
    self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_: object) -> None:
    if not self._active:
      return
    Preemption._outermost = None
    signal.set_wakeup_fd(self._old_fd)
    signal.signal(signal.SIGTERM, self._old_handler)
    os.close(self._write)  # ends the thread: it reads end of file
    self._finished.set()
    self._thread.join()
    os.close(self._read)

  def _on_signal(self, *_: object) -> None:
    self._event.set()

  def _watch(self) -> None:
    while byte := os.read(self._read, 1):
      if byte[0] == signal.SIGTERM:
        self._event.set()
        if not self._finished.wait(self.grace_seconds):
          self._give_up()
        return

  def _give_up(self) -> None:
    saved = "what is on disk stays"
    with contextlib.suppress(OSError):
      saved = self._saved()
    _end(f"no place to stop came within {self.grace_seconds:g} s; {saved}")
