"""Phases in order, on one workdir."""

import functools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_collections

from nss_jax import config as config_lib
from nss_jax.phases import (
  complexity,
  evaluate,
  latency_budget,
  latency_table,
  loop,
  nas,
  plan,
  principles,
  rank_check,
  report,
  search,
  search_program,
  sweep,
  train,
  train_program,
)
from nss_jax.phases.job import Job
from nss_jax.phases.program import check_batch
from nss_jax.phases.streaming import image_memory
from nss_jax.runtime import (
  artifacts,
  canary,
  compile_cache,
  data,
  lock,
  processes,
  sharding,
  tensorboard,
)
from nss_jax.runtime.checkpoint import CheckpointError
from nss_jax.runtime.log import make_console, say
from nss_jax.runtime.preemption import EXIT_SAVED, Preemption
from nss_jax.runtime.watch import DEFAULT_VIEWING, Viewing
from nss_jax.supernet import conv


class WorkdirError(ValueError):
  """A workdir that cannot be used, in one line."""


USER_ERRORS = (
  config_lib.ConfigError,
  data.DataError,
  artifacts.ArtifactError,
  canary.BrokenBackend,
  CheckpointError,
  WorkdirError,
  processes.FirstFailed,
  processes.ProcessesError,
  tensorboard.TensorBoardError,
)
# A disk that is full or read-only. Caught first: some are user errors too.
WRITE_ERRORS = (OSError, processes.NotWritten)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  phases: Sequence[str],
  *,
  archs: Sequence[str] = (),
  sweep_index: int | None = None,
  dry_run: bool = False,
  take_over: bool = False,
  compiled: str = "",
  config_flags: Sequence[str] = (),
  viewing: Viewing = DEFAULT_VIEWING,
) -> int:
  """Runs phases and returns the exit code of the command.

  Args:
    config: valid.
    workdir: of the run.
    phases: names, in order.
    archs: for the train phase, instead of those that the nas phase has found.
    sweep_index: the only target of the sweep to run; None: all, summed up.
    dry_run: print the plan and stop.
    take_over: whether a process that was on another host has surely ended.
    compiled: folder that keeps compiled programs; empty: none of our own.
    config_flags: the flags that give the config, to tell the next command.
    viewing: what is shown meanwhile.

  Raises:
    One of `USER_ERRORS`, before anything is compiled or written.
    One of `WRITE_ERRORS`; what was written is whole, and a run goes on there.
  """
  console = make_console()
  if told := compile_cache.set_up("" if dry_run else compiled):
    say(console, told)
  canary.check(conv.conv2d)
  if viewing.tensorboard:
    tensorboard.check()
  _check_index(sweep_index, phases)
  config_lib.check_phases(config, phases)
  config = latency_budget.with_table(config, workdir)
  check_workdir(config, workdir)
  _check_order(phases, workdir, archs)
  try:
    dataset = _load_data(config.data)
  except data.DataError as error:
    for line in error.details:
      say(console, line)
    raise
  mesh = sharding.make_mesh()
  built = search_program.build(
    latency_budget.buildable(config, phases), dataset, mesh
  )
  latency_budget.check_origin(config, workdir, phases)
  texts = tuple(archs), tuple(config_flags)
  job = Job(
    *(config, dataset, mesh, built, workdir, console, *texts),
    take_over=take_over,
    viewing=viewing,
  )
  _check_phases(job, phases)
  swept: list[Job] = []
  if "sweep" in phases:
    swept = [*sweep.jobs(job, sweep_index).values()]
  for one in swept:
    check_workdir(one.config, one.workdir)
    _check_order(config.sweep.phases, one.workdir, ())
    _check_phases(one, config.sweep.phases)
  if sweep_index is not None:
    # Not as the sweep phase, whose folder has one process at a time.
    (job,), phases = map(sweep.build, swept), config.sweep.phases
  for line in plan.describe(job.config, dataset, job.search, phases):
    say(console, line)
  if dry_run:
    return 0
  try:
    claim_workdir(config, workdir)  # that of the sweep, if one target runs
    _run_phases(job, phases)
  except loop.Interrupted as interrupted:
    say(console, f"SIGTERM: {interrupted}; run the same command to go on")
    return EXIT_SAVED
  except loop.Diverged as diverged:
    say(console, f"error: {diverged}")
    return 1
  return 0


def _check_index(index: int | None, phases: Sequence[str]) -> None:
  """One target is for processes side by side: no other phase may be theirs."""
  if index is not None and list(phases) != ["sweep"]:
    raise WorkdirError(
      f"--sweep_index: {index} is not accepted with --phases="
      f"{','.join(phases)}; expected --phases=sweep alone"
    )


def _load_data(settings: ml_collections.ConfigDict) -> data.Dataset:
  """The data set of `config.data`."""
  return data.load(
    settings.source,
    **{name: settings[name] for name in data.OPTIONS},
    synthetic=data.Synthetic(**settings.synthetic),
    memory=image_memory(),
  )


def _check_order(
  phases: Sequence[str], workdir: pathlib.Path, archs: Sequence[str]
) -> None:
  """What a phase reads must be there, or be made by a phase before it."""
  for place, phase in enumerate(phases):
    needed = _PHASES[phase].needs
    if phase == "train" and archs:
      needed = None
    if needed is None or needed in phases[:place]:
      continue
    result = _PHASES[needed].result
    if result is None or not (workdir / needed / result).exists():
      other = " or --arch" if phase == "train" else ""
      raise WorkdirError(
        f"--phases: {phase!r} needs a finished {needed}, and {workdir} holds "
        f"none; expected {needed},{phase}{other}"
      )


# Phases that train or use the stand-alone supernet.
_SCORED = {"evaluate", "rank_check", "principles", "complexity"}


def _check_phases(job: Job, phases: Sequence[str]) -> None:
  """What each phase refuses, before anything is compiled."""
  parts = job.config, job.search_space, job.dataset.train_labels
  if _SCORED & set(phases):
    microbatches = job.config.supernet.microbatches
    check_batch(job.config, job.mesh, "evaluate", microbatches=microbatches)
  if (_SCORED - {"complexity"}) & set(phases):
    evaluate.check(*parts)
  if "rank_check" in phases:
    rank_check.check(*parts[:2])
  if "complexity" in phases:
    complexity.check(*parts)
  if "latency_table" in phases:
    latency_table.held_out(job.search_space, job.config.latency_table)
  if "train" in phases:
    _check_training(job)
  if set(phases) == {"report"}:
    report.check(job)
  if "principles" in phases:
    for name, why in principles.draw_populations(job).missing.items():
      say(job.console, f"warning: principles: no {name}: {why}")


def _check_training(job: Job) -> None:
  config = job.config
  try:
    train.check(config, job.archs, job.search_space)
  except ValueError as error:
    raise WorkdirError(f"--arch: {error}") from None
  train_program.check(config, job.search_space)
  check_batch(config, job.mesh, "train")
  batch, images = config.train.batch_size, len(job.dataset.train_labels)
  if batch > images:
    raise config_lib.ConfigError(
      f"config.train.batch_size: {batch} is not accepted; expected at most the "
      f"{images} images"
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
    artifacts.read_json(workdir / "config.json"), config_lib.record(config)
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
  artifacts.make_folder(workdir)
  if not (workdir / "config.json").exists():
    artifacts.write_json(workdir / "config.json", config_lib.record(config))


class _Phase(NamedTuple):
  """A program and its words.

  Attributes:
    result: the file that says it is finished; None: it always runs, since what
      it reads may have changed, and does nothing twice.
    run: does it all, or goes on.
    report: the result in words.
    needs: the phase whose result it reads.
  """

  result: str | None
  run: Callable[[Job], dict[str, Any]]
  report: Callable[[dict[str, Any], Job], list[str]]
  needs: str | None = None


def _run_phases(job: Job, phases: Sequence[str]) -> None:
  """Runs phases on a workdir, in order.

  Raises:
    Interrupted: after SIGTERM, before the next phase if not within one.
  """
  with Preemption() as preemption:
    claim_workdir(job.config, job.workdir)
    for phase in phases:
      if preemption.requested():
        raise loop.Interrupted(f"stopped before {phase}")
      _run_phase(phase, job)


_PHASES = {
  "search": _Phase("elite_space.json", search.run, search.report),
  "evaluate": _Phase("summary.json", evaluate.run, evaluate.report, "search"),
  "rank_check": _Phase("summary.json", rank_check.run, rank_check.report),
  "principles": _Phase("summary.json", principles.run, principles.report),
  "nas": _Phase("summary.json", nas.run, nas.report, "search"),
  "complexity": _Phase(
    "summary.json", complexity.run, complexity.report, "search"
  ),
  "train": _Phase(None, train.run, train.report, "nas"),
  "sweep": _Phase(
    "summary.json",
    functools.partial(sweep.run, run_phases=_run_phases),
    sweep.report,
  ),
  "latency_table": _Phase(
    "summary.json", latency_table.run, latency_table.report
  ),
  "report": _Phase(None, report.run, report.report),
}


def _run_phase(name: str, job: Job) -> None:
  """Runs what is not finished yet, and reports either way."""
  phase = _PHASES[name]
  path = job.workdir / name / (phase.result or "")
  if phase.result and path.exists():
    say(job.console, f"already done: {path}")
    lines = _report_again(phase, path, job)
  else:
    try:
      with lock.exclusive(job.workdir / name, take_over=job.take_over):
        result = phase.run(job)
    except lock.InUse as error:
      raise WorkdirError(f"--workdir: {error}") from None
    if job.viewing.tensorboard:
      folder = job.workdir / name
      processes.first(lambda: tensorboard.write_pictures(folder))
    lines = phase.report(result, job)
  for line in lines:
    say(job.console, line)


# What words of fields that lack or are of another type end in.
_EDITED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _report_again(phase: _Phase, path: pathlib.Path, job: Job) -> list[str]:
  """The words of a result that was read back, which may have been edited."""
  result = artifacts.read_json(path)
  try:
    return phase.report(result, job)
  except artifacts.ArtifactError:
    raise
  except _EDITED as error:
    raise artifacts.ArtifactError(
      f"{path}: is not as its phase has written it "
      f"({type(error).__name__}: {error}); expected the file untouched, or "
      "none, to run the phase again"
    ) from error
