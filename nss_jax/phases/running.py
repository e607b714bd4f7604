"""Phases in order, on one workdir: checked, held, run, written and shown.

Nothing here knows a phase by its name.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from nss_jax import config as config_lib
from nss_jax.errors import Interrupted, UserError
from nss_jax.phases import registry
from nss_jax.phases import workdir as workdirs
from nss_jax.phases.job import Job
from nss_jax.phases.registry import Phase
from nss_jax.results.artifact import Artifact
from nss_jax.runtime import files, lock, processes
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.progress import write_pictures

# What words of fields that lack or are of another type end in.
_EDITED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def refused(config: config_lib.Config) -> list[str]:
  """Lists the phases that could not follow the constraints of a config."""
  return [x for x in registry.names() if not registry.find(x).fits(config)]


def check_names(config: config_lib.Config, phases: Sequence[str]) -> None:
  """Refuses phases that cannot follow the constraints of a config."""
  wrong = [name for name in phases if name in refused(config)]
  if wrong:
    rest = [name for name in phases if name not in wrong] or ["search"]
    raise UserError(
      f"--phases: {', '.join(wrong)} with config.objective.cost_weight 0 is "
      "not accepted: multiply-adds are the only targets known there, and "
      "target_flops is no constraint of this config; expected others, "
      f"--phases={','.join(rest)}"
    )


def check_order(
  phases: Sequence[str], workdir: pathlib.Path, archs: Sequence[str] = ()
) -> None:
  """Refuses a phase that reads what is not there and no phase before makes."""
  for place, name in enumerate(phases):
    needed, by_arch = registry.find(name).needs, name == "train"
    if needed is None or needed in phases[:place] or (by_arch and archs):
      continue
    result = registry.find(needed).result
    if result is None or not (workdir / needed / result).exists():
      other = " or --arch" if by_arch else ""
      raise UserError(
        f"--phases: {name!r} needs a finished {needed}, and {workdir} holds "
        f"none; expected {needed},{name}{other}"
      )


def check(job: Job) -> None:
  """Refuses all that the phases of a job refuse, before anything is compiled;
  a UserError names the field or flag, its value and what is accepted."""
  workdirs.check(job.config, job.workdir)
  check_order(job.phases, job.workdir, job.archs)
  for name in job.phases:
    registry.find(name).check(job)


def run(job: Job) -> None:
  """Runs the phases of a job on its workdir.

  Raises Interrupted after SIGTERM, before the next phase if not within one.
  """
  with Preemption() as preemption:
    job = dataclasses.replace(job, preemption=preemption)
    workdirs.claim(job.config, job.workdir)
    for name in job.phases:
      if preemption.requested():
        raise Interrupted(f"stopped before {name}")
      preemption.tell(lambda name=name: f"{name} has saved nothing yet")
      run_phase(registry.find(name), job)


def run_phase(phase: Phase, job: Job) -> Any:
  """Runs a phase that is not finished yet, shows its result either way, and
  returns it as its file has it.

  Raises UserError if another process runs the phase, or its file was edited.
  """
  folder = job.workdir / phase.name
  path = folder / (phase.result or "")
  if phase.result is not None and path.exists():
    job.say(f"already done: {path}")
    result = (phase.read or files.read_json)(path)
    lines = _show_again(phase, path, result)
  else:
    with lock.exclusive(folder, take_over=job.take_over):
      result = phase.run(job)
      if phase.result is not None:  # it says that the phase is finished
        plain = not isinstance(result, Artifact)
        files.write_json(path, result if plain else result.to_json())
    if job.progress.tensorboard:
      processes.run_once(lambda: write_pictures(folder))
    lines = phase.show(result, folder)
  for line in lines:
    job.say(line)
  return result


def _show_again(phase: Phase, path: pathlib.Path, result: Any) -> list[str]:
  """Tells a result that was read back, which may have been edited."""
  try:
    return phase.show(result, path.parent)
  except UserError:
    raise
  except _EDITED as error:
    raise UserError(
      f"{path}: is not as its phase has written it "
      f"({type(error).__name__}: {error}); expected the file untouched, or "
      "none, to run the phase again"
    ) from error
