"""Phases in order, on one workdir."""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import rich.console

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.data.streaming import image_memory
from nss_jax.errors import Diverged, Interrupted, NotWritten, UserError
from nss_jax.phases import (
  compilation,
  complexity,
  evaluate,
  latency_budget,
  latency_table,
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
from nss_jax.phases import workdir as workdirs
from nss_jax.phases.job import Job
from nss_jax.phases.program import check_batch
from nss_jax.runtime import (
  backend,
  chips,
  files,
  lock,
  processes,
  sharding,
)
from nss_jax.runtime.console import make_console, say
from nss_jax.runtime.preemption import EXIT_SAVED, Preemption, sigterm_line
from nss_jax.runtime.progress import (
  DEFAULT_OPTIONS,
  ProgressOptions,
  check_tensorboard,
  write_pictures,
)
from nss_jax.supernet import conv

# A disk that is full or read-only. Caught first: some are user errors too.
WRITE_ERRORS = (OSError, NotWritten)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  phases: Sequence[str],
  *,
  archs: Sequence[str] = (),
  sweep_index: int | None = None,
  dry_run: bool = False,
  topology: str = "",
  price_per_hour: float = 0.0,
  take_over: bool = False,
  compiled: str = "",
  config_flags: Sequence[str] = (),
  progress: ProgressOptions = DEFAULT_OPTIONS,
) -> int:
  """Runs phases and returns the exit code of the command.

  Args:
    config: valid.
    workdir: of the run.
    phases: names, in order.
    archs: for the train phase, instead of those that the nas phase has found.
    sweep_index: the only target of the sweep to run; None: all, summed up.
    dry_run: print the plan and stop.
    topology: chips that a dry run compiles for; empty: it compiles nothing.
    price_per_hour: of these chips together, for the bill.
    take_over: whether a process that was on another host has surely ended.
    compiled: folder that keeps compiled programs; empty: none of our own.
    config_flags: the flags that give the config, to tell the next command.
    progress: what is shown meanwhile.

  Raises:
    UserError: before anything is compiled or written.
    One of `WRITE_ERRORS`; what was written is whole, and a run goes on there.
  """
  target = chips.find(topology) if topology else None
  if target and not dry_run:
    raise UserError(f"--topology: {topology} needs --dry_run too")
  if target:  # its compiler is all that is needed of it
    jax.config.update("jax_platforms", "cpu")
  backend.check_platform()
  console = make_console()
  if told := backend.set_up_cache("" if dry_run else compiled):
    say(console, told)
  backend.check_numbers(conv.conv2d)
  if progress.tensorboard:
    check_tensorboard()
  _check_index(sweep_index, phases)
  config_lib.check_phases(config, phases)
  config = latency_budget.with_table(config, workdir)
  workdirs.check(config, workdir)
  _check_order(phases, workdir, archs)
  try:
    memory = image_memory()
    dataset = data.load_settings(config.data, memory=memory, fetch=not dry_run)
  except UserError as error:
    for line in error.details:
      say(console, line)
    raise
  mesh = chips.make_mesh(target) if target else sharding.make_mesh()
  prepare = functools.partial(
    _prepare,
    *(dataset, mesh, workdir, console, tuple(archs), tuple(config_flags)),
    take_over=take_over,
    progress=progress,
    sweep_index=sweep_index,
  )
  measured = latency_budget.is_measured_first(config, workdir, phases)
  known = latency_budget.without_latency(config) if measured else config
  job, planned = prepare(known, phases)
  for line in plan.describe(job.config, dataset, job.search, planned):
    say(console, line)
  if measured and planned[1:]:
    say(console, "budget     of latency too, when its table has been measured")
  if target:
    compilation.run(job, planned, target, price_per_hour)
  if dry_run:
    return 0
  try:
    workdirs.claim(config, workdir)  # that of the sweep, if one target runs
    if measured:
      _run_phases(job._replace(config=config), phases[:1])
      if not (rest := phases[1:]):
        return 0
      job, planned = prepare(config, rest)
    _run_phases(job, planned)
  except Interrupted as interrupted:
    say(console, sigterm_line(str(interrupted)))
    return EXIT_SAVED
  except Diverged as diverged:
    say(console, f"error: {diverged}")
    return 1
  return 0


def _prepare(
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
  workdir: pathlib.Path,
  console: rich.console.Console,
  archs: tuple[str, ...],
  config_flags: tuple[str, ...],
  config: ml_collections.ConfigDict,
  phases: Sequence[str],
  *,
  take_over: bool,
  progress: ProgressOptions,
  sweep_index: int | None,
) -> tuple[Job, Sequence[str]]:
  """The job and its phases, checked; those of a target, if one is wanted."""
  built = search_program.build(config, dataset, mesh)
  latency_budget.check_origin(config, workdir, phases)
  job = Job(
    *(config, dataset, mesh, built, workdir, console, archs, config_flags),
    take_over=take_over,
    progress=progress,
  )
  _check_phases(job, phases)
  swept: list[Job] = []
  if "sweep" in phases:
    swept = [*sweep.jobs(job, sweep_index).values()]
  for one in swept:
    workdirs.check(one.config, one.workdir)
    _check_order(config.sweep.phases, one.workdir, ())
    _check_phases(one, config.sweep.phases)
  if sweep_index is None:
    return job, phases
  # Not as the sweep phase, whose folder has one process at a time.
  (job,) = map(sweep.build, swept)
  return job, config.sweep.phases


def _check_index(index: int | None, phases: Sequence[str]) -> None:
  """One target is for processes side by side: no other phase may be theirs."""
  if index is not None and list(phases) != ["sweep"]:
    raise UserError(
      f"--sweep_index: {index} is not accepted with --phases="
      f"{','.join(phases)}; expected --phases=sweep alone"
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
      raise UserError(
        f"--phases: {phase!r} needs a finished {needed}, and {workdir} holds "
        f"none; expected {needed},{phase}{other}"
      )


def _check_phases(job: Job, phases: Sequence[str]) -> None:
  """What each phase refuses, before anything is compiled."""
  parts = job.config, job.search_space, job.dataset.train_labels
  evaluate.check_phases(job, phases)
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
    raise UserError(f"--arch: {error}") from None
  train_program.check(config, job.search_space)
  check_batch(config, job.mesh, "train")
  batch, images = config.train.batch_size, len(job.dataset.train_labels)
  if batch > images:
    raise UserError(
      f"config.train.batch_size: {batch} is not accepted; expected at most the "
      f"{images} images"
    )


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
    workdirs.claim(job.config, job.workdir)
    for phase in phases:
      if preemption.requested():
        raise Interrupted(f"stopped before {phase}")
      preemption.tell(lambda phase=phase: f"{phase} has saved nothing yet")
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
    with lock.exclusive(job.workdir / name, take_over=job.take_over):
      result = phase.run(job)
    if job.progress.tensorboard:
      folder = job.workdir / name
      processes.run_once(lambda: write_pictures(folder))
    lines = phase.report(result, job)
  for line in lines:
    say(job.console, line)


# What words of fields that lack or are of another type end in.
_EDITED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _report_again(phase: _Phase, path: pathlib.Path, job: Job) -> list[str]:
  """The words of a result that was read back, which may have been edited."""
  result = files.read_json(path)
  try:
    return phase.report(result, job)
  except UserError:
    raise
  except _EDITED as error:
    raise UserError(
      f"{path}: is not as its phase has written it "
      f"({type(error).__name__}: {error}); expected the file untouched, or "
      "none, to run the phase again"
    ) from error
