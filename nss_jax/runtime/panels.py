"""Pictures of several panels: Figs. 3 to 6, 9 and 10 of the paper."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nss_jax.runtime import complexity, figures
from nss_jax.runtime.figures import StrPath
from nss_jax.runtime.populations import (
  ANY_COST,
  IN_WINDOW,
  MATCHED,
  NAMES,
  OWN,
  PRINCIPLES,
  TREND,
  TRENDS,
)
from nss_jax.runtime.scores import Scores
from nss_jax.spaces.text import format_macs

_SHOWN = 0.95  # of the networks, at least
# Fig. 5 ends at 1000 MF, with a target of 600.
_LARGEST_SHOWN = 5 / 3
_LINES = ("-", "--", ":", "-.")
_DEPTHS = ("tab:green", "tab:blue", "tab:purple")
_POPULATIONS = {
  PRINCIPLES: ("tab:blue", "-"),
  TREND: ("tab:orange", "-"),
  "anynet_e": ("tab:gray", "-."),
  "regnet": ("tab:green", "--"),
  OWN: ("tab:red", "-"),
}
_PANEL_TITLES = {
  IN_WINDOW: "in the window of cost",
  ANY_COST: "at any cost",
  **{f"{MATCHED}_{kind}": "pairs of equal cost" for kind in TRENDS},
}
_WIDTHS = ("tab:blue", "tab:green", "tab:purple", "tab:brown")


def draw_error_edfs(
  path: StrPath,
  panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> None:
  """Error EDFs (paper Fig. 6): the share of networks at or below an error.

  Args:
    path: of the picture; its suffix is the format.
    panels: as `populations.error_curves` returns them. Each is cut where all
      of its curves have reached 95 %, as the paper cuts its own.

  Raises:
    ValueError: if there is no curve to draw.
  """
  if not panels:
    raise ValueError("no arch to draw: no population has any")
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(0.6 + 3.5 * len(panels), 4), layout="constrained")
    handles = {}
    for axes, (title, curves) in zip(
      figure.subplots(1, len(panels), sharey=True, squeeze=False)[0],
      panels.items(),
      strict=True,
    ):
      axes.set(title=_PANEL_TITLES[title], xlabel="error (%)", ylim=(0, 1.02))
      ends = [e[np.searchsorted(s, _SHOWN)] for e, s in curves.values()]
      axes.set_xlim(0, 105 * max(ends))
      for kind, (errors, shares) in curves.items():
        color, line = _POPULATIONS[kind]
        # No network is below the smallest error: the curve starts at 0.
        (handles[kind],) = axes.step(
          100 * np.concatenate([errors[:1], errors]),
          np.concatenate([[0], shares]),
          where="post",
          color=color,
          linestyle=line,
          linewidth=1.8,
          label=NAMES[kind],
        )
    figure.axes[0].set_ylabel("share of networks")
    # Room between the labels of two axes.
    figure.set_layout_engine("constrained", wspace=0.06)
    # One legend, as a population looks the same in every panel.
    shown = [handles[kind] for kind in NAMES if kind in handles]
    figure.legend(
      handles=shown,
      loc="outside upper left",
      ncols=2 * len(panels),
      handlelength=3.2,
    )
    figure.savefig(path, dpi=130)


def draw_complexity(
  path: StrPath, table: Scores, target: float, tolerance: float
) -> None:
  """Archs of ever larger search spaces, and FLOPs EDFs (paper Fig. 5).

  A panel for each largest width, one for the Elite Space, and the EDF inside
  the tolerance of the target. Errors over multiply-adds, cut at 5/3 of the
  target as in the paper; the legends count what is seen.

  Args:
    path: of the picture; its suffix is the format.
    table: rows of `complexity/scores.csv`.
    target: multiply-adds.
    tolerance: relative.
  """
  levels, elite = complexity.levels(table), complexity.elite(table)
  count = len(levels) + bool(len(elite))
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(figsize=(3.5 * (count + 1), 4.1), layout="constrained")
    axes = figure.subplots(1, count + 1)
    for panel, (width, groups) in zip(axes, levels.items(), strict=False):
      named = {f"depths to {depth}": g for depth, g in groups.items()}
      _scatter(panel, f"widths to {width}", named, target, tolerance)
    if len(elite):
      _scatter(
        axes[-2], "Elite Space", {"": elite}, target, tolerance, ("tab:orange",)
      )
    for panel in axes[1:-1]:
      panel.sharey(axes[0])
    axes[0].set_ylabel("error (%)")
    _draw_flops_edfs(axes[-1], levels, elite, target, tolerance)
    figure.savefig(path, dpi=130)


def _scatter(
  axes: Axes,
  title: str,
  groups: Mapping[str, Scores],
  target: float,
  tolerance: float,
  colors: Sequence[str] = _DEPTHS,
) -> None:
  axes.axvspan(
    target * (1 - tolerance), target * (1 + tolerance), color="0.9", zorder=0
  )
  axes.axvline(target, color="black", linestyle="--", linewidth=1)
  limit = _LARGEST_SHOWN * target
  for (name, group), color in zip(
    groups.items(), itertools.cycle(colors), strict=False
  ):
    shown = group.flops <= limit
    label = f"{shown.sum()} of {len(group)} archs"
    axes.scatter(
      group.flops[shown],
      100 * group.error[shown],
      s=9,
      alpha=0.55,
      linewidths=0,
      color=color,
      label=f"{name}: {label}" if name else label,
    )
  axes.set(title=title, xlim=(0, limit), xlabel="FLOPs (multiply-adds)")
  _mark_linear(axes, target)
  axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), markerscale=2)


def _draw_flops_edfs(
  axes: Axes,
  levels: Mapping[int, Mapping[int, Scores]],
  elite: Scores,
  target: float,
  tolerance: float,
) -> None:
  for (width, groups), color in zip(
    levels.items(), itertools.cycle(_WIDTHS), strict=False
  ):
    for (depth, group), line in zip(
      groups.items(), itertools.cycle(_LINES), strict=False
    ):
      curve = complexity.flops_edf(group, target, tolerance)
      label = f"w to {width}, d to {depth}"
      axes.step(
        *curve, where="post", color=color, linestyle=line, label=label, lw=1.3
      )
  if len(elite):
    axes.step(
      *complexity.flops_edf(elite, target, tolerance),
      where="post",
      color="tab:orange",
      linewidth=2.5,
      label="Elite Space",
    )
  axes.set(
    title=f"within {100 * tolerance:g} % of the target",
    xlabel="FLOPs (multiply-adds)",
    ylabel="share of all archs drawn",
    ylim=(0, None),
  )
  ends = [target * (1 + side * tolerance) for side in (-1, 0, 1)]
  axes.set_xticks(ends, [format_macs(x) for x in ends])
  axes.legend(
    loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7
  )


def _mark_linear(axes: Axes, target: float) -> None:
  marks = [share * target for share in (0, 0.5, 1, 1.5)]
  axes.set_xticks(marks, ["0", *(format_macs(x) for x in marks[1:])])


def draw_targets(
  path: StrPath, tables: Sequence[tuple[float, Scores]], *, columns: int = 3
) -> None:
  """A Pareto panel per target (paper Figs. 3, 4, 9 and 10).

  Args:
    path: of the picture; its suffix is the format.
    tables: `(target, rows of its evaluate/scores.csv)`, with archs of the Elite
      Space or the Expanded Search Space in each; multiply-adds.
    columns: panels beside each other, at most.
  """
  columns = min(columns, len(tables))
  rows = -(-len(tables) // columns)
  with matplotlib.rc_context(figures.STYLE):
    figure = Figure(
      figsize=(4.7 * columns, 0.6 + 3.3 * rows), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, (target, table) in zip(axes.flat, tables, strict=False):
      figures.draw_pareto_panel(panel, table, target)
      panel.set_title(format_macs(target))
    for panel in axes.flat[len(tables) :]:
      panel.remove()
    for panel in axes[:, 1:].flat:
      panel.set_ylabel("")
    # All panels have the same three or four things, but for their counts.
    handles, labels = axes.flat[0].get_legend_handles_labels()
    names = [label.partition(" (")[0] for label in labels]
    names = ["target" if n.startswith("target") else n for n in names]
    legend = figure.legend(
      handles, names, loc="outside upper center", ncols=4, markerscale=2
    )
    for handle in filter(None, legend.legend_handles):
      handle.set_alpha(1)
    figure.savefig(path, dpi=130)
