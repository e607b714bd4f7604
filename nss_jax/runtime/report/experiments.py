"""The results of the phases principles and complexity, read with suspicion."""

import pathlib
from typing import Any, NamedTuple

from nss_jax.runtime import complexity, files, populations, scores
from nss_jax.runtime.report import fields
from nss_jax.runtime.scores import Scores
from nss_jax.spaces.search_space import SearchSpace

_POPULATION = {
  "count": fields.COUNT,
  "mean_error": fields.SHARE,
  "median_error": fields.SHARE,
  "min_error": fields.SHARE,
  "mean_flops": fields.POSITIVE,
}
_COMPARED = {"mean_difference": fields.NUMBER, "pairs_won": fields.SHARE}
_PRINCIPLES = {
  "window": fields.pair(fields.POSITIVE),
  "own_order": {"note": fields.TEXT},
}
_SPACE = {
  "count": fields.COUNT,
  "mean_error": fields.SHARE,
  "min_error": fields.SHARE,
  "median_flops": fields.POSITIVE,
  "near_count": fields.WHOLE,
  "near_share": fields.SHARE,
  "near_mean_error": fields.maybe(fields.SHARE),
  "near_min_error": fields.maybe(fields.SHARE),
}
_SEARCHED = {
  **_SPACE,
  "max_width": fields.COUNT,
  "max_depth": fields.COUNT,
  "largest_flops": fields.COUNT,
}
_COMPLEXITY = {
  "target_flops": fields.POSITIVE,
  "elite_target_flops": fields.POSITIVE,
  "tolerance": fields.SHARE,
  "elite": _SPACE,
}


SUMMARY = "summary.json"


class Experiment(NamedTuple):
  """What one of the phases has made so far.

  Attributes:
    scores: of its `scores.csv`; None if there is none.
    summary: content of its `summary.json`; None until it has ended.
  """

  scores: Scores | None
  summary: Any  # JSON, whose fields are checked


def read_principles(
  folder: pathlib.Path, search_space: SearchSpace
) -> Experiment:
  """Reads `principles/`.

  Raises:
    UserError: as `read_results`.
  """
  found = _read_experiment(folder, search_space, _PRINCIPLES)
  if found.summary is not None:
    _check_principles(folder / SUMMARY, found.summary)
  return found


def _check_principles(path: pathlib.Path, content: dict[str, Any]) -> None:
  sources = fields.one_of(
    *(f"{k}_{c}" for k in populations.KINDS for c in populations.COSTS)
  )
  for name, shape in (
    ("groups", _POPULATION),
    ("against_principles", _COMPARED),
    ("missing", fields.TEXT),
  ):
    fields.check_each(path, content.get(name), sources, shape, name)
  trends = fields.one_of(*populations.TRENDS)
  pairs = {"pairs": fields.WHOLE}
  fields.check_each(path, content.get("matched"), trends, pairs, "matched")
  for kind, found in content["matched"].items():
    if found["pairs"]:
      groups = dict.fromkeys((populations.PRINCIPLES, kind), _POPULATION)
      shape = {**_COMPARED, **groups}
      fields.check(path, found, shape, f"matched.{kind}")


def read_complexity(
  folder: pathlib.Path, search_space: SearchSpace
) -> Experiment:
  """Reads `complexity/`.

  Raises:
    UserError: as `read_results`.
  """
  found = _read_experiment(folder, search_space, _COMPLEXITY)
  if found.summary is not None:
    spaces = found.summary.get("spaces")
    names = fields.Kind(
      lambda x: complexity.parse_name(x) is not None, "a name like w128_d4"
    )
    fields.check_each(folder / SUMMARY, spaces, names, _SEARCHED, "spaces")
  return found


def read_target(path: pathlib.Path) -> float:
  """The target in the `config.json` of a run, in multiply-adds.

  Raises:
    UserError: if it is not there.
  """
  content = files.read_json(path)
  shape = {"objective": {"target_flops": fields.POSITIVE}}
  fields.check(path, content, shape)
  return content["objective"]["target_flops"]


def _read_experiment(
  folder: pathlib.Path, search_space: SearchSpace, shape: dict[str, Any]
) -> Experiment:
  path, summary = folder / "scores.csv", None
  if (folder / SUMMARY).exists():
    summary = files.read_json(folder / SUMMARY)
    fields.check(folder / SUMMARY, summary, shape)
  table = scores.read_scores(path, search_space) if path.exists() else None
  return Experiment(table, summary)
