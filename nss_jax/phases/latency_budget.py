"""What a budget of latency asks of a run: its table, and where that is."""

import pathlib
from collections.abc import Sequence

import ml_collections

from nss_jax import config as config_lib
from nss_jax.results import block_times

# Without a target that a space may miss.
_ANY = ({"metric": "flops", "target": 1e30, "mode": "at_most"},)


def with_table(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
  """The config with the place of the latency table, if a budget needs one."""
  if config.objective.latency_table or not config_lib.wants_latency(config):
    return config
  config = config.copy_and_resolve_references()
  config.objective.latency_table = str(workdir / block_times.FOLDER)
  return config


def check_origin(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  phases: Sequence[str],
) -> None:
  """Refuses a table of another device for a search that is to begin.

  What has begun goes on, and is evaluated and reported, anywhere.

  Raises:
    UserError: naming both devices, and how to accept the table.
  """
  searches = {"search", "sweep"} & set(phases)
  if any((workdir / phase).exists() for phase in searches):
    return
  objective = config.objective
  if not searches or objective.foreign_latency_table:
    return
  if config_lib.wants_latency(config):
    block_times.check_origin(
      objective.latency_table, config.supernet.activations
    )


def is_measured_first(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  phases: Sequence[str],
) -> bool:
  """Whether the first phase measures the table that the others need."""
  if phases[0] != block_times.FOLDER or not config_lib.wants_latency(config):
    return False
  own = workdir / block_times.FOLDER
  missing = not (own / block_times.SUMMARY).exists()
  here = pathlib.Path(config.objective.latency_table) == own
  return len(phases) == 1 or (missing and here)


def without_latency(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config without budgets that a table is needed for."""
  config = config.copy_and_resolve_references()
  objective = config.objective
  others = [x for x in objective.constraints if x["metric"] != "latency"]
  alone = not others and not objective.cost_weight
  objective.constraints = _ANY if alone else tuple(others)
  if alone:
    config.search.elite = "paper"  # which asks for no space near a target
  return config
