"""The flags of the command, and one line for whatever is wrong with them."""

import difflib
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import config_flags

from nss_jax import config as config_lib
from nss_jax.errors import UserError, one_line
from nss_jax.phases import registry

_NO_CONFIG = "--config is missing; try --config=quickstart"

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "the config: a Python file, file:argument, or the name of a config that "
  "comes with nss_jax",
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "the folder of the run (default: runs/<config.name>)"
)
PHASES = flags.DEFINE_list(
  "phases",
  "search",
  f"the phases to run, in order, out of {', '.join(registry.names())}; all "
  "means every one of them except sweep and latency_table",
)
ARCH = flags.DEFINE_list(
  "arch",
  [],
  "the architectures to train, such as d3-3-3_w16-32-64, instead of those that "
  "the nas phase has found",
)
SWEEP_INDEX = flags.DEFINE_integer(
  "sweep_index",
  None,
  "with --phases=sweep: run only this target, counted from 0",
)
TAKE_OVER = flags.DEFINE_bool(
  "take_over",
  False,
  "take over from a process on another host that you know has ended",
)
DRY_RUN = flags.DEFINE_bool(
  "dry_run",
  False,
  "print the plan and stop, without running or writing anything",
)
TOPOLOGY = flags.DEFINE_string(
  "topology",
  "",
  "with --dry_run: the chips to compile for, such as v5e-1 or h100",
)
PRICE_PER_HOUR = flags.DEFINE_float(
  "price_per_hour",
  0.0,
  "with --topology: the price of all these chips together, to print the bill",
  0.0,
)
LOG_EVERY = flags.DEFINE_float(
  "log_every",
  60.0,
  "the seconds between two lines where there is no terminal; 0 prints a line "
  "only at the end of each epoch",
  lower_bound=0.0,
)
TENSORBOARD = flags.DEFINE_bool(
  "tensorboard", False, "also write scalars and pictures for TensorBoard"
)
PROFILE = flags.DEFINE_bool(
  "profile", False, "write a trace of a few calls of each loop, for xprof"
)
COMPILE_CACHE = flags.DEFINE_string(
  "compile_cache",
  None,
  "a folder of your own in which to keep compiled programs; only for "
  "accelerators",
)
DISTRIBUTED = flags.DEFINE_bool(
  "distributed",
  False,
  "join the other processes that srun, mpirun, a TPU pod or Kubernetes has "
  "started for this run",
)
# All three are needed where only the user has started the processes.
PLACE = {
  "coordinator": flags.DEFINE_string(
    "coordinator",
    None,
    "the host:port of process 0, which needs --num_processes and --process_id "
    "too",
  ),
  "num_processes": flags.DEFINE_integer(
    "num_processes", None, "how many processes the run has"
  ),
  "process_id": flags.DEFINE_integer(
    "process_id", None, "the number of this process, counted from 0"
  ),
}
HEARTBEAT_SECONDS = flags.DEFINE_integer(
  "heartbeat_seconds",
  100,
  "a process that is silent for this many seconds counts as dead, and ends the "
  "run",
  lower_bound=1,
)


class _ConfigParser(flags.ArgumentParser):
  """Finds the file that is meant, for the parser of ml_collections."""

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


def given_config() -> list[str]:
  """Returns flags that give the same config again."""
  flag = flags.FLAGS["config"]
  fields = config_flags.get_override_values(flag)
  return [
    f"--config={config_flags.get_config_filename(flag)}",
    *(f"--config.{path}={value}" for path, value in fields.items()),
  ]


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; exits with one line and code 2 if one is wrong."""
  try:
    rest = flags.FLAGS(argv)
    if not flags.FLAGS["config"].present:
      raise flags.Error(_NO_CONFIG)
    config = CONFIG.value
    # Only its first use reports a file that cannot be loaded.
    if not hasattr(config, "to_dict"):
      raise flags.Error(
        f"--config: get_config() returned a {type(config).__name__}; expected "
        "a ConfigDict, such as nss_jax.config.base()"
      )
    return rest
  except SystemExit:
    sys.exit(0)  # --help was answered, where absl would exit with 1
  except BrokenPipeError:
    raise
  except Exception as error:
    # A config file is code, which can raise anything.
    sys.exit(refuse(" ".join(_explain(error, argv).split())))


def _explain(error: Exception, argv: list[str]) -> str:
  """Says what was wrong on the command line."""
  text = str(error)
  match error:
    case flags.UnrecognizedFlagError(flagname=name):
      return _unknown_flag(name)
    case flags.IllegalFlagValueError():
      return _explain_value(text)
    case OSError():
      return f"--config: cannot be loaded: {text.splitlines()[-1].strip()}"
    case flags.Error():
      return text
  # ml_collections has words of its own for a field that no config has.
  fields = config_lib.base().to_dict()
  for path in (arg.lstrip("-").partition("=")[0] for arg in argv):
    wrong = config_lib.missing_field(fields, path)
    if path.startswith("config.") and wrong:
      return wrong
  last = traceback.extract_tb(error.__traceback__)[-1]
  where = f" ({last.filename}, line {last.lineno})"
  hidden = re.search(r"ml_collections|^<", last.filename)
  return f"--config: {type(error).__name__}: {error}{'' if hidden else where}"


def _explain_value(text: str) -> str:
  """Puts absl's `flag --name=value: reason` into the words of a UserError."""
  parts = re.match(r"flag --([\w.]+)=(.*?): ", text, re.DOTALL)
  if parts is None:
    return text
  name, value = parts.groups()
  if name == "config":  # the reason is a traceback, whose end says why
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
  near = near or config_lib.fields_named(config_lib.base().to_dict(), name)
  accepted = " or ".join(f"--{flag}" for flag in near)
  asked = f"did you mean {accepted}?" if near else "see --help"
  return f"--{name}: no such flag; {asked}"


def refuse(line: str, code: int = 2) -> int:
  """Prints what is wrong; returns the exit code."""
  print(f"error: {one_line(line)}", file=sys.stderr)
  return code
