"""A tiny search, and the command that runs it as a user would."""

import importlib.util
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TINY = {
  "space.max_depth": 2,
  "space.num_depth_bins": 2,
  "space.max_width": 8,
  "space.num_width_bins": 4,
  "search.epochs": 5,
  "search.warmup_epochs": 2,
  "search.batch_size": 64,
  "search.steps_per_dispatch": 4,
  "objective.target_flops": 4e4,
}


def load_config(name="quickstart", **overrides):
  """The config of a file in `configs/`, with fields replaced."""
  spec = importlib.util.spec_from_file_location(
    name, ROOT / "configs" / f"{name}.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  for path, value in overrides.items():
    config.update_from_flattened_dict({path: value})
  return config


QUICKSTART = ROOT / "configs" / "quickstart.py"


def command(*flags, tiny=True, config=QUICKSTART):
  """The command line, of the tiny search or of another config."""
  fields = TINY if tiny and config == QUICKSTART else {}
  return [
    sys.executable,
    "-m",
    "nss_jax.main",
    *([] if config is None else [f"--config={config}"]),
    *(f"--config.{path}={value}" for path, value in fields.items()),
    *flags,
  ]


def start(*flags, **kwargs):
  """Starts the command in the background."""
  return subprocess.Popen(
    command(*flags, **kwargs),
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "200"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(*flags, **kwargs):
  """Runs the command to its end: `(exit code, stdout, stderr)`."""
  process = start(*flags, **kwargs)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err
