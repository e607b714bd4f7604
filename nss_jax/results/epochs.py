"""`search/metrics.jsonl`: a line per epoch, and the picture of all of them."""

import pathlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pydantic
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from nss_jax.errors import UserError
from nss_jax.results import fields
from nss_jax.results.artifact import Artifact
from nss_jax.results.elite_space import Chances, FoundSpace, format_ranges
from nss_jax.results.met_constraint import MetricName
from nss_jax.results.plots import Picture, make_logarithmic
from nss_jax.runtime import files
from nss_jax.spaces.search_space import SearchSpace


class Costs(Artifact):
  """Of a constraint, over its target; null where nothing was drawn."""

  sampled_cost: fields.MaybeNonNegative
  expected_cost: fields.MaybeNonNegative


class Epoch(Costs):
  """A line of the file; more is in it than is read here."""

  epoch: fields.Count
  temperature: fields.Positive
  train_loss: fields.MaybeNonNegative
  validation_loss: fields.MaybeNonNegative
  depth_entropy: fields.MaybeNonNegative
  width_entropy: fields.MaybeNonNegative
  probabilities: Chances
  constraints: dict[MetricName, Costs] = pydantic.Field(default_factory=dict)

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError for bins of another search space."""
    for kind in ("depth", "width") if search_space else ():
      expected = [len(bins) for bins in getattr(search_space, f"{kind}_bins")]
      found = [len(stage) for stage in getattr(self.probabilities, kind)]
      # Stages with fewer bins than another are filled up.
      if len(found) != len(expected) or any(
        have < need for have, need in zip(found, expected, strict=True)
      ):
        raise ValueError(
          f"probabilities.{kind}: expected {expected} bins, got {found}"
        )


def read_epochs(path: pathlib.Path, search_space: SearchSpace) -> list[Epoch]:
  """Reads the lines, none where there is no file; UserError names the line."""
  found: list[Epoch] = []
  lines = files.read_lines(path) if path.exists() else []
  for number, content in enumerate(lines, 1):
    place = pathlib.Path(f"{path}: line {number}")
    found.append(Epoch.parse(place, content, search_space))
    if [*found[-1].constraints] != [*found[0].constraints]:
      raise UserError(f"{place}: constraints: not those of line 1")
  return found


def picture(
  lines: Sequence[Epoch],
  search_space: SearchSpace,
  found: FoundSpace | None,
  *,
  warmup_epochs: int,
) -> Picture | None:
  """Returns costs, losses, entropy and temperature over epochs, and bins."""
  if not lines:
    return None
  stages = search_space.num_stages

  def draw() -> Figure:
    figure = Figure(figsize=(4 * max(stages, 3), 8.4), layout="constrained")
    rows = cast(Any, figure.subfigures(2, 1, height_ratios=(1, 1.7)))
    _draw_curves(rows[0], lines, search_space, warmup_epochs)
    axes = rows[1].subplots(
      2, stages, squeeze=False, sharex=True, height_ratios=(1, 2.2)
    )
    images = [
      _draw_bins(axes[row, stage], lines, search_space, found, kind, stage)
      for row, kind in enumerate(("depth", "width"))
      for stage in range(stages)
    ]
    rows[1].colorbar(images[-1], ax=axes, label="probability", fraction=0.03)
    figure.suptitle(_title(found))
    return figure

  text = (
    "Cost, losses, entropy and temperature of the search over its epochs, and "
    "the probability of every bin"
  )
  return Picture("trajectory", text, draw, wide=True, dpi=110)


def _title(found: FoundSpace | None) -> str:
  if found is None:
    return "The search has not ended: there is no Elite Space yet"
  met = [one.words() for one in found.constraints]
  if found.constraints[0].metric == "flops":
    met[0] += " (multiply-adds)"
  end = "its bins are outlined"
  if len(met) == 1:
    return f"Elite Space: {met[0]}; {end}"
  return "\n".join(["Elite Space: " + met[0], *met[1:], end])


def _values(lines: Sequence[Costs], name: str) -> list[float]:
  found = [getattr(line, name) for line in lines]
  return [np.nan if value is None else value for value in found]


def _draw_curves(
  figure: SubFigure,
  lines: Sequence[Epoch],
  search_space: SearchSpace,
  warmup_epochs: int,
) -> None:
  epochs = [line.epoch for line in lines]
  costs, losses, chance = figure.subplots(1, 3)
  _draw_costs(costs, epochs, lines)
  losses.plot(epochs, _values(lines, "train_loss"), label="training half")
  label = "validation half"
  losses.plot(epochs, _values(lines, "validation_loss"), label=label)
  losses.set(title="cross-entropy (nats)")
  for kind, bins in (
    ("depth", search_space.depth_bins),
    ("width", search_space.width_bins),
  ):
    most = sum(np.log(len(stage)) for stage in bins) or 1.0
    share = np.asarray(_values(lines, f"{kind}_entropy")) / most
    chance.plot(epochs, share, label=f"{kind} entropy / largest")
  start = lines[0].temperature
  chance.plot(
    epochs,
    np.asarray(_values(lines, "temperature")) / start,
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


def _draw_costs(
  axes: Axes, epochs: Sequence[int], lines: Sequence[Epoch]
) -> None:
  """Draws every constraint's cost over its target; samples are fainter."""
  names = [*lines[0].constraints]
  several = len(names) > 1
  axes.axhline(1, color="black", linewidth=0.8)
  for index, constraint in enumerate(names if several else [""]):
    rows = [x.constraints[constraint] if constraint else x for x in lines]
    colors = (f"C{index}",) * 2 if several else ("C0", "C1")
    for name, color, alpha in zip(
      ("sampled", "expected"),
      colors,
      (0.35 if several else 0.8, 1),
      strict=True,
    ):
      axes.plot(
        epochs,
        _values(rows, f"{name}_cost"),
        label=f"{constraint}, {name}" if constraint else name,
        color=color,
        alpha=alpha,
      )
  axes.set(title="cost / target")
  make_logarithmic(axes, "y")


def _draw_bins(
  axes: Axes,
  lines: Sequence[Epoch],
  search_space: SearchSpace,
  found: FoundSpace | None,
  kind: str,
  stage: int,
) -> AxesImage:
  bins = getattr(search_space, f"{kind}_bins")[stage]
  chances = [getattr(line.probabilities, kind)[stage] for line in lines]
  image = axes.imshow(
    np.asarray([row[: len(bins)] for row in chances]).T,
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
  shown = range(0, len(bins), -(-len(bins) // 8))
  axes.set_yticks(shown, [format_ranges([bins[i]]) for i in shown])
  if found is not None:
    place = [*map(list, bins)].index([*getattr(found.space, kind)[stage]])
    axes.axhspan(
      place - 0.5, place + 0.5, fill=False, edgecolor="deepskyblue", lw=1.5
    )
  axes.set_title(
    f"stage {stage + 1}: {'blocks' if kind == 'depth' else 'channels'}"
  )
  if kind == "width":
    axes.set_xlabel("epoch")
  return image
