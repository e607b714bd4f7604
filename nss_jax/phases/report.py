"""The report phase: what a workdir holds, as tables, pictures and a page."""

import shlex
from typing import Any

import ml_collections
from flax import traverse_util

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases.job import Job
from nss_jax.results import overview, page
from nss_jax.results.contents import Contents, is_empty, read_contents
from nss_jax.results.overview import FOLDER, RESULT, Facts
from nss_jax.runtime import files, processes
from nss_jax.spaces.constraints import describe_targets


def run(job: Job) -> dict[str, Any]:
  """Writes `report/` from the files of the workdir; nothing is computed.

  Returns:
    The content of `report/report.json`.

  Raises:
    UserError: if there is nothing to report, or a file is not what it
      should be; the report that was there is as it was.
  """
  check(job)

  def write() -> None:
    contents = read_contents(job.workdir, job.search_space)
    page.write(job.workdir / FOLDER, facts(job, contents), contents)

  processes.run_once(write)
  return files.read_json(job.workdir / FOLDER / RESULT)


def check(job: Job) -> None:
  """Raises UserError, naming the command, if there is nothing to report."""
  if is_empty(job.workdir):
    raise UserError(
      f"{job.workdir}: nothing to report; run {_command(job, 'search', ' ')}"
    )


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Says where the report is, and what it lacks."""
  folder = job.workdir / FOLDER
  lines = ["", f"Report: {folder / 'index.html'}"]
  if result["not_run"]:
    lines.append(f"  not run yet: {', '.join(result['not_run'])}")
  return [
    *lines,
    f"Files in {folder}: index.html, {RESULT}, "
    "tables.md, table_*.csv, pictures as .png and .svg",
  ]


def facts(job: Job, contents: Contents) -> Facts:
  """Takes from the config what a report says of it."""
  config = job.config
  refused = config_lib.refused_phases(config)
  if not (contents.sweep or config.sweep.targets):
    refused.append("sweep")
  phases = [name for name in config_lib.PHASES if name not in refused]
  return Facts(
    name=config.name,
    dataset=_dataset_name(config),
    target_flops=config_lib.flops_target(config),
    target=describe_targets(config_lib.constraints(config)),
    seed=config.seed,
    warmup_epochs=config.search.warmup_epochs,
    command=lambda names: _command(job, names),
    phases=[name for name in overview.PHASES if name in phases],
    sweep_targets=config.sweep.targets,
    sweep_phases=config.sweep.phases,
    num_seeds=config.train.num_seeds,
    settings=_settings(config),
    highlights=_highlights(config),
  )


def _dataset_name(config: ml_collections.ConfigDict) -> str:
  """Returns the name that the paper's tables have, if they have it."""
  source = config.data.source
  if source == "tfds":
    return config.data.name.partition(":")[0]
  return source.removesuffix("_binary").removesuffix("_python")


def _command(job: Job, phases: str, joint: str = " \\\n  ") -> str:
  """What a shell takes to run phases on this workdir, a flag a line."""
  words = [
    "python -m nss_jax.main",
    *map(shlex.quote, job.config_flags or ("--config=CONFIG.py",)),
    shlex.quote(f"--workdir={job.workdir}"),
    f"--phases={phases}",
  ]
  return joint.join(words)


def _settings(config: ml_collections.ConfigDict) -> list[tuple[str, str, str]]:
  base, own = (
    traverse_util.flatten_dict(config_lib.to_json(c), sep=".")
    for c in (config_lib.base(), config)
  )
  return [
    (field, repr(base[field]), repr(value))
    for field, value in own.items()
    if value != base[field]
  ]


def _weights(config: ml_collections.ConfigDict) -> str:
  found = config_lib.constraints(config)
  if [one.name for one in found] == ["flops"]:
    return f"cost weight {found[0].weight:g}"
  each = ", ".join(f"{one.weight:g} of {one.name}" for one in found)
  return f"cost weights {each}"


def _highlights(config: ml_collections.ConfigDict) -> list[str]:
  search, objective = config.search, config.objective
  return [
    f"{search.epochs} epochs, {search.warmup_epochs} of them warmup; batches "
    f"of {search.batch_size}",
    f"estimator: {search.estimator}, temperature {search.temperature_start:g} "
    f"to {search.temperature_end:g}",
    f"{_weights(config)}, on the {objective.penalty} penalty",
    f"logits: learning rate {config.logits.learning_rate:g}",
    f"Elite Space by the rule '{search.elite}'"
    + (
      f", within {100 * search.elite_tolerance:g} % of the target"
      if search.elite == "scored"
      else f", of {search.num_elite_samples} draws"
    ),
    f"seed {config.seed}",
  ]
