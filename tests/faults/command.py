"""The command in this process, as `main` runs it, but for its flags.

What is fuzzed are files and configs, a case in milliseconds: so what each run
would do anew and alike, the check of the backend and reading the data, is done
once, and a phase that begins to train has accepted all that it read.
"""

import contextlib
import functools
import io
import types
from unittest import mock

from nss_jax import command as flags_lib
from nss_jax import data, main
from nss_jax.phases import loop, pipeline, principles

ACCEPTED = "accepted"


class _Trains(BaseException):
  """The phase has begun to compute."""


def _trains(job, program, folder, *_, **__):
  loop.trim(folder / "metrics.jsonl", program.schedule.num_steps)
  raise _Trains


_load_settings = data.load_settings


@functools.lru_cache(maxsize=4)
def _load_once(settings):
  return _load_settings(settings.value)


class _Settings:
  """`config.data`, equal to others by its values."""

  def __init__(self, value):
    self.value, self._text = value, repr(value)

  def __eq__(self, other):
    return self._text == other._text

  def __hash__(self):
    return hash(self._text)


def call(config, workdir, phases, *, archs=(), dry_run=False, take_over=False):
  """`(exit code, what it says on standard error)`; `ACCEPTED` for a code, if a
  phase has begun to train."""

  def flag(value):
    return types.SimpleNamespace(value=value)

  err = io.StringIO()
  with contextlib.ExitStack() as stack:
    patch = mock.patch.multiple
    for name in (
      patch(
        flags_lib,
        CONFIG=flag(config),
        WORKDIR=flag(str(workdir)),
        PHASES=flag(list(phases)),
        ARCH=flag(list(archs)),
        DRY_RUN=flag(dry_run),
        TOPOLOGY=flag(None),
        PRICE_PER_HOUR=flag(None),
        SWEEP_INDEX=flag(None),
        COMPILE_CACHE=flag(None),
        TAKE_OVER=flag(take_over),
        LOG_EVERY=flag(0.0),
        TENSORBOARD=flag(False),
        PROFILE=flag(False),
        given_config=list,
      ),
      patch(main, join_processes=lambda: None),
      patch(data, load_settings=lambda x, **_: _load_once(_Settings(x))),
      patch(pipeline.backend, check_numbers=lambda convolve: None),
      patch(principles, MAX_DRAWS=2**12),
      patch(loop, run=_trains, run_shared=_trains),
    ):
      stack.enter_context(name)
    stack.enter_context(contextlib.redirect_stderr(err))
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    try:
      code = main.main(["nss_jax"])
    except _Trains:
      code = ACCEPTED
  return code, err.getvalue()


def assert_answered(answer) -> None:
  """It went on, or said in one line of plain text what is wrong."""
  code, err = answer
  if code in (0, ACCEPTED):
    assert not err
    return
  assert code == 2, answer
  assert err.startswith("error: ") and err.endswith("\n"), err
  assert err[:-1].isprintable() and len(err) < 1200, err
