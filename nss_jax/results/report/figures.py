"""Pictures of a report, drawn to be read on a phone as well."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nss_jax.results import figures, rank_agreement, scores
from nss_jax.results.report.tables import (
  Record,
  format_ranges,
)
from nss_jax.results.report.workdir import Results, found_scores, found_space
from nss_jax.spaces.search_space import space_ranges

# Inches; text of 9 points in it is as large as a phone's.
_WIDTH = 4.5
_ELITE, _OTHERS, _RANGE = "tab:orange", "tab:blue", "0.86"
_SPACES = (
  scores.RANDOM_SPACES,
  scores.HARD_RANDOM_SPACES,
  scores.HAND_MADE,
  scores.ORACLE,
)
_STRIPS = {
  scores.RANDOM_SPACES: "random\nspaces",
  scores.HARD_RANDOM_SPACES: "no lowest\nwidth",
  scores.HAND_MADE: "hand-made",
  scores.ORACLE: "best of\nthe oracle",
}


# Single networks in the Pareto picture.
_MARKS = {
  "elite": ("network found", "*"),
  "elite_uniform": ("drawn from the Elite Space", "s"),
  "expanded_uniform": ("drawn from all archs", "D"),
  "handmade": ("hand-made network", "^"),
  "regnet": ("RegNet's rule", "v"),
}


class Picture(NamedTuple):
  """A drawing to be made.

  Attributes:
    name: of its files, `<name>.png` and `<name>.svg`.
    text: what it shows, for who can not see it.
    draw: writes it to a path, whose suffix is the format.
    wide: whether it has many panels and is to be scrolled on a phone.
  """

  name: str
  text: str
  draw: Callable[[pathlib.Path], None]
  wide: bool = False


def pictures(
  results: Results,
  target: float | None,
  train_records: Sequence[Record],
  *,
  warmup_epochs: int,
) -> dict[str, Picture]:
  """All that can be drawn of the results, by name.

  Args:
    results: of a workdir.
    target: multiply-adds; None where they are no budget.
    train_records: of the table `train`.
    warmup_epochs: of the search.
  """
  found: list = []
  if results.space is not None:
    found.append(_elite_space(results))
  if results.epochs:
    found.append(_trajectory(results, warmup_epochs))
  table = results.scores
  if table is not None and len(table):
    if np.isin(table.source, (scores.ELITE, scores.EXPANDED)).any():
      found.append(_pareto(results, target))
    if np.isin(table.source, _SPACES).any():
      found.append(_spaces(results))
  trained = [r for r in train_records if r["num_trained"]]
  if trained:
    found.append(_trained(results, trained))
  if picture := rank_agreement.picture(results.rank_scores, results.rank_check):
    found.append(picture)
  return {picture.name: picture for picture in found}


def write(picture: Picture, folder: pathlib.Path) -> str:
  """Writes both files; returns the SVG, to be put into a page.

  It refers to nothing outside itself: no document type, no metadata.
  """
  with matplotlib.rc_context(figures.STYLE):
    picture.draw(folder / f"{picture.name}.png")
    path = folder / f"{picture.name}.svg"
    picture.draw(path)
  text = path.read_text("utf-8")
  text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
  text = text[text.index("<svg") :]
  # matplotlib names clips by where they are in memory.
  clips = dict.fromkeys(re.findall(r'<clipPath id="(\w+)"', text))
  for number, clip in enumerate(clips):
    text = text.replace(clip, f"{picture.name}_clip_{number}")
  path.write_text(text, "utf-8")
  return text


def _elite_space(results: Results) -> Picture:
  search_space = results.search_space
  ranges = space_ranges(search_space, found_space(results))

  def draw(path):
    stages = search_space.num_stages
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.75 * stages), layout="constrained")
    for axes, kind, unit in zip(
      figure.subplots(1, 2, sharey=True),
      ("depth", "width"),
      ("blocks", "channels"),
      strict=True,
    ):
      bins = getattr(search_space, f"{kind}_bins")
      for stage in range(stages):
        low, high = bins[stage][0][0], bins[stage][-1][1]
        _draw_range(axes, stage, low, high, _RANGE)
        _draw_range(axes, stage, *ranges[kind][stage], _ELITE)
        axes.annotate(
          format_ranges([ranges[kind][stage]]),
          (np.mean(ranges[kind][stage]), stage - 0.29),
          ha="center",
          va="bottom",
        )
      axes.set(title=f"{unit} per stage", ylim=(stages - 0.5, -0.75))
      axes.grid(False)
      axes.spines["left"].set_visible(False)
      axes.tick_params(axis="y", length=0)
      axes.set_yticks(range(stages), [f"stage {s + 1}" for s in range(stages)])
    _legend(
      figure,
      [("Elite Space", _ELITE, 1), ("all on offer", _RANGE, 1)],
    )
    figure.savefig(path, dpi=160)

  text = "The Elite Space in the full range of depths and widths of each stage"
  return Picture("elite_space", text, draw)


def _draw_range(axes: Axes, row: int, low: int, high: int, color: str) -> None:
  # From half a block before to half a block after: a range of one is seen.
  axes.barh(row, high - low + 1, left=low - 0.5, height=0.5, color=color)


def _legend(figure: Figure, entries: Sequence[tuple[str, str, float]]) -> None:
  handles = [
    matplotlib.patches.Patch(color=color, alpha=alpha, label=label)
    for label, color, alpha in entries
  ]
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _trajectory(results: Results, warmup_epochs: int) -> Picture:
  def draw(path):
    figures.draw_trajectory(
      path,
      results.epochs,
      results.search_space,
      results.elite,
      warmup_epochs=warmup_epochs,
    )

  text = (
    "Cost, losses, entropy and temperature of the search over its epochs, and "
    "the probability of every bin"
  )
  return Picture("trajectory", text, draw, wide=True)


def _pareto(results: Results, target: float | None) -> Picture:
  table = found_scores(results)
  marks = [
    figures.Mark(label, network["flops"], network["evaluator"]["error"], marker)
    for name, (label, marker) in _MARKS.items()
    if "evaluator" in (network := results.nas.get(name, {}))
  ]

  def draw(path):
    figures.draw_pareto(path, table, target, marks=marks, size=(_WIDTH, 5.4))

  text = (
    "Error over multiply-adds, both logarithmic, of archs of the Elite Space, "
    "of the hand-made one and of the Expanded Search Space, with the Pareto "
    "front and the networks found and controls"
  )
  return Picture("pareto", text, draw)


def _spaces(results: Results) -> Picture:
  """A dot per space, and a line where the Elite Space is."""
  table = found_scores(results)
  names = [name for name in _SPACES if name in table.source]
  elite = table.group(scores.ELITE)

  def draw(path):
    figure = Figure(
      figsize=(_WIDTH, 1.4 + 1.1 * len(names)), layout="constrained"
    )
    for axes, measure, scale, title in zip(
      figure.subplots(1, 2, sharey=True),
      ("loss", "error"),
      (1, 100),
      ("mean loss (nats)", "mean error (%)"),
      strict=True,
    ):
      for row, name in enumerate(names):
        means = scale * _space_means(table.group(name), measure)
        axes.plot(
          means,
          row + _spread(len(means)),
          "o",
          color=_OTHERS,
          alpha=0.6,
          markersize=4.5,
          markeredgewidth=0,
        )
      if len(elite):
        mean = scale * getattr(elite, measure).mean()
        axes.axvline(mean, color=_ELITE, linewidth=2.5)
      axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
      figures.make_logarithmic(axes, "x")
      axes.tick_params(axis="y", length=0)
      axes.set_yticks(range(len(names)), [_STRIPS[name] for name in names])
    _legend(figure, [("Elite Space", _ELITE, 1), ("one space", _OTHERS, 0.6)])
    figure.savefig(path, dpi=160)

  text = (
    "Mean loss and mean error of each of the other spaces, as dots, and of the "
    "Elite Space, as a line; further left is better"
  )
  return Picture("spaces", text, draw)


def _space_means(group: scores.Scores, measure: str) -> np.ndarray:
  """`[M]`, the mean of the archs of each space."""
  _, inverse = np.unique(group.space, return_inverse=True)
  return np.bincount(inverse, getattr(group, measure)) / np.bincount(inverse)


def _spread(count: int) -> np.ndarray:
  """Heights in a strip that keep dots apart: golden-ratio steps, no chance."""
  return 0.5 * ((np.arange(count) * 0.618034) % 1) - 0.25


def _trained(results: Results, records: Sequence[Record]) -> Picture:
  """A bar per network, its mean; a dot per seed."""

  def draw(path):
    figure = Figure(
      figsize=(_WIDTH, 1.0 + 0.62 * len(records)), layout="constrained"
    )
    axes = figure.subplots()
    for row, record in enumerate(records):
      name = record["name"]
      color = _ELITE if name.startswith("elite") else _OTHERS
      mean = 100 * record["test_error"]
      axes.barh(row, mean, height=0.6, color=color, alpha=0.55)
      errors = [100 * r["test_error"] for r in results.trained[name]]
      axes.plot(
        errors,
        row + 0.4 * _spread(len(errors)),
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
    labels = [_short(record["name"]) for record in records]
    axes.set_yticks(range(len(records)), labels)
    axes.set_ylim(len(records) - 0.5, -0.5)
    figure.savefig(path, dpi=160)

  text = "Test error of the trained networks, mean over seeds"
  return Picture("trained", text, draw)


def _short(name: str) -> str:
  """A name that leaves room for bars; `$` would start a formula.

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
