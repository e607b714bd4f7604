"""Phases in order, on one workdir."""

import os
import pathlib
from collections.abc import Sequence

import ml_collections

from nss_jax import config as config_lib
from nss_jax.phases import loop, plan, search, search_program
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
  dataset = data.load(
    config.data.source, path=config.data.path, name=config.data.name
  )
  built = search_program.build(config, dataset, sharding.make_mesh())
  for line in plan.describe(config, dataset, built):
    say(console, line)
  if dry_run:
    return 0
  claim_workdir(config, workdir)
  for phase in phases:
    try:
      _PHASES[phase](config, built, workdir, console)
    except loop.Interrupted as interrupted:
      say(console, f"SIGTERM: {interrupted}; run the same command to go on")
      return EXIT_SAVED
    except loop.Diverged as diverged:
      say(console, f"error: {diverged}")
      return 1
  return 0


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
  search_folder = workdir / "search"
  for folder in (workdir, search_folder, search_folder / "checkpoints"):
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


def _search(config, built, workdir, console) -> None:
  folder = workdir / "search"
  done = folder / "elite_space.json"
  if done.exists():
    say(console, f"already searched: {done}")
    elite = artifacts.read_json(done)
    if not (folder / "trajectory.png").exists():
      search.draw_trajectory(built, elite, folder)
  else:
    elite = search.run(config, built, workdir, console)
  for line in search.report(elite, built, folder):
    say(console, line)


_PHASES = {"search": _search}
