"""The complexity phase: architecture search in ever larger spaces (4.4)."""

import dataclasses
import pathlib

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import evaluate, nas, search, supernet
from nss_jax.phases.job import Job, has_flops
from nss_jax.phases.ledger import score_groups
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import larger_spaces, scores
from nss_jax.results.larger_spaces import Complexity
from nss_jax.results.logits_file import LOGITS, read_logits
from nss_jax.spaces.cost import macs_range
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.search_space import Arch, SearchSpace

# The nas phase has the first streams of its key.
_FIRST_STREAM = 1000


def run(job: Job) -> Complexity:
  """Searches one arch in each space and scores draws of where that ends.

  Writes `complexity/<space>/logits.json` at the end of each search, then
  `complexity/scores.csv` and `flops.png` (Fig. 5). Archs of the Elite Space
  stand beside the draws; those that the evaluate phase has scored are not
  scored again.
  """
  folder, elite = job.workdir / "complexity", job.load_elite()
  path = folder / "scores.csv"
  archs = _draw_archs(job, folder)
  archs[scores.ELITE] = evaluate.elite_archs(job, elite)
  _take_known(job, path)
  table = score_groups(job, path, archs)
  target, tolerance = target_flops(job), job.config.complexity.tolerance
  if picture := larger_spaces.picture(table, target, tolerance):
    picture.write(folder / "flops.png")
  return larger_spaces.summarize(
    table,
    job.search_space,
    target_flops=target,
    elite_target_flops=job.target or target,
    tolerance=tolerance,
  )


def target_flops(job: Job) -> float:
  """Returns the multiply-adds that every search is led to."""
  target = job.config.complexity.target_flops or job.target
  assert target is not None  # or the phase was refused
  return target


def search_spaces(job: Job) -> dict[str, SearchSpace]:
  """Returns the spaces by name, ascending: depths and widths up to a share.

  Every bin has size one, and what else makes a network is as it was.
  """
  whole, spaces = job.search_space, {}
  for width in _shares(job, "width_shares", whole.max_width):
    for depth in _shares(job, "depth_shares", whole.max_depth):
      stages = whole.num_stages
      spaces[larger_spaces.space_name(width, depth)] = dataclasses.replace(
        whole,
        depth_bins=(tuple((n, n) for n in range(1, depth + 1)),) * stages,
        width_bins=(tuple((n, n) for n in range(1, width + 1)),) * stages,
      )
  return spaces


def _shares(job: Job, name: str, largest: int) -> list[int]:
  """Returns shares of the largest number, each a whole number of 1 or more."""
  numbers = []
  for share in getattr(job.config.complexity, name):
    number = share * largest
    if number < 1 or abs(number - round(number)) > 1e-9 * largest:
      raise UserError(
        f"config.complexity.{name}: {share:g} is not accepted; expected a "
        f"share of {largest} that is a whole number, 1 or more"
      )
    numbers.append(round(number))
  return numbers


def check(job: Job) -> None:
  """Refuses a target that a space has no arch for, before compilation."""
  supernet.check(job)
  search.check_training(job)
  target = target_flops(job)
  for name, space in search_spaces(job).items():
    low, high = macs_range(space)
    if not low <= target <= high:
      raise UserError(
        f"config.complexity.target_flops: {target:g} is not accepted; expected "
        f"{low:.6g} to {high:.6g} multiply-adds, what archs of {name} cost; or "
        "other config.complexity.width_shares and depth_shares"
      )


def plan(job: Job) -> str:
  """Says what is searched."""
  spaces = search_spaces(job)
  return (
    f"{len(spaces)} searches of one arch, {job.config.nas.epochs} epochs each: "
    f"{', '.join(spaces)}"
  )


def _draw_archs(job: Job, folder: pathlib.Path) -> dict[str, Arch]:
  """Draws from the distribution that the search of each space ends with."""
  archs = {}
  for index, (name, space) in enumerate(search_spaces(job).items()):
    one = for_flops(job, space)
    logits = _search(job, one, name, folder / name)
    key = jax.random.fold_in(job.keys["nas"], index)
    key = jax.random.fold_in(key, _FIRST_STREAM)
    count = job.config.complexity.num_archs
    archs[name], _ = nas.draw_archs(one, logits, key, count)
  return archs


def for_flops(job: Job, space: SearchSpace) -> Job:
  """Returns the job of a search for the target of this phase and nothing else,
  as in the paper."""
  (flops,) = (one for one in job.constraints if one.name == "flops")
  return job.vary(
    {
      "objective.target_flops": target_flops(job),
      "objective.cost_weight": flops.weight,
      "objective.constraints": (),
    },
    search_space=space,
  )


def _search(job: Job, one: Job, name: str, folder: pathlib.Path) -> SpaceLogits:
  """Returns the logits after the search of one of the spaces.

  The nas phase searches all archs too, so if it has, for the same target and at
  the same rate, its search is taken.
  """
  rate, space = job.config.complexity.learning_rate, one.search_space
  objective = job.config.objective
  if one.target == objective.target_flops and not objective.constraints:
    path = nas.search_folder(job, "expanded", rate) / LOGITS
    if space == job.search_space.refine() and path.exists():
      job.say(f"arch search: {name}, of the nas phase: {path}")
      return read_logits(path, space)
  return nas.search(one, name, rate, folder)


def _take_known(job: Job, path: pathlib.Path) -> None:
  """Copies what the evaluate phase has scored of the Elite Space."""
  folder = job.workdir / "evaluate"
  if not (folder / "summary.json").exists():
    return
  table = scores.read_scores(folder / "scores.csv", job.search_space)
  found = table.group(scores.ELITE)
  known = scores.resume_scores(path, job.search_space).group(scores.ELITE)
  rest = found.select(np.arange(len(known), len(found)))
  if len(rest):
    scores.append_scores(path, job.search_space, rest)


PHASE = Phase(
  "complexity",
  run,
  larger_spaces.describe,
  needs="search",
  reads=(*SEARCH, "evaluate", "nas", "complexity"),
  fits=has_flops,
  check=check,
  plan=plan,
  read=Complexity.read,
)
