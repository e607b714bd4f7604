"""All results that a workdir holds so far, read with suspicion.

Any file may be missing; what is there must be whole and fit the search space.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import files, scores, space_file, truths
from nss_jax.runtime.report import experiments, fields, networks
from nss_jax.runtime.report.experiments import Experiment
from nss_jax.runtime.scores import Scores
from nss_jax.spaces.constraints import MODES
from nss_jax.spaces.metrics import UNITS
from nss_jax.spaces.search_space import SearchSpace, Space

_RANGES = {kind: [fields.pair(fields.COUNT)] for kind in ("depth", "width")}
# Null where the multiply-adds are no budget.
_DEVIATION = fields.maybe(fields.NUMBER)
_COST = {"mean_flops": fields.POSITIVE, "deviation": _DEVIATION}
_SPACE = {
  "space": _RANGES,
  **_COST,
  "probability": fields.SHARE,
  # Null where there are too many spaces to list.
  "rank": fields.maybe(fields.COUNT),
}
# Those that are registered at the time of the check.
_METRIC = fields.Kind(lambda x: x in UNITS, f"one of {', '.join(UNITS)}")
_BUDGET = {
  "metric": _METRIC,
  "mode": fields.one_of(*MODES),
  "target": fields.POSITIVE,
  "mean_cost": fields.NON_NEGATIVE,
  "deviation": fields.NUMBER,
}
_ELITE = {
  **_SPACE,
  "target_flops": fields.maybe(fields.POSITIVE),
  "constraints": [_BUDGET],
  "choice": {
    "rule": fields.one_of("scored", "paper"),
    "tolerance": fields.maybe(fields.NON_NEGATIVE),
    "scored": [
      {
        **_SPACE,
        "loss": fields.maybe(fields.NON_NEGATIVE),
        "loss_error": fields.maybe(fields.NON_NEGATIVE),
        "error": fields.maybe(fields.SHARE),
      }
    ],
  },
  "candidates": [_SPACE],
  "argmax_space": _SPACE,
  "warnings": [fields.TEXT],
  "version": fields.TEXT,
}
_MEASURES = (
  "sampled_cost",
  "expected_cost",
  "train_loss",
  "validation_loss",
  "depth_entropy",
  "width_entropy",
)
_EPOCH = {
  "epoch": fields.COUNT,
  "temperature": fields.POSITIVE,
  **{name: fields.maybe(fields.NON_NEGATIVE) for name in _MEASURES},
  "probabilities": {kind: [[fields.SHARE]] for kind in ("depth", "width")},
}
_COSTS = {
  name: fields.maybe(fields.NON_NEGATIVE)
  for name in ("sampled_cost", "expected_cost")
}
_GROUP = {
  "count": fields.COUNT,
  "num_spaces?": fields.COUNT,
  "mean_error": fields.SHARE,
  "median_error": fields.SHARE,
  "min_error": fields.SHARE,
  "mean_loss": fields.NON_NEGATIVE,
  "mean_flops": fields.POSITIVE,
  "deviation": _DEVIATION,
  "pareto_share": fields.SHARE,
  "hypervolume": fields.NON_NEGATIVE,
}
_MEASURE = {
  "elite": fields.NON_NEGATIVE,
  "best": fields.NON_NEGATIVE,
  "regret": fields.NUMBER,
  "regret_error": fields.NON_NEGATIVE,
  "percentile?": fields.PERCENT,
  "bootstrap_interval?": fields.pair(fields.PERCENT),
  "exact_interval?": fields.pair(fields.PERCENT),
}
_AGAINST = {"num_spaces": fields.COUNT, "loss": _MEASURE, "error": _MEASURE}
_EVALUATION = {
  "target_flops": fields.maybe(fields.POSITIVE),
  "bootstrap": {"confidence": fields.SHARE},
  "pareto_front": fields.WHOLE,
}
_RANGE = fields.Kind(
  lambda x: fields.NUMBER.accepts(x) and -1 <= x <= 1, "a number from -1 to 1"
)
_TAU = fields.maybe(_RANGE)
_CEILING = {"tau": _TAU, "interval": fields.maybe(fields.pair(_RANGE))}
_PREDICTOR = {**_CEILING, "share": fields.maybe(fields.NUMBER)}
_AGREEMENT = {
  "count": fields.COUNT,
  "num_seeds": fields.COUNT,
  "ceiling": _CEILING,
  "predictors": {},
  "verdict": fields.TEXT,
}


class RankScores(NamedTuple):
  """Archs that the supernet scored, and the truths, which may lack some."""

  supernet: Scores
  truths: Scores


class Results(NamedTuple):
  """What a workdir holds; a result that is not there is None or empty.

  Attributes:
    workdir: the folder.
    search_space: of the search, or as the config has it.
    space: the Elite Space.
    elite: content of `search/elite_space.json`.
    epochs: lines of `search/metrics.jsonl`.
    scores: of `evaluate/scores.csv`.
    evaluation: content of `evaluate/summary.json`.
    rank_scores: of `rank_check/scores.csv` and `truths.csv`.
    rank_check: content of `rank_check/summary.json`.
    nas: content of `nas/*/architecture.json` by `networks.NAMES`.
    trained: content of `train/<name>/seed_<k>/result.json` by name, in the
      order of the seeds.
    principles: of `principles/`.
    complexity: of `complexity/`.
    sweep: of `sweep/<target>/`, `(target, results)` in the order of targets.
  """

  workdir: pathlib.Path
  search_space: SearchSpace
  space: Space | None
  elite: Any  # JSON, whose fields are checked
  epochs: list[dict[str, Any]]
  scores: Scores | None
  evaluation: Any
  rank_scores: RankScores | None
  rank_check: dict[str, Any] | None
  nas: dict[str, dict[str, Any]]
  trained: dict[str, list[dict[str, Any]]]
  principles: Experiment
  complexity: Experiment
  sweep: list[tuple[float, "Results"]]


# Each of them alone is worth a report.
SOURCES = (
  "search/elite_space.json",
  "search/metrics.jsonl",
  "evaluate/scores.csv",
  "rank_check/scores.csv",
  "nas/*/architecture.json",
  "train/*/seed_*/result.json",
  "principles/scores.csv",
  "complexity/scores.csv",
)


def found_space(results: Results) -> Space:
  """The Elite Space, for what is shown only if there is one."""
  assert results.space is not None
  return results.space


def found_scores(results: Results) -> Scores:
  """The same of `scores`."""
  assert results.scores is not None
  return results.scores


def is_empty(workdir: pathlib.Path) -> bool:
  """Whether there is nothing to report."""
  return not any(map(_has_results, (workdir, *_swept(workdir))))


def _has_results(workdir: pathlib.Path) -> bool:
  return any(any(workdir.glob(source)) for source in SOURCES)


def _swept(workdir: pathlib.Path) -> list[pathlib.Path]:
  """The workdirs of the targets of a sweep."""
  return sorted(path.parent for path in workdir.glob("sweep/*/config.json"))


def read_results(
  workdir: pathlib.Path, search_space: SearchSpace, *, sweep: bool = True
) -> Results:
  """Reads all results that are there.

  Args:
    workdir: of the run.
    search_space: of the config; that of a finished search goes before it.
    sweep: whether to read the targets of a sweep too.

  Raises:
    UserError: one line with the file and the field, if something is there
      and is not what it should be.
  """
  space, elite = None, None
  path = workdir / "search" / space_file.ELITE_SPACE
  if path.exists():
    search_space, space = space_file.load_space(path)
    elite = _read_elite(path)
  return Results(
    workdir=workdir,
    search_space=search_space,
    space=space,
    elite=elite,
    epochs=read_epochs(workdir / "search" / "metrics.jsonl", search_space),
    scores=_read_scores(workdir / "evaluate" / "scores.csv", search_space),
    evaluation=_read_evaluation(workdir / "evaluate" / "summary.json"),
    rank_scores=_read_rank_scores(workdir / "rank_check", search_space),
    rank_check=_read_rank_check(workdir / "rank_check" / "summary.json"),
    nas=networks.read_nas(workdir / "nas", search_space),
    trained=networks.read_all_trained(workdir / "train", search_space),
    principles=experiments.read_principles(
      workdir / "principles", search_space
    ),
    complexity=experiments.read_complexity(
      workdir / "complexity", search_space
    ),
    sweep=_read_sweep(workdir, search_space) if sweep else [],
  )


def _read_sweep(
  workdir: pathlib.Path, search_space: SearchSpace
) -> list[tuple[float, Results]]:
  found = [
    (
      experiments.read_target(folder / "config.json"),
      # A target has no targets; a link could make a ring.
      read_results(folder, search_space, sweep=False),
    )
    for folder in _swept(workdir)
    if _has_results(folder)
  ]
  return sorted(found, key=lambda pair: pair[0])


def _read_elite(path: pathlib.Path) -> dict[str, Any] | None:
  content = fields.read(path, _ELITE)
  if content is not None:
    # What its words tell of the mode, beside each constraint.
    names = [one["metric"] for one in content["constraints"]]
    costs = dict.fromkeys(names, fields.NON_NEGATIVE)
    fields.check(
      path, content["argmax_space"], {"costs": costs}, "argmax_space"
    )
    if not names:
      raise UserError(f"{path}: constraints: expected one or more, got []")
  return content


def read_epochs(
  path: pathlib.Path, search_space: SearchSpace
) -> list[dict[str, Any]]:
  """The lines of `search/metrics.jsonl`; none where there is no file.

  Raises:
    UserError: as `read_results`.
  """
  if not path.exists():
    return []
  lines = files.read_lines(path)
  for number, line in enumerate(lines, 1):
    place = f"{path}: line {number}"
    fields.check(place, line, _EPOCH)
    budgets = line.get("constraints", {})
    fields.check_each(place, budgets, _METRIC, _COSTS, "constraints")
    if [*budgets] != [*lines[0].get("constraints", {})]:
      raise UserError(f"{place}: constraints: not those of line 1")
    for kind in ("depth", "width"):
      expected = [len(bins) for bins in getattr(search_space, f"{kind}_bins")]
      found = [len(stage) for stage in line["probabilities"][kind]]
      # Stages with fewer bins than another are filled up.
      if len(found) != len(expected) or any(
        have < need for have, need in zip(found, expected, strict=True)
      ):
        raise UserError(
          f"{path}: line {number}: probabilities.{kind}: expected {expected} "
          f"bins, got {found}"
        )
  return lines


def _read_scores(
  path: pathlib.Path, search_space: SearchSpace
) -> Scores | None:
  return scores.read_scores(path, search_space) if path.exists() else None


def _read_evaluation(path: pathlib.Path) -> dict[str, Any] | None:
  content = fields.read(path, _EVALUATION)
  if content is not None:
    names = fields.one_of(*scores.GROUPS)
    for field, shape in (("groups", _GROUP), ("elite_against", _AGAINST)):
      fields.check_each(path, content.get(field), names, shape, field)
  return content


def _read_rank_scores(
  folder: pathlib.Path, search_space: SearchSpace
) -> RankScores | None:
  scored = _read_scores(folder / "scores.csv", search_space)
  if scored is None:
    return None
  path = folder / "truths.csv"
  known = _read_scores(path, search_space)
  if known is None:
    known = scored.select(np.zeros(len(scored), bool))
  for name in truths.GROUPS:
    try:
      truths.by_seed(known, name, scored.group(name))
    except UserError as error:
      raise UserError(f"{path}: {error}") from None
  return RankScores(scored, known)


def _read_rank_check(path: pathlib.Path) -> dict[str, Any] | None:
  content = fields.read(path, {})
  if content is not None:
    names = fields.one_of(*truths.GROUPS)
    fields.check_each(path, content, names, _AGREEMENT, "rank_check")
    for name, group in content.items():
      field = f"rank_check.{name}.predictors"
      kinds = fields.one_of(*truths.PREDICTORS)
      fields.check_each(path, group["predictors"], kinds, _PREDICTOR, field)
  return content
