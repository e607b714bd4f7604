"""Pictures of the phases principles, complexity and sweep (Figs. 3-6, 9-10)."""

from nss_jax.results import complexity, panels, populations
from nss_jax.results.report import targets
from nss_jax.results.report.figures import Picture
from nss_jax.results.report.workdir import Results

# Where a search was led to that has no summary yet.
_TOLERANCE = 0.1


def pictures(results: Results, target: float | None) -> dict[str, Picture]:
  """All that can be drawn of what has been scored so far, by name.

  Args:
    results: of a workdir.
    target: multiply-adds, of the run; None where they are no budget.
  """
  found = [_principles(results), _complexity(results, target), _sweep(results)]
  return {picture.name: picture for picture in found if picture is not None}


def _principles(results: Results) -> Picture | None:
  table = results.principles.scores
  curves = {} if table is None else populations.error_curves(table)
  if not curves:
    return None
  text = (
    "Share of networks at or below an error, by how they were drawn: in the "
    "window of multiply-adds, at any cost, and in pairs of equal cost; further "
    "left is better. Panels end where all curves have reached 95 %"
  )
  return Picture(
    "principles",
    text,
    lambda path: panels.draw_error_edfs(path, curves),
    wide=True,
  )


def _complexity(results: Results, target: float | None) -> Picture | None:
  table, summary = results.complexity
  if table is None or not complexity.levels(table):
    return None
  if summary is None:
    if target is None:
      return None
    summary = {"target_flops": target, "tolerance": _TOLERANCE}
  text = (
    "Error over multiply-adds of archs that the search of each space ends "
    "with, by its largest width and depth, and of the Elite Space; last, the "
    "share of all archs between the lower end of the tolerance and a cost"
  )
  return Picture(
    "complexity",
    text,
    lambda path: panels.draw_complexity(
      path, table, summary["target_flops"], summary["tolerance"]
    ),
    wide=True,
  )


def _sweep(results: Results) -> Picture | None:
  tables = targets.scored(results.sweep)
  if not tables:
    return None
  text = (
    "Error over multiply-adds for every target: archs of its Elite Space and "
    "of the Expanded Search Space, with the Pareto front"
  )
  return Picture(
    "targets", text, lambda path: panels.draw_targets(path, tables), wide=True
  )
