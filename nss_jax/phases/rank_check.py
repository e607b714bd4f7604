"""The rank_check phase: do scores of the supernet order archs rightly?"""

import pathlib

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import alone, evaluate
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import score_groups
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import rank_agreement, scores, truths
from nss_jax.results.rank_agreement import RankCheck
from nss_jax.runtime import files, processes
from nss_jax.spaces.cost import arch_macs
from nss_jax.spaces.feasible import sample_feasible_archs
from nss_jax.spaces.sampling import sample_uniform_archs
from nss_jax.spaces.search_space import Arch, SearchSpace

_CANDIDATES = 4096


def run(job: Job) -> RankCheck:
  """Trains archs alone and compares their order with the supernet's scores.

  Writes `rank_check/truths.csv` and `scores.csv`. Where the truths are given,
  as a file of another run, nothing is trained alone.
  """
  settings, folder = job.config.rank_check, job.workdir / "rank_check"
  path, groups = folder / "truths.csv", choose_archs(job)
  scored = score_groups(job, folder / "scores.csv", groups)
  if settings.truths:
    content = pathlib.Path(settings.truths).read_bytes()
    processes.run_once(lambda: files.write_bytes(path, content))
  else:
    score_alone = alone.make_score_alone(job, path, epochs=settings.epochs)
    for seed in range(settings.num_seeds):
      for name, archs in groups.items():
        score_alone(truths.seed_source(name, seed), archs, seed)
  return rank_agreement.summarize(
    scored,
    scores.read_scores(path, job.search_space),
    num_resamples=job.config.evaluate.bootstrap_samples,
    seed=job.config.evaluate.seed,
  )


def check(job: Job) -> None:
  """Refuses constraints that too few archs meet, and truths that are none."""
  evaluate.check(job)
  if not job.constraints:  # the only one, of latency, is measured first
    return
  try:
    choose_archs(job)
  except UserError:
    raise
  except ValueError as error:
    raise UserError(f"config.rank_check.num_near_archs: {error}") from None


def plan(job: Job) -> str:
  """Says what is trained alone."""
  settings = job.config.rank_check
  if settings.truths:
    return f"the archs of {settings.truths}, by the supernet"
  return (
    f"{settings.num_archs} + {settings.num_near_archs} archs alone, "
    f"{settings.num_seeds} seeds, {settings.epochs} epochs each"
  )


def choose_archs(job: Job) -> dict[str, Arch]:
  """Returns archs `[k, S]` of each group: those of the given truths, or draws.

  Drawn are archs spread evenly in the logarithm of their multiply-adds, and
  archs that meet every constraint within `evaluate.tolerance`.
  """
  settings, search_space = job.config.rank_check, job.search_space
  if settings.truths:
    return _archs_of(settings.truths, search_space)
  spread_rng, near_rng = jax.random.split(job.evaluator_key)
  groups, (spread, near) = {}, truths.GROUPS
  if settings.num_archs:
    groups[spread] = _draw_spread(spread_rng, search_space, settings.num_archs)
  if settings.num_near_archs:
    groups[near] = sample_feasible_archs(
      near_rng,
      search_space,
      job.constraints,
      job.config.evaluate.tolerance,
      settings.num_near_archs,
    )
  return groups


def _draw_spread(
  rng: jax.Array, search_space: SearchSpace, num_archs: int
) -> Arch:
  """Draws archs `[n, S]` spread evenly in the logarithm of multiply-adds."""
  drawn = sample_uniform_archs(rng, search_space, _CANDIDATES)
  logs = np.log(arch_macs(search_space, drawn))
  order = np.argsort(logs, kind="stable")
  marks = np.linspace(logs.min(), logs.max(), num_archs)
  places = np.searchsorted(logs[order], marks).clip(0, _CANDIDATES - 1)
  return jax.tree.map(lambda x: x[order[places]], drawn)


def _archs_of(file: str, search_space: SearchSpace) -> dict[str, Arch]:
  """Returns the archs of truths that are kept; refuses a file where no group
  has two archs, or where the seeds of one differ in them."""
  table, groups = scores.read_scores(file, search_space), {}
  for name in truths.GROUPS:
    archs = table.group(truths.seed_source(name, 0))
    if len(archs) < 2:
      continue
    try:
      whole = not np.isnan(truths.by_seed(table, name, archs)).any()
    except UserError as error:
      raise UserError(f"{file}: {error}") from None
    if not whole:
      raise UserError(
        f"{file}: not all seeds have the {len(archs)} archs of {name}"
      )
    groups[name] = Arch(
      depth=archs.depth.astype(np.int32), width=archs.width.astype(np.int32)
    )
  if not groups:
    raise UserError(
      f"{file}: expected two archs or more of the source "
      f"{' or '.join(truths.seed_source(name, 0) for name in truths.GROUPS)}"
    )
  return groups


PHASE = Phase(
  "rank_check",
  run,
  rank_agreement.describe,
  reads=(*SEARCH, "evaluate", "rank_check"),
  check=check,
  plan=plan,
  read=RankCheck.read,
)
