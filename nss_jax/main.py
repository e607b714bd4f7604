"""Network Space Search: find the range of depths and widths worth training.

  nss --config=configs/quickstart.py

`python -m nss_jax.main` is the same command. A plain name, --config=quickstart,
is a config that comes with nss_jax.

FLOPs are multiply-adds (MACs) everywhere: convolutions and the fully connected
layer, nothing for normalisation, ReLU, additions and pooling. 1 MF = 1e6,
1 GF = 1e9.

A config is a Python file: run only those you trust. Any field can be set on
the command line: --config.seed=1 --config.objective.target_flops=2e6.

Exit codes: 0 done, 1 a loss diverged, 2 bad input, 70 a crash (a traceback),
74 a file could not be written (disk full, read-only), 75 saved after SIGTERM,
130 interrupted by Ctrl-C, 141 the reader of the output is gone (| head -1).
After 74, when there is space, 75, 130 and 141 the same command goes on.
"""

import difflib
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from nss_jax import config as config_lib
from nss_jax.errors import UserError, one_line
from nss_jax.runtime import preemption, streams
from nss_jax.runtime.preemption import EXIT_SAVED

# EX_SOFTWARE. Python's own code of an exception is that of a divergence.
EXIT_CRASHED = 70
# EX_IOERR. Bad input stays bad; a disk may have space the next time.
EXIT_NOT_WRITTEN = 74
# As a shell has it of a process that SIGPIPE has ended.
EXIT_NO_READER = 141

_NO_CONFIG = "--config is missing; try --config=quickstart"

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "config file, file:argument, or the name of one that comes"
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "folder of the run (default: runs/<config.name>)"
)
_PHASES = flags.DEFINE_list(
  "phases",
  "search",
  f"phases to run, in order: {', '.join(config_lib.PHASES)}; "
  "all: all but sweep and latency_table",
)
_ARCH = flags.DEFINE_list(
  "arch", [], "archs to train instead of those found: d3-3-3_w16-32-64"
)
_SWEEP_INDEX = flags.DEFINE_integer(
  "sweep_index", None, "with --phases=sweep: this target only, from 0"
)
_TAKE_OVER = flags.DEFINE_bool(
  "take_over", False, "go on after a process on another host, which has ended"
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "print the plan and stop; nothing is run or written"
)
_TOPOLOGY = flags.DEFINE_string(
  "topology", "", "with --dry_run: chips to compile for, such as v5e-1 or h100"
)
_PRICE_PER_HOUR = flags.DEFINE_float(
  "price_per_hour", 0.0, "with --topology: of the chips together", 0.0
)
_LOG_EVERY = flags.DEFINE_float(
  "log_every",
  60.0,
  "seconds between lines where there is no terminal; 0: a line an epoch",
  lower_bound=0.0,
)
_TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "write scalars and pictures for TensorBoard too"
)
_PROFILE = flags.DEFINE_bool(
  "profile", False, "write a trace of a few calls of each loop, for xprof"
)
_COMPILE_CACHE = flags.DEFINE_string(
  "compile_cache", None, "your own folder of compiled programs; accelerators"
)
_DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "join the processes that srun, mpirun, a TPU pod or Kubernetes has started",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "host:port of process 0; then the next two as well"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "of the run")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "of this one, from 0")
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
  "heartbeat_seconds",
  100,
  "silence after which a process, and with it the run, is dead",
  lower_bound=1,
)


class _ConfigParser(flags.ArgumentParser):
  """ml_collections' parser, which is given the file that is meant."""

  def __init__(self, load: Callable[[str], Any]):
    self._load = load

  def parse(self, argument: str) -> Any:
    try:
      return self._load(config_lib.find_file(argument))
    except UserError as error:
      raise flags.Error(str(error)) from error
    except SystemExit as error:  # which --help raises too
      raise flags.Error(f"--config: {argument} calls {error!r}") from error

  def flag_type(self) -> str:
    return "config file"


flags.FLAGS["config"].parser = _ConfigParser(flags.FLAGS["config"].parser.parse)


def main(argv: list[str]) -> int:
  """Runs the phases; returns the exit code."""
  if not flags.FLAGS["verbosity"].present:
    # orbax tells each file it writes, and of each thread that a failed save
    # ends; what matters is in the errors that it raises.
    logging.set_verbosity(logging.FATAL)
  # Imported here, so that --help and wrong flags answer at once.
  from nss_jax.phases import pipeline
  from nss_jax.runtime.progress import ProgressOptions

  if len(argv) > 1:
    return _refuse(f"not a flag: {argv[1]!r}; see --help")
  phases = _PHASES.value
  phases = config_lib.PHASES_OF_A_TARGET if phases == ["all"] else phases
  unknown = [name for name in phases if name not in config_lib.PHASES]
  if unknown or not phases:
    return _refuse(
      f"--phases: {','.join(unknown)!r} is not accepted; expected all or a "
      f"list of {', '.join(config_lib.PHASES)}"
    )
  config = _CONFIG.value
  workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.get('name')}")
  try:
    config_lib.validate(config)
    _join_processes()
    return pipeline.run(
      config,
      workdir,
      phases,
      archs=_ARCH.value,
      sweep_index=_SWEEP_INDEX.value,
      dry_run=_DRY_RUN.value,
      topology=_TOPOLOGY.value,
      price_per_hour=_PRICE_PER_HOUR.value,
      take_over=_TAKE_OVER.value,
      compiled=_COMPILE_CACHE.value or "",
      config_flags=_config_flags(),
      progress=ProgressOptions(
        _LOG_EVERY.value, _TENSORBOARD.value, _PROFILE.value
      ),
    )
  except BrokenPipeError:
    raise  # of an output that nobody reads, which is no full disk
  except pipeline.WRITE_ERRORS as error:
    return _fail(_explain_write(error, workdir), EXIT_NOT_WRITTEN)
  except UserError as error:
    return _refuse(str(error))
  except KeyboardInterrupt:
    print("interrupted; run the same command to go on", file=sys.stderr)
    return 130


def _join_processes() -> None:
  """Joins the other processes of the run, if the flags say that there are."""
  from nss_jax.runtime import processes

  values: dict[str, Any] = {
    name: flags.FLAGS[name].value
    for name in ("coordinator", "num_processes", "process_id")
  }
  given = [name for name, value in values.items() if value is not None]
  if given and len(given) < len(values):
    missing = ", ".join(f"--{name}" for name in values if name not in given)
    raise UserError(
      f"--{given[0]}: {values[given[0]]} alone is not accepted; expected "
      f"{missing} too"
    )
  if given or _DISTRIBUTED.value:
    processes.join(**values, heartbeat_seconds=_HEARTBEAT_SECONDS.value)


def _config_flags() -> list[str]:
  """The flags that give this config once more."""
  flag = flags.FLAGS["config"]
  fields = config_flags.get_override_values(flag)
  return [
    f"--config={config_flags.get_config_filename(flag)}",
    *(f"--config.{path}={value}" for path, value in fields.items()),
  ]


def parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, with one line and exit code 2 for what is wrong."""
  try:
    rest = flags.FLAGS(argv)
    if not flags.FLAGS["config"].present:
      raise flags.Error(_NO_CONFIG)
    config = _CONFIG.value
    # A file that cannot be loaded is reported at its first use only.
    if not hasattr(config, "to_dict"):
      raise flags.Error(
        f"--config: get_config() returned a {type(config).__name__}; expected "
        "a ConfigDict, such as nss_jax.config.base()"
      )
    return rest
  except SystemExit:
    sys.exit(0)  # --help was answered; absl would exit with 1
  except BrokenPipeError:
    raise
  except Exception as error:
    # A config file is code, so anything can come out of it.
    sys.exit(_refuse(_explain(error, argv)))


def _explain(error: Exception, argv: list[str]) -> str:
  """What was wrong on the command line, in one line."""
  text = str(error)
  match error:
    case flags.UnrecognizedFlagError(flagname=name):
      text = _unknown_flag(name)
    case flags.IllegalFlagValueError():
      text = _explain_value(text)
    case OSError():
      text = f"--config: cannot be loaded: {text.splitlines()[-1].strip()}"
    case flags.Error():
      pass
    case _:
      text = _unknown_field(argv)
      if not text:
        text = f"--config: {type(error).__name__}: {error}"
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not re.search(r"ml_collections|^<", last.filename):
          text += f" ({last.filename}, line {last.lineno})"
  return " ".join(text.split())


def _explain_value(text: str) -> str:
  """absl's `flag --name=value: reason`, in the words of a UserError."""
  parts = re.match(r"flag --([\w.]+)=(.*?): ", text, re.DOTALL)
  if parts is None:
    return text
  name, value = parts.groups()
  if name == "config":  # the reason is a traceback; its end says why
    reason = text.strip().splitlines()[-1]
    return f"--config: {value} cannot be loaded: {reason}"
  kind = flags.FLAGS[name].parser.flag_type()
  if "as a ConfigDict" in text:
    kind = f"one of its fields, such as {name}.field"
  name = name if "." in name else f"--{name}"
  return f"{name}: {value!r} is not accepted; expected {kind}"


def _unknown_flag(name: str) -> str:
  if name.startswith("config."):
    return _NO_CONFIG  # or config.seed would be a flag
  near = difflib.get_close_matches(name, list(flags.FLAGS), 1)
  near = near or config_lib.fields_named(name)
  accepted = " or ".join(f"--{flag}" for flag in near)
  return f"--{name}: no such flag; " + (
    f"did you mean {accepted}?" if near else "see --help"
  )


def _unknown_field(argv: list[str]) -> str:
  """The first `--config.field` that no config has, or an empty string."""
  paths = (arg.lstrip("-").partition("=")[0] for arg in argv if arg[:1] == "-")
  wrong = (config_lib.unknown_field(p) for p in paths if p[:7] == "config.")
  return next(filter(None, wrong), "")


def _explain_write(error: Exception, workdir: pathlib.Path) -> str:
  """Which file could not be written and why, in one line."""
  text = str(error)
  if isinstance(error, OSError):
    text = f"{error.filename or workdir}: {error.strerror or error}"
  return f"{one_line(text, 800)}; run the same command to go on"


def _refuse(line: str) -> int:
  return _fail(line, 2)


def _fail(line: str, code: int) -> int:
  print(f"error: {one_line(line)}", file=sys.stderr)
  return code


def _main(argv: list[str]) -> int:
  """As `main`, and what has failed ends at once.

  Threads of orbax wait twenty minutes for what a failed save lacks; and of many
  processes the orderly end of one is to wait for all the others, which are in
  the middle of a computation with it.
  """
  try:
    code = main(argv)
  except BrokenPipeError:
    raise
  except Exception:
    _tell_last_lines()
    if not _is_one_of_many():
      raise
    traceback.print_exc()
    code = EXIT_CRASHED
  alone_in_trouble = code not in (0, EXIT_SAVED) and _is_one_of_many()
  if code == EXIT_NOT_WRITTEN or alone_in_trouble:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _tell_last_lines() -> None:
  """Before a traceback: who dies, and what it was doing.

  Of many processes all but one are quiet; a crash below Python shows the
  Python stack as well, by the faulthandler that absl turns on.
  """
  from nss_jax.runtime import console, processes

  sys.stdout.flush()
  print(f"error: {processes.describe_own()} dies:", file=sys.stderr)
  for line in console.LAST_LINES:
    print(f"  {line}", file=sys.stderr)


def _is_one_of_many() -> bool:
  import jax

  return jax.distributed.is_initialized()


def run() -> None:
  """The command, `nss` or `python -m nss_jax.main`."""
  preemption.end_at_once()
  streams.prepare()
  if __name__ != "__main__":
    # absl's --help tells of the script that was started.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
      flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  try:
    try:
      app.run(_main, flags_parser=parse_flags)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    os._exit(EXIT_NO_READER)  # Python would try to write once more
  except Exception:
    traceback.print_exc()
    sys.exit(EXIT_CRASHED)


if __name__ == "__main__":
  run()
