"""The report phase: what a workdir holds, as tables, pictures and a page."""

import pathlib
import shlex
from typing import Any

from flax import traverse_util

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import running
from nss_jax.phases.job import Job
from nss_jax.phases.registry import Phase
from nss_jax.results import overview, page
from nss_jax.results.contents import Contents, is_empty, read_contents
from nss_jax.results.overview import FOLDER, RESULT, Facts
from nss_jax.runtime import files, processes
from nss_jax.spaces.constraints import describe_targets


def run(job: Job) -> dict[str, Any]:
  """Writes `report/` from the files of the workdir, where nothing is computed,
  and returns the content of `report/report.json`.

  If there is nothing to report, or a file is not what it should be, the report
  that was there stays as it was.
  """
  check(job)

  def write() -> None:
    contents = read_contents(job.workdir, job.search_space)
    page.write(job.workdir / FOLDER, facts(job, contents), contents)

  processes.run_once(write)
  return files.read_json(job.workdir / FOLDER / RESULT)


def check(job: Job) -> None:
  """Refuses, naming the command, if nothing is to report or to be run."""
  if set(job.phases) == {FOLDER} and is_empty(job.workdir):
    raise UserError(
      f"{job.workdir}: nothing to report; run {_command(job, 'search', ' ')}"
    )


def show(result: dict[str, Any], folder: pathlib.Path) -> list[str]:
  """Tells where the report is, and what it lacks."""
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
  config, refused = job.config, running.refused(job.config)
  if not (contents.sweep or config.sweep.targets):
    refused.append("sweep")
  return Facts(
    name=config.name,
    dataset=_dataset_name(config),
    target_flops=job.target,
    target=describe_targets(job.constraints),
    seed=config.seed,
    warmup_epochs=config.search.warmup_epochs,
    command=lambda names: _command(job, names),
    phases=[name for name in overview.PHASES if name not in refused],
    sweep_targets=config.sweep.targets,
    sweep_phases=config.sweep.phases,
    num_seeds=config.train.num_seeds,
    settings=_settings(config),
    highlights=_highlights(job),
  )


def _dataset_name(config: config_lib.Config) -> str:
  """Returns the name that the paper's tables have, if they have it."""
  source = config.data.source
  if source == "tfds":
    return config.data.name.partition(":")[0]
  return source.removesuffix("_binary").removesuffix("_python")


def _command(job: Job, phases: str, joint: str = " \\\n  ") -> str:
  """Returns what a shell takes to run phases on this workdir, a flag a line."""
  words = [
    "python -m nss_jax.main",
    *map(shlex.quote, job.config_flags or ("--config=CONFIG.py",)),
    shlex.quote(f"--workdir={job.workdir}"),
    f"--phases={phases}",
  ]
  return joint.join(words)


def _settings(config: config_lib.Config) -> list[tuple[str, str, str]]:
  """Returns the fields that differ from the defaults, with both values."""
  base, own = (
    traverse_util.flatten_dict(c, sep=".")
    for c in (config_lib.to_json(config_lib.base()), config.to_json())
  )
  return [
    (field, repr(base[field]), repr(value))
    for field, value in own.items()
    if value != base[field]
  ]


def _highlights(job: Job) -> list[str]:
  """Returns what matters most of the settings, a line each."""
  config, found = job.config, job.constraints
  search, objective = config.search, config.objective
  each = ", ".join(f"{one.weight:g} of {one.name}" for one in found)
  weights = f"cost weights {each}"
  if [one.name for one in found] == ["flops"]:
    weights = f"cost weight {found[0].weight:g}"
  return [
    f"{search.epochs} epochs, {search.warmup_epochs} of them warmup; batches "
    f"of {search.batch_size}",
    f"estimator: {search.estimator}, temperature {search.temperature_start:g} "
    f"to {search.temperature_end:g}",
    f"{weights}, on the {objective.penalty} penalty",
    f"logits: learning rate {config.logits.learning_rate:g}",
    f"Elite Space by the rule '{search.elite}'"
    + (
      f", within {100 * search.elite_tolerance:g} % of the target"
      if search.elite == "scored"
      else f", of {search.num_elite_samples} draws"
    ),
    f"seed {config.seed}",
  ]


PHASE = Phase(FOLDER, run, show, result=None, reads=(), check=check)
