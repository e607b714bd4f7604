"""All results that a workdir holds so far, read with suspicion.

Any file may be missing; what is there must be whole and fit the search space.
"""

import pathlib
from typing import Any, NamedTuple

from nss_jax.runtime import artifacts, scores, space_file
from nss_jax.runtime.artifacts import ArtifactError
from nss_jax.runtime.report import experiments, fields
from nss_jax.runtime.report.experiments import Experiment
from nss_jax.runtime.scores import Scores
from nss_jax.spaces import cost
from nss_jax.spaces.search_space import SearchSpace, Space
from nss_jax.spaces.text import format_arch, parse_arch

# Where networks come from: searched inside the Elite Space and in the whole
# search space, and the uniform draws that each is measured against.
NAS_NAMES = ("elite", "elite_uniform", "expanded", "expanded_uniform")

_RANGES = {kind: [fields.pair(fields.COUNT)] for kind in ("depth", "width")}
_COST = {"mean_flops": fields.POSITIVE, "deviation": fields.NUMBER}
_ELITE = {
  **_COST,
  "target_flops": fields.POSITIVE,
  "candidates": [{"space": _RANGES, **_COST}],
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
_GROUP = {
  "count": fields.COUNT,
  "num_spaces?": fields.COUNT,
  "mean_error": fields.SHARE,
  "median_error": fields.SHARE,
  "min_error": fields.SHARE,
  "mean_loss": fields.NON_NEGATIVE,
  "mean_flops": fields.POSITIVE,
  "deviation": fields.NUMBER,
  "pareto_share": fields.SHARE,
  "hypervolume": fields.NON_NEGATIVE,
}
_MEASURE = {
  "elite": fields.NON_NEGATIVE,
  "best": fields.NON_NEGATIVE,
  "regret": fields.NUMBER,
  "percentile?": fields.PERCENT,
  "bootstrap_interval?": fields.pair(fields.PERCENT),
  "exact_interval?": fields.pair(fields.PERCENT),
}
_AGAINST = {"num_spaces": fields.COUNT, "loss": _MEASURE, "error": _MEASURE}
_EVALUATION = {
  "target_flops": fields.POSITIVE,
  "bootstrap": {"confidence": fields.SHARE},
  "pareto_front": fields.WHOLE,
}
_TAU = fields.maybe(
  fields.Kind(
    lambda x: fields.NUMBER.accepts(x) and -1 <= x <= 1, "a number from -1 to 1"
  )
)
_AGREEMENT = {
  "count": fields.COUNT,
  **{f"tau_{name}": _TAU for name in ("error", "loss", "macs")},
}
_NETWORK = {
  "arch": fields.TEXT,
  "depth": [fields.COUNT],
  "width": [fields.COUNT],
  "flops": fields.COUNT,
  "params": fields.COUNT,
  "seed": fields.WHOLE,
}
_DRAWS = {
  "num_samples_by_seed?": [fields.WHOLE],
  "num_samples_mean?": fields.NON_NEGATIVE,
  "num_samples_interval?": fields.pair(fields.NON_NEGATIVE),
}
_CONTROL = {
  **_NETWORK,
  **_DRAWS,
  "deviation": fields.NUMBER,
  "num_samples": fields.COUNT,
  "within_tolerance": fields.FLAG,
}
_ARCHITECTURE = {
  **_CONTROL,
  "learning_rate": fields.POSITIVE,
  "target_flops": fields.POSITIVE,
}
_TRAINED = {
  **_NETWORK,
  "name": fields.TEXT,
  "epochs": fields.COUNT,
  "test_error": fields.SHARE,
  "test_loss": fields.NON_NEGATIVE,
  "train_loss": fields.NON_NEGATIVE,
  "seconds": fields.NON_NEGATIVE,
}


class RankScores(NamedTuple):
  """The same archs, scored twice; `alone` may lack the last ones."""

  supernet: Scores
  alone: Scores


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
    rank_scores: of `rank_check/scores.csv`.
    rank_check: content of `rank_check/summary.json`.
    nas: content of `nas/*/architecture.json` by `NAS_NAMES`.
    trained: content of `train/<name>/seed_<k>/result.json` by name, in the
      order of the seeds.
    principles: of `principles/`.
    complexity: of `complexity/`.
    sweep: of `sweep/<target>/`, `(target, results)` in the order of targets.
  """

  workdir: pathlib.Path
  search_space: SearchSpace
  space: Space | None
  elite: dict[str, Any] | None
  epochs: list[dict[str, Any]]
  scores: Scores | None
  evaluation: dict[str, Any] | None
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
    ArtifactError: one line with the file and the field, if something is there
      and is not what it should be.
  """
  space, elite = None, None
  path = workdir / "search" / space_file.ELITE_SPACE
  if path.exists():
    search_space, space = space_file.load_space(path)
    elite = _read(path, _ELITE)
  return Results(
    workdir=workdir,
    search_space=search_space,
    space=space,
    elite=elite,
    epochs=_read_epochs(workdir / "search" / "metrics.jsonl", search_space),
    scores=_read_scores(workdir / "evaluate" / "scores.csv", search_space),
    evaluation=_read_evaluation(workdir / "evaluate" / "summary.json"),
    rank_scores=_read_rank_scores(
      workdir / "rank_check" / "scores.csv", search_space
    ),
    rank_check=_read_rank_check(workdir / "rank_check" / "summary.json"),
    nas=_read_nas(workdir / "nas", search_space),
    trained=_read_trained(workdir / "train", search_space),
    principles=experiments.read_principles(
      workdir / "principles", search_space
    ),
    complexity=experiments.read_complexity(
      workdir / "complexity", search_space
    ),
    sweep=_read_sweep(workdir, search_space) if sweep else [],
  )


def _read_sweep(workdir, search_space) -> list[tuple[float, Results]]:
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


def _read(path: pathlib.Path, shape: Any) -> dict[str, Any] | None:
  """A checked JSON object, or None where there is no file."""
  if not path.exists():
    return None
  content = artifacts.read_json(path)
  fields.check(path, content, shape)
  return content


def _read_epochs(path, search_space) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  lines = artifacts.read_lines(path)
  for number, line in enumerate(lines, 1):
    fields.check(f"{path}: line {number}", line, _EPOCH)
    for kind in ("depth", "width"):
      expected = [len(bins) for bins in getattr(search_space, f"{kind}_bins")]
      found = [len(stage) for stage in line["probabilities"][kind]]
      # Stages with fewer bins than another are filled up.
      if len(found) != len(expected) or any(
        have < need for have, need in zip(found, expected, strict=True)
      ):
        raise ArtifactError(
          f"{path}: line {number}: probabilities.{kind}: expected {expected} "
          f"bins, got {found}"
        )
  return lines


def _read_scores(path, search_space) -> Scores | None:
  return scores.read_scores(path, search_space) if path.exists() else None


def _read_evaluation(path) -> dict[str, Any] | None:
  content = _read(path, _EVALUATION)
  if content is not None:
    names = fields.one_of(*scores.GROUPS)
    for field, shape in (("groups", _GROUP), ("elite_against", _AGAINST)):
      fields.check_each(path, content.get(field), names, shape, field)
  return content


def _read_rank_scores(path, search_space) -> RankScores | None:
  table = _read_scores(path, search_space)
  if table is None:
    return None
  both = RankScores(table.group(scores.SUPERNET), table.group(scores.ALONE))
  count = len(both.alone)
  for kind in ("depth", "width"):
    found, expected = getattr(both.alone, kind), getattr(both.supernet, kind)
    if count > len(expected) or (found != expected[:count]).any():
      raise ArtifactError(
        f"{path}: the archs of {scores.ALONE} are not those of "
        f"{scores.SUPERNET}"
      )
  return both


def _read_rank_check(path) -> dict[str, Any] | None:
  content = _read(path, {})
  if content is not None:
    names = fields.one_of("spread", "near_target")
    fields.check_each(path, content, names, _AGREEMENT, "rank_check")
  return content


def _read_nas(folder, search_space) -> dict[str, dict[str, Any]]:
  found = {}
  for name in ("elite", "expanded"):
    path = folder / name / "architecture.json"
    content = _read(path, {**_ARCHITECTURE, "runs": [_ARCHITECTURE]})
    if content is not None:
      for network in (content, *content["runs"]):
        _check_network(path, network, search_space)
      found[name] = content
  path = folder / "controls" / "architecture.json"
  names = ("elite_uniform", "expanded_uniform")
  content = _read(path, dict.fromkeys(names, _CONTROL))
  for name in names if content is not None else ():
    _check_network(path, content[name], search_space)
    found[name] = content[name]
  return {name: found[name] for name in NAS_NAMES if name in found}


def _read_trained(folder, search_space) -> dict[str, list[dict[str, Any]]]:
  found: dict[str, list] = {}
  for path in sorted(folder.glob("*/seed_*/result.json")):
    content = _read(path, _TRAINED)
    name, seed = path.parts[-3], path.parts[-2].removeprefix("seed_")
    for field, expected in (("name", name), ("seed", seed)):
      if str(content[field]) != expected:
        raise ArtifactError(
          f"{path}: {field}: expected {expected} as its folder, got "
          f"{content[field]}"
        )
    _check_network(path, content, search_space)
    others = found.setdefault(name, [])
    if others and others[0]["arch"] != content["arch"]:
      raise ArtifactError(
        f"{path}: arch: {content['arch']}, but another seed of {name} has "
        f"{others[0]['arch']}"
      )
    others.append(content)
  order = [*(n for n in NAS_NAMES if n in found), *sorted(found)]
  return {
    name: sorted(found[name], key=lambda result: result["seed"])
    for name in dict.fromkeys(order)
  }


def _check_network(path, network, search_space) -> None:
  """The fields that follow from the arch must be what follows from it."""
  try:
    arch = parse_arch(network["arch"])
    expected = {
      "depth": arch.depth.tolist(),
      "width": arch.width.tolist(),
      "flops": int(cost.arch_macs(search_space, arch)),
      "params": int(cost.arch_params(search_space, arch)),
    }
  except (ValueError, IndexError) as error:
    raise ArtifactError(f"{path}: arch: {error}") from error
  if len(arch.depth) != search_space.num_stages:
    raise ArtifactError(
      f"{path}: arch: expected {search_space.num_stages} stages, got "
      f"{format_arch(arch)}"
    )
  for field, value in expected.items():
    if network[field] != value:
      raise ArtifactError(
        f"{path}: {field}: {network[field]} is not that of the arch "
        f"{network['arch']}, {value}"
      )
