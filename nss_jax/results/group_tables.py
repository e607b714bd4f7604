"""What a report and a terminal show of `evaluate/`."""

import pathlib
from collections.abc import Iterator

import numpy as np
from matplotlib.figure import Figure

from nss_jax.results import plots, tables
from nss_jax.results import scores as scores_lib
from nss_jax.results.groups import Evaluation
from nss_jax.results.plots import Picture
from nss_jax.results.scores import GROUPS, Scores
from nss_jax.results.tables import Cell, Table

_MEASURES = ("loss", "error")
# What the Elite Space is held against, as the picture names it.
_STRIPS = {
  scores_lib.RANDOM_SPACES: "random\nspaces",
  scores_lib.HARD_RANDOM_SPACES: "no lowest\nwidth",
  scores_lib.HAND_MADE: "hand-made",
  scores_lib.ORACLE: "best of\nthe oracle",
}
_HALF = 50  # percent


def groups_table(result: Evaluation) -> Table:
  """Returns what is known of each group of archs."""
  records = [
    {"group": name, "num_spaces": None, **group.to_json()}
    for name, group in result.groups.items()
  ]
  columns = (
    ("archs of", lambda r: GROUPS[r["group"]]),
    ("archs", tables.text("count")),
    ("spaces", tables.text("num_spaces")),
    ("mean cost", tables.macs("mean_flops")),
    ("mean error (%)", tables.percent("mean_error")),
    ("median (%)", tables.percent("median_error")),
    ("best (%)", tables.percent("min_error")),
    ("mean loss (nats)", tables.number("mean_loss", ".4f")),
    ("share of front (%)", tables.percent("pareto_share", ".0f")),
    ("hypervolume", tables.number("hypervolume", ".3f")),
  )
  brief = "archs of", "archs", "mean cost", "mean error (%)", "mean loss (nats)"
  return Table("groups", "Groups of archs", records, columns, brief)


def spaces_table(result: Evaluation) -> Table:
  """Returns the Elite Space among other spaces of about its cost."""
  records = []
  for name, against in result.elite_against.items():
    for measure in _MEASURES:
      found = getattr(against, measure)
      record = {
        "against": name,
        "num_spaces": against.num_spaces,
        "measure": measure,
        "elite": found.elite,
        "best": found.best,
        "regret": found.regret,
        "regret_error": found.regret_error,
        "percentile": found.percentile,
      }
      for interval in ("bootstrap_interval", "exact_interval"):
        low, high = getattr(found, interval) or (None, None)
        record |= {f"{interval}_low": low, f"{interval}_high": high}
      records.append(record)

  def measured(key: str, spec: str = "") -> Cell:
    def words(record: tables.Record) -> str:
      if record["measure"] == "loss":
        return f"{record[key]:{spec}.4f} nats"
      return f"{100 * record[key]:{spec}.2f} %"

    return words

  columns = (
    ("against", lambda r: GROUPS[r["against"]]),
    ("spaces", tables.text("num_spaces")),
    ("by mean", tables.text("measure")),
    ("Elite Space", measured("elite")),
    ("best of them", measured("best")),
    ("regret", measured("regret", "+")),
    ("percentile", tables.number("percentile", ".1f")),
    ("interval (bootstrap)", tables.interval("bootstrap_interval", ".0f")),
    ("interval (exact)", tables.interval("exact_interval", ".0f")),
  )
  brief = "against", "spaces", "by mean", "regret", "percentile"
  title = "The Elite Space among others"
  return Table("spaces", title, records, columns, brief)


def picture(scores: Scores) -> Picture | None:
  """Returns a dot per space, and a line where the Elite Space is."""
  names = [name for name in _STRIPS if name in scores.source]
  if not names:
    return None
  elite = scores.group(scores_lib.ELITE)

  def draw() -> Figure:
    size = plots.WIDTH, 1.4 + 1.1 * len(names)
    figure = Figure(figsize=size, layout="constrained")
    for axes, measure, scale, title in zip(
      figure.subplots(1, 2, sharey=True),
      _MEASURES,
      (1, 100),
      ("mean loss (nats)", "mean error (%)"),
      strict=True,
    ):
      for row, name in enumerate(names):
        means = scale * _space_means(scores.group(name), measure)
        axes.plot(
          means,
          row + plots.spread(len(means)),
          "o",
          color=plots.OTHERS_COLOR,
          alpha=0.6,
          markersize=4.5,
          markeredgewidth=0,
        )
      if len(elite):
        mean = scale * getattr(elite, measure).mean()
        axes.axvline(mean, color=plots.ELITE_COLOR, linewidth=2.5)
      axes.set(title=title, ylim=(len(names) - 0.5, -0.5))
      plots.make_logarithmic(axes, "x")
      axes.tick_params(axis="y", length=0)
      axes.set_yticks(range(len(names)), [_STRIPS[name] for name in names])
    legend = [
      ("Elite Space", plots.ELITE_COLOR, 1.0),
      ("one space", plots.OTHERS_COLOR, 0.6),
    ]
    plots.add_legend(figure, legend)
    return figure

  text = (
    "Mean loss and mean error of each of the other spaces, as dots, and of the "
    "Elite Space, as a line; further left is better"
  )
  return Picture("spaces", text, draw)


def _space_means(group: Scores, measure: str) -> np.ndarray:
  """Returns the mean of the archs of each space, `[M]`."""
  _, inverse = np.unique(group.space, return_inverse=True)
  return np.bincount(inverse, getattr(group, measure)) / np.bincount(inverse)


def sentences(result: Evaluation) -> Iterator[str]:
  """Yields what random spaces, the hand-made one and the oracle's say."""
  confidence = 100 * result.bootstrap.confidence
  for name, kind in (
    (scores_lib.RANDOM_SPACES, "random spaces of about the target's cost"),
    (scores_lib.HARD_RANDOM_SPACES, "such spaces without the lowest width"),
  ):
    against = result.elite_against.get(name)
    if against is not None and against.loss.exact_interval is not None:
      low, high = against.loss.exact_interval
      yield (
        f"{against.loss.percentile:.3g} % of {against.num_spaces} {kind} "
        f"have a smaller mean loss (exact {confidence:.0f} % interval "
        f"{low:.0f} to {high:.0f}): the Elite Space {_verdict(low, high)}."
      )
  if hand_made := result.elite_against.get(scores_lib.HAND_MADE):
    off, error = hand_made.loss.regret, hand_made.loss.regret_error
    which = "better" if off < 0 else "worse"
    sure = "" if abs(off) > 2 * error else ", which is within the noise"
    yield (
      "Against the space that one would draw by hand at this cost (equal "
      f"depths, widths that double) the Elite Space is {which} by "
      f"{abs(off):.4f} ± {error:.4f} nats of mean loss{sure}."
    )
  if best := result.elite_against.get(scores_lib.ORACLE):
    yield (
      "Regret to the best space that evolution on the evaluator found: "
      f"{best.loss.regret:+.4f} ± {best.loss.regret_error:.4f} nats of mean "
      f"loss, {100 * best.error.regret:+.2f} ± "
      f"{100 * best.error.regret_error:.2f} points of mean error."
    )


def _verdict(low: float, high: float) -> str:
  """Says what an interval of the percentile means; 0 is the best."""
  if high < _HALF:
    return "is better than most of them"
  if low > _HALF:
    return "is worse than most of them"
  return "can not be told from a space in the middle"


def describe(result: Evaluation, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the tables, and what they say."""
  names = "scores.csv, summary.json, pareto.png"
  shown = groups_table(result), spaces_table(result)
  lines = tables.describe(folder, names, shown, sentences(result))
  return ["", "Is the Elite Space elite?", *lines]
