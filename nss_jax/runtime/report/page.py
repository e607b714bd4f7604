"""A report as one HTML file that needs nothing else: no network, no script.

Every text goes through `html.escape`; only the functions here make tags.
"""

import base64
import importlib.resources
import re
import string
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from nss_jax.runtime import scores
from nss_jax.runtime.log import format_macs
from nss_jax.runtime.report import principles, words
from nss_jax.runtime.report.cells import NO_VALUE, NOT_RUN, Table
from nss_jax.runtime.report.figures import Picture
from nss_jax.runtime.report.tables import NAS_NAMES
from nss_jax.runtime.report.workdir import Results

FLOPS = (
  "FLOPs are multiply-adds: convolutions and the fully connected layer. "
  "1 MF = 1e6, 1 GF = 1e9."
)


class Setting(NamedTuple):
  """A field of the config: its default, and what this run has."""

  field: str
  default: str
  value: str


class Content(NamedTuple):
  """All that a page shows.

  Attributes:
    name: of the run.
    dataset: its name.
    target: multiply-adds.
    results: of the workdir.
    tables: by name.
    pictures: each with its SVG, by name.
    commands: what makes the results of a phase, by phase.
    reproduce: the command of all that is there.
    settings: fields of the config that are not the default.
    highlights: some fields of the config in words.
    notes: on the paper's numbers; empty where none is shown.
    version: of the library.
  """

  name: str
  dataset: str
  target: float
  results: Results
  tables: dict[str, Table]
  pictures: dict[str, tuple[Picture, str]]
  commands: dict[str, str]
  reproduce: str
  settings: Sequence[Setting]
  highlights: Sequence[str]
  notes: Sequence[str]
  version: str


def render(content: Content) -> str:
  """The page."""
  sections = {
    "found": ("What was found", _found(content)),
    "elite": ("Is it elite?", _is_elite(content)),
    "nas": ("Networks found", _nas(content)),
    "trained": ("Trained networks", _trained(content)),
    "principles": ("Design principles", _principles(content)),
    "rank": ("Rank check", _rank_check(content)),
    "reproduce": ("How to reproduce", _reproduce(content)),
  }
  folder = importlib.resources.files("nss_jax.runtime.report")
  template = (folder / "page.html").read_text("utf-8")
  return string.Template(template).substitute(
    title=escape(f"Network Space Search: {content.name}"),
    subtitle=escape(
      f"{content.dataset}, target {format_macs(content.target)}; "
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


def _tiles(content: Content) -> str:
  results = content.results
  tiles = [("target", format_macs(content.target), content.dataset)]
  if results.elite is not None:
    elite = results.elite
    tiles += [
      (
        "Elite Space, mean cost",
        format_macs(elite["mean_flops"]),
        f"{100 * elite['deviation']:+.1f} % from the target",
      ),
      (
        "archs in it",
        f"{results.search_space.num_archs_in(results.space):,}",
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


def _error_tile(content: Content) -> tuple[str, str, str]:
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


def _found(content: Content) -> list[str]:
  results = content.results
  wide = _figure(content, "trajectory")
  if results.elite is None:
    text = "The search has not ended."
    if results.epochs:
      text = f"The search has run {len(results.epochs)} epochs and not ended."
    return [_missing(content, "search", text), wide]
  return [
    _list(words.elite_space(results), "stages"),
    _paragraph(words.cost(results), "lead"),
    _paragraph(words.trend(results)),
    f'<div class="figures">{_figure(content, "elite_space")}'
    f"<div><h3>How it was searched</h3>{_list(content.highlights)}</div></div>",
    _table(content, "candidates"),
    _paragraph(words.draws(results), "note"),
    wide,
  ]


def _is_elite(content: Content) -> list[str]:
  results = content.results
  parts = []
  if results.evaluation is None:
    text = "Not run."
    if results.scores is not None:
      text = f"Not ended: {len(results.scores)} archs are scored so far."
    parts.append(_missing(content, "evaluate", text))
  else:
    lines = list(words.is_elite(results))
    parts += [_paragraph(line, "lead") for line in lines[:1]]
    parts += [_paragraph(line) for line in lines[1:]]
  parts.append(_figures(content, "spaces", "pareto"))
  if results.evaluation is not None:
    parts += [
      _table(content, "spaces"),
      _table(content, "groups"),
      _paragraph(
        "A percentile is the share of the spaces whose mean is smaller: 0 is "
        "the best, 100 the worst. Regret is what the Elite Space lacks to the "
        "best of them. The hypervolume is in error times decades of FLOPs, "
        "larger is better. Errors are those of the evaluator's supernet on "
        "training images that were held out.",
        "note",
      ),
    ]
  return parts


def _nas(content: Content) -> list[str]:
  results = content.results
  parts = []
  missing = [name for name in NAS_NAMES if name not in results.nas]
  if missing:
    text = "Not run." if not results.nas else "Not all of it has run."
    parts.append(_missing(content, "nas", text))
  parts += [_paragraph(line) for line in words.samples(results)]
  parts += [_table(content, "nas"), _table(content, "nas_runs")]
  parts += [_paragraph(note, "note") for note in content.notes]
  return parts


def _trained(content: Content) -> list[str]:
  table = content.tables["train"]
  parts = []
  if any(record["test_error"] == NOT_RUN for record in table.records):
    text = "Not all of it has run." if content.results.trained else "Not run."
    parts.append(_missing(content, "train", text))
  parts += [_paragraph(line, "lead") for line in words.trained(table.records)]
  return [*parts, _figures(content, "trained"), _table(content, "train")]


def _principles(content: Content) -> list[str]:
  results = content.results
  figure = _figure(content, "principles")
  if results.principles is None:
    text = "Not run."
    if results.principles_scores is not None:
      count = len(results.principles_scores)
      text = f"Not ended: {count} archs are scored so far."
    return [_missing(content, "principles", text), figure]
  lines = [_paragraph(x, "lead") for x in principles.sentences(results)]
  note = _paragraph(principles.note(results), "note")
  return [*lines, figure, _table(content, "principles"), note]


def _rank_check(content: Content) -> list[str]:
  results = content.results
  parts = []
  if results.rank_check is None:
    text = "Not run."
    if results.rank_scores is not None:
      done, count = (
        len(table)
        for table in (results.rank_scores.alone, results.rank_scores.supernet)
      )
      text = f"Not ended: {done} of {count} archs are trained alone so far."
    parts.append(_missing(content, "rank_check", text))
  parts += [_figures(content, "rank_check"), _table(content, "rank_check")]
  if results.rank_check is not None:
    parts.append(
      _paragraph(
        "Kendall's tau compares the order of the archs by the supernet with "
        "that of training each alone: 1 is the same order, -1 the opposite. "
        "The last column ranks by multiply-adds: more of them, less error.",
        "note",
      )
    )
  return parts


def _reproduce(content: Content) -> list[str]:
  rows = "".join(
    f"<tr><td><code>{escape(setting.field)}</code></td>"
    f'<td class="long">{escape(setting.default)}</td>'
    f'<td class="long">{escape(setting.value)}</td></tr>'
    for setting in content.settings
  )
  table = _scrolled(
    "Settings",
    "<table><caption>Where config.json is not the default</caption>"
    "<thead><tr><th>field</th><th>default</th><th>this run</th></tr></thead>"
    f"<tbody>{rows}</tbody></table>",
  )
  return [
    _paragraph("This command made, or makes, what is above:"),
    _command(content.reproduce),
    _paragraph(
      "Results that are there are kept; a run that was stopped goes on. The "
      "same config and seed on the same machine and library give the same "
      "numbers."
    ),
    table if rows else _paragraph("Every field of the config is the default."),
  ]


def _paragraph(text: str, kind: str = "") -> str:
  return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def _list(lines: Iterable[str], kind: str = "") -> str:
  items = "".join(f"<li>{escape(line)}</li>" for line in lines)
  return f"<ul{_class(kind)}>{items}</ul>"


def _class(kind: str) -> str:
  return f' class="{kind}"' if kind else ""


def _missing(content: Content, phase: str, text: str) -> str:
  return (
    f'<div class="missing"><p>{escape(text)} This makes it:</p>'
    f"{_command(content.commands[phase])}</div>"
  )


def _command(text: str) -> str:
  """A command, to be copied; long lines scroll in their own box."""
  return f'<pre tabindex="0">{escape(text)}</pre>'


def _figures(content: Content, *names: str) -> str:
  found = "".join(_figure(content, name) for name in names)
  return f'<div class="figures">{found}</div>' if found else ""


def _figure(content: Content, name: str) -> str:
  if name not in content.pictures:
    return ""
  picture, svg = content.pictures[name]
  data = base64.b64encode(svg.encode()).decode()
  kind = "wide" if picture.wide else "small"
  focus = ' tabindex="0"' if picture.wide else ""
  text = escape(picture.text)
  return (
    f'<figure class="{kind}"><div class="frame"{focus}><img alt="{text}" '
    f'src="data:image/svg+xml;base64,{data}"></div>'
    f"<figcaption>{text}.</figcaption></figure>"
  )


def _table(content: Content, name: str) -> str:
  if name not in content.tables:
    return ""
  table = content.tables[name]
  rows = table.rows()
  numeric = [
    all(re.match(r"[-+]?\d|-$|not run", cell) for cell in column)
    for column in zip(*rows, strict=True)
  ]
  head = "".join(
    f'<th scope="col"{_class("number" * number)}>{_title(title)}</th>'
    for (title, _), number in zip(table.columns, numeric, strict=True)
  )
  body = "".join(
    f"<tr>{''.join(map(_cell, row, numeric))}</tr>" for row in rows
  )
  return _scrolled(
    table.title,
    f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr>"
    f"</thead><tbody>{body}</tbody></table>",
  )


def _title(text: str) -> str:
  """A title with its unit on a line of its own, so that columns are narrow."""
  return re.sub(r"(?<=:) | (?=\()", "<br>", escape(text))


def _cell(text: str, number: bool) -> str:
  absent = text in (NOT_RUN, NO_VALUE)
  kinds = ["number"] * number + ["absent"] * absent
  return f"<td{_class(' '.join(kinds))}>{escape(text)}</td>"


def _scrolled(label: str, table: str) -> str:
  """A table scrolls in its own box, never the page."""
  return (
    f'<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{escape(label)}">{table}</div>'
  )
