"""The complexity phase: architecture search in ever larger spaces (4.4)."""

import dataclasses
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import evaluate, nas, supernet_program
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import open_ledger
from nss_jax.phases.program import base_keys
from nss_jax.runtime import complexity, files, panels, scores
from nss_jax.runtime.console import say
from nss_jax.runtime.logits_file import LOGITS, read_logits
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.cost import largest_macs, macs_range
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_macs

# The nas phase has the first streams of its key.
_FIRST_STREAM = 1000


def run(job: Job) -> dict[str, Any]:
  """Searches one arch in each space and scores draws of where that ends.

  Writes `complexity/<space>/logits.json` at the end of each search, then
  `complexity/scores.csv`, `summary.json` and `flops.png` (Fig. 5). Archs of the
  Elite Space stand beside the draws; those that the evaluate phase has scored
  are not scored again.

  Raises:
    Diverged, Interrupted: as the search.
  """
  config = job.config
  folder = job.workdir / "complexity"
  files.make_folder(folder)
  path = folder / "scores.csv"
  elite = job.load_elite()
  with Preemption() as preemption:
    archs = _draw_archs(job, folder, preemption)
    archs[scores.ELITE] = evaluate.elite_archs(config, job.search_space, elite)
    _take_known(job, path)
    params = evaluate.train_supernet(job, preemption)
    total = sum(len(drawn.depth) for drawn in archs.values())
    with open_ledger(job, params, path, preemption, total) as ledger:
      for name, drawn in archs.items():
        ledger.score(name, drawn)
    table = scores.read_scores(path, job.search_space)
    target, tolerance = target_flops(config), config.complexity.tolerance
    with files.atomic_path(folder / "flops.png") as picture:
      panels.draw_complexity(picture, table, target, tolerance)
    result = {
      "target_flops": target,
      "elite_target_flops": config_lib.flops_target(config),
      "tolerance": tolerance,
      **summarize(table, job.search_space, target, tolerance),
    }
    # Last: this file says that the phase is finished.
    files.write_json(folder / "summary.json", result)
  return result


def target_flops(config: ml_collections.ConfigDict) -> float:
  """Multiply-adds that every search is led to."""
  target = config.complexity.target_flops or config_lib.flops_target(config)
  assert target is not None  # `config.check_phases`
  return target


def _for_flops(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """The config of a search for the target of this phase and nothing else, as in
  the paper."""
  (weight,) = (
    one.weight for one in config_lib.constraints(config) if one.name == "flops"
  )
  config = config.copy_and_resolve_references()
  config.objective.target_flops = float(target_flops(config))
  config.objective.cost_weight = weight
  config.objective.constraints = ()
  return config


def search_spaces(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> dict[str, SearchSpace]:
  """The spaces by name, ascending: all depths and widths up to a share.

  Every bin has size one, and what else makes a network is as it was.

  Raises:
    UserError: if a share of the largest is no whole number of at least 1.
  """
  settings, spaces = config.complexity, {}
  for width in _shares(settings, "width_shares", search_space.max_width):
    for depth in _shares(settings, "depth_shares", search_space.max_depth):
      stages = search_space.num_stages
      spaces[complexity.space_name(width, depth)] = dataclasses.replace(
        search_space,
        depth_bins=(tuple((n, n) for n in range(1, depth + 1)),) * stages,
        width_bins=(tuple((n, n) for n in range(1, width + 1)),) * stages,
      )
  return spaces


def _shares(
  settings: ml_collections.ConfigDict, name: str, largest: int
) -> list[int]:
  numbers = []
  for share in settings[name]:
    number = share * largest
    if number < 1 or abs(number - round(number)) > 1e-9 * largest:
      raise UserError(
        f"config.complexity.{name}: {share:g} is not accepted; expected a "
        f"share of {largest} that is a whole number, 1 or more"
      )
    numbers.append(round(number))
  return numbers


def check(
  config: ml_collections.ConfigDict, search_space: SearchSpace, labels: Any
) -> None:
  """Refuses a target that a space has no arch for, before compilation.

  Raises:
    UserError: naming the space and what it can cost.
    UserError, UserError: if the labels cannot be split for the evaluator.
  """
  supernet_program.check(config, search_space, labels)
  target = target_flops(config)
  for name, space in search_spaces(config, search_space).items():
    low, high = macs_range(space)
    if not low <= target <= high:
      raise UserError(
        f"config.complexity.target_flops: {target:g} is not accepted; expected "
        f"{low:.6g} to {high:.6g} multiply-adds, what archs of {name} cost; or "
        "other config.complexity.width_shares and depth_shares"
      )


def _draw_archs(
  job: Job, folder: pathlib.Path, preemption: Preemption
) -> dict[str, Arch]:
  """Draws from the distribution that the search of each space ends with."""
  config, archs = _for_flops(job.config), {}
  spaces = search_spaces(config, job.search_space)
  for index, (name, space) in enumerate(spaces.items()):
    logits = _search(job, name, space, folder / name, preemption)
    key = jax.random.fold_in(base_keys(config.seed)["nas"], index)
    archs[name], _ = nas.draw_archs(
      config,
      space,
      logits,
      jax.random.fold_in(key, _FIRST_STREAM),
      config.complexity.num_archs,
    )
  return archs


def _search(
  job: Job,
  name: str,
  space: SearchSpace,
  folder: pathlib.Path,
  preemption: Preemption,
) -> SpaceLogits:
  """The logits after the search of a space.

  The nas phase searches all archs too, so if it has, for the same target and at
  the same rate, its search is taken.
  """
  rate, target = job.config.complexity.learning_rate, target_flops(job.config)
  objective = job.config.objective
  if target == objective.target_flops and not objective.constraints:
    path = nas.search_folder(job, "expanded", rate) / LOGITS
    if space == job.search_space.refine() and path.exists():
      say(job.console, f"arch search: {name}, of the nas phase: {path}")
      return read_logits(path, space)
  job = job._replace(config=_for_flops(job.config))
  return nas.search(job, name, rate, space, folder, preemption)


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


def summarize(
  table: scores.Scores,
  search_space: SearchSpace,
  target: float,
  tolerance: float,
) -> dict[str, Any]:
  """`spaces` by name and `elite`, each as `_describe` tells.

  Args:
    table: rows of `complexity/scores.csv`.
    search_space: of the run.
    target: multiply-adds.
    tolerance: relative.
  """
  spaces = {}
  for width, groups in complexity.levels(table).items():
    for depth, group in groups.items():
      stages = np.ones(search_space.num_stages, np.int64)
      largest = Arch(depth=depth * stages, width=width * stages)
      spaces[complexity.space_name(width, depth)] = {
        "max_width": width,
        "max_depth": depth,
        "largest_flops": largest_macs(search_space.only(largest)),
        **_describe(group, target, tolerance),
      }
  elite = complexity.elite(table)
  return {"spaces": spaces, "elite": _describe(elite, target, tolerance)}


def _describe(
  group: scores.Scores, target: float, tolerance: float
) -> dict[str, Any]:
  """Numbers of a group, and of its archs within the tolerance (`near_`).

  Errors are shares; those of no arch are null.
  """
  near = group.select(complexity.is_near(group, target, tolerance))
  return {
    "count": len(group),
    "mean_error": float(group.error.mean()),
    "min_error": float(group.error.min()),
    "mean_flops": float(group.flops.mean()),
    "median_flops": float(np.median(group.flops)),
    "near_count": len(near),
    "near_share": len(near) / len(group),
    "near_mean_error": float(near.error.mean()) if len(near) else None,
    "near_min_error": float(near.error.min()) if len(near) else None,
  }


def report(result: dict[str, Any], job: Job) -> list[str]:
  """How many draws meet the target, in words."""
  target = format_macs(result["target_flops"])
  lines = [
    "",
    f"Architecture search for {target} in ever larger spaces: draws within "
    f"{100 * result['tolerance']:g} %",
  ]
  for name, found in {**result["spaces"], "elite": result["elite"]}.items():
    error = "none to score"
    if found["near_count"]:
      error = f"error {100 * found['near_mean_error']:.2f} % mean"
    lines.append(
      f"  {name:12} {found['near_count']:5} of {found['count']:5} archs: "
      f"{error}; median of all {format_macs(found['median_flops'])}"
    )
  folder = job.workdir / "complexity"
  return [
    *lines,
    "",
    f"Files in {folder}: scores.csv, summary.json, flops.png, */{LOGITS}",
  ]
