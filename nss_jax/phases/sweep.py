"""The sweep phase: all targets of a data set (paper 4.2, 4.3, Tables 1, 2)."""

from collections.abc import Callable, Sequence
from typing import Any

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import search_program
from nss_jax.phases.job import Job
from nss_jax.runtime import files, panels
from nss_jax.runtime.console import say
from nss_jax.runtime.report import targets
from nss_jax.runtime.report.cells import plain
from nss_jax.runtime.report.workdir import read_results
from nss_jax.spaces.text import format_macs

RunPhases = Callable[[Job, Sequence[str]], None]


def run(job: Job, run_phases: RunPhases) -> dict[str, Any]:
  """Runs the phases of `config.sweep` for each target, then sums them up.

  A target has a workdir of its own, `sweep/<target>`, and the phases there are
  those of any run: what is finished is kept, what was stopped goes on. The
  stand-alone supernet is shared with this run. Writes `sweep/summary.json` and,
  where archs are scored, `sweep/pareto.png`.

  Args:
    job: of all targets.
    run_phases: runs phases, by name, of one target.

  Raises:
    Diverged, Interrupted: as those phases.
  """
  each = jobs(job)
  for number, one in enumerate(each.values(), 1):
    target = format_macs(one.config.objective.target_flops)
    say(job.console, f"target {number} of {len(each)}: {target}")
    run_phases(build(one), job.config.sweep.phases)
  folder = job.workdir / "sweep"
  results = [
    (
      one.config.objective.target_flops,
      read_results(one.workdir, one.search_space),
    )
    for one in each.values()
  ]
  if tables := targets.scored(results):
    with files.atomic_path(folder / "pareto.png") as path:
      panels.draw_targets(path, tables)
  records = plain([targets.record(found, x) for x, found in results])
  result = {
    "phases": list(job.config.sweep.phases),
    "targets": dict(zip(each, records, strict=True)),
  }
  # Last: this file says that the phase is finished.
  files.write_json(folder / "summary.json", result)
  return result


def jobs(job: Job, index: int | None = None) -> dict[str, Job]:
  """The job of each target, by the name of its folder: `600mf`.

  They are checked; until `build` their program is that of the given job, whose
  search space is theirs.

  Args:
    job: of all targets.
    index: of the only target, from 0; None: all. Tasks of a job array share
      nothing but the stand-alone supernet, which one of them trains; a sweep of
      all then finds every target done, and sums up.

  Raises:
    UserError: if there is no target, no such one, or one that no space can
      meet.
  """
  accepted = "multiply-adds, ascending, such as (2e8, 6e8)"
  if not job.config.sweep.targets:
    raise UserError(
      f"config.sweep.targets: () is not accepted; expected {accepted}"
    )
  found = {}
  for target in job.config.sweep.targets:
    name = f"{target / 1e6:g}mf"
    if name in found:
      raise UserError(
        f"config.sweep.targets: two are {name}, the name of their folder; "
        f"expected {accepted}"
      )
    found[name] = _job_of(job, float(target), name)
  if index is None:
    return found
  if not 0 <= index < len(found):
    raise UserError(
      f"--sweep_index: {index} is not accepted; expected 0 to "
      f"{len(found) - 1}, a place in the {len(found)} config.sweep.targets"
    )
  return dict([list(found.items())[index]])


def _job_of(job: Job, target: float, name: str) -> Job:
  config = job.config.copy_and_resolve_references()
  config.objective.target_flops = target
  config.sweep.targets = ()  # or one target more would be another config
  try:
    config_lib.validate_target(config, job.search_space)
  except UserError as error:
    raise UserError(f"config.sweep.targets: {error}") from None
  own = ("--config.sweep.targets", "--config.objective.target_flops")
  return job._replace(
    config=config,
    workdir=job.workdir / "sweep" / name,
    archs=(),
    supernets=job.supernets or job.workdir.parent / "supernets",
    config_flags=(
      *(f for f in job.config_flags if f.partition("=")[0] not in own),
      f"--config.objective.target_flops={target!r}",
      "--config.sweep.targets=()",
    ),
  )


def build(job: Job) -> Job:
  """One of `jobs` with a program of its own, which has a copy of the images."""
  program = search_program.build(job.config, job.dataset, job.mesh)
  return job._replace(search=program)


def report(result: dict[str, Any], job: Job) -> list[str]:
  """A line per target."""
  lines = ["", f"Targets, phases {', '.join(result['phases'])}"]
  for name, found in result["targets"].items():
    words = []
    if found["mean_flops"] is not None:
      words.append(f"Elite Space {100 * found['deviation']:+.1f} % from it")
    if found["elite_mean_error"] is not None:
      words.append(f"error {100 * found['elite_mean_error']:.2f} % mean")
    if found["percentile"] is not None:
      words.append(f"percentile {found['percentile']:.0f} by loss")
    if found["elite_test_error"] is not None:
      words.append(f"test error {100 * found['elite_test_error']:.2f} %")
    target = format_macs(found["target_flops"])
    lines.append(f"  {target:>8}: {', '.join(words)} ({name})")
  folder = job.workdir / "sweep"
  return [*lines, "", f"Files in {folder}: summary.json, pareto.png, */"]
