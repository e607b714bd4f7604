"""A tiny search, and the command that runs it as a user would."""

import functools
import importlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np
import quick
from absl.testing import flagsaver

import nss_jax as nss
from nss_jax import data
from nss_jax.phases import elite
from nss_jax.phases.job import Job
from nss_jax.runtime import files, sharding
from nss_jax.spaces import distribution

DIGITS = data.load("digits")
ROOT = pathlib.Path(__file__).parent.parent
# Inputs of each fuzzed reader in `faults/`; set by --cases.
CASES = 60
# Of each file that a phase reads, of which there are many.
CASES_OF_A_FILE = 6
# What runs compile is nearly all of their time; they share it.
_CACHE = tempfile.TemporaryDirectory(prefix="nss_jax_compiled_")
TINY = {
  "space.max_depth": 2,
  "space.num_depth_bins": 2,
  "space.max_width": 8,
  "space.num_width_bins": 4,
  "search.epochs": 5,
  "search.warmup_epochs": 2,
  # 9 steps an epoch, in 3 dispatches of one length: two programs to compile.
  "search.batch_size": 72,
  "search.steps_per_dispatch": 3,
  "search.elite": "paper",
  # It compiles in a quarter of the time; what resumes does not depend on it.
  "supernet.engine": "masked",
  "objective.target_flops": 4e4,
}
# All other phases, as short as they can be.
SHORT_PHASES = {
  "nas.epochs": 1,
  "nas.warmup_epochs": 0,
  "nas.learning_rates": (0.01,),
  "complexity.width_shares": (1.0,),
  "complexity.depth_shares": (1.0,),
  "complexity.num_archs": 20,
  "evaluate.epochs": 1,
  "evaluate.coin_epochs": 0,
  "evaluate.num_archs": 20,
  "evaluate.num_spaces": 2,
  "evaluate.archs_per_space": 4,
  "evaluate.tolerance": 0.5,
  "evaluate.oracle_spaces": 0,
  "evaluate.holdout_fraction": 0.05,
  "evaluate.calibration_images": 20,
  "rank_check.num_archs": 2,
  "rank_check.num_near_archs": 0,
  "rank_check.num_seeds": 1,
  "rank_check.epochs": 1,
}


def load_config(name="quickstart", /, **overrides):
  """Loads the config of a file in `configs/`, with fields replaced."""
  spec = importlib.util.spec_from_file_location(
    name, ROOT / "configs" / f"{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  for path, value in overrides.items():
    *sections, field = path.split(".")
    section = functools.reduce(getattr, sections, config)
    assert field in section, path  # which is ignored otherwise
    config.update_from_flattened_dict({path: value})
  return config


def no_scores(archs):
  """Says that every arch is as good as any other, for `elite.find`."""
  return (np.zeros(len(archs.depth)),) * 2


def saved_flags():
  """Returns a context after which flags are as before.

  It takes away those that are new, also of libraries that are imported within
  it for good, and ask for their own when they are used next.
  """
  importlib.import_module("array_record.python.array_record_data_source")
  return flagsaver.flagsaver()


def make_job(config, workdir=pathlib.Path("unused"), num_devices=1, **more):
  """Makes what a phase is given, to be run in this process, on digits."""
  return Job.open(
    config,
    workdir,
    mesh=sharding.make_mesh(num_devices),
    **{"dataset": DIGITS, **more},
  )


def write_elite(job, depth, width):
  """Writes what a search ends with that is sure of a space, by its bins."""
  space = nss.Space(*(np.array(bins, np.int32) for bins in (depth, width)))
  logits = nss.init_logits(job.search_space)
  hot = distribution.one_hot(space, logits)
  logits = jax.tree.map(lambda x, h: x + 100 * h, logits, hot)
  found = elite.find(job, logits, no_scores)
  files.make_folder(job.workdir / "search")
  found.write(job.workdir / "search" / "elite_space.json")


def cut_lines(path, share):
  """Leaves a share of a file's lines, as a killed process would."""
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join(lines[: int(len(lines) * share)]))


QUICKSTART = ROOT / "configs" / "quickstart.py"


def command(*flags, tiny=True, config=QUICKSTART):
  """Returns the command line of the tiny search, or of another config."""
  fields = TINY if tiny and config == QUICKSTART else {}
  return [
    sys.executable,
    "-m",
    "nss_jax.main",
    *([] if config is None else [f"--config={config}"]),
    *(f"--config.{path}={value}" for path, value in fields.items()),
    *flags,
  ]


def start(*flags, script=None, xla_flags=quick.FLAGS, **kwargs):
  """Starts the command, or a script that stands for it, in the background."""
  arguments = command(*flags, **kwargs)
  if script is not None:
    arguments[1:3] = ["-c", script]
  return subprocess.Popen(
    arguments,
    cwd=ROOT,
    env={
      **os.environ,
      "COLUMNS": "200",
      "JAX_COMPILATION_CACHE_DIR": _CACHE.name,
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(ROOT),
      "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA tells of programs from the cache
      "XLA_FLAGS": xla_flags,
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*flags, **kwargs):
  """Runs the command to its end; returns `(exit code, stdout, stderr)`."""
  process = start(*flags, **kwargs)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err
