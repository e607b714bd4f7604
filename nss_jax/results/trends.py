"""Design principles against the paper's trend (4.5, Fig. 6): `principles/`.

A source of its `scores.csv` is `<kind>_<cost>`: how the archs were drawn, and
whether inside the window of multiply-adds or at any cost.
"""

import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

from nss_jax.results import fields, statistics, tables
from nss_jax.results.artifact import Artifact
from nss_jax.results.scores import Scores
from nss_jax.results.tables import Record, Table
from nss_jax.spaces.text import format_macs

PRINCIPLES, TREND, OWN = "design_principles", "elite_trend", "own_trend"
# In words, as tables and pictures have them.
NAMES = {
  PRINCIPLES: "design principles",
  TREND: "the paper's trend",
  "anynet_e": "AnyNetX E",
  "regnet": "RegNet",
  OWN: "this run's trend",
}
KINDS = tuple(NAMES)
# What is measured against the design principles at equal cost too.
TRENDS = (TREND, OWN)
IN_WINDOW, ANY_COST = "in_window", "any_cost"
COSTS = (IN_WINDOW, ANY_COST)
_SAME_COST = 0.02  # mean costs that differ by more are said to differ
_SOURCES = [f"{kind}_{cost}" for kind in KINDS for cost in COSTS]
_Source = Annotated[str, fields.one_of(*_SOURCES)]


class Population(Artifact):
  """Networks that were drawn in one way."""

  count: fields.Count
  mean_error: fields.Share
  median_error: fields.Share
  min_error: fields.Share
  mean_flops: fields.Positive


class Compared(Artifact):
  """A kind of networks held against those of the design principles.

  Attributes:
    mean_difference: of the errors, which is the signed area between the two
      EDFs; negative: the kind is better.
    pairs_won: the share of all pairs in which the kind has the smaller error,
      ties half.
  """

  mean_difference: fields.Number
  pairs_won: fields.Share


class Matched(Artifact):
  """The same over pairs of equal cost; without pairs the rest is not there."""

  pairs: fields.Whole
  design_principles: Population | None = None
  elite_trend: Population | None = None
  own_trend: Population | None = None
  mean_difference: fields.Number | None = None
  pairs_won: fields.Share | None = None


class OwnOrder(Artifact):
  """The order of the stages in the Elite Space of a run.

  Attributes:
    stages: from the smallest bins to the largest; null if it has no such order.
    note: why it is no population of its own; empty if it is one.
  """

  stages: list[fields.Whole] | None
  note: fields.Text


class Principles(Artifact):
  """`principles/summary.json`.

  Attributes:
    window: of multiply-adds.
    missing: why some populations could not be drawn.
  """

  window: Annotated[list[float], fields.POSITIVE.pair()]
  own_order: OwnOrder
  missing: dict[_Source, fields.Text]
  groups: dict[_Source, Population]
  against_principles: dict[_Source, Compared]
  matched: dict[Annotated[str, fields.one_of(*TRENDS)], Matched]

  def check(self, search_space: object) -> None:
    """Raises ValueError where a group or a number of pairs is missing."""
    for kind, found in self.matched.items():
      names = (PRINCIPLES, kind, "mean_difference", "pairs_won")
      for name in names if found.pairs else ():
        if getattr(found, name) is None:
          raise ValueError(f"matched.{kind}.{name}: this field is missing")
    for source in self.against_principles:
      cost = next(cost for cost in COSTS if source.endswith(cost))
      for name in (source, f"{PRINCIPLES}_{cost}"):
        if name not in self.groups:
          raise ValueError(f"groups.{name}: this field is missing")


def summarize(
  table: Scores,
  *,
  window: tuple[float, float],
  own_order: OwnOrder,
  missing: dict[str, str],
) -> Principles:
  """Computes all the numbers."""
  names = dict.fromkeys(table.source.tolist())
  against, matched = {}, {}
  for cost in COSTS:
    reference = table.group(f"{PRINCIPLES}_{cost}")
    for kind in KINDS[1:]:
      group = table.group(f"{kind}_{cost}")
      if len(group) and len(reference):
        against[f"{kind}_{cost}"] = _compare(group, reference)
  for kind in TRENDS:
    if f"{kind}_{ANY_COST}" in names:
      reference, group = match_pairs(table, kind)
      matched[kind] = Matched(pairs=0)
      if len(group):
        found: dict[str, Any] = _compare(group, reference).to_json()
        for name, one in ((PRINCIPLES, reference), (kind, group)):
          found[name] = Population(**one.numbers())
        matched[kind] = Matched(pairs=len(group), **found)
  return Principles(
    window=list(window),
    own_order=own_order,
    missing=missing,
    groups={x: Population(**table.group(x).numbers()) for x in names},
    against_principles=against,
    matched=matched,
  )


def match_pairs(table: Scores, kind: str) -> tuple[Scores, Scores]:
  """Returns archs of the design principles, and of a kind, in pairs of equal
  cost: what is left of the difference when the costs are the same."""
  pair = [table.group(f"{name}_{ANY_COST}") for name in (PRINCIPLES, kind)]
  rows = statistics.match_costs(*(group.flops for group in pair))
  first, second = (g.select(r) for g, r in zip(pair, rows, strict=True))
  return first, second


def _compare(group: Scores, reference: Scores) -> Compared:
  return Compared(
    mean_difference=float(group.error.mean() - reference.error.mean()),
    pairs_won=statistics.share_of_pairs_won(group.error, reference.error),
  )


def table(result: Principles) -> Table:
  """Returns every population, and the pairs of equal cost."""
  records = []
  for cost in COSTS:
    for kind in KINDS:
      source = f"{kind}_{cost}"
      # A kind that could not be drawn is a row too; no own trend is none.
      if source in result.groups or source in result.missing:
        group = result.groups.get(source)
        against = result.against_principles.get(source)
        records.append(_record(kind, cost, group, against))
  for kind, found in result.matched.items():
    for name in (PRINCIPLES, kind) if found.pairs else ():
      against = found if name == kind else None
      where = f"matched_{kind}"
      records.append(_record(name, where, getattr(found, name), against))
  costs = {ANY_COST: "any", IN_WINDOW: "in the window"}
  columns = (
    ("networks of", lambda r: NAMES[r["kind"]]),
    ("cost", lambda r: costs.get(r["cost"], "equal, in pairs")),
    ("archs", tables.text("count")),
    ("mean cost", tables.macs("mean_flops")),
    ("mean error (%)", tables.percent("mean_error")),
    ("median (%)", tables.percent("median_error")),
    ("best (%)", tables.percent("min_error")),
    (
      "from the principles' mean (%)",
      tables.percent("mean_difference", "+.2f"),
    ),
    ("pairs won (%)", tables.percent("pairs_won", ".1f")),
  )
  title = "Design principles against the trend of Elite Spaces"
  brief = [c[0] for c in columns if "from" not in c[0] and "best" not in c[0]]
  return Table("principles", title, records, columns, brief)


def _record(
  kind: str,
  cost: str,
  group: Population | None,
  against: Compared | Matched | None,
) -> Record:
  compared = ("mean_difference", "pairs_won")
  return {
    "kind": kind,
    "cost": cost,
    **{name: getattr(group, name, None) for name in Population.model_fields},
    **{name: getattr(against, name, None) for name in compared},
  }


def sentences(result: Principles) -> Iterator[str]:
  """Yields which of the trends is better, and what could not be drawn."""
  low, high = map(format_macs, result.window)
  for trend, name in (
    (TREND, "the paper's trend"),
    (OWN, "the trend of this run's Elite Space"),
  ):
    parts = []
    for cost, where in (
      (IN_WINDOW, f"between {low} and {high}"),
      (ANY_COST, "at any cost"),
    ):
      found = result.against_principles.get(f"{trend}_{cost}")
      if found is not None:
        costs = _relative_cost(result.groups, trend, cost)
        parts.append(f"{100 * found.pairs_won:.0f} % {where}{costs}")
    matched = result.matched.get(trend)
    if matched is not None and matched.pairs_won is not None:
      parts.append(
        f"{100 * matched.pairs_won:.0f} % at equal cost "
        f"({matched.pairs} archs each)"
      )
    if parts:
      yield (
        f"An arch of {name} has a smaller error than one of the design "
        f"principles in {', '.join(parts)} of all pairs; 50 % is no difference."
      )
  if result.own_order.note:
    yield f"No trend of this run's own: {result.own_order.note}."
  for source, why in result.missing.items():
    yield f"Not drawn: {source.replace('_', ' ')}: {why}."


def _relative_cost(groups: dict[str, Population], trend: str, cost: str) -> str:
  """Says so where one of the two costs more: no comparison of orders alone."""
  means = [groups[f"{n}_{cost}"].mean_flops for n in (trend, PRINCIPLES)]
  ratio = means[0] / means[1]
  if abs(ratio - 1) <= _SAME_COST:
    return ""
  return f" (at {ratio:.3g} times the mean cost)"


def describe(result: Principles, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the table, and what it says."""
  names = "scores.csv, summary.json, edf.png"
  return tables.describe(folder, names, [table(result)], sentences(result))
