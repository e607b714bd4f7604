"""Pictures of a run, drawn from its files."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import (
  FuncFormatter,
  LogLocator,
  MaxNLocator,
  NullFormatter,
)

from nss_jax.runtime import scores as scores_lib
from nss_jax.runtime import space_file
from nss_jax.runtime.scores import Scores, pareto_front
from nss_jax.spaces.bins import Bin
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_macs

StrPath = str | os.PathLike[str]

STYLE = {
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.alpha": 0.25,
  "font.size": 9,
  "axes.titlesize": 10,
  "legend.frameon": False,
  "svg.hashsalt": "nss_jax",  # equal results, equal bytes
}
# What Pareto pictures show: title, color and opacity.
PARETO_GROUPS = {
  scores_lib.EXPANDED: ("Expanded Search Space", "tab:blue", 0.45),
  scores_lib.HAND_MADE: ("hand-made space", "tab:green", 0.6),
  scores_lib.ELITE: ("Elite Space", "tab:orange", 0.7),
}
# Of which the front is.
FRONT = (scores_lib.EXPANDED, scores_lib.ELITE)
# Archs that a median needs.
_FEWEST = 5


def draw_trajectory(
  path: StrPath,
  lines: Sequence[dict[str, Any]],
  search_space: SearchSpace,
  elite: dict[str, Any] | None,
  *,
  warmup_epochs: int,
) -> None:
  """Costs, losses, temperature and entropy over epochs, and every bin.

  Args:
    path: of the picture; its suffix is the format.
    lines: of `metrics.jsonl`.
    search_space: the bins.
    elite: content of `elite_space.json`; None while the search runs.
    warmup_epochs: shaded.
  """
  stages = search_space.num_stages
  columns = max(stages, 3)
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(4 * columns, 8.4), layout="constrained")
    rows = cast(Any, figure.subfigures(2, 1, height_ratios=(1, 1.7)))
    _draw_curves(rows[0], lines, search_space, warmup_epochs)
    axes = rows[1].subplots(
      2, stages, squeeze=False, sharex=True, height_ratios=(1, 2.2)
    )
    pictures = [
      _draw_bins(axes[row, stage], lines, search_space, elite, kind, stage)
      for row, kind in enumerate(("depth", "width"))
      for stage in range(stages)
    ]
    rows[1].colorbar(pictures[-1], ax=axes, label="probability", fraction=0.03)
    figure.suptitle(_trajectory_title(elite))
    figure.savefig(path, dpi=110)


def _trajectory_title(elite: dict[str, Any] | None) -> str:
  if elite is None:
    return "The search has not ended: there is no Elite Space yet"
  met = space_file.describe_costs(elite)
  if elite["constraints"][0]["metric"] == "flops":
    met[0] += " (multiply-adds)"
  end = "its bins are outlined"
  if len(met) == 1:
    return f"Elite Space: {met[0]}; {end}"
  return "\n".join(["Elite Space: " + met[0], *met[1:], end])


class Mark(NamedTuple):
  """A single network in a Pareto picture.

  Attributes:
    label: for the legend.
    flops: multiply-adds.
    error: a share.
    marker: of matplotlib.
  """

  label: str
  flops: float
  error: float
  marker: str


def draw_pareto(
  path: StrPath,
  scores: Scores,
  target_flops: float | None,
  *,
  marks: Sequence[Mark] = (),
  size: tuple[float, float] = (6.4, 4.8),
) -> None:
  """Error over FLOPs of single archs, as the paper's Figs. 3-4.

  Blue archs of the Expanded Search Space with their median error by cost,
  orange ones of the Elite Space (one of them may be missing), green ones of the
  hand-made space, and the Pareto front of the first two together. Both axes
  are logarithmic.

  Args:
    path: of the picture; its suffix is the format.
    scores: rows of `evaluate/scores.csv`; other groups are not drawn.
    target_flops: a vertical line; None where they are no budget.
    marks: single networks, of which the first matters most.
    size: of the picture, in inches.

  Raises:
    ValueError: if there is no arch to draw.
  """
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=size, layout="constrained")
    draw_pareto_panel(figure.subplots(), scores, target_flops, marks)
    tight = {"fontsize": "small", "handlelength": 1.5, "columnspacing": 1}
    legend = figure.legend(loc="outside upper center", ncols=2, **tight)
    for handle in filter(None, legend.legend_handles):
      handle.set_alpha(1)
    figure.savefig(path, dpi=130)


def draw_pareto_panel(
  axes: Axes,
  scores: Scores,
  target_flops: float | None,
  marks: Sequence[Mark] = (),
) -> None:
  """What `draw_pareto` shows, on axes; the legend is left to the caller.

  Raises:
    ValueError: if there is no arch to draw.
  """
  shown = scores.select(np.isin(scores.source, [*PARETO_GROUPS]))
  both = scores.select(np.isin(scores.source, FRONT))
  if not len(both):
    raise ValueError(f"no arch to draw: none is of {' or '.join(FRONT)}")
  # No error at all has no place on a logarithmic axis: it is drawn at half of
  # the smallest that there is.
  errors = np.asarray([*shown.error, *(mark.error for mark in marks)])
  floor = errors[errors > 0].min(initial=1.0) / 2
  for name, (title, color, alpha) in PARETO_GROUPS.items():
    group = shown.group(name)
    if len(group):
      axes.scatter(
        group.flops,
        100 * np.maximum(group.error, floor),
        s=12,
        color=color,
        alpha=alpha,
        linewidths=0,
        label=f"{title} ({len(group)} archs)",
      )
  _draw_medians(axes, scores.group(scores_lib.EXPANDED), floor)
  _draw_front(axes, both.select(pareto_front(both)), floor)
  # The first is on top, and larger: others may be in the same place.
  for rank, mark in enumerate(marks):
    axes.plot(
      mark.flops,
      100 * max(mark.error, floor),
      mark.marker,
      color="black",
      markerfacecolor="white",
      markersize=7 if rank else 12,
      label=mark.label,
      zorder=4 if rank else 5,
    )
  if target_flops is not None:
    axes.axvline(
      target_flops,
      color="black",
      linestyle="--",
      linewidth=1,
      label=f"target {format_macs(target_flops)}",
    )
  zero = " (lowest row: 0)" if (errors == 0).any() else ""
  axes.set(ylabel=f"error (%){zero}", xlabel="FLOPs (multiply-adds)")
  make_logarithmic(axes, "x", format_macs)
  make_logarithmic(axes, "y")


def _draw_medians(axes: Axes, group: Scores, floor: float) -> None:
  """The median error of archs by cost, in thirds of a decade."""
  if not len(group):
    return
  cells = np.floor(3 * np.log10(group.flops)).astype(int)
  points = [
    (np.median(group.flops[cells == x]), np.median(group.error[cells == x]))
    for x in np.unique(cells)
    if (cells == x).sum() >= _FEWEST
  ]
  if len(points) > 1:
    flops, errors = np.asarray(points).T
    axes.plot(
      flops,
      100 * np.maximum(errors, floor),
      color="tab:blue",
      linewidth=1.5,
      label="their median by cost",
    )


def _draw_front(axes: Axes, front: Scores, floor: float) -> None:
  """What error each budget of FLOPs can reach: a falling staircase."""
  order = np.argsort(front.flops)
  axes.step(
    front.flops[order],
    100 * np.maximum(front.error[order], floor),
    where="post",
    color="black",
    linewidth=1,
    label="Pareto front",
  )


def make_logarithmic(
  axes: Axes,
  name: Literal["x", "y"],
  words: Callable[[float], str] = "{:g}".format,
) -> None:
  """Ticks in words, not powers of ten, as many as there is room for."""
  axes.set(**{f"{name}scale": "log"})
  axis = axes.xaxis if name == "x" else axes.yaxis
  low, high = axis.get_view_interval()
  decades = np.log10(high / low)
  for marks in (range(1, 10), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
    # Two labels of about an eighth of the axis must not meet.
    if np.diff(np.log10([*marks, 10])).min() > 0.125 * decades:
      break
  axis.set_major_locator(LogLocator(subs=marks))
  axis.set_major_formatter(FuncFormatter(lambda x, _: words(x)))
  axis.set_minor_formatter(NullFormatter())


def _draw_curves(
  figure: SubFigure,
  lines: Sequence[dict[str, Any]],
  search_space: SearchSpace,
  warmup_epochs: int,
) -> None:
  epochs = [line["epoch"] for line in lines]

  def values(name):
    return [np.nan if line[name] is None else line[name] for line in lines]

  costs, losses, chance = figure.subplots(1, 3)
  _draw_costs(costs, lines)
  losses.plot(epochs, values("train_loss"), label="training half")
  losses.plot(epochs, values("validation_loss"), label="validation half")
  losses.set(title="cross-entropy (nats)")
  for kind, bins in (
    ("depth", search_space.depth_bins),
    ("width", search_space.width_bins),
  ):
    most = sum(np.log(len(stage)) for stage in bins) or 1.0
    share = np.asarray(values(f"{kind}_entropy")) / most
    chance.plot(epochs, share, label=f"{kind} entropy / largest")
  start = lines[0]["temperature"]
  chance.plot(
    epochs,
    np.asarray(values("temperature")) / start,
    color="grey",
    linestyle="--",
    label=f"temperature / {start:.3g}",
  )
  chance.set(title="entropy and temperature", ylim=(-0.02, 1.05))
  for axes in (costs, losses, chance):
    if warmup_epochs:
      axes.axvspan(0.5, warmup_epochs + 0.5, color="grey", alpha=0.12)
    axes.set(xlabel="epoch (shaded: warmup)", xlim=(0.5, epochs[-1] + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend()


def _draw_costs(axes: Axes, lines: Sequence[dict[str, Any]]) -> None:
  """Of every budget over its target; the samples of one that is not alone are
  fainter, of its color."""
  epochs = [line["epoch"] for line in lines]
  names = list(lines[0].get("constraints", {}))
  several = len(names) > 1

  def values(name: str, budget: str | None) -> list[float]:
    found = [x if budget is None else x["constraints"][budget] for x in lines]
    return [np.nan if x[name] is None else x[name] for x in found]

  axes.axhline(1, color="black", linewidth=0.8)
  for index, budget in enumerate(names if several else [None]):
    colors = (f"C{index}",) * 2 if several else ("C0", "C1")
    prefix = f"{budget}, " if several else ""
    for name, color, alpha in zip(
      ("sampled", "expected"),
      colors,
      (0.35 if several else 0.8, 1),
      strict=True,
    ):
      axes.plot(
        epochs,
        values(f"{name}_cost", budget),
        label=prefix + name,
        color=color,
        alpha=alpha,
      )
  axes.set(title="cost / target")
  make_logarithmic(axes, "y")


def _draw_bins(
  axes: Axes,
  lines: Sequence[dict[str, Any]],
  search_space: SearchSpace,
  elite: dict[str, Any] | None,
  kind: str,
  stage: int,
) -> AxesImage:
  bins = getattr(search_space, f"{kind}_bins")[stage]
  table = np.asarray(
    [line["probabilities"][kind][stage][: len(bins)] for line in lines]
  )
  picture = axes.imshow(
    table.T,
    aspect="auto",
    origin="lower",
    cmap="magma",
    vmin=0,
    vmax=1,
    interpolation="nearest",
    extent=(0.5, len(lines) + 0.5, -0.5, len(bins) - 0.5),
  )
  axes.grid(False)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
  step = -(-len(bins) // 8)
  shown = range(0, len(bins), step)
  axes.set_yticks(shown, [_name(bins[i]) for i in shown])
  if elite is not None:
    chosen = [tuple(pair) for pair in bins].index(
      tuple(elite["space"][kind][stage])
    )
    axes.axhspan(
      chosen - 0.5, chosen + 0.5, fill=False, edgecolor="deepskyblue", lw=1.5
    )
  unit = "blocks" if kind == "depth" else "channels"
  axes.set_title(f"stage {stage + 1}: {unit}")
  if kind == "width":
    axes.set_xlabel("epoch")
  return picture


def _name(pair: Bin) -> str:
  low, high = pair
  return str(low) if low == high else f"{low}-{high}"
