"""A report as one HTML file that needs nothing else: no network, no script.

Every text goes through `html.escape`; only `elements` and this file make tags.
"""

import importlib.resources
import string
from html import escape

from nss_jax.runtime import scores
from nss_jax.runtime.report import elements, experiment_sections, words
from nss_jax.runtime.report.cells import NOT_RUN
from nss_jax.runtime.report.networks import expected
from nss_jax.runtime.report.workdir import Results, found_space
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.text import format_macs

FLOPS = (
  "FLOPs are multiply-adds: convolutions and the fully connected layer. "
  "1 MF = 1e6, 1 GF = 1e9."
)


def render(content: elements.Content) -> str:
  """The page."""
  sections = {
    "found": ("What was found", _found(content)),
    "elite": ("Is it elite?", _is_elite(content)),
    "nas": ("Networks found", _nas(content)),
    "trained": ("Trained networks", _trained(content)),
    "rank": ("Rank check", _rank_check(content)),
    **experiment_sections.sections(content),
    "reproduce": ("How to reproduce", _reproduce(content)),
  }
  if content.results.sweep and not content.results.epochs:
    # All there is: the sections above are of this workdir's own target.
    sections = {"targets": sections.pop("targets"), **sections}
  folder = importlib.resources.files("nss_jax.runtime.report")
  template = (folder / "page.html").read_text("utf-8")
  return string.Template(template).substitute(
    title=escape(f"Network Space Search: {content.name}"),
    subtitle=escape(
      f"{content.dataset}, target {content.target}; "
      f"{words.size(content.results.search_space)}."
    ),
    links="".join(
      f'<a href="#{key}">{title}</a>' for key, (title, _) in sections.items()
    ),
    tiles=_tiles(content),
    sections="\n".join(
      f'<section id="{key}"><h2>{title}</h2>{"".join(parts)}</section>'
      for key, (title, parts) in sections.items()
    ),
    footer=escape(f"{FLOPS} Made by nss_jax {content.version}."),
  )


def _tiles(content: elements.Content) -> str:
  results = content.results
  tiles = [("target", content.target, content.dataset)]
  if results.elite is not None:
    elite = results.elite
    tiles += [
      (
        "Elite Space, mean cost",
        format_macs(elite["mean_flops"]),
        from_targets(
          {one["metric"]: one["deviation"] for one in elite["constraints"]}
        ),
      ),
      (
        "archs in it",
        f"{results.search_space.num_archs_in(found_space(results)):,}",
        f"of {words.large(results.search_space.num_archs)}",
      ),
    ]
  tiles += [_percentile_tile(results), _error_tile(content)]
  return "".join(
    f'<div class="tile"><dt>{escape(term)}</dt>'
    f"<dd>{escape(value)}<small>{escape(small)}</small></dd></div>"
    for term, value, small in tiles
  )


def _percentile_tile(results: Results) -> tuple[str, str, str]:
  term = "percentile by loss"
  against = (results.evaluation or {}).get("elite_against", {})
  found = against.get(scores.RANDOM_SPACES)
  if found is None or "percentile" not in found["loss"]:
    return term, NOT_RUN, "0 is best"
  count = found["num_spaces"]
  percentile = f"{found['loss']['percentile']:.3g}"
  return term, percentile, f"among {count} random spaces; 0 is best"


def _error_tile(content: elements.Content) -> tuple[str, str, str]:
  term = "test error"
  records = [
    r for r in content.tables["train"].records if r["test_error"] != NOT_RUN
  ]
  if not records:
    return term, NOT_RUN, "of a trained network"
  # Of the network that the method is about, not the best that luck gave.
  record = records[0]
  return (
    term,
    f"{100 * record['test_error']:.2f} %",
    f"{record['name']}, {record['num_trained']} seed"
    + "s" * (record["num_trained"] != 1),
  )


def _found(content: elements.Content) -> list[str]:
  results = content.results
  wide = elements.show_figure(content, "trajectory")
  if results.elite is None:
    text = "The search has not ended."
    if results.epochs:
      text = f"The search has run {len(results.epochs)} epochs and not ended."
    return [elements.missing(content, "search", text), wide]
  return [
    elements.bullets(words.elite_space(results), "stages"),
    elements.paragraph(words.cost(results), "lead"),
    elements.paragraph(words.sure(results)),
    *(
      elements.paragraph(f"Warning: {text}.", "warning")
      for text in results.elite["warnings"]
    ),
    elements.paragraph(words.trend(results)),
    f'<div class="figures">{elements.show_figure(content, "elite_space")}'
    f"<div><h3>How it was searched</h3>"
    f"{elements.bullets(content.highlights)}</div></div>",
    elements.show_table(content, "choice"),
    elements.show_table(content, "candidates"),
    elements.paragraph(words.draws(results), "note"),
    wide,
  ]


def _is_elite(content: elements.Content) -> list[str]:
  results = content.results
  parts = []
  if results.evaluation is None:
    text = "Not run."
    if results.scores is not None:
      text = f"Not ended: {len(results.scores)} archs are scored so far."
    parts.append(elements.missing(content, "evaluate", text))
  else:
    lines = list(words.is_elite(results))
    parts += [elements.paragraph(line, "lead") for line in lines[:1]]
    parts += [elements.paragraph(line) for line in lines[1:]]
  parts.append(elements.show_figures(content, "spaces", "pareto"))
  if results.evaluation is not None:
    parts += [
      elements.show_table(content, "spaces"),
      elements.show_table(content, "groups"),
      elements.paragraph(
        "A percentile is the share of the spaces whose mean is smaller: 0 is "
        "the best, 100 the worst. Regret is what the Elite Space lacks to the "
        "best of them. The hypervolume is in error times decades of FLOPs, "
        "larger is better. Errors are those of the evaluator's supernet on "
        "training images that were held out.",
        "note",
      ),
    ]
  return parts


def _nas(content: elements.Content) -> list[str]:
  results = content.results
  parts = []
  missing = [x for x in expected(results.nas) if x not in results.nas]
  if missing:
    text = "Not run." if not results.nas else "Not all of it has run."
    parts.append(elements.missing(content, "nas", text))
  parts += [elements.paragraph(line) for line in words.samples(results)]
  parts += [
    elements.show_table(content, "nas"),
    elements.show_table(content, "race"),
    elements.show_table(content, "nas_runs"),
  ]
  parts += [elements.paragraph(note, "note") for note in content.notes]
  return parts


def _trained(content: elements.Content) -> list[str]:
  table = content.tables["train"]
  parts = []
  if any(record["test_error"] == NOT_RUN for record in table.records):
    text = "Not all of it has run." if content.results.trained else "Not run."
    parts.append(elements.missing(content, "train", text))
  parts += [
    elements.paragraph(line, "lead") for line in words.trained(table.records)
  ]
  return [
    *parts,
    elements.show_figures(content, "trained"),
    elements.show_table(content, "train"),
  ]


def _rank_check(content: elements.Content) -> list[str]:
  results = content.results
  parts = []
  if results.rank_check is None:
    text = "Not run."
    if results.rank_scores is not None:
      scored, known = map(len, results.rank_scores)
      text = f"Not ended: {known} trainings alone so far, of {scored} archs."
    parts.append(elements.missing(content, "rank_check", text))
  found = results.rank_check or {}
  parts += [
    *(elements.paragraph(x["verdict"], "lead") for x in found.values()),
    elements.show_figures(content, "rank_check"),
    elements.show_table(content, "rank_check"),
  ]
  if found:
    parts.append(
      elements.paragraph(
        "Kendall's tau compares an order of the archs with that of training "
        "each alone, by the mean error of its seeds: 1 is the same order, -1 "
        "the opposite. Two seeds do not agree wholly either: that is the "
        "ceiling. A mean is less noisy than a seed, so shares of it may be "
        "above 100 %. Multiply-adds, parameters and sizes rank by more of "
        "them, less error; the regressions never saw the arch they rank.",
        "note",
      )
    )
  return parts


def _reproduce(content: elements.Content) -> list[str]:
  rows = "".join(
    f"<tr><td><code>{escape(setting.field)}</code></td>"
    f'<td class="long">{escape(setting.default)}</td>'
    f'<td class="long">{escape(setting.value)}</td></tr>'
    for setting in content.settings
  )
  table = elements.scrolled(
    "Settings",
    "<table><caption>Where config.json is not the default</caption>"
    "<thead><tr><th>field</th><th>default</th><th>this run</th></tr></thead>"
    f"<tbody>{rows}</tbody></table>",
  )
  return [
    elements.paragraph("This command made, or makes, what is above:"),
    elements.show_command(content.reproduce),
    elements.paragraph(
      "Results that are there are kept; a run that was stopped goes on. The "
      "same config and seed on the same machine and library give the same "
      "numbers."
    ),
    table
    if rows
    else elements.paragraph("Every field of the config is the default."),
  ]
