"""`search/elite_space.json`: the space that a search has found, and its draws.

Its tables and picture, and what is said of it.
"""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nss_jax.results import fields, plots, tables
from nss_jax.results.artifact import Artifact
from nss_jax.results.met_constraint import MetConstraint
from nss_jax.results.plots import Picture
from nss_jax.results.tables import Record, Table
from nss_jax.spaces.bins import Bin
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.search_space import SearchSpace, Space, space_ranges
from nss_jax.spaces.text import describe_space, format_macs

_Range = Annotated[list[int], fields.COUNT.pair()]


class Ranges(Artifact):
  """The bins of a space, `[low, high]` for each stage."""

  depth: list[_Range]
  width: list[_Range]


class Chances(Artifact):
  """Probabilities of all bins of each stage."""

  depth: list[list[fields.Share]]
  width: list[list[fields.Share]]


class Entry(Artifact):
  """What is told of each space.

  Attributes:
    deviation: from the target; null where no constraint is of multiply-adds.
    costs: by every constraint.
    rank: by probability; null where there are too many spaces to list.
  """

  space: Ranges
  mean_flops: fields.Positive
  deviation: fields.MaybeNumber
  costs: dict[str, fields.NonNegative]
  probability: fields.Share
  rank: fields.MaybeCount


class Scored(Entry):
  """A space with the mean scores of its archs by the search's supernet; null
  where there was no choice to be made."""

  loss: fields.MaybeNonNegative
  loss_error: fields.MaybeNonNegative
  error: fields.MaybeShare


class Choice(Artifact):
  """How the Elite Space was chosen, and among what."""

  rule: Annotated[str, fields.one_of("scored", "paper")]
  tolerance: fields.MaybeNonNegative
  scored: list[Scored]


class FoundSpace(Artifact):
  """The content of the file."""

  space: Ranges
  mean_flops: fields.Positive
  deviation: fields.MaybeNumber
  probability: fields.Share
  rank: fields.MaybeCount
  target_flops: fields.MaybePositive
  constraints: list[MetConstraint]
  choice: Choice
  candidates: list[Entry]
  argmax_space: Entry
  probabilities: Chances
  seed: fields.Whole
  search_space: dict[str, Any]
  version: fields.Text
  warnings: list[fields.Text]

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError where constraints, or costs by them, are missing."""
    if not self.constraints:
      raise ValueError("constraints: expected one or more, got []")
    for one in self.constraints:
      if one.metric not in self.argmax_space.costs:
        raise ValueError(
          f"argmax_space.costs.{one.metric}: this field is missing"
        )

  @property
  def is_of_flops(self) -> bool:
    """Whether multiply-adds are the only constraint."""
    return [one.metric for one in self.constraints] == ["flops"]

  def deviations(self, entry: Entry | None = None) -> dict[str, float]:
    """Returns how far the space, or another one, is from each target."""
    if entry is None:
      return {one.metric: one.deviation for one in self.constraints}
    return {
      one.metric: entry.costs[one.metric] / one.target - 1
      for one in self.constraints
    }

  def met(self) -> list[str]:
    """Returns the mean cost in words, and how far it is from each target."""
    words = [one.words() for one in self.constraints]
    if self.is_of_flops:
      return [words[0].replace("mean", "mean cost", 1)]
    names = (one.metric for one in self.constraints)
    each = map(": ".join, zip(names, words, strict=True))
    return [f"mean cost {format_macs(self.mean_flops)}", *each]

  def how_sure(self) -> str:
    """Returns `probability 0.88, the most probable space`, or where in the
    list it is, and what the most probable one is."""
    words, mode = f"probability {self.probability:.2g}", self.argmax_space
    if mode.space == self.space:
      return f"{words}, the most probable space"
    if self.rank is not None:
      words += f", number {self.rank:,} by probability"
    return (
      f"{words}; the most probable space has {mode.probability:.2g}, "
      f"{from_targets(self.deviations(mode))}"
    )


def format_ranges(ranges: Sequence[Sequence[int]]) -> str:
  """Returns `1-2, 3-4, 1`."""
  return ", ".join(
    str(low) if low == high else f"{low}-{high}" for low, high in ranges
  )


_COLUMNS = (
  ("blocks per stage", tables.text("depth")),
  ("channels per stage", tables.text("width")),
  ("mean cost", tables.macs("mean_flops")),
  ("from target (%)", tables.percent("deviation", "+.1f")),
  ("probability", tables.number("probability", ".2g")),
  ("rank", tables.text("rank")),
  ("is the Elite Space", tables.yes("elite")),
)


def candidates_table(found: FoundSpace) -> Table:
  """Returns the draws that the Elite Space was chosen among."""
  entries = [
    *((f"draw {i}", one) for i, one in enumerate(found.candidates, 1)),
    ("most probable", found.argmax_space),
  ]
  records = [_record("which", name, one, found) for name, one in entries]
  columns = (("space", tables.text("which")), *_COLUMNS)
  title = "Spaces drawn at the end, and the most probable one"
  return Table("candidates", title, records, columns)


def choice_table(found: FoundSpace) -> Table:
  """Returns the probable spaces near the target, as the search scores them."""
  records = [
    {
      **_record("place", place, one, found),
      **{name: getattr(one, name) for name in ("loss", "loss_error", "error")},
    }
    for place, one in enumerate(found.choice.scored, 1)
  ]
  columns = (
    *_COLUMNS,
    ("mean loss (nats)", tables.number("loss", ".4f")),
    ("its standard error", tables.number("loss_error", ".4f")),
    ("mean error (%)", tables.percent("error")),
  )
  title = "Probable spaces near the target, scored by the search's supernet"
  return Table("choice", title, records, columns)


def _record(key: str, name: Any, one: Entry, found: FoundSpace) -> Record:
  return {
    key: name,
    "depth": format_ranges(one.space.depth),
    "width": format_ranges(one.space.width),
    "mean_flops": one.mean_flops,
    "deviation": one.deviation,
    "probability": one.probability,
    "rank": one.rank,
    "elite": one.space == found.space,
  }


def picture(search_space: SearchSpace, space: Space) -> Picture:
  """Returns the ranges of the Elite Space within all on offer."""
  ranges, stages = space_ranges(search_space, space), search_space.num_stages
  everything = "0.86"  # grey

  def draw() -> Figure:
    size = plots.WIDTH, 1.1 + 0.75 * stages
    figure = Figure(figsize=size, layout="constrained")
    for axes, kind, unit in zip(
      figure.subplots(1, 2, sharey=True),
      ("depth", "width"),
      ("blocks", "channels"),
      strict=True,
    ):
      bins = getattr(search_space, f"{kind}_bins")
      for stage in range(stages):
        low, high = bins[stage][0][0], bins[stage][-1][1]
        _draw_range(axes, stage, low, high, everything)
        _draw_range(axes, stage, *ranges[kind][stage], plots.ELITE_COLOR)
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
    legend = [
      ("Elite Space", plots.ELITE_COLOR, 1.0),
      ("all on offer", everything, 1.0),
    ]
    plots.add_legend(figure, legend)
    return figure

  text = "The Elite Space in the full range of depths and widths of each stage"
  return Picture("elite_space", text, draw)


def _draw_range(axes: Axes, row: int, low: int, high: int, color: str) -> None:
  # From half a block before to half a block after: a range of one is seen.
  axes.barh(row, high - low + 1, left=low - 0.5, height=0.5, color=color)


def sentences(
  found: FoundSpace, search_space: SearchSpace, space: Space
) -> Iterator[str]:
  """Yields how large the space is and what its archs cost, how sure the search
  is, the order of the stages, and why none of the draws is it, if none is."""
  met = "; ".join(found.met()).removeprefix("mean cost")
  yield (
    f"{search_space.num_archs_in(space):,} archs, one of "
    f"{search_space.num_spaces:,} spaces. Their mean cost is{met}."
  )
  yield f"The search gives it a {found.how_sure()}."
  ranges = space_ranges(search_space, space)
  depth, width = _order("d", ranges["depth"]), _order("w", ranges["width"])
  text = f"Order of the stages: {depth} and {width}."
  if search_space.num_stages == 3:
    text += " The paper's Elite Spaces have d1 ≤ d3 ≤ d2 and w1 ≤ w3 ≤ w2."
  yield text
  if all(draw.space != found.space for draw in found.candidates):
    yield (
      "None of these draws is the Elite Space: by the rule of this run it was "
      "chosen among the most probable of all spaces."
    )


def _order(letter: str, ranges: Sequence[Bin]) -> str:
  lows = [low for low, _ in ranges]
  stages = np.argsort(lows, kind="stable")
  text = f"{letter}{stages[0] + 1}"
  for before, stage in itertools.pairwise(stages):
    sign = "=" if lows[before] == lows[stage] else "<"
    text += f" {sign} {letter}{stage + 1}"
  return text


def describe(
  found: FoundSpace,
  search_space: SearchSpace,
  space: Space,
  folder: pathlib.Path,
) -> list[str]:
  """Returns what a terminal shows: the space in words, where the files are,
  and the next command."""
  cost, *others = found.met()
  return [
    "",
    "Elite Space",
    *(f"  {line}" for line in describe_space(search_space, space)),
    f"  {search_space.num_archs_in(space)} archs, {cost}",
    *(f"  {line}" for line in (*others, found.how_sure())),
    *(f"warning: {text}" for text in found.warnings),
    "",
    f"Files in {folder}: elite_space.json, trajectory.png, metrics.jsonl",
    "Next: draw archs from it,",
    '  python -c "import jax, nss_jax as nss; space = nss.load_space('
    f"'{folder / 'elite_space.json'}'); print(nss.sample_archs("
    'jax.random.key(0), *space, 5))"',
  ]
