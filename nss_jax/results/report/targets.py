"""What is reported of each target of a sweep (paper Figs. 3, 4, 9, 10)."""

import statistics
from collections.abc import Sequence

import numpy as np

from nss_jax.results import figures, scores
from nss_jax.results import tables as cells
from nss_jax.results.report.tables import (
  format_ranges,
  is_of,
  nas_record,
  networks_table,
)
from nss_jax.results.report.workdir import Results
from nss_jax.results.scores import Scores
from nss_jax.results.tables import NOT_RUN, Record, Table


def record(results: Results, target: float) -> Record:
  """The numbers of one target, from its workdir.

  Costs are multiply-adds, errors shares: the mean over archs by the evaluator,
  and the mean over seeds of the networks that the nas phase has found.
  """
  elite = results.elite or {}
  space = elite.get("space", {})
  found = {
    "target_flops": target,
    **{
      kind: format_ranges(space[kind]) if space else NOT_RUN
      for kind in ("depth", "width")
    },
    "mean_flops": elite.get("mean_flops", NOT_RUN),
    "deviation": elite.get("deviation", NOT_RUN),
  }
  evaluation = results.evaluation or {"groups": {}, "elite_against": {}}
  # A group that was left out has no value; an evaluation that was not run has
  # none yet.
  absent = NOT_RUN if results.evaluation is None else None
  for name, group, number in (
    ("elite_mean_error", scores.ELITE, "mean_error"),
    ("elite_min_error", scores.ELITE, "min_error"),
    ("near_mean_error", scores.EXPANDED_NEAR, "mean_error"),
  ):
    found[name] = evaluation["groups"].get(group, {}).get(number, absent)
  against = evaluation["elite_against"].get(scores.RANDOM_SPACES, {})
  found["percentile"] = against.get("loss", {}).get("percentile", absent)
  for name in ("elite", "expanded"):
    network = results.nas.get(name, {})
    trained = results.trained.get(name, [])
    errors = [run["test_error"] for run in trained if is_of(network, trained)]
    for key in ("arch", "flops", "num_samples"):
      found[f"{name}_{key}"] = network.get(key, NOT_RUN)
    mean = statistics.fmean(errors) if errors else NOT_RUN
    found[f"{name}_test_error"] = mean
  return found


def table(sweep: Sequence[tuple[float, Results]]) -> Table | None:
  """A row per target."""
  columns = (
    ("target", cells.macs("target_flops")),
    ("blocks per stage", cells.text("depth")),
    ("channels per stage", cells.text("width")),
    ("mean cost", cells.macs("mean_flops")),
    ("from target (%)", cells.percent("deviation", "+.1f")),
    ("mean error (%)", cells.percent("elite_mean_error")),
    ("mean error near the target (%)", cells.percent("near_mean_error")),
    ("percentile", cells.number("percentile", ".0f")),
    ("elite network", cells.text("elite_arch")),
    ("its test error (%)", cells.percent("elite_test_error")),
    ("baseline's (%)", cells.percent("expanded_test_error")),
  )
  records = [record(results, target) for target, results in sweep]
  if not records:
    return None
  return Table("targets", "Elite Spaces of all targets", records, columns)


def nas_table(
  sweep: Sequence[tuple[float, Results]], dataset: str
) -> Table | None:
  """Tables 1 and 2 of the paper: the networks found for each target."""
  records = [
    nas_record(results, dataset, target, name)
    for target, results in sweep
    if results.nas
    for name in ("elite", "expanded")
    if name in results.nas
  ]
  if not records:
    return None
  return networks_table(
    "targets_nas",
    f"Networks of all targets on {dataset}",
    records,
    (("target", cells.macs("target_flops")),),
  )


def scored(
  sweep: Sequence[tuple[float, Results]],
) -> list[tuple[float, Scores]]:
  """`(target, scores)` of the targets of which a Pareto panel can be drawn."""
  names = [*figures.FRONT]
  return [
    (target, results.scores)
    for target, results in sweep
    if results.scores is not None
    and np.isin(results.scores.source, names).any()
  ]
