"""Network Space Search: find the range of depths and widths worth training.

  nss --config=configs/quickstart.py

`python -m nss_jax.main` is the same command. A plain name, as in
--config=quickstart, is that of a config that comes with nss_jax.

FLOPs are multiply-adds (MACs) everywhere. Convolutions and the fully connected
layer count; normalisation, ReLU, additions and pooling do not. 1 MF = 1e6 and
1 GF = 1e9.

A config is a Python file, so run only those you trust. Any field can be set on
the command line: --config.seed=1 --config.objective.target_flops=2e6.

Three commands need no config, and have a --help of their own:
  nss find photos/ --flops=5e6   from images to a trained network
  nss predict net/ cat.jpg       what a network says of images
  nss export net/ --format=onnx  a network for other runtimes

The exit code is 0 when all is done, 1 if a loss diverged, 2 for bad input, 70
for a crash (with a traceback), 74 if a file could not be written (the disk is
full or read-only), 75 if the run was saved after SIGTERM, 130 if it was
interrupted by Ctrl-C, and 141 if nobody reads the output any more (| head -1).
After 75, 130 and 141, and after 74 once there is space, the same command
continues the run.
"""

import os
import pathlib
import sys
import traceback
from typing import Any

from absl import app, flags, logging

from nss_jax import command, subcommands
from nss_jax import config as config_lib
from nss_jax.errors import NotWritten, UserError, one_line
from nss_jax.phases import registry
from nss_jax.runtime import preemption, streams
from nss_jax.runtime.preemption import EXIT_SAVED

# EX_SOFTWARE, since Python's own code, 1, means a divergence.
EXIT_CRASHED = 70
# EX_IOERR: unlike bad input, a full disk may have space the next time.
EXIT_NOT_WRITTEN = 74
# What a shell reports of a process that SIGPIPE has ended.
EXIT_NO_READER = 141


def main(argv: list[str]) -> int:
  """Runs the phases; returns the exit code."""
  if not flags.FLAGS["verbosity"].present:
    # orbax logs each file that it writes, and each thread that a failed save
    # ends. What matters is in the errors that it raises.
    logging.set_verbosity(logging.FATAL)
  # Imported here, so that --help and wrong flags are answered at once.
  from nss_jax.phases import pipeline
  from nss_jax.runtime.progress import ProgressOptions

  if len(argv) > 1:
    return command.refuse(f"not a flag: {argv[1]!r}; see --help")
  phases, known = command.PHASES.value, registry.names()
  phases = registry.of_a_target() if phases == ["all"] else phases
  unknown = [name for name in phases if name not in known]
  if unknown or not phases:
    return command.refuse(
      f"--phases: {','.join(unknown)!r} is not accepted; expected all or a "
      f"list of {', '.join(known)}"
    )
  workdir = pathlib.Path(
    command.WORKDIR.value or f"runs/{command.CONFIG.value.get('name')}"
  )
  try:
    config = config_lib.validate(command.CONFIG.value)
    join_processes()
    return pipeline.run(
      config,
      workdir,
      phases,
      archs=command.ARCH.value,
      sweep_index=command.SWEEP_INDEX.value,
      dry_run=command.DRY_RUN.value,
      topology=command.TOPOLOGY.value,
      price_per_hour=command.PRICE_PER_HOUR.value,
      take_over=command.TAKE_OVER.value,
      compiled=command.COMPILE_CACHE.value or "",
      config_flags=command.given_config(),
      progress=ProgressOptions(
        command.LOG_EVERY.value,
        command.TENSORBOARD.value,
        command.PROFILE.value,
      ),
    )
  except BrokenPipeError:
    raise  # nobody reads the output, which does not mean a full disk
  except pipeline.WRITE_ERRORS as error:
    return _answer_unwritten(error, workdir)
  except UserError as error:
    return command.refuse(str(error))
  except KeyboardInterrupt:
    return _answer_interrupt()


def main_of_words(argv: list[str]) -> int:
  """Runs what is told by a word, see `subcommands`; returns the exit code."""
  logging.set_verbosity(logging.FATAL)
  try:
    return subcommands.main(argv)
  except BrokenPipeError:
    raise
  except (OSError, NotWritten) as error:
    return _answer_unwritten(error, argv[0])
  except KeyboardInterrupt:
    return _answer_interrupt()


def _answer_unwritten(error: Exception, place: Any) -> int:
  text = str(error)
  if isinstance(error, OSError):
    text = f"{error.filename or place}: {error.strerror or error}"
  text = f"{one_line(text, 800)}; run the same command to go on"
  return command.refuse(text, EXIT_NOT_WRITTEN)


def _answer_interrupt() -> int:
  print("interrupted; run the same command to go on", file=sys.stderr)
  return 130


def join_processes() -> None:
  """Joins the other processes of the run, if the flags say there are any."""
  from nss_jax.runtime import processes

  place: dict[str, Any] = {
    name: flag.value for name, flag in command.PLACE.items()
  }
  given = [name for name, value in place.items() if value is not None]
  missing = ", ".join(f"--{name}" for name in place if name not in given)
  if given and missing:
    raise UserError(
      f"--{given[0]}: {place[given[0]]} alone is not accepted; expected "
      f"{missing} too"
    )
  if given or command.DISTRIBUTED.value:
    processes.join(**place, heartbeat_seconds=command.HEARTBEAT_SECONDS.value)


def guarded_main(argv: list[str]) -> int:
  """Runs `main`, and ends the process at once if it has failed.

  Otherwise threads of orbax would wait twenty minutes for what a failed save
  lacks, and one of many processes would wait for all the others, which are in
  the middle of a computation with it.
  """
  import jax

  try:
    is_word = argv[0] in subcommands.WORDS
    code = main_of_words(argv) if is_word else main(argv)
  except BrokenPipeError:
    raise
  except Exception:
    # Says who dies and what it was doing, since all but one of many processes
    # are quiet. Absl's faulthandler shows the stack of crashes below Python.
    from nss_jax.runtime import console, processes

    sys.stdout.flush()
    print(f"error: {processes.describe_own()} dies:", file=sys.stderr)
    for line in console.LAST_LINES:
      print(f"  {line}", file=sys.stderr)
    if not jax.distributed.is_initialized():
      raise
    traceback.print_exc()
    code = EXIT_CRASHED
  in_trouble = code not in (0, EXIT_SAVED) and jax.distributed.is_initialized()
  if code == EXIT_NOT_WRITTEN or in_trouble:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def run() -> None:
  """Runs the command, `nss` or `python -m nss_jax.main`."""
  preemption.end_at_once()
  streams.prepare()
  # absl's --help describes the script that was started.
  sys.modules["__main__"].__doc__ = __doc__
  for flag in flags.FLAGS.get_key_flags_for_module(command.__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  try:
    try:
      if sys.argv[1:] and sys.argv[1] in subcommands.WORDS:
        sys.exit(guarded_main(sys.argv[1:]))
      app.run(guarded_main, flags_parser=command.parse_flags)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    os._exit(EXIT_NO_READER)  # Python would try to write once more
  except Exception:
    traceback.print_exc()
    sys.exit(EXIT_CRASHED)


if __name__ == "__main__":
  run()
