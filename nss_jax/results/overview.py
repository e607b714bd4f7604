"""All that a report shows, as tables, pictures and numbers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nss_jax.results import (
  edfs,
  elite_space,
  epochs,
  group_tables,
  larger_spaces,
  network_tables,
  plots,
  rank_agreement,
  targets,
  trained,
  trends,
)
from nss_jax.results.contents import SUMMARY, Contents
from nss_jax.results.load import ELITE_SPACE
from nss_jax.results.networks import expected_names
from nss_jax.results.plots import Mark, Picture
from nss_jax.results.tables import Table
from nss_jax.version import __version__

FOLDER = "report"
# The last to be replaced: it says that the report is whole.
RESULT = "report.json"
# A report says in this order which of them have not run.
PHASES = (
  *("search", "evaluate", "rank_check", "nas", "train", "principles"),
  *("complexity", "sweep"),
)
# Single networks in the Pareto picture.
_MARKS = {
  "elite": ("network found", "*"),
  "elite_uniform": ("drawn from the Elite Space", "s"),
  "expanded_uniform": ("drawn from all archs", "D"),
  "handmade": ("hand-made network", "^"),
  "regnet": ("RegNet's rule", "v"),
}


class Facts(NamedTuple):
  """What a report takes from the config of a run.

  Attributes:
    target: all constraints, in words.
    command: from phases, by comma, to the command that runs them.
    phases: that this run can have.
    num_seeds: of each network that is trained alone.
    settings: `(field, default, value)` where it is not the default.
    highlights: some fields in words.
  """

  name: str
  dataset: str
  target_flops: float | None
  target: str
  seed: int
  warmup_epochs: int
  command: Callable[[str], str]
  phases: Sequence[str]
  sweep_targets: Sequence[float]
  sweep_phases: Sequence[str]
  num_seeds: int
  settings: Sequence[tuple[str, str, str]]
  highlights: Sequence[str]


def make_tables(facts: Facts, contents: Contents) -> dict[str, Table]:
  """Returns those that have rows, by name."""
  found = contents
  made: list[Table] = []
  if found.elite:
    made.append(elite_space.choice_table(found.elite))
    made.append(elite_space.candidates_table(found.elite))
  if found.evaluation:
    made.append(group_tables.spaces_table(found.evaluation))
    made.append(group_tables.groups_table(found.evaluation))
  wanted = facts.dataset, facts.target_flops, facts.target
  made += [
    network_tables.nas_table(found, *wanted),
    network_tables.runs_table(found.networks),
    network_tables.race_table(found.networks),
    trained.table(found.trained, expected_names(found.networks)),
  ]
  if found.rank_check:
    made.append(rank_agreement.table(found.rank_check))
  if found.principles:
    made.append(trends.table(found.principles))
  if found.complexity:
    made.append(larger_spaces.table(found.complexity))
  made.append(targets.table(found.sweep))
  made.append(targets.nas_table(found.sweep, facts.dataset))
  return {table.name: table for table in made if table.records}


def make_pictures(facts: Facts, contents: Contents) -> dict[str, Picture]:
  """Returns all that can be drawn, by name."""
  found, space = contents, contents.search_space
  made: list[Picture | None] = []
  if found.space:
    made.append(elite_space.picture(space, found.space))
  made.append(
    epochs.picture(
      *(found.epochs, space, found.elite), warmup_epochs=facts.warmup_epochs
    )
  )
  if scores := found.scores.get("evaluate"):
    marks = [
      Mark(label, network.flops, network.evaluator.error, marker)
      for name, (label, marker) in _MARKS.items()
      if (network := found.networks.get(name)) and network.evaluator
    ]
    size = plots.WIDTH, 5.4
    made.append(
      plots.pareto(scores, facts.target_flops, marks=marks, size=size)
    )
    made.append(group_tables.picture(scores))
  made.append(trained.picture(found.trained))
  if found.rank_scores:
    made.append(rank_agreement.picture(found.rank_scores, found.rank_check))
  if scores := found.scores.get("principles"):
    made.append(edfs.picture(scores))
  if scores := found.scores.get("complexity"):
    searched = found.complexity
    made.append(
      larger_spaces.picture(scores, searched.target_flops, searched.tolerance)
      if searched
      else larger_spaces.picture(scores, facts.target_flops)
    )
  made.append(targets.picture(found.sweep))
  return {picture.name: picture for picture in made if picture is not None}


def numbers(
  facts: Facts, contents: Contents, tables: dict[str, Table]
) -> dict[str, Any]:
  """Returns the content of `report.json`: every table, and what it is of."""
  elite = contents.elite.to_json() if contents.elite else {}
  kept = ("space", "mean_flops", "deviation", "constraints")
  return {
    "name": facts.name,
    "dataset": facts.dataset,
    "target_flops": facts.target_flops,
    "seed": facts.seed,
    "elite_space": {key: elite.get(key) for key in kept},
    "tables": {name: table.to_json() for name, table in tables.items()},
    "not_run": not_run(facts, contents),
    "version": __version__,
  }


def not_run(facts: Facts, contents: Contents) -> list[str]:
  """Returns phases without a result."""
  done = {
    "search": contents.elite,
    "evaluate": contents.evaluation,
    "rank_check": contents.rank_check,
    "nas": contents.networks,
    "train": contents.trained,
    "principles": contents.principles,
    "complexity": contents.complexity,
    "sweep": (contents.workdir / "sweep" / SUMMARY).exists()
    or _is_swept(facts, contents),
  }
  return [name for name in facts.phases if not done[name]]


def _is_swept(facts: Facts, contents: Contents) -> bool:
  """Tells whether every target is done, even if none has summed them up.

  Tasks of a job array run a target each; what the sweep phase would then write
  is in the tables and pictures of the report too.
  """
  found = dict(contents.sweep)
  done = (x in found and _is_done(facts, found[x]) for x in facts.sweep_targets)
  return bool(facts.sweep_targets) and all(done)


def _is_done(facts: Facts, target: Contents) -> bool:
  """Tells whether all phases of a target of the sweep have ended."""
  for phase in facts.sweep_phases:
    if phase == "train":
      runs = [target.trained.get(name, []) for name in target.networks]
      ended = min(map(len, runs), default=0) >= facts.num_seeds
    else:
      file = {"search": ELITE_SPACE, FOLDER: RESULT}.get(phase, SUMMARY)
      ended = (target.workdir / phase / file).exists()
    if not ended:
      return False
  return True
