"""Sections of a page on the phases principles, complexity and sweep."""

from nss_jax.runtime.report import elements, experiment_tables
from nss_jax.runtime.scores import Scores


def sections(content: elements.Content) -> dict[str, tuple[str, list[str]]]:
  """`{id: (title, parts)}`, in order; targets only where a run has some."""
  found = {
    "principles": ("Design principles", _principles(content)),
    "complexity": ("Complexity", _complexity(content)),
  }
  if "sweep" in content.commands:
    found["targets"] = ("Targets", _targets(content))
  return found


def _principles(content: elements.Content) -> list[str]:
  table, summary = content.results.principles
  if summary is None:
    parts = [elements.missing(content, "principles", _unfinished(table))]
    return [*parts, elements.show_figure(content, "principles")]
  lines = experiment_tables.principles_words(content.results)
  return [
    *map(elements.paragraph, lines),
    elements.show_figure(content, "principles"),
    elements.show_table(content, "principles"),
    elements.paragraph(
      "Design principles: d1 ≤ d2 ≤ d3 and the same for widths. "
      "Errors are those of the evaluator's supernet. The difference of two "
      "means is the area between the two curves.",
      "note",
    ),
  ]


def _complexity(content: elements.Content) -> list[str]:
  table, summary = content.results.complexity
  if summary is None:
    parts = [elements.missing(content, "complexity", _unfinished(table))]
    return [*parts, elements.show_figure(content, "complexity")]
  lines = experiment_tables.complexity_words(content.results)
  return [
    *map(elements.paragraph, lines),
    elements.show_figure(content, "complexity"),
    elements.show_table(content, "complexity"),
    elements.paragraph(
      "Every arch is drawn from the distribution that the search of its space "
      "ends with; those of the Elite Space are uniform in it. The last panel "
      "counts all archs drawn, so a curve ends at the share that meets the "
      "target.",
      "note",
    ),
  ]


def _targets(content: elements.Content) -> list[str]:
  results, parts = content.results, []
  if not experiment_tables.has_run(results)["sweep"]:
    text = "Not run."
    if results.sweep:
      text = f"Not ended: {len(results.sweep)} targets have begun."
    parts.append(elements.missing(content, "sweep", text))
  parts.append(elements.show_figure(content, "targets"))
  for name in ("targets", "targets_nas"):
    parts.append(elements.show_table(content, name))
  return parts


def _unfinished(table: Scores | None) -> str:
  if table is None:
    return "Not run."
  return f"Not ended: {len(table)} archs are scored so far."
