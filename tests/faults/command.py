"""The command in this process, as `main` runs it, but for its flags.

What is fuzzed are files and configs, a case in milliseconds: so what each run
would do anew and alike, the check of the backend and reading the data, is done
once, and a phase that begins to train has accepted all that it read.
"""

import contextlib
import io
import types
from unittest import mock

from hypothesis import HealthCheck, settings

from nss_jax import command as flags_lib
from nss_jax import data, main
from nss_jax.phases import loop, pipeline, principles

ACCEPTED = "accepted"


def fuzzed(cases):
  """Runs so many cases, however long each takes."""
  return settings(
    max_examples=cases,
    deadline=None,
    suppress_health_check=list(HealthCheck),
  )


class _Trains(BaseException):
  """Says that the phase has begun to compute."""


def _trains(job, program, folder, *_, **__):
  loop.trim(folder / "metrics.jsonl", program.schedule.num_steps)
  raise _Trains


_load_settings, _loaded = data.load_settings, {}


def _load_once(settings, **_):
  """Reads the data of a config, or remembers that of the config before."""
  text = repr(settings)
  if text not in _loaded:
    loaded = _load_settings(settings)
    _loaded.clear()
    _loaded[text] = loaded
  return _loaded[text]


def call(config, workdir, phases, *, archs=(), dry_run=False, take_over=False):
  """Returns exit code and standard error of the command.

  The code is `ACCEPTED` if a phase has begun to train.
  """

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
      patch(data, load_settings=_load_once),
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
  """Expects that it went on, or said what is wrong in one plain line."""
  code, err = answer
  if code in (0, ACCEPTED):
    assert not err
    return
  assert code == 2, answer
  assert err.startswith("error: ") and err.endswith("\n"), err
  assert err[:-1].isprintable() and len(err) < 1200, err
