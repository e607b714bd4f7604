"""Tables of networks that were searched, beside the paper's, and words."""

import importlib.resources
import json
import pathlib
import statistics as stdlib_statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nss_jax.results import tables
from nss_jax.results.contents import Contents
from nss_jax.results.networks import (
  ARCHITECTURE,
  EXPANDED,
  FOUND,
  SEARCHED,
  SOURCES,
  NasSummary,
  Network,
  expected_names,
)
from nss_jax.results.statistics import standard_error
from nss_jax.results.tables import NOT_RUN, Columns, Record, Table
from nss_jax.results.trained import Trained
from nss_jax.spaces.text import format_macs

Networks = Mapping[str, Network]
_MEASURED = (
  *("arch", "flops", "params", "deviation", "within_tolerance"),
  "num_samples",
)
_PAPER = ("flops", "deviation_percent", "num_samples", "error_percent")


def read_paper() -> dict[str, Any]:
  """Reads Tables 1 and 2 of the paper, with their source and misprints."""
  folder = importlib.resources.files("nss_jax.results")
  return json.loads((folder / "paper_tables.json").read_text("utf-8"))


def paper_row(dataset: str, target: float | None, space: str) -> Record | None:
  """Returns the paper's row of a data set, multiply-adds and a space."""
  if target is None:
    return None
  paper = read_paper()
  # Table 2 has every target of Table 1 again; where they differ, see `notes`.
  for row in (*paper["table1"], *paper["table2"]):
    same = (row["dataset"], row["space"]) == (dataset, space)
    if same and abs(row["target"] / target - 1) < 1e-9:
      return row
  return None


def paper_note(nas: Table) -> str:
  """Returns the source of the paper's numbers, if some are in the table."""
  if not _in_paper(nas.records):
    return "The paper has no row for this data set and target."
  paper = read_paper()
  return (
    f"Paper: {paper['source']}. Known misprints: {'; '.join(paper['notes'])}."
  )


def _trained_of(contents: Contents, name: str) -> Sequence[Trained]:
  """Returns results of training a network, if they are of its arch and not of
  one that an earlier search found."""
  found, network = contents.trained.get(name, ()), contents.networks.get(name)
  same = network is not None and found and found[0].arch == network.arch
  return found if same else ()


def nas_table(
  contents: Contents, dataset: str, target: float | None, words: str
) -> Table:
  """Returns rows as the paper's Tables 1 and 2, beside the paper's own."""
  records = [
    record(contents, dataset, target, name)
    for name in expected_names(contents.networks)
  ]
  title = f"Networks for {words} on {dataset}"
  return networks_table("nas", title, records)


def networks_table(
  name: str, title: str, records: list[Record], columns: Columns = ()
) -> Table:
  """Returns a table of some `record`s, beside the paper's if it has any."""
  columns = (*columns, *_COLUMNS)
  if _in_paper(records):
    title, columns = f"{title}, and the paper's", (*columns, *_PAPER_COLUMNS)
  return Table(name, title, records, columns)


def _in_paper(records: Sequence[Record]) -> bool:
  return any(record["paper_flops"] is not None for record in records)


def record(
  contents: Contents, dataset: str, target: float | None, source: str
) -> Record:
  """Returns a network of `SOURCES`, and the paper's."""
  network = contents.networks.get(source)
  errors = [one.test_error for one in _trained_of(contents, source)]
  row = paper_row(dataset, target, source) or {}
  drawn = network.drawn() if network else None
  low, high = (drawn and drawn.num_samples_interval) or (None, None)
  return {
    "target_flops": target,
    "dataset": dataset,
    "source": source,
    **{name: getattr(network, name, NOT_RUN) for name in _MEASURED},
    "num_samples_mean": drawn and drawn.num_samples_mean,
    "num_samples_low": low,
    "num_samples_high": high,
    "num_samples_seeds": (drawn and len(drawn.num_samples_by_seed)) or None,
    "test_error": stdlib_statistics.fmean(errors) if errors else NOT_RUN,
    "test_error_standard_error": standard_error(errors),
    "num_trained": len(errors),
    **{f"paper_{name}": row.get(name) for name in _PAPER},
  }


def _mean_samples(record: Record) -> str:
  mean = record["num_samples_mean"]
  if mean is None:
    return tables.NO_VALUE
  text = f"{mean:.4g}"
  if record["num_samples_low"] is not None:
    text += f" ({tables.interval('num_samples', '.4g')(record)})"
  return text


_COLUMNS = (
  ("network from", lambda r: SOURCES[r["source"]]),
  ("arch", tables.text("arch")),
  ("FLOPs", tables.macs("flops")),
  ("from target (%)", tables.percent("deviation", "+.1f")),
  ("samples", tables.text("num_samples")),
  ("samples (mean of seeds)", _mean_samples),
  ("test error, and standard error (%)", tables.give_or_take("test_error")),
)
_PAPER_COLUMNS = (
  ("paper: FLOPs", tables.macs("paper_flops")),
  ("paper: deviation (%)", tables.number("paper_deviation_percent", ".1f")),
  ("paper: samples", tables.text("paper_num_samples")),
  ("paper: error (%)", tables.number("paper_error_percent", ".2f")),
)


def runs_table(networks: Networks) -> Table:
  """Returns every learning rate of the search by gradient that was tried."""
  keys = ("learning_rate", "arch", "flops", "deviation", "num_samples")
  records = [
    {"source": source, **{key: getattr(run, key) for key in keys}}
    for source in SEARCHED
    if source in networks
    for run in networks[source].runs
  ]
  columns = (
    ("searched in", lambda r: SOURCES[r["source"]].partition(":")[0]),
    ("learning rate", tables.number("learning_rate", "g")),
    ("arch", tables.text("arch")),
    ("FLOPs", tables.macs("flops")),
    ("from target (%)", tables.percent("deviation", "+.1f")),
    ("samples", tables.text("num_samples")),
  )
  return Table("nas_runs", "Learning rates tried", records, columns)


def race_table(networks: Networks) -> Table:
  """Returns the finalists of the network found, and their errors."""
  race = networks[FOUND].race if FOUND in networks else []
  records = [
    {
      "arch": one.arch,
      "loss": one.loss,
      "rounds": len(one.errors),
      "mean_error": stdlib_statistics.fmean(one.errors) if one.errors else None,
      "errors": ", ".join(f"{100 * x:.2f}" for x in one.errors),
    }
    for one in race
  ]
  columns = (
    ("arch", tables.text("arch")),
    ("loss by the supernet (nats)", tables.number("loss", ".4f")),
    ("rounds", tables.text("rounds")),
    ("mean error alone (%)", tables.percent("mean_error")),
    ("error of each round (%)", tables.text("errors")),
  )
  return Table("race", "The race for the network", records, columns)


def sentences(contents: Contents) -> Iterator[str]:
  """Yields how each network was found, and what is trained of another."""
  for name, where in ((FOUND, "Elite"), (EXPANDED, "Expanded Search")):
    if network := contents.networks.get(name):
      meets = "meets" if network.within_tolerance else "misses"
      yield (
        f"In the {where} Space {network.arch} was found: "
        f"{format_macs(network.flops)}, {network.words()}, which {meets} the "
        f"tolerance. How it was chosen: {network.chosen}."
      )
  for name in SEARCHED:
    others = contents.trained.get(name)
    of_it = _trained_of(contents, name)
    if name in contents.networks and others and not of_it:
      yield (
        f"train/{name} holds {others[0].arch}, which is not the network "
        f"that nas/{name} holds now: its error is not shown here."
      )


def describe(result: NasSummary, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the archs, and how each was chosen."""
  lines = ["", "Architectures"]
  for name, one in result.networks.items():
    missed = "" if one.within_tolerance else ", which misses"
    seeds = ""
    if one.num_samples_interval is not None:
      low, high = one.num_samples_interval
      seeds = f" (draws: mean {one.mean_samples:.3g}, {low:.3g} to {high:.3g})"
    lines += [
      f"  {name:16} {one.arch:26} {format_macs(one.flops):>8}, "
      f"{one.words()}{missed}",
      f"    {one.chosen}{seeds}",
    ]
  return [*lines, "", f"Files in {folder}: summary.json, */{ARCHITECTURE}"]
