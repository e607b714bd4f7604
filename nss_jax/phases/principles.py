"""The principles phase: design principles against the paper's trend (4.5)."""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.phases import evaluate, scoring
from nss_jax.phases.job import Job
from nss_jax.phases.program import base_keys
from nss_jax.runtime import artifacts, figures, scores
from nss_jax.runtime.log import Progress, format_macs, say
from nss_jax.runtime.populations import (
  ANY_COST,
  IN_WINDOW,
  PRINCIPLES,
  SOURCES,
  TREND,
  error_edfs,
  matched,
)
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.principles import StageOrder, sample_ordered_archs
from nss_jax.spaces.regnet import sample_anynet_archs, sample_regnet_archs
from nss_jax.spaces.search_space import Arch, SearchSpace

# The paper's window holds one in 1,500 of the archs that follow the trend.
_MAX_DRAWS = 2**22
_SAMPLERS = {
  PRINCIPLES: functools.partial(
    sample_ordered_archs, order=StageOrder.design_principles()
  ),
  TREND: functools.partial(
    sample_ordered_archs, order=StageOrder.elite_trend()
  ),
  "regnet": sample_regnet_archs,
  "anynet": sample_anynet_archs,
}


def run(job: Job) -> dict[str, Any]:
  """Scores networks of both trends and of RegNet on the evaluator (Fig. 6).

  Writes `principles/scores.csv`, `summary.json` and `edf.png`.

  Raises:
    Diverged, Interrupted: as the evaluate phase.
  """
  config, search_space = job.config, job.search_space
  folder = job.workdir / "principles"
  folder.mkdir(parents=True, exist_ok=True)
  groups = populations(config, search_space)
  with Preemption() as preemption:
    params = evaluate.train_supernet(job, preemption)
    score_fn = scoring.make_score_fn(
      config, search_space, job.dataset, job.mesh
    )
    total = sum(len(archs.depth) for archs in groups.values())
    say(job.console, f"scoring {total} archs")
    with Progress(job.console, total) as progress:
      ledger = scoring.Ledger(
        folder / "scores.csv",
        search_space,
        lambda archs: score_fn(params, archs),
        num_per_call=scoring.num_per_call(job.mesh),
        preemption=preemption,
        on_progress=lambda done: progress.update(done, "scoring archs"),
      )
      for name, archs in groups.items():
        ledger.score(name, archs)
    table = scores.read_scores(folder / "scores.csv", search_space)
    result, curves = summarize(table)
    with artifacts.atomic_path(folder / "edf.png") as path:
      figures.draw_error_edfs(path, curves)
    # Last: this file says that the phase is finished.
    artifacts.write_json(folder / "summary.json", result)
  return result


def populations(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> dict[str, Arch]:
  """What is compared, `{kind of network, with a window or without: archs}`.

  Kinds of which a small search space has too few are left out.

  Raises:
    ConfigError: if too few archs of either trend are in the window, or the
      stages are not the three that the paper's trend orders.
  """
  settings = config.principles
  target = config.objective.target_flops
  window = tuple(share * target for share in settings.window)
  rng = jax.random.fold_in(base_keys(config.evaluate.seed)["evaluate"], 1)
  rngs = iter(jax.random.split(rng, 8))
  found = {}
  for kind, costs in ((IN_WINDOW, window), (ANY_COST, None)):
    for name, sample in _SAMPLERS.items():
      try:
        found[f"{name}_{kind}"] = sample(
          next(rngs),
          search_space,
          count=settings.num_archs,
          window=costs,
          max_draws=_MAX_DRAWS,
        )
      except ValueError as error:
        # A small search space may have no RegNet; the two trends must be there.
        if name in (PRINCIPLES, TREND):
          raise config_lib.ConfigError(f"config.principles: {error}") from None
  return found


def summarize(table: scores.Scores) -> tuple[dict[str, Any], dict[str, Any]]:
  """`summary.json`, and the EDFs to draw: `{panel: {name: (errors, share)}}`.

  The third panel pairs archs of equal cost, without a window: what is left of
  the difference when the costs are the same.
  """
  groups = {
    name: _describe(table.group(name))
    for name in dict.fromkeys(table.source.tolist())
  }
  pairs = matched(table)
  result = {
    "groups": groups,
    "matched": {"pairs": len(pairs[TREND])},
    "too_few": [name for name in SOURCES if name not in groups],
  }
  for name, group in pairs.items():
    if len(group):
      result["matched"][name] = _describe(group)
  return result, error_edfs(table)


def _describe(group: scores.Scores) -> dict[str, Any]:
  return {
    "count": len(group),
    "mean_error": float(group.error.mean()),
    "median_error": float(np.median(group.error)),
    "min_error": float(group.error.min()),
    "mean_flops": float(group.flops.mean()),
  }


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Mean errors in words."""
  lines = ["", "Design principles against the trend of Elite Spaces"]
  found = dict(result["groups"])
  of_pairs = dict(result["matched"])
  pairs = of_pairs.pop("pairs")
  for name, group in of_pairs.items():
    found[f"{name}, {pairs} pairs of equal cost"] = group
  for name, group in found.items():
    lines.append(
      f"  {name:40} {group['count']:5} archs of "
      f"{format_macs(group['mean_flops']):>8}: error "
      f"{100 * group['mean_error']:.2f} % mean, "
      f"{100 * group['median_error']:.2f} % median"
    )
  if result["too_few"]:
    lines.append(f"  too few to draw: {', '.join(result['too_few'])}")
  folder = job.workdir / "principles"
  return [*lines, "", f"Files in {folder}: scores.csv, summary.json, edf.png"]
