"""Sections of a page on the phases principles, complexity and sweep."""

from collections.abc import Callable, Iterable

from nss_jax.results.report import elements, experiment_tables
from nss_jax.results.report.experiments import Experiment
from nss_jax.results.report.workdir import Results
from nss_jax.results.scores import Scores


def sections(content: elements.Content) -> dict[str, tuple[str, list[str]]]:
  """`{id: (title, parts)}`, in order, of the phases that a run can have."""
  made = {
    "principles": lambda: (
      "Design principles",
      _scored(
        content,
        "principles",
        content.results.principles,
        experiment_tables.principles_words,
        "Design principles: d1 ≤ d2 ≤ d3 and the same for widths. Errors are "
        "those of the evaluator's supernet. The difference of two means is the "
        "area between the two curves.",
      ),
    ),
    "complexity": lambda: (
      "Complexity",
      _scored(
        content,
        "complexity",
        content.results.complexity,
        experiment_tables.complexity_words,
        "Every arch is drawn from the distribution that the search of its "
        "space ends with; those of the Elite Space are uniform in it. The last "
        "panel counts all archs drawn, so a curve ends at the share that meets "
        "the target.",
      ),
    ),
    "sweep": lambda: ("Targets", _targets(content)),
  }
  return {
    _IDS.get(phase, phase): make()
    for phase, make in made.items()
    if phase in content.commands
  }


_IDS = {"sweep": "targets"}


def _scored(
  content: elements.Content,
  phase: str,
  experiment: Experiment,
  words_fn: Callable[[Results], Iterable[str]],
  note: str,
) -> list[str]:
  """A phase that scores archs: what it found, or how far it is."""
  figure = elements.show_figure(content, phase)
  if experiment.summary is None:
    text = _unfinished(experiment.scores)
    return [elements.missing(content, phase, text), figure]
  return [
    *map(elements.paragraph, words_fn(content.results)),
    figure,
    elements.show_table(content, phase),
    elements.paragraph(note, "note"),
  ]


def _targets(content: elements.Content) -> list[str]:
  results, parts = content.results, []
  if "sweep" in content.not_run:
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
