"""The sweep phase: all targets of a data set (paper 4.2, 4.3, Tables 1, 2)."""

from nss_jax.errors import UserError
from nss_jax.phases import running
from nss_jax.phases.job import Job, is_by_target
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import targets
from nss_jax.results.contents import read_contents
from nss_jax.results.targets import SweepSummary
from nss_jax.spaces.text import format_macs


def run(job: Job) -> SweepSummary:
  """Runs the phases of `config.sweep` for each target, then sums them up.

  A target has a workdir of its own, `sweep/<target>`, and the phases there are
  those of any run: what is finished is kept, what was stopped goes on. The
  stand-alone supernet is shared with this run. Writes, where archs are scored,
  `sweep/pareto.png`.
  """
  each = jobs(job)
  for number, one in enumerate(each.values(), 1):
    target = format_macs(one.config.objective.target_flops)
    job.say(f"target {number} of {len(each)}: {target}")
    running.run(one)
  results = [
    (
      one.config.objective.target_flops,
      read_contents(one.workdir, one.search_space),
    )
    for one in each.values()
  ]
  if picture := targets.picture(results):
    picture.write(job.workdir / "sweep" / "pareto.png")
  return targets.summarize([*each], results, job.config.sweep.phases)


def jobs(job: Job, index: int | None = None) -> dict[str, Job]:
  """Returns the job of each target, by the name of its folder: `600mf`.

  With an index, from 0, it is that target alone. Tasks of a job array share
  nothing but the stand-alone supernet, which one of them trains; a sweep of all
  then finds every target done, and sums up.
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
    found[name] = _job_of(job, target, name)
  if index is None:
    return found
  if not 0 <= index < len(found):
    raise UserError(
      f"--sweep_index: {index} is not accepted; expected 0 to "
      f"{len(found) - 1}, a place in the {len(found)} config.sweep.targets"
    )
  return dict([list(found.items())[index]])


def _job_of(job: Job, target: float, name: str) -> Job:
  own = ("--config.sweep.targets", "--config.objective.target_flops")
  try:
    return job.vary(
      # Without the targets, or one more would be another config.
      {"objective.target_flops": target, "sweep.targets": ()},
      workdir=job.workdir / "sweep" / name,
      phases=job.config.sweep.phases,
      archs=(),
      supernets=job.supernets or job.workdir.parent / "supernets",
      config_flags=(
        *(f for f in job.config_flags if f.partition("=")[0] not in own),
        f"--config.objective.target_flops={target!r}",
        "--config.sweep.targets=()",
      ),
    )
  except UserError as error:
    raise UserError(f"config.sweep.targets: {error}") from None


def check(job: Job) -> None:
  """Refuses what the phases of any target refuse."""
  for one in jobs(job).values():
    running.check(one)


def plan(job: Job) -> str:
  """Says which phases run for which targets."""
  settings = job.config.sweep
  wanted = ", ".join(map(format_macs, settings.targets))
  return f"{', '.join(settings.phases)} for {wanted}"


PHASE = Phase(
  "sweep",
  run,
  targets.describe,
  reads=(*SEARCH, "sweep"),
  fits=is_by_target,
  check=check,
  plan=plan,
  read=SweepSummary.read,
)
