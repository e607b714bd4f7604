"""Tables and words of the phases rank_check, principles and complexity."""

from collections.abc import Iterator

from nss_jax.runtime import populations, truths
from nss_jax.runtime.populations import ANY_COST, COSTS, NAMES, PRINCIPLES
from nss_jax.runtime.report import cells
from nss_jax.runtime.report.cells import Record, Table
from nss_jax.runtime.report.workdir import Results
from nss_jax.spaces.text import format_macs

_NUMBERS = ("count", "mean_error", "median_error", "min_error", "mean_flops")
# Mean costs that differ by more are said to differ: as a pair's may.
_SAME_COST = 0.02
_COMPARED = ("mean_difference", "pairs_won")


def principles_table(results: Results) -> Table | None:
  """Every population, and the pairs of equal cost (paper Fig. 6)."""
  summary = results.principles.summary
  if summary is None:
    return None
  records = []
  for cost in COSTS:
    for kind in NAMES:
      source = f"{kind}_{cost}"
      # A kind that could not be drawn is a row too; no own trend is none.
      if source in summary["groups"] or source in summary["missing"]:
        group = summary["groups"].get(source, {})
        against = summary["against_principles"].get(source, {})
        records.append(_population(kind, cost, group, against))
  for trend, found in summary["matched"].items():
    if found["pairs"]:
      where = f"{populations.MATCHED}_{trend}"
      records.append(_population(PRINCIPLES, where, found[PRINCIPLES], {}))
      records.append(_population(trend, where, found[trend], found))
  columns = (
    ("networks of", lambda r: NAMES[r["kind"]]),
    ("cost", lambda r: _where(r["cost"])),
    ("archs", cells.text("count")),
    ("mean cost", cells.macs("mean_flops")),
    ("mean error (%)", cells.percent("mean_error")),
    ("median (%)", cells.percent("median_error")),
    ("best (%)", cells.percent("min_error")),
    ("from the principles' mean (%)", cells.percent("mean_difference", "+.2f")),
    ("pairs won (%)", cells.percent("pairs_won", ".1f")),
  )
  title = "Design principles against the trend of Elite Spaces"
  return Table("principles", title, records, columns) if records else None


def _population(kind: str, cost: str, group: Record, against: Record) -> Record:
  return {
    "kind": kind,
    "cost": cost,
    **{name: group.get(name) for name in _NUMBERS},
    **{name: against.get(name) for name in _COMPARED},
  }


def _where(cost: str) -> str:
  if cost == ANY_COST:
    return "any"
  return "in the window" if cost == populations.IN_WINDOW else "equal, in pairs"


def principles_words(results: Results) -> Iterator[str]:
  """Which of the trends is better, and what could not be drawn."""
  summary = results.principles.summary
  low, high = map(format_macs, summary["window"])
  for trend, name in (
    (populations.TREND, "the paper's trend"),
    (populations.OWN, "the trend of this run's Elite Space"),
  ):
    parts = []
    for cost, where in (
      (populations.IN_WINDOW, f"between {low} and {high}"),
      (ANY_COST, "at any cost"),
    ):
      found = summary["against_principles"].get(f"{trend}_{cost}")
      if found is not None:
        costs = _relative_cost(summary["groups"], trend, cost)
        parts.append(f"{100 * found['pairs_won']:.0f} % {where}{costs}")
    matched = summary["matched"].get(trend, {"pairs": 0})
    if matched["pairs"]:
      parts.append(
        f"{100 * matched['pairs_won']:.0f} % at equal cost "
        f"({matched['pairs']} archs each)"
      )
    if parts:
      yield (
        f"An arch of {name} has a smaller error than one of the design "
        f"principles in {', '.join(parts)} of all pairs; 50 % is no difference."
      )
  if summary["own_order"]["note"]:
    yield f"No trend of this run's own: {summary['own_order']['note']}."
  for source, why in summary["missing"].items():
    yield f"Not drawn: {source.replace('_', ' ')}: {why}."


def _relative_cost(groups: dict[str, Record], trend: str, cost: str) -> str:
  """Says so where one of the two costs more: no comparison of orders alone."""
  means = [groups[f"{n}_{cost}"]["mean_flops"] for n in (trend, PRINCIPLES)]
  ratio = means[0] / means[1]
  if abs(ratio - 1) <= _SAME_COST:
    return ""
  return f" (at {ratio:.3g} times the mean cost)"


def complexity_table(results: Results) -> Table | None:
  """Every search space, and the Elite Space (paper Fig. 5)."""
  summary = results.complexity.summary
  if summary is None:
    return None
  elite = dict.fromkeys(("max_width", "max_depth", "largest_flops"))
  keys = (
    *elite,
    "count",
    "near_count",
    "near_share",
    "near_mean_error",
    "near_min_error",
    "median_flops",
    "mean_error",
  )
  records = [
    {"space": name, **{key: found[key] for key in keys}}
    for name, found in (
      *summary["spaces"].items(),
      ("elite", {**elite, **summary["elite"]}),
    )
  ]
  columns = (
    ("archs of", _space),
    ("largest network", cells.macs("largest_flops")),
    ("archs", cells.text("count")),
    ("near the target", cells.text("near_count")),
    ("share (%)", cells.percent("near_share", ".1f")),
    ("their mean error (%)", cells.percent("near_mean_error")),
    ("best (%)", cells.percent("near_min_error")),
    ("median cost of all", cells.macs("median_flops")),
    ("mean error of all (%)", cells.percent("mean_error")),
  )
  title = f"Architecture search for {format_macs(summary['target_flops'])}"
  return Table("complexity", title, records, columns)


def _space(record: Record) -> str:
  if record["space"] == "elite":
    return "Elite Space"
  return f"widths to {record['max_width']}, depths to {record['max_depth']}"


def complexity_words(results: Results) -> Iterator[str]:
  """What is drawn, and how often it meets the target."""
  summary = results.complexity.summary
  target = format_macs(summary["target_flops"])
  spaces = [*summary["spaces"].values()]
  elite = summary["elite"]
  if spaces:
    smallest, largest = spaces[0], spaces[-1]
    yield (
      f"Of the archs that an architecture search for {target} ends with, "
      f"{100 * smallest['near_share']:.1f} % are within "
      f"{100 * summary['tolerance']:g} % of it in the smallest search space "
      f"and {100 * largest['near_share']:.1f} % in the largest; of the Elite "
      f"Space's {100 * elite['near_share']:.1f} %."
    )
  if summary["elite_target_flops"] != summary["target_flops"]:
    yield (
      "The Elite Space was searched for another target, "
      f"{format_macs(summary['elite_target_flops'])}."
    )


def has_run(results: Results) -> dict[str, bool]:
  """Whether each of the experiments has ended."""
  return {
    "principles": results.principles.summary is not None,
    "complexity": results.complexity.summary is not None,
    "sweep": (results.workdir / "sweep" / "summary.json").exists(),
  }


def rank_table(results: Results) -> Table | None:
  """Kendall's tau of each predictor, as `rank_check/summary.json` has it."""
  if not results.rank_check:
    return None
  records = []
  for name, group in results.rank_check.items():
    for kind, found in (
      ("ceiling", group["ceiling"]),
      *group["predictors"].items(),
    ):
      low, high = found["interval"] or (None, None)
      records.append(
        {
          "archs": name,
          "count": group["count"],
          "predictor": kind,
          "tau": found["tau"],
          "tau_low": low,
          "tau_high": high,
          "share": found.get("share"),
        }
      )
  names = {"ceiling": "another seed of training alone", **truths.PREDICTORS}
  columns = (
    ("archs", lambda r: truths.GROUPS[r["archs"]]),
    ("number", cells.text("count")),
    ("order by", lambda r: names[r["predictor"]]),
    ("tau", lambda r: "undefined" if r["tau"] is None else f"{r['tau']:+.2f}"),
    ("interval (bootstrap)", cells.interval("tau", "+.2f")),
    ("share of the ceiling (%)", cells.percent("share", ".0f")),
  )
  return Table("rank_check", "Does the supernet rank?", records, columns)
