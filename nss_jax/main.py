"""Network Space Search: find the range of depths and widths worth training.

  python -m nss_jax.main --config=configs/quickstart.py

FLOPs are multiply-adds (MACs) everywhere: convolutions and the fully connected
layer, nothing for normalisation, ReLU, additions and pooling. 1 MF = 1e6,
1 GF = 1e9.

A config is a Python file: run only those you trust. Any field can be set on
the command line: --config.seed=1 --config.objective.target_flops=2e6.

Exit codes: 0 done, 1 the search diverged, 2 bad input, 75 saved after SIGTERM:
run the same command to go on.
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from nss_jax import config as config_lib

PHASES = ("search",)

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "config file, or file:argument", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "folder of the run (default: runs/<config.name>)"
)
_PHASES = flags.DEFINE_list(
  "phases", "search", f"phases to run, in order: {', '.join(PHASES)}"
)
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "print the plan and stop; nothing is compiled or written"
)


def main(argv: list[str]) -> int:
  """Runs the phases; returns the exit code."""
  # Imported here, so that --help and wrong flags answer at once.
  from nss_jax.phases import pipeline

  if len(argv) > 1:
    return _refuse(f"not a flag: {argv[1]!r}; see --help")
  unknown = [name for name in _PHASES.value if name not in PHASES]
  if unknown or not _PHASES.value:
    return _refuse(
      f"--phases: {','.join(unknown)!r} is not accepted; expected a list of "
      f"{', '.join(PHASES)}"
    )
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # orbax tells each file it writes
  config = _CONFIG.value
  try:
    config_lib.validate(config)
    workdir = pathlib.Path(_WORKDIR.value or f"runs/{config.name}")
    return pipeline.run(config, workdir, _PHASES.value, dry_run=_DRY_RUN.value)
  except pipeline.USER_ERRORS as error:
    return _refuse(str(error))
  except KeyboardInterrupt:
    print("interrupted; run the same command to go on", file=sys.stderr)
    return 130


def parse_flags(argv: list[str]) -> list[str]:
  """absl's parser, with one line and exit code 2 for what is wrong."""
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is None:
      raise ValueError("--config is missing; try configs/quickstart.py")
    # A file that cannot be loaded is reported at its first use only.
    _CONFIG.value.to_dict()
    return rest
  except SystemExit:
    sys.exit(0)  # --help was answered; absl would exit with 1
  except Exception as error:
    # A config file is code, so anything can come out of it.
    sys.exit(_refuse(_one_line(error)))


def _refuse(line: str) -> int:
  print(f"error: {line}", file=sys.stderr)
  return 2


def _one_line(error: Exception) -> str:
  text = str(error)
  if "Traceback" in text:  # ml_collections quotes the whole of it
    text = text.strip().splitlines()[-1]
  # A KeyError prints its message as a literal.
  text = text.replace("\\n", " ").replace("\\'", "'")
  return " ".join(text.split()).strip("\"'") or type(error).__name__


def run() -> None:
  """The command."""
  app.run(main, flags_parser=parse_flags)


if __name__ == "__main__":
  run()
