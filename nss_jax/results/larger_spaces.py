"""Architecture search in ever larger spaces (4.4, Fig. 5): `complexity/`.

A source of its `scores.csv` is a search space: `w128_d4` has widths to 128 and
depths to 4; `elite` are archs of the Elite Space.
"""

import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nss_jax.results import fields, tables
from nss_jax.results.artifact import Artifact
from nss_jax.results.plots import ELITE_COLOR, Picture
from nss_jax.results.scores import ELITE, Scores
from nss_jax.results.tables import Table
from nss_jax.spaces.cost import largest_macs
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_macs

# Of a search that has no summary yet.
_TOLERANCE = 0.1
# Fig. 5 ends at 1000 MF, with a target of 600.
_LARGEST_SHOWN = 5 / 3
_LINES = ("-", "--", ":", "-.")
_DEPTHS = ("tab:green", "tab:blue", "tab:purple")
_WIDTHS = ("tab:blue", "tab:green", "tab:purple", "tab:brown")


def space_name(max_width: int, max_depth: int) -> str:
  """Returns the source of a search space."""
  return f"w{max_width}_d{max_depth}"


def parse_name(name: object) -> tuple[int, int] | None:
  """Returns `(max_width, max_depth)` of a search space, or None if the name is
  of none."""
  match = re.fullmatch(r"w([1-9]\d{0,5})_d([1-9]\d{0,5})", str(name), re.ASCII)
  return (int(match[1]), int(match[2])) if match else None


_SpaceName = Annotated[
  str, fields.Kind(lambda x: parse_name(x) is not None, "a name like w128_d4")
]


class Drawn(Artifact):
  """Archs of a group, and of these within the tolerance (`near_`).

  Errors are shares; those of no arch are null.
  """

  count: fields.Count
  mean_error: fields.Share
  min_error: fields.Share
  mean_flops: fields.Positive
  median_flops: fields.Positive
  near_count: fields.Whole
  near_share: fields.Share
  near_mean_error: fields.MaybeShare
  near_min_error: fields.MaybeShare


class Largest(Artifact):
  """The largest network of a search space."""

  max_width: fields.Count
  max_depth: fields.Count
  largest_flops: fields.Count


class DrawnOfSpace(Drawn, Largest):
  """Archs that the search of a space ends with."""


class Complexity(Artifact):
  """`complexity/summary.json`.

  Attributes:
    elite_target_flops: what the Elite Space was searched for.
    tolerance: relative.
    spaces: by name, ascending.
  """

  target_flops: fields.Positive
  elite_target_flops: fields.Positive
  tolerance: fields.Share
  spaces: dict[_SpaceName, DrawnOfSpace]
  elite: Drawn

  @property
  def groups(self) -> dict[str, Drawn]:
    """The archs of each space, and last those of the Elite Space."""
    return {**self.spaces, ELITE: self.elite}


def summarize(
  table: Scores,
  search_space: SearchSpace,
  *,
  target_flops: float,
  elite_target_flops: float,
  tolerance: float,
) -> Complexity:
  """Computes all the numbers of the rows of `scores.csv`."""
  spaces = {}
  for width, groups in levels(table).items():
    for depth, group in groups.items():
      stages = np.ones(search_space.num_stages, np.int64)
      largest = Arch(depth=depth * stages, width=width * stages)
      spaces[space_name(width, depth)] = DrawnOfSpace(
        max_width=width,
        max_depth=depth,
        largest_flops=largest_macs(search_space.only(largest)),
        **_describe(group, target_flops, tolerance).to_json(),
      )
  return Complexity(
    target_flops=target_flops,
    elite_target_flops=elite_target_flops,
    tolerance=tolerance,
    spaces=spaces,
    elite=_describe(table.group(ELITE), target_flops, tolerance),
  )


def levels(table: Scores) -> dict[int, dict[int, Scores]]:
  """Returns archs `{max_width: {max_depth: rows}}` of the spaces, ascending."""
  names = map(parse_name, np.unique(table.source).tolist())
  found: dict[int, dict[int, Scores]] = {}
  for width, depth in sorted(filter(None, names)):
    group = table.group(space_name(width, depth))
    found.setdefault(width, {})[depth] = group
  return found


def _is_near(group: Scores, target: float, tolerance: float) -> np.ndarray:
  return np.abs(group.flops / target - 1) <= tolerance


def _describe(group: Scores, target: float, tolerance: float) -> Drawn:
  near = group.select(_is_near(group, target, tolerance))
  numbers = near.numbers() if len(near) else {}
  return Drawn(
    **group.numbers(),
    near_count=len(near),
    near_share=len(near) / len(group),
    near_mean_error=numbers.get("mean_error"),
    near_min_error=numbers.get("min_error"),
  )


def flops_edf(
  group: Scores, target: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the EDF of multiply-adds inside the tolerance (Fig. 5d).

  The shares are of all the archs of the group, so that the curve ends with the
  share that is near the target, and shows where a group seldom meets it.
  """
  inside = np.sort(group.flops[_is_near(group, target, tolerance)])
  ends = target * (1 - tolerance), target * (1 + tolerance)
  share = np.arange(len(inside) + 1) / max(len(group), 1)
  return (
    np.concatenate([ends[:1], inside, ends[1:]]),
    np.append(share, share[-1]),
  )


def table(result: Complexity) -> Table:
  """Returns every search space, and the Elite Space."""
  keys = (
    *Largest.model_fields,
    *("count", "near_count", "near_share", "near_mean_error"),
    *("near_min_error", "median_flops", "mean_error"),
  )
  records = [
    {"space": name, **{key: getattr(found, key, None) for key in keys}}
    for name, found in result.groups.items()
  ]
  words = "widths to {max_width}, depths to {max_depth}".format_map
  columns = (
    ("archs of", lambda r: words(r) if r["max_width"] else "Elite Space"),
    ("largest network", tables.macs("largest_flops")),
    ("archs", tables.text("count")),
    ("near the target", tables.text("near_count")),
    ("share (%)", tables.percent("near_share", ".1f")),
    ("their mean error (%)", tables.percent("near_mean_error")),
    ("best (%)", tables.percent("near_min_error")),
    ("median cost of all", tables.macs("median_flops")),
    ("mean error of all (%)", tables.percent("mean_error")),
  )
  title = f"Architecture search for {format_macs(result.target_flops)}"
  brief = [columns[i][0] for i in (0, 2, 3, 5, 7)]
  return Table("complexity", title, records, columns, brief)


def picture(
  scores: Scores,
  target: float | None,
  tolerance: float = _TOLERANCE,
) -> Picture | None:
  """Returns a panel for each largest width, one for the Elite Space, and the
  EDFs inside the tolerance; the legends count what is seen."""
  if target is None or not (spaces := levels(scores)):
    return None
  elite = scores.group(ELITE)

  def draw() -> Figure:
    count = len(spaces) + bool(len(elite))
    figure = Figure(figsize=(3.5 * (count + 1), 4.1), layout="constrained")
    axes = figure.subplots(1, count + 1)
    for panel, (width, groups) in zip(axes, spaces.items(), strict=False):
      named = {f"depths to {depth}": g for depth, g in groups.items()}
      _scatter(panel, f"widths to {width}", named, target, tolerance)
    if len(elite):
      one, color = {"": elite}, (ELITE_COLOR,)
      _scatter(axes[-2], "Elite Space", one, target, tolerance, color)
    for panel in axes[1:-1]:
      panel.sharey(axes[0])
    axes[0].set_ylabel("error (%)")
    _draw_flops_edfs(axes[-1], spaces, elite, target, tolerance)
    return figure

  text = (
    "Error over multiply-adds of archs that the search of each space ends "
    "with, by its largest width and depth, and of the Elite Space; last, the "
    "share of all archs between the lower end of the tolerance and a cost"
  )
  return Picture("complexity", text, draw, wide=True, dpi=130)


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
  marks = [share * target for share in (0, 0.5, 1, 1.5)]
  axes.set_xticks(marks, ["0", *(format_macs(x) for x in marks[1:])])
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
      curve = flops_edf(group, target, tolerance)
      label = f"w to {width}, d to {depth}"
      axes.step(
        *curve, where="post", color=color, linestyle=line, label=label, lw=1.3
      )
  if len(elite):
    axes.step(
      *flops_edf(elite, target, tolerance),
      where="post",
      color=ELITE_COLOR,
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


def sentences(result: Complexity) -> Iterator[str]:
  """Yields how often what is drawn meets the target."""
  target, elite = format_macs(result.target_flops), result.elite
  if spaces := [*result.spaces.values()]:
    yield (
      f"Of the archs that an architecture search for {target} ends with, "
      f"{100 * spaces[0].near_share:.1f} % are within "
      f"{100 * result.tolerance:g} % of it in the smallest search space "
      f"and {100 * spaces[-1].near_share:.1f} % in the largest; of the Elite "
      f"Space's {100 * elite.near_share:.1f} %."
    )
  if result.elite_target_flops != result.target_flops:
    yield (
      "The Elite Space was searched for another target, "
      f"{format_macs(result.elite_target_flops)}."
    )


def describe(result: Complexity, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the table, and what it says."""
  names = "scores.csv, summary.json, flops.png, */logits.json"
  return tables.describe(folder, names, [table(result)], sentences(result))
