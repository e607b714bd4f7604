"""Phases in order, on one workdir."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import ml_collections
import rich.console

from nss_jax import config as config_lib
from nss_jax.phases import (
  evaluate,
  loop,
  plan,
  rank_check,
  search,
  search_program,
)
from nss_jax.phases.program import Program
from nss_jax.runtime import artifacts, canary, data, sharding
from nss_jax.runtime.checkpoint import CheckpointError
from nss_jax.runtime.log import make_console, say
from nss_jax.runtime.preemption import EXIT_SAVED


class WorkdirError(ValueError):
  """A workdir that cannot be used, in one line."""


USER_ERRORS = (
  config_lib.ConfigError,
  data.DataError,
  artifacts.ArtifactError,
  canary.BrokenBackend,
  CheckpointError,
  WorkdirError,
)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  phases: Sequence[str],
  *,
  dry_run: bool = False,
) -> int:
  """Runs phases and returns the exit code of the command.

  Raises:
    One of `USER_ERRORS`, before anything is compiled or written.
  """
  console = make_console()
  canary.check()
  check_workdir(config, workdir)
  _check_order(phases, workdir)
  dataset = data.load(
    config.data.source, path=config.data.path, name=config.data.name
  )
  mesh = sharding.make_mesh()
  built = search_program.build(config, dataset, mesh)
  if {"evaluate", "rank_check"} & set(phases):
    evaluate.check(config, built.search_space, len(dataset.train_labels))
  for line in plan.describe(config, dataset, built, phases):
    say(console, line)
  if dry_run:
    return 0
  claim_workdir(config, workdir)
  job = Job(config, dataset, mesh, built, workdir, console)
  for phase in phases:
    try:
      _PHASES[phase](job)
    except loop.Interrupted as interrupted:
      say(console, f"SIGTERM: {interrupted}; run the same command to go on")
      return EXIT_SAVED
    except loop.Diverged as diverged:
      say(console, f"error: {diverged}")
      return 1
  return 0


class Job(NamedTuple):
  """What every phase is given."""

  config: ml_collections.ConfigDict
  dataset: data.Dataset
  mesh: jax.sharding.Mesh
  search: Program
  workdir: pathlib.Path
  console: rich.console.Console


def _check_order(phases: Sequence[str], workdir: pathlib.Path) -> None:
  """What is evaluated must have been found."""
  found = (workdir / "search" / "elite_space.json").exists()
  if "evaluate" in phases and "search" not in phases and not found:
    raise WorkdirError(
      f"--phases: 'evaluate' needs a finished search, and {workdir} holds "
      "none; expected search,evaluate"
    )


def check_workdir(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Refuses a workdir that belongs to another config or cannot be written.

  Raises:
    WorkdirError: naming the fields that differ, or the folder.
  """
  try:
    _check_folders(workdir)
    claimed = (workdir / "config.json").exists()
  except OSError as error:  # a name too long, a folder that is not ours
    raise WorkdirError(
      f"--workdir: {workdir} cannot be used: {error.strerror}"
    ) from error
  if not claimed:
    return
  changes = config_lib.differences(
    artifacts.read_json(workdir / "config.json"), config_lib.to_json(config)
  )
  if changes:
    raise WorkdirError(
      f"--workdir: {workdir} holds a run of another config "
      f"({'; '.join(changes)}); choose another workdir"
    )


def _check_folders(workdir: pathlib.Path) -> None:
  """All folders of a run, or the nearest that exist, can be written to."""
  phases = [workdir / phase for phase in _PHASES]
  for folder in (workdir, *phases, workdir / "search" / "checkpoints"):
    existing = folder
    while not existing.exists() and existing != existing.parent:
      existing = existing.parent
    reason = ""
    if not existing.is_dir():
      reason = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
      reason = f"no permission to write to {existing}"
    if reason:
      raise WorkdirError(f"--workdir: {workdir} cannot be written: {reason}")


def claim_workdir(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Makes the folder and writes `config.json`, once."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / "config.json").exists():
      artifacts.write_json(workdir / "config.json", config_lib.to_json(config))
  except OSError as error:
    raise WorkdirError(
      f"--workdir: {workdir} cannot be written: {error.strerror}"
    ) from error


def _search(job: Job) -> None:
  folder = job.workdir / "search"
  done = folder / "elite_space.json"
  if done.exists():
    say(job.console, f"already searched: {done}")
    elite = artifacts.read_json(done)
    if not (folder / "trajectory.png").exists():
      search.draw_trajectory(job.search, elite, folder)
  else:
    elite = search.run(job.config, job.search, job.workdir, job.console)
  for line in search.report(elite, job.search, folder):
    say(job.console, line)


def _evaluate(job: Job) -> None:
  folder = job.workdir / "evaluate"
  done = folder / "summary.json"
  if done.exists():
    say(job.console, f"already evaluated: {done}")
    result = artifacts.read_json(done)
  else:
    result = evaluate.run(
      job.config, job.dataset, job.mesh, job.workdir, job.console
    )
  for line in evaluate.report(result, folder):
    say(job.console, line)


def _rank_check(job: Job) -> None:
  folder = job.workdir / "rank_check"
  done = folder / "summary.json"
  if done.exists():
    say(job.console, f"already checked: {done}")
    result = artifacts.read_json(done)
  else:
    space = job.search.search_space
    result = rank_check.run(
      job.config, space, job.dataset, job.mesh, job.workdir, job.console
    )
  for line in rank_check.report(result, folder):
    say(job.console, line)


_PHASES = {
  "search": _search,
  "evaluate": _evaluate,
  "rank_check": _rank_check,
}
