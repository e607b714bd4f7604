"""Pictures: their style and files, and the panel of error over cost."""

import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nss_jax.results import scores as scores_lib
from nss_jax.results.scores import Scores, pareto_front
from nss_jax.runtime import files
from nss_jax.spaces.text import format_macs

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
# Inches; text of 9 points in it is as large as a phone's.
WIDTH = 4.5
ELITE_COLOR, OTHERS_COLOR = "tab:orange", "tab:blue"
# What Pareto pictures show: title, color and opacity.
_PARETO_GROUPS = {
  scores_lib.EXPANDED: ("Expanded Search Space", "tab:blue", 0.45),
  scores_lib.HAND_MADE: ("hand-made space", "tab:green", 0.6),
  scores_lib.ELITE: ("Elite Space", "tab:orange", 0.7),
}
# The groups that the front is drawn of.
FRONT = (scores_lib.EXPANDED, scores_lib.ELITE)
# A median needs as many archs.
_FEWEST = 5


class Picture(NamedTuple):
  """A drawing to be made.

  Attributes:
    name: of its files in a report, `<name>.png` and `<name>.svg`.
    text: what it shows, for those who cannot see it.
    draw: makes it.
    wide: whether it has many panels and is to be scrolled on a phone.
    dpi: dots per inch.
  """

  name: str
  text: str
  draw: Callable[[], Figure]
  wide: bool = False
  dpi: int = 160

  def write(self, path: pathlib.Path) -> None:
    """Draws a file at once; its suffix is the format."""
    with files.atomic_path(path) as temporary:
      self.save(temporary)

  def save(self, path: pathlib.Path) -> None:
    """Draws a file of a folder that nobody reads yet."""
    with matplotlib.rc_context(STYLE):
      self.draw().savefig(path, dpi=self.dpi)

  def save_both(self, folder: pathlib.Path) -> str:
    """Draws both files, and returns the SVG to be put into a page.

    It refers to nothing outside itself: no document type, no metadata.
    """
    self.save(folder / f"{self.name}.png")
    path = folder / f"{self.name}.svg"
    self.save(path)
    text = path.read_text("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = text[text.index("<svg") :]
    # matplotlib names clips by where they are in memory.
    clips = dict.fromkeys(re.findall(r'<clipPath id="(\w+)"', text))
    for number, clip in enumerate(clips):
      text = text.replace(clip, f"{self.name}_clip_{number}")
    path.write_text(text, "utf-8")
    return text


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


def pareto(
  scores: Scores,
  target_flops: float | None,
  *,
  marks: Sequence[Mark] = (),
  size: tuple[float, float] = (6.4, 4.8),
) -> Picture | None:
  """Returns error over FLOPs of single archs, as the paper's Figs. 3-4.

  Blue archs of the Expanded Search Space with their median error by cost,
  orange ones of the Elite Space (one of them may be missing), green ones of the
  hand-made space, and the Pareto front of the first two together. Both axes
  are logarithmic.
  """
  if not has_front(scores):
    return None

  def draw() -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw_pareto_panel(figure.subplots(), scores, target_flops, marks)
    tight = {"fontsize": "small", "handlelength": 1.5, "columnspacing": 1}
    legend = figure.legend(loc="outside upper center", ncols=2, **tight)
    for handle in filter(None, legend.legend_handles):
      handle.set_alpha(1)
    return figure

  text = (
    "Error over multiply-adds, both logarithmic, of archs of the Elite Space, "
    "of the hand-made one and of the Expanded Search Space, with the Pareto "
    "front and the networks found and controls"
  )
  return Picture("pareto", text, draw, dpi=130)


def has_front(scores: Scores) -> bool:
  """Tells whether a Pareto panel can be drawn."""
  return bool(np.isin(scores.source, FRONT).any())


def draw_pareto_panel(
  axes: Axes,
  scores: Scores,
  target_flops: float | None,
  marks: Sequence[Mark] = (),
) -> None:
  """Draws what `pareto` shows; the legend is left to the caller."""
  shown = scores.group(*_PARETO_GROUPS)
  both = scores.group(*FRONT)
  # No error at all has no place on a logarithmic axis: it is drawn at half of
  # the smallest that there is.
  errors = np.asarray([*shown.error, *(mark.error for mark in marks)])
  floor = errors[errors > 0].min(initial=1.0) / 2
  for name, (title, color, alpha) in _PARETO_GROUPS.items():
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
  """Draws the median error of archs by cost, in thirds of a decade."""
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
  """Draws the least error up to each cost: a falling staircase."""
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
  """Makes an axis logarithmic, with ticks in words rather than powers of ten,
  as many as there is room for."""
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


def add_legend(
  figure: Figure, entries: Sequence[tuple[str, str, float]]
) -> None:
  """Adds a legend of `(label, color, opacity)` below."""
  handles = [
    matplotlib.patches.Patch(color=color, alpha=alpha, label=label)
    for label, color, alpha in entries
  ]
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def spread(count: int) -> np.ndarray:
  """Returns heights in a strip that keep dots apart, without chance."""
  return 0.5 * ((np.arange(count) * 0.618034) % 1) - 0.25  # the golden ratio
