"""All that a workdir holds so far, each file by its model.

Any file may be missing; what is there must be whole and fit the search space.
"""

import pathlib
from typing import NamedTuple

from nss_jax.results import epochs, fields, networks, trained, truths
from nss_jax.results.artifact import Artifact
from nss_jax.results.elite_space import FoundSpace
from nss_jax.results.epochs import Epoch
from nss_jax.results.groups import Evaluation
from nss_jax.results.larger_spaces import Complexity
from nss_jax.results.load import ELITE_SPACE, load_space
from nss_jax.results.networks import Network
from nss_jax.results.rank_agreement import RankCheck
from nss_jax.results.scores import Scores, find_scores
from nss_jax.results.trained import Trained
from nss_jax.results.trends import Principles
from nss_jax.results.truths import RankScores
from nss_jax.spaces.search_space import SearchSpace, Space

SUMMARY, SCORES = "summary.json", "scores.csv"
# Each of them alone is worth a report.
_SOURCES = (
  f"search/{ELITE_SPACE}",
  "search/metrics.jsonl",
  f"evaluate/{SCORES}",
  f"rank_check/{SCORES}",
  f"nas/*/{networks.ARCHITECTURE}",
  "train/*/seed_*/result.json",
  f"principles/{SCORES}",
  f"complexity/{SCORES}",
)


class _Objective(Artifact):
  """What a sweep asks of the config of a target."""

  target_flops: fields.Positive


class _Config(Artifact):
  """The `config.json` of a target."""

  objective: _Objective


class Contents(NamedTuple):
  """What a workdir holds; a result that is not there is None or empty.

  Attributes:
    search_space: of the search, or as the config has it.
    space: the Elite Space.
    scores: of each phase that scores archs, by its name.
    networks: by `networks.SOURCES`.
    trained: by name, in the order of the seeds.
    sweep: `(target, contents)` in the order of targets.
  """

  workdir: pathlib.Path
  search_space: SearchSpace
  space: Space | None
  elite: FoundSpace | None
  epochs: list[Epoch]
  scores: dict[str, Scores]
  evaluation: Evaluation | None
  rank_scores: RankScores | None
  rank_check: RankCheck | None
  networks: dict[str, Network]
  trained: dict[str, list[Trained]]
  principles: Principles | None
  complexity: Complexity | None
  sweep: "list[tuple[float, Contents]]"


def is_empty(workdir: pathlib.Path) -> bool:
  """Tells whether there is nothing to report."""
  return not any(map(_has_results, (workdir, *_swept(workdir))))


def _has_results(workdir: pathlib.Path) -> bool:
  return any(any(workdir.glob(source)) for source in _SOURCES)


def _swept(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the workdirs of the targets of a sweep."""
  return sorted(path.parent for path in workdir.glob("sweep/*/config.json"))


def read_contents(
  workdir: pathlib.Path, search_space: SearchSpace, *, sweep: bool = True
) -> Contents:
  """Reads all results that are there; UserError names a file and its field.

  The search space of a finished search goes before the given one.
  """
  path, space = workdir / "search" / ELITE_SPACE, None
  if path.exists():
    search_space, space = load_space(path)
  scores = {
    phase: find_scores(workdir / phase / SCORES, search_space)
    for phase in ("evaluate", "principles", "complexity")
  }
  return Contents(
    workdir=workdir,
    search_space=search_space,
    space=space,
    elite=FoundSpace.find(path, search_space),
    epochs=epochs.read_epochs(path.with_name("metrics.jsonl"), search_space),
    scores={name: one for name, one in scores.items() if one is not None},
    evaluation=Evaluation.find(workdir / "evaluate" / SUMMARY),
    rank_scores=truths.find_rank_scores(workdir / "rank_check", search_space),
    rank_check=RankCheck.find(workdir / "rank_check" / SUMMARY),
    networks=networks.find_networks(workdir / "nas", search_space),
    trained=trained.find_trained(workdir / "train", search_space),
    principles=Principles.find(workdir / "principles" / SUMMARY),
    complexity=Complexity.find(workdir / "complexity" / SUMMARY),
    sweep=_read_sweep(workdir, search_space) if sweep else [],
  )


def _read_sweep(
  workdir: pathlib.Path, search_space: SearchSpace
) -> list[tuple[float, Contents]]:
  found = [
    (
      _Config.read(folder / "config.json").objective.target_flops,
      # A target has no targets; a link could make a ring.
      read_contents(folder, search_space, sweep=False),
    )
    for folder in _swept(workdir)
    if _has_results(folder)
  ]
  return sorted(found, key=lambda pair: pair[0])
