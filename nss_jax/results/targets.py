"""All targets of a sweep: Tables 1, 2 and Figs. 3, 4, 9, 10; `sweep/`."""

import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure

from nss_jax.results import fields, network_tables, plots, tables
from nss_jax.results import scores as scores_lib
from nss_jax.results.artifact import Artifact
from nss_jax.results.contents import Contents
from nss_jax.results.elite_space import format_ranges
from nss_jax.results.networks import SEARCHED
from nss_jax.results.plots import Picture
from nss_jax.results.tables import NOT_RUN, Record, Table
from nss_jax.spaces.text import format_macs

Sweep = Sequence[tuple[float, Contents]]


class Target(Artifact):
  """The numbers of one target; null is what has not run, or has no value.

  Costs are multiply-adds, errors shares: the mean over archs by the evaluator,
  and the mean over seeds of the networks that the nas phase has found.
  """

  target_flops: fields.Positive
  depth: fields.MaybeText
  width: fields.MaybeText
  mean_flops: fields.MaybePositive
  deviation: fields.MaybeNumber
  elite_mean_error: fields.MaybeShare
  elite_min_error: fields.MaybeShare
  near_mean_error: fields.MaybeShare
  percentile: fields.MaybePercent
  elite_arch: fields.MaybeText
  elite_flops: fields.MaybePositive
  elite_num_samples: fields.MaybeWhole
  elite_test_error: fields.MaybeShare
  expanded_arch: fields.MaybeText
  expanded_flops: fields.MaybePositive
  expanded_num_samples: fields.MaybeWhole
  expanded_test_error: fields.MaybeShare


class SweepSummary(Artifact):
  """`sweep/summary.json`.

  Attributes:
    targets: by the name of their folder.
  """

  phases: list[fields.Text]
  targets: dict[str, Target]


def summarize(
  names: Sequence[str], sweep: Sweep, phases: Sequence[str]
) -> SweepSummary:
  """Sums up targets, of which the names are given."""
  records = table(sweep).to_json()
  return SweepSummary(
    phases=list(phases),
    targets={x: Target(**r) for x, r in zip(names, records, strict=True)},
  )


def _record(contents: Contents, target: float) -> Record:
  elite, evaluation = contents.elite, contents.evaluation
  groups = evaluation.groups if evaluation else {}
  # A group that was left out has no value; an evaluation that was not run has
  # none yet.
  absent = NOT_RUN if evaluation is None else None
  found: Record = {"target_flops": target}
  for kind in ("depth", "width"):
    ranges = getattr(elite.space, kind) if elite else None
    found[kind] = format_ranges(ranges) if ranges else NOT_RUN
  for name in ("mean_flops", "deviation"):
    found[name] = getattr(elite, name, NOT_RUN)
  for name, group, number in (
    ("elite_mean_error", scores_lib.ELITE, "mean_error"),
    ("elite_min_error", scores_lib.ELITE, "min_error"),
    ("near_mean_error", scores_lib.EXPANDED_NEAR, "mean_error"),
  ):
    found[name] = getattr(groups.get(group), number, absent)
  found["percentile"] = absent
  against = evaluation.elite_against if evaluation else {}
  if others := against.get(scores_lib.RANDOM_SPACES):
    found["percentile"] = others.loss.percentile
  for name in SEARCHED:
    record = network_tables.record(contents, "", target, name)
    for key in ("arch", "flops", "num_samples", "test_error"):
      found[f"{name}_{key}"] = record[key]
  return found


def table(sweep: Sweep) -> Table:
  """Returns a row per target."""
  columns = (
    ("target", tables.macs("target_flops")),
    ("blocks per stage", tables.text("depth")),
    ("channels per stage", tables.text("width")),
    ("mean cost", tables.macs("mean_flops")),
    ("from target (%)", tables.percent("deviation", "+.1f")),
    ("mean error (%)", tables.percent("elite_mean_error")),
    ("mean error near the target (%)", tables.percent("near_mean_error")),
    ("percentile", tables.number("percentile", ".0f")),
    ("elite network", tables.text("elite_arch")),
    ("its test error (%)", tables.percent("elite_test_error")),
    ("baseline's (%)", tables.percent("expanded_test_error")),
  )
  records = [_record(contents, target) for target, contents in sweep]
  brief = [columns[i][0] for i in (0, 4, 5, 7, 9)]
  title = "Elite Spaces of all targets"
  return Table("targets", title, records, columns, brief)


def nas_table(sweep: Sweep, dataset: str) -> Table:
  """Returns the networks found for each target: the paper's Tables 1 and 2."""
  records = [
    network_tables.record(contents, dataset, target, name)
    for target, contents in sweep
    for name in SEARCHED
    if name in contents.networks
  ]
  title = f"Networks of all targets on {dataset}"
  columns = (("target", tables.macs("target_flops")),)
  return network_tables.networks_table("targets_nas", title, records, columns)


def picture(sweep: Sweep) -> Picture | None:
  """Returns a Pareto panel for each target that has scores."""
  scored = [
    (x, c.scores["evaluate"]) for x, c in sweep if "evaluate" in c.scores
  ]
  scored = [(target, one) for target, one in scored if plots.has_front(one)]
  if not scored:
    return None
  columns = min(3, len(scored))
  rows = -(-len(scored) // columns)

  def draw() -> Figure:
    size = 4.7 * columns, 0.6 + 3.3 * rows
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, (target, one) in zip(axes.flat, scored, strict=False):
      plots.draw_pareto_panel(panel, one, target)
      panel.set_title(format_macs(target))
    for panel in axes.flat[len(scored) :]:
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
    return figure

  text = (
    "Error over multiply-adds for every target: archs of its Elite Space and "
    "of the Expanded Search Space, with the Pareto front"
  )
  return Picture("targets", text, draw, wide=True, dpi=130)


def describe(result: SweepSummary, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: a line per target."""
  lines = ["", f"Targets, phases {', '.join(result.phases)}"]
  for name, found in result.targets.items():
    words = []
    if found.deviation is not None:
      words.append(f"Elite Space {100 * found.deviation:+.1f} % from it")
    if found.elite_mean_error is not None:
      words.append(f"error {100 * found.elite_mean_error:.2f} % mean")
    if found.percentile is not None:
      words.append(f"percentile {found.percentile:.0f} by loss")
    if found.elite_test_error is not None:
      words.append(f"test error {100 * found.elite_test_error:.2f} %")
    target = format_macs(found.target_flops)
    lines.append(f"  {target:>8}: {', '.join(words)} ({name})")
  return [*lines, "", f"Files in {folder}: summary.json, pareto.png, */"]
