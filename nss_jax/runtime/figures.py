"""Pictures of a search, drawn from its files."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nss_jax.spaces.search_space import SearchSpace

_STYLE = {
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.alpha": 0.25,
  "font.size": 9,
  "axes.titlesize": 10,
  "legend.frameon": False,
}


def draw_trajectory(
  path: str,
  lines: Sequence[dict[str, Any]],
  search_space: SearchSpace,
  elite: dict[str, Any],
  *,
  warmup_epochs: int,
) -> None:
  """Costs, losses, temperature and entropy over epochs, and every bin.

  Args:
    path: of the picture; its suffix is the format.
    lines: of `metrics.jsonl`.
    search_space: the bins.
    elite: content of `elite_space.json`.
    warmup_epochs: shaded.
  """
  stages = search_space.num_stages
  columns = max(stages, 3)
  with matplotlib.rc_context(_STYLE):
    figure = Figure(figsize=(4 * columns, 8.4), layout="constrained")
    rows = figure.subfigures(2, 1, height_ratios=(1, 1.7))
    _draw_curves(rows[0], lines, search_space, warmup_epochs)
    axes = rows[1].subplots(
      2, stages, squeeze=False, sharex=True, height_ratios=(1, 2.2)
    )
    for row, kind in enumerate(("depth", "width")):
      for stage in range(stages):
        picture = _draw_bins(
          axes[row, stage], lines, search_space, elite, kind, stage
        )
    rows[1].colorbar(picture, ax=axes, label="probability", fraction=0.03)
    figure.suptitle(
      f"Elite Space: mean {elite['mean_flops'] / 1e6:.4g} MF, "
      f"{100 * elite['deviation']:+.1f} % from the target of "
      f"{elite['target_flops'] / 1e6:.4g} MF (multiply-adds); its bins are "
      "outlined"
    )
    figure.savefig(path, dpi=110)


def _draw_curves(figure, lines, search_space, warmup_epochs) -> None:
  epochs = [line["epoch"] for line in lines]

  def values(name):
    return [np.nan if line[name] is None else line[name] for line in lines]

  costs, losses, chance = figure.subplots(1, 3)
  costs.axhline(1, color="black", linewidth=0.8)
  costs.plot(epochs, values("sampled_cost"), label="sampled", alpha=0.8)
  costs.plot(epochs, values("expected_cost"), label="expected")
  costs.set(title="cost / target", yscale="log")
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
    axes.legend()


def _draw_bins(axes, lines, search_space, elite, kind, stage):
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
  step = -(-len(bins) // 8)
  shown = range(0, len(bins), step)
  axes.set_yticks(shown, [_name(bins[i]) for i in shown])
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


def _name(pair) -> str:
  low, high = pair
  return str(low) if low == high else f"{low}-{high}"
