"""Error EDFs of the populations of `principles/scores.csv` (Fig. 6)."""

import numpy as np
from matplotlib.figure import Figure

from nss_jax.results import statistics, trends
from nss_jax.results.plots import Picture
from nss_jax.results.scores import Scores

_SHOWN = 0.95  # of the networks, at least
_LOOKS = {
  trends.PRINCIPLES: ("tab:blue", "-"),
  trends.TREND: ("tab:orange", "-"),
  "anynet_e": ("tab:gray", "-."),
  "regnet": ("tab:green", "--"),
  trends.OWN: ("tab:red", "-"),
}


def picture(scores: Scores) -> Picture | None:
  """Returns error EDFs: the share of networks at or below an error.

  A panel for each cost, and one of pairs of equal cost for each trend. Each is
  cut where all of its curves have reached 95 %, as the paper cuts its own.
  """
  panels = error_curves(scores)
  if not panels:
    return None

  def draw() -> Figure:
    size = 0.6 + 3.5 * len(panels), 4
    figure = Figure(figsize=size, layout="constrained")
    handles = {}
    for axes, (title, curves) in zip(
      figure.subplots(1, len(panels), sharey=True, squeeze=False)[0],
      panels,
      strict=True,
    ):
      axes.set(title=title, xlabel="error (%)", ylim=(0, 1.02))
      ends = [e[np.searchsorted(s, _SHOWN)] for e, s in curves.values()]
      axes.set_xlim(0, 105 * max(ends))
      for kind, (errors, shares) in curves.items():
        color, line = _LOOKS[kind]
        # No network is below the smallest error: the curve starts at 0.
        (handles[kind],) = axes.step(
          100 * np.concatenate([errors[:1], errors]),
          np.concatenate([[0], shares]),
          where="post",
          color=color,
          linestyle=line,
          linewidth=1.8,
          label=trends.NAMES[kind],
        )
    figure.axes[0].set_ylabel("share of networks")
    # Room between the labels of two axes.
    figure.set_layout_engine("constrained", wspace=0.06)
    # One legend, as a population looks the same in every panel.
    figure.legend(
      handles=[handles[kind] for kind in trends.NAMES if kind in handles],
      loc="outside upper left",
      ncols=2 * len(panels),
      handlelength=3.2,
    )
    return figure

  text = (
    "Share of networks at or below an error, by how they were drawn: in the "
    "window of multiply-adds, at any cost, and in pairs of equal cost; further "
    "left is better. Panels end where all curves have reached 95 %"
  )
  return Picture("principles", text, draw, wide=True, dpi=130)


def error_curves(
  table: Scores,
) -> list[tuple[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
  """Returns the panels to draw, `(title, {kind: (errors, shares)})`.

  What has no rows is left out.
  """
  panels = []
  for cost, title in (
    (trends.IN_WINDOW, "in the window of cost"),
    (trends.ANY_COST, "at any cost"),
  ):
    groups = {kind: table.group(f"{kind}_{cost}") for kind in trends.KINDS}
    panels.append((title, groups))
  for kind in trends.TRENDS:
    both = dict(
      zip(
        (trends.PRINCIPLES, kind), trends.match_pairs(table, kind), strict=True
      )
    )
    panels.append(("pairs of equal cost", both))
  curves = [
    (
      title,
      {k: statistics.error_edf(g.error) for k, g in groups.items() if len(g)},
    )
    for title, groups in panels
  ]
  return [(title, found) for title, found in curves if found]
