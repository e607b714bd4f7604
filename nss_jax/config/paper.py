"""The paper's runs: twelve targets on each of two data sets."""

import re

import ml_collections

from nss_jax.config.schema import base
from nss_jax.errors import UserError

# In MF (1e6 multiply-adds), from Figs. 3, 4, 9 and 10 and Tables 1 and 2.
PAPER_TARGETS_MF = (
  *(200, 400, 600, 1600, 3200, 4000),
  *(6400, 8000, 12000, 16000, 24000, 32000),
)
# The classes, and the side in pixels of the square that Cutout takes out.
_DATASETS = {"cifar10": (10, 16), "cifar100": (100, 8)}
# Multiply-adds: the target of all searches of 4.4, and the window of 4.5.
_COMPLEXITY_TARGET = 600e6
_WINDOW = (360e6, 400e6)


def paper(run: str) -> ml_collections.ConfigDict:
  """Returns the paper's settings for a data set and a target.

  Args:
    run: its name, such as `cifar100_600mf`. The target is in MF, one of
      `PAPER_TARGETS_MF` or any other.

  Raises:
    UserError: if it is not such a name.
  """
  match = re.fullmatch(r"(cifar10|cifar100)_(\d+(?:\.\d+)?)mf", run, re.ASCII)
  target = float(match[2]) * 1e6 if match else 0.0
  if match is None or not target:
    names = " or ".join(f"{dataset}_600mf" for dataset in _DATASETS)
    raise UserError(
      f"config file: {run!r} is not accepted; expected a data set and a target "
      f"in MF, like {names}; the paper's targets are "
      f"{', '.join(map(str, PAPER_TARGETS_MF))}"
    )
  config = base()
  config.name = run
  config.data.source = f"{match[1]}_binary"
  config.data.crop_padding = 4
  config.data.flip = True
  config.space.num_classes, config.train.cutout = _DATASETS[match[1]]
  config.objective.target_flops = target
  # To fit accelerators of 16 GB. Sums are float32 all the same.
  config.supernet.activations = "bfloat16"
  # Divides the 390 steps of a search's epoch and the 625 of an evaluator's into
  # calls of one length each.
  config.search.steps_per_dispatch = 25
  # The images of calibration are computed once for each batch.
  config.evaluate.score_batch_size = 1000
  config.search.elite = "paper"
  config.search.temperature_start = 5.0
  config.search.penalty_growth = 1.0
  config.complexity.target_flops = _COMPLEXITY_TARGET
  # The paper's search for one arch, and what it counts as near (4.3, Table 2).
  config.nas.method = "gradient"
  config.nas.tolerance = 0.1
  config.principles.window = tuple(macs / target for macs in _WINDOW)
  config.sweep.targets = tuple(mf * 1e6 for mf in PAPER_TARGETS_MF)
  return config
