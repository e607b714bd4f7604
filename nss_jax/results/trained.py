"""`train/<name>/seed_<k>/result.json`: networks that were trained alone."""

import pathlib
import statistics as stdlib_statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nss_jax.errors import UserError
from nss_jax.results import fields, plots, statistics, tables
from nss_jax.results.artifact import Artifact
from nss_jax.results.networks import FOUND, SOURCES, check_arch
from nss_jax.results.plots import Picture
from nss_jax.results.tables import NOT_RUN, Record, Table
from nss_jax.spaces.search_space import SearchSpace


class Line(Artifact):
  """A line of `metrics.jsonl`."""

  train_loss: fields.NonNegative
  images_per_second: fields.Positive


class Trained(Artifact):
  """The content of the file; of the last epoch, never the best.

  Attributes:
    start: fresh weights, or those of the supernet.
    search_space: of this network and nothing else.
    data: name of the data set.
    test_images: how many there are.
    class_names: of its outputs; none: they have numbers only.
    background: grey level behind what is transparent in an image.
    mean: of each channel of the training images; std likewise.
    seconds: from the log, so that what an interruption cost does not count.
  """

  arch: fields.Text
  name: fields.Text
  depth: list[fields.Count]
  width: list[fields.Count]
  flops: fields.Count
  params: fields.Count
  seed: fields.Whole
  epochs: fields.Count
  start: fields.Text
  search_space: dict[str, Any]
  data: fields.Text
  test_images: fields.Count
  class_names: list[str]
  background: fields.Whole
  mean: list[fields.Number]
  std: list[fields.Positive]
  test_error: fields.Share
  test_loss: fields.NonNegative
  train_loss: fields.NonNegative
  seconds: fields.NonNegative

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError for what does not follow from the arch."""
    check_arch(self, search_space)

  def about(self) -> dict[str, Any]:
    """Returns what a saved network tells of itself."""
    wrong = round(self.test_error * self.test_images)
    outcomes = np.arange(self.test_images) < wrong
    return {
      "data": self.data,
      "test_images": self.test_images,
      "test_error": self.test_error,
      "test_error_interval": statistics.exact_interval(outcomes),
      "epochs": self.epochs,
      "seed": self.seed,
    }


def over_seeds(seeds: Sequence[Trained]) -> dict[str, Any]:
  """Returns the mean test error of a network over its seeds."""
  errors = [one.test_error for one in seeds]
  return {
    "mean_error": stdlib_statistics.fmean(errors),
    "standard_error": statistics.standard_error(errors),
    "num_seeds": len(errors),
  }


def best_lines(about: Mapping[str, Any]) -> list[str]:
  """Tells how good a saved network is, of what it keeps about itself."""
  low, high = about["test_error_interval"]
  lines = [
    f"Test error: {about['test_error']:.1%} of {about['test_images']:,} "
    f"images, 95 % interval {low:.1%} to {high:.1%}"
  ]
  if about.get("num_seeds", 1) > 1:
    lines.append(
      f"Over {about['num_seeds']} seeds: {about['mean_error']:.1%} ± "
      f"{about['standard_error']:.1%}"
    )
  return lines


def find_trained(
  folder: pathlib.Path, search_space: SearchSpace
) -> dict[str, list[Trained]]:
  """Reads what there is, by name, in the order of the seeds."""
  found: dict[str, list[Trained]] = {}
  for path in sorted(folder.glob("*/seed_*/result.json")):
    one = Trained.read(path, search_space)
    name, seed = path.parts[-3], path.parts[-2].removeprefix("seed_")
    for field, expected in (("name", name), ("seed", seed)):
      if str(getattr(one, field)) != expected:
        raise UserError(
          f"{path}: {field}: expected {expected} as its folder, got "
          f"{getattr(one, field)}"
        )
    others = found.setdefault(name, [])
    if others and others[0].arch != one.arch:
      raise UserError(
        f"{path}: arch: {one.arch}, but another seed of {name} has "
        f"{others[0].arch}"
      )
    others.append(one)
  order = [*(n for n in SOURCES if n in found), *sorted(found)]
  return {
    name: sorted(found[name], key=lambda one: one.seed)
    for name in dict.fromkeys(order)
  }


def table(
  trained: Mapping[str, Sequence[Trained]], expected: Sequence[str] = ()
) -> Table:
  """Returns a row for each network, mean over seeds, also of those expected."""
  columns = (
    ("network from", lambda r: SOURCES.get(r["name"], r["name"])),
    ("arch", tables.text("arch")),
    ("FLOPs", tables.macs("flops")),
    ("params", tables.number("params", ",")),
    ("seeds", tables.text("num_trained")),
    ("epochs", tables.text("epochs")),
    ("test error, and standard error (%)", tables.give_or_take("test_error")),
    (
      "above the network found (points)",
      tables.give_or_take("above_found", "+.2f"),
    ),
    ("test loss (nats)", tables.number("test_loss", ".4f")),
    ("train loss (nats)", tables.number("train_loss", ".4f")),
    ("seconds each", tables.number("seconds", ".0f")),
  )
  found = [one.test_error for one in trained.get(FOUND, ())]
  records = [
    _record(name, trained.get(name, ()), found)
    for name in dict.fromkeys([*expected, *trained])
  ]
  brief = [columns[i][0] for i in (0, 1, 2, 4, 6, 7)]
  return Table("train", "Trained networks", records, columns, brief)


def _record(
  name: str, trained: Sequence[Trained], found: list[float]
) -> Record:
  seeds = [one.test_error for one in trained]
  epochs = sorted({one.epochs for one in trained})
  difference, deviation = None, None
  if name != FOUND and found and seeds:
    difference, deviation = statistics.compare_means(seeds, found)
  first = trained[0] if trained else None
  return {
    "name": name,
    **{
      key: getattr(first, key, NOT_RUN) for key in ("arch", "flops", "params")
    },
    "seeds": " ".join(str(one.seed) for one in trained) or NOT_RUN,
    "num_trained": len(trained),
    "epochs": " ".join(map(str, epochs)) or NOT_RUN,
    "test_error": stdlib_statistics.fmean(seeds) if seeds else NOT_RUN,
    "test_error_standard_error": statistics.standard_error(seeds),
    "above_found": difference,
    "above_found_standard_error": deviation,
    **{
      key: stdlib_statistics.fmean(getattr(one, key) for one in trained)
      if trained
      else NOT_RUN
      for key in ("test_loss", "train_loss", "seconds")
    },
  }


def picture(trained: Mapping[str, Sequence[Trained]]) -> Picture | None:
  """Returns a bar per network, its mean, and a dot per seed."""
  if not trained:
    return None

  def draw() -> Figure:
    size = plots.WIDTH, 1.0 + 0.62 * len(trained)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for row, (name, seeds) in enumerate(trained.items()):
      elite = name.startswith("elite")
      color = plots.ELITE_COLOR if elite else plots.OTHERS_COLOR
      errors = [100 * one.test_error for one in seeds]
      mean = 100 * stdlib_statistics.fmean(one.test_error for one in seeds)
      axes.barh(row, mean, height=0.6, color=color, alpha=0.55)
      axes.plot(
        errors,
        row + 0.4 * plots.spread(len(errors)),
        "o",
        color="black",
        markersize=3.5,
        zorder=3,
      )
      axes.annotate(
        f"{mean:.2f}",
        (max(errors), row),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
      )
    axes.margins(x=0.15)
    axes.set_axisbelow(True)
    axes.set(xlabel="test error (%); a dot is a seed", xlim=(0, None))
    axes.grid(False, axis="y")
    axes.set_yticks(range(len(trained)), [_short(name) for name in trained])
    axes.set_ylim(len(trained) - 0.5, -0.5)
    return figure

  text = "Test error of the trained networks, mean over seeds"
  return Picture("trained", text, draw)


def _short(name: str) -> str:
  """Returns a name that leaves room for bars; `$` would start a formula.

  Fonts have no control characters.
  """
  text = {
    "elite": "Elite Space,\nfound",
    "elite_uniform": "Elite Space,\nuniform",
    "expanded": "Expanded,\nsearched",
    "expanded_uniform": "Expanded,\nuniform",
    "handmade": "hand-made",
    "regnet": "RegNet's rule",
  }.get(name, name)
  text = text.replace("_w", "\nw") if name.startswith("d") else text
  text = "".join(c if c.isprintable() or c == "\n" else " " for c in text)
  return text[:40].replace("$", r"\$")


_CONTROLS = {
  "elite_uniform": "a uniform draw from the Elite Space that meets the budgets",
  "expanded": "the one searched among all archs",
  "expanded_uniform": "a uniform draw from all archs that meets the budgets",
  "handmade": "the hand-made one of equal depths and doubling widths",
  "regnet": "one by RegNet's rule",
}


def sentences(records: Sequence[Record]) -> Iterator[str]:
  """Yields the network found against each of its controls."""
  for record in records:
    difference = record["above_found"]
    if difference is None or record["name"] not in _CONTROLS:
      continue
    points = f"{100 * abs(difference):.2f}"
    deviation = record["above_found_standard_error"]
    noise = f" (± {100 * deviation:.2f})" if deviation is not None else ""
    less = "less" if difference > 0 else "more"
    compared = f"{points}{noise} points {less} test error than"
    if float(points) == 0:
      compared = f"the same test error{noise} as"
    control = _CONTROLS[record["name"]]
    yield f"The network found has {compared} {control}."


def describe(
  trained: Mapping[str, Sequence[Trained]], folder: pathlib.Path
) -> list[str]:
  """Returns what a terminal shows: test errors, mean over the seeds."""
  return tables.describe(folder, "*/seed_*/result.json", [table(trained)])
