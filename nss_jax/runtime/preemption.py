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
# From the signal to the end of the process.
GRACE_SECONDS = 9
# Every process counts the same; one count for the whole run.
_DISPATCHES = itertools.count()


def sigterm_line(saved: str) -> str:
  """Returns what is said of a process that SIGTERM has ended."""
  return f"SIGTERM: {saved}; run the same command to go on"


def end_at_once() -> None:
  """Lets SIGTERM end the process from now on, with a line and `EXIT_SAVED`.

  It serves until there is a `Preemption`, while nothing is to be saved.
  """
  _listen(
    lambda: None, lambda: _end("nothing was under way that is to be saved")
  )


class Preemption:
  """Notices SIGTERM at once, even while Python waits for a compilation.

  The loop asks `requested()` between dispatches, saves and exits. If it has not
  ended the process when the grace time is over, a thread does, with the same
  code. What was saved before then stays whole, since every file is renamed into
  place.

  It is a context manager. Outside the main thread (in notebooks' workers) it
  does nothing, and `requested()` stays False. Within another one it stands for
  that one: a signal that came too late for the last question of a phase is
  noticed before the next.

  Where a run has many processes the signal belongs to jax: it tells all of
  them, and they settle after which dispatch they stop.

  """

  _outermost: ClassVar["Preemption | None"] = None

  def __init__(self):
    self._event = threading.Event()
    self._finished = threading.Event()
    self._saved: Callable[[], str] = lambda: "nothing is saved"
    self._stop_listening: Callable[[], None] | None = None

  @property
  def came(self) -> bool:
    """Whether SIGTERM has come, as far as this process alone knows."""
    return self._event.is_set()

  def tell(self, saved: Callable[[], str]) -> None:
    """Sets what is said if the grace time ends: in words, what is on disk."""
    (Preemption._outermost or self)._saved = saved

  def requested(self) -> bool:
    """Returns whether to save and stop now; all ask once a dispatch."""
    if jax.process_count() == 1:
      return self.came
    return multihost_utils.reached_preemption_sync_point(next(_DISPATCHES))

  def __enter__(self) -> "Preemption":
    if threading.current_thread() is not threading.main_thread():
      return self
    if Preemption._outermost is not None:
      self._event = Preemption._outermost._event
    elif jax.process_count() == 1:
      Preemption._outermost = self
      self._stop_listening = _listen(self._event.set, self._give_grace)
    return self

  def __exit__(self, *_: object) -> None:
    if self._stop_listening is not None:
      Preemption._outermost = None
      self._finished.set()
      self._stop_listening()

  def _give_grace(self) -> None:
    self._event.set()
    if not self._finished.wait(GRACE_SECONDS):
      saved = "what is on disk stays"
      with contextlib.suppress(OSError):
        saved = self._saved()
      _end(f"no place to stop came within {GRACE_SECONDS} s; {saved}")


def _listen(
  handler: Callable[[], None], act: Callable[[], None]
) -> Callable[[], None]:
  """Listens for SIGTERM; returns what stops that and restores all.

  Python runs signal handlers only between its own instructions, and a process
  that compiles or waits for others is outside of it for long. So the signal
  goes through a pipe to a thread as well: `act` is called there at once, and
  `handler` in the main thread, as soon as Python can.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)

  def listen():
    while byte := os.read(read, 1):
      if byte[0] == signal.SIGTERM:
        act()
        return

  old_handler = signal.signal(signal.SIGTERM, lambda *_: handler())
  old_descriptor = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  thread = threading.Thread(target=listen, daemon=True)
  thread.start()

  def stop():
    signal.set_wakeup_fd(old_descriptor)
    signal.signal(signal.SIGTERM, old_handler)
    os.close(write)  # ends the thread: it reads end of file
    thread.join()
    os.close(read)

  return stop


def _end(saved: str) -> None:
  """Ends the process, from any thread, whatever the main one is doing."""
  with contextlib.suppress(OSError):  # nobody reads it
    # Not by `print`, whose lock the main thread may hold; all that was said
    # before has been flushed.
    os.write(1, f"{sigterm_line(saved)}\n".encode(errors="replace"))
  os._exit(EXIT_SAVED)
