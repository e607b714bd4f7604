"""Tables of networks that were trained alone: the race, and the train phase."""

import statistics

from nss_jax.results import tables as cells
from nss_jax.results.report import errors
from nss_jax.results.report.networks import FOUND, expected
from nss_jax.results.report.tables import SOURCES
from nss_jax.results.report.workdir import Results
from nss_jax.results.tables import NOT_RUN, Record, Table


def race_table(results: Results) -> Table | None:
  """The finalists of the network found, and their errors in each round."""
  records = [
    {
      "arch": one["arch"],
      "loss": one["loss"],
      "rounds": len(one["errors"]),
      "mean_error": statistics.fmean(one["errors"]) if one["errors"] else None,
      "errors": ", ".join(f"{100 * x:.2f}" for x in one["errors"]),
    }
    for one in results.nas.get(FOUND, {}).get("race", [])
  ]
  columns = (
    ("arch", cells.text("arch")),
    ("loss by the supernet (nats)", cells.number("loss", ".4f")),
    ("rounds", cells.text("rounds")),
    ("mean error alone (%)", cells.percent("mean_error")),
    ("error of each round (%)", cells.text("errors")),
  )
  if not records:
    return None
  return Table("race", "The race for the network", records, columns)


def train_table(results: Results) -> Table:
  """Trained networks, mean over seeds; a row for each that could be."""
  names = dict.fromkeys([*expected(results.nas), *results.trained])
  columns = (
    ("network from", lambda r: SOURCES.get(r["name"], r["name"])),
    ("arch", cells.text("arch")),
    ("FLOPs", cells.macs("flops")),
    ("params", cells.number("params", ",")),
    ("seeds", cells.text("num_trained")),
    ("epochs", cells.text("epochs")),
    ("test error, and standard error (%)", errors.error),
    ("above the network found (points)", errors.difference),
    ("test loss (nats)", cells.number("test_loss", ".4f")),
    ("train loss (nats)", cells.number("train_loss", ".4f")),
    ("seconds each", cells.number("seconds", ".0f")),
  )
  found = errors.test_errors(results.trained.get(FOUND, []))
  records = [
    _train_record(name, results.trained.get(name, []), found) for name in names
  ]
  return Table("train", "Trained networks", records, columns)


def _train_record(
  name: str, trained: list[Record], found: list[float]
) -> Record:
  first = trained[0] if trained else {}
  seeds = errors.test_errors(trained)
  means = ("test_loss", "train_loss", "seconds")
  epochs = sorted({result["epochs"] for result in trained})
  difference, deviation = None, None
  if name != FOUND and found and seeds:
    difference, deviation = errors.compare(seeds, found)
  return {
    "name": name,
    **{key: first.get(key, NOT_RUN) for key in ("arch", "flops", "params")},
    "seeds": " ".join(str(result["seed"]) for result in trained) or NOT_RUN,
    "num_trained": len(trained),
    "epochs": " ".join(map(str, epochs)) or NOT_RUN,
    "test_error": statistics.fmean(seeds) if seeds else NOT_RUN,
    "test_error_standard_error": errors.standard_error(seeds),
    "above_found": difference,
    "above_found_standard_error": deviation,
    **{
      key: statistics.fmean(r[key] for r in trained) if trained else NOT_RUN
      for key in means
    },
  }
