"""The tables of a report, from the results of a workdir."""

import importlib.resources
import json
import statistics
from collections.abc import Sequence
from typing import Any

from nss_jax.results import scores
from nss_jax.results import tables as cells
from nss_jax.results.report import errors
from nss_jax.results.report.networks import expected
from nss_jax.results.report.workdir import Results
from nss_jax.results.tables import NOT_RUN, Cell, Record, Table

SOURCES = {
  "elite": "Elite: found",
  "elite_uniform": "Elite: a uniform draw",
  "expanded": "Expanded: searched",
  "expanded_uniform": "Expanded: a uniform draw",
  "handmade": "hand-made: equal depths, widths doubling",
  "regnet": "RegNet's rule",
}
GROUPS = {
  scores.ELITE: "Elite Space",
  scores.EXPANDED: "Expanded Search Space",
  scores.EXPANDED_NEAR: "the same, near the target",
  scores.RANDOM_SPACES: "random spaces",
  scores.HARD_RANDOM_SPACES: "random spaces, no lowest width",
  scores.HAND_MADE: "hand-made space",
  scores.ORACLE: "best spaces of the oracle",
}


def read_paper() -> dict[str, Any]:
  """Tables 1 and 2 of the paper, with their source and known misprints."""
  folder = importlib.resources.files("nss_jax.results.report")
  return json.loads((folder / "paper_tables.json").read_text("utf-8"))


def paper_row(dataset: str, target: float | None, space: str) -> Record | None:
  """The paper's row of a data set, a target (multiply-adds) and a space."""
  if target is None:
    return None
  paper = read_paper()
  # Table 2 has every target of Table 1 again; where they differ, see `notes`.
  for row in (*paper["table1"], *paper["table2"]):
    same = (row["dataset"], row["space"]) == (dataset, space)
    if same and abs(row["target"] / target - 1) < 1e-9:
      return row
  return None


def candidates_table(results: Results) -> Table | None:
  """The draws that the Elite Space was chosen among."""
  if results.elite is None:
    return None
  elite = results.elite
  found = [
    *((f"draw {i}", one) for i, one in enumerate(elite["candidates"], 1)),
    ("most probable", elite["argmax_space"]),
  ]
  records = [_space_record("which", name, one, elite) for name, one in found]
  columns = (("space", cells.text("which")), *_SPACE_COLUMNS)
  title = "Spaces drawn at the end, and the most probable one"
  return _table("candidates", title, records, columns)


def choice_table(results: Results) -> Table | None:
  """The probable spaces near the target, scored by the search's supernet."""
  if results.elite is None or not results.elite["choice"]["scored"]:
    return None
  records = [
    {
      **_space_record("place", place, one, results.elite),
      **{name: one[name] for name in ("loss", "loss_error", "error")},
    }
    for place, one in enumerate(results.elite["choice"]["scored"], 1)
  ]
  columns = (
    *_SPACE_COLUMNS,
    ("mean loss (nats)", cells.number("loss", ".4f")),
    ("its standard error", cells.number("loss_error", ".4f")),
    ("mean error (%)", cells.percent("error")),
  )
  title = "Probable spaces near the target, scored by the search's supernet"
  return _table("choice", title, records, columns)


def _space_record(key: str, name: Any, one: Record, elite: Record) -> Record:
  """A space of `elite_space.json`."""
  return {
    key: name,
    "depth": format_ranges(one["space"]["depth"]),
    "width": format_ranges(one["space"]["width"]),
    "mean_flops": one["mean_flops"],
    "deviation": one["deviation"],
    "probability": one["probability"],
    "rank": one["rank"],
    "elite": one["space"] == elite["space"],
  }


_SPACE_COLUMNS = (
  ("blocks per stage", cells.text("depth")),
  ("channels per stage", cells.text("width")),
  ("mean cost", cells.macs("mean_flops")),
  ("from target (%)", cells.percent("deviation", "+.1f")),
  ("probability", cells.number("probability", ".2g")),
  ("rank", cells.text("rank")),
  ("is the Elite Space", cells.yes("elite")),
)


def groups_table(results: Results) -> Table | None:
  """What `evaluate/summary.json` says of each group of archs."""
  if results.evaluation is None:
    return None
  records = [
    {"group": name, "num_spaces": None, **group}
    for name, group in results.evaluation["groups"].items()
  ]
  columns = (
    ("archs of", lambda r: GROUPS[r["group"]]),
    ("archs", cells.text("count")),
    ("spaces", cells.text("num_spaces")),
    ("mean cost", cells.macs("mean_flops")),
    ("mean error (%)", cells.percent("mean_error")),
    ("median (%)", cells.percent("median_error")),
    ("best (%)", cells.percent("min_error")),
    ("mean loss (nats)", cells.number("mean_loss", ".4f")),
    ("share of front (%)", cells.percent("pareto_share", ".0f")),
    ("hypervolume", cells.number("hypervolume", ".3f")),
  )
  return _table("groups", "Groups of archs", records, columns)


def spaces_table(results: Results) -> Table | None:
  """The Elite Space among other spaces of about its cost."""
  if results.evaluation is None:
    return None
  records = []
  for name, against in results.evaluation["elite_against"].items():
    for measure in ("loss", "error"):
      found = against[measure]
      record = {
        "against": name,
        "num_spaces": against["num_spaces"],
        "measure": measure,
        **{
          key: found[key] for key in ("elite", "best", "regret", "regret_error")
        },
        "percentile": found.get("percentile"),
      }
      for interval in ("bootstrap_interval", "exact_interval"):
        low, high = found.get(interval, (None, None))
        record |= {f"{interval}_low": low, f"{interval}_high": high}
      records.append(record)

  def measured(key, spec=""):
    def words(record):
      if record["measure"] == "loss":
        return f"{record[key]:{spec}.4f} nats"
      return f"{100 * record[key]:{spec}.2f} %"

    return words

  columns = (
    ("against", lambda r: GROUPS[r["against"]]),
    ("spaces", cells.text("num_spaces")),
    ("by mean", cells.text("measure")),
    ("Elite Space", measured("elite")),
    ("best of them", measured("best")),
    ("regret", measured("regret", "+")),
    ("percentile", cells.number("percentile", ".1f")),
    ("interval (bootstrap)", cells.interval("bootstrap_interval", ".0f")),
    ("interval (exact)", cells.interval("exact_interval", ".0f")),
  )
  return _table("spaces", "The Elite Space among others", records, columns)


def nas_table(
  results: Results, dataset: str, target: float | None, words: str
) -> Table:
  """Rows as the paper's Tables 1 and 2, beside the paper's own."""
  names = expected(results.nas)
  records = [nas_record(results, dataset, target, name) for name in names]
  return networks_table("nas", f"Networks for {words} on {dataset}", records)


def networks_table(
  name: str,
  title: str,
  records: list[Record],
  columns: Sequence[tuple[str, Cell]] = (),
) -> Table:
  """Networks that were searched, of `nas_record`, beside the paper's if any.

  Args:
    name: of the table.
    title: of it, to which the paper is added.
    records: the networks.
    columns: to stand before the others.
  """
  columns = (*columns, *_NETWORK_COLUMNS)
  if in_paper(records):
    title, columns = f"{title}, and the paper's", (*columns, *_PAPER_COLUMNS)
  return Table(name, title, records, columns)


def in_paper(records: Sequence[Record]) -> bool:
  """Whether the paper has a row of one of these networks."""
  return any(record["paper_flops"] is not None for record in records)


def nas_record(
  results: Results, dataset: str, target: float | None, source: str
) -> Record:
  """A network of `NAS_NAMES`, and the paper's."""
  network = results.nas.get(source, {})
  trained = results.trained.get(source, [])
  if not is_of(network, trained):
    trained = []  # of an arch that an earlier search found
  seeds = errors.test_errors(trained)
  row = paper_row(dataset, target, source) or {}
  draws = repeated_draws(network)
  low, high = draws.get("num_samples_interval", (None, None))
  measured = (
    "arch",
    "flops",
    "params",
    "deviation",
    "within_tolerance",
    "num_samples",
  )
  return {
    "target_flops": target,
    "dataset": dataset,
    "source": source,
    **{name: network.get(name, NOT_RUN) for name in measured},
    "num_samples_mean": draws.get("num_samples_mean"),
    "num_samples_low": low,
    "num_samples_high": high,
    "num_samples_seeds": len(draws.get("num_samples_by_seed", [])) or None,
    "test_error": statistics.fmean(seeds) if seeds else NOT_RUN,
    "test_error_standard_error": errors.standard_error(seeds),
    "num_trained": len(seeds),
    **{
      f"paper_{name}": row.get(name)
      for name in ("flops", "deviation_percent", "num_samples", "error_percent")
    },
  }


def is_of(network: Record, trained: list[Record]) -> bool:
  """Whether results of training are those of a network."""
  return bool(network and trained) and trained[0]["arch"] == network["arch"]


def repeated_draws(network: Record) -> Record:
  """The fields on draws of many seeds, of a network or of its own run."""
  if "num_samples_mean" in network:
    return network
  for run in network.get("runs", []):
    same = run["learning_rate"] == network["learning_rate"]
    if same and "num_samples_mean" in run:
      return run
  return {}


def nas_runs_table(results: Results) -> Table | None:
  """Every learning rate of the architecture search that was tried."""
  keys = ("learning_rate", "arch", "flops", "deviation", "num_samples")
  records = [
    {"source": source, **{key: run[key] for key in keys}}
    for source in ("elite", "expanded")
    for run in results.nas.get(source, {}).get("runs", [])
  ]
  columns = (
    ("searched in", lambda r: SOURCES[r["source"]].partition(":")[0]),
    ("learning rate", cells.number("learning_rate", "g")),
    ("arch", cells.text("arch")),
    ("FLOPs", cells.macs("flops")),
    ("from target (%)", cells.percent("deviation", "+.1f")),
    ("samples", cells.text("num_samples")),
  )
  return _table("nas_runs", "Learning rates tried", records, columns)


def format_ranges(ranges: Sequence[Sequence[int]]) -> str:
  """`1-2, 3-4, 1-2`."""
  return ", ".join(
    str(low) if low == high else f"{low}-{high}" for low, high in ranges
  )


def _table(
  name: str,
  title: str,
  records: list[Record],
  columns: Sequence[tuple[str, Cell]],
) -> Table | None:
  return Table(name, title, records, columns) if records else None


def _mean_samples(record: Record) -> str:
  mean = record["num_samples_mean"]
  if mean is None:
    return cells.NO_VALUE
  text = f"{mean:.4g}"
  if record["num_samples_low"] is not None:
    low, high = record["num_samples_low"], record["num_samples_high"]
    text += f" ({low:.4g} to {high:.4g})"
  return text


_NETWORK_COLUMNS = (
  ("network from", lambda r: SOURCES[r["source"]]),
  ("arch", cells.text("arch")),
  ("FLOPs", cells.macs("flops")),
  ("from target (%)", cells.percent("deviation", "+.1f")),
  ("samples", cells.text("num_samples")),
  ("samples (mean of seeds)", _mean_samples),
  ("test error, and standard error (%)", errors.error),
)
_PAPER_COLUMNS = (
  ("paper: FLOPs", cells.macs("paper_flops")),
  ("paper: deviation (%)", cells.number("paper_deviation_percent", ".1f")),
  ("paper: samples", cells.text("paper_num_samples")),
  ("paper: error (%)", cells.number("paper_error_percent", ".2f")),
)
