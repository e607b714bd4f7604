"""The command: a config, a workdir and phases, from the checks to the end."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import ml_collections

from nss_jax import config as config_lib
from nss_jax.errors import Diverged, Interrupted, NotWritten, UserError
from nss_jax.phases import compilation, latency_table, plan, running, sweep
from nss_jax.phases import workdir as workdirs
from nss_jax.phases.job import Job, with_table
from nss_jax.results import load
from nss_jax.runtime import backend, chips, sharding
from nss_jax.runtime.console import make_console, say
from nss_jax.runtime.preemption import EXIT_SAVED, sigterm_line
from nss_jax.runtime.progress import (
  DEFAULT_OPTIONS,
  ProgressOptions,
  check_tensorboard,
)
from nss_jax.supernet import conv

# A disk that is full or read-only. Caught first: some are user errors too.
WRITE_ERRORS = (OSError, NotWritten)


def run(
  config: ml_collections.ConfigDict | config_lib.Config,
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
  """Runs phases in order and returns the exit code of the command.

  The arguments are the flags of the command: see `nss_jax/command.py`;
  `config_flags` are those that give the config, to tell the next command.

  Raises UserError before anything is compiled or written, and one of
  `WRITE_ERRORS` when what was written is whole, and a run goes on there.
  """
  workdirs.check_name(workdir)
  config = with_table(config_lib.validate(config), workdir)
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
  if sweep_index is not None and list(phases) != ["sweep"]:
    # One target is for processes side by side: no other phase may be theirs.
    raise UserError(
      f"--sweep_index: {sweep_index} is not accepted with --phases="
      f"{','.join(phases)}; expected --phases=sweep alone"
    )
  running.check_names(config, phases)
  workdirs.check(config, workdir)
  running.check_order(phases, workdir, archs)
  measured = latency_table.is_measured_first(config, workdir, phases)
  job = Job.open(
    config,
    workdir,
    mesh=chips.make_mesh(target) if target else sharding.make_mesh(),
    console=console,
    fetch=not dry_run,
    with_latency=not measured,
    phases=tuple(phases),
    archs=tuple(archs),
    config_flags=tuple(config_flags),
    take_over=take_over,
    progress=progress,
  )
  if sweep_index is not None:
    # Not as the sweep phase, whose folder has one process at a time.
    (job,) = sweep.jobs(job, sweep_index).values()
  running.check(job)
  for line in plan.describe(job):
    job.say(line)
  if measured and phases[1:]:
    job.say("constraint of latency too, when its table has been measured")
  if target:
    compilation.run(job, target, price_per_hour)
  if dry_run:
    return 0
  try:
    workdirs.claim(config, workdir)  # that of the sweep, if one target runs
    if measured:
      running.run(dataclasses.replace(job, phases=tuple(phases[:1])))
      if not phases[1:]:
        return 0
      rest = tuple(phases[1:])
      job = job.vary({}, phases=rest, with_latency=True)
      running.check(job)
    running.run(job)
    best = workdir / load.BEST
    if best.exists():
      job.say(f"Network: {best}, for nss predict, nss export, load_network")
  except Interrupted as interrupted:
    job.say(sigterm_line(str(interrupted)))
    return EXIT_SAVED
  except Diverged as diverged:
    job.say(f"error: {diverged}")
    return 1
  return 0
