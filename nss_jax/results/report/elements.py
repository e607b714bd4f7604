"""Parts of a page: text, commands, pictures and tables, as HTML.

Every text goes through `html.escape`; only the functions here and in `page`
make tags.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from nss_jax.results.report.figures import Picture
from nss_jax.results.report.workdir import Results
from nss_jax.results.tables import NO_VALUE, NOT_RUN, Table


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
    target: all budgets, in words.
    results: of the workdir.
    tables: by name.
    pictures: each with its SVG, by name.
    commands: what makes the results of a phase, by phase.
    not_run: those of these phases that have not ended.
    reproduce: the command of all that is there.
    settings: fields of the config that are not the default.
    highlights: some fields of the config in words.
    notes: on the paper's numbers; empty where none is shown.
    version: of the library.
  """

  name: str
  dataset: str
  target: str
  results: Results
  tables: dict[str, Table]
  pictures: dict[str, tuple[Picture, str]]
  commands: dict[str, str]
  not_run: Sequence[str]
  reproduce: str
  settings: Sequence[Setting]
  highlights: Sequence[str]
  notes: Sequence[str]
  version: str


def paragraph(text: str, kind: str = "") -> str:
  return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def bullets(lines: Iterable[str], kind: str = "") -> str:
  items = "".join(f"<li>{escape(line)}</li>" for line in lines)
  return f"<ul{_class(kind)}>{items}</ul>"


def _class(kind: str) -> str:
  return f' class="{kind}"' if kind else ""


def missing(content: Content, phase: str, text: str) -> str:
  return (
    f'<div class="missing"><p>{escape(text)} This makes it:</p>'
    f"{show_command(content.commands[phase])}</div>"
  )


def show_command(text: str) -> str:
  """A command, to be copied; long lines scroll in their own box."""
  return f'<pre tabindex="0">{escape(text)}</pre>'


def show_figures(content: Content, *names: str) -> str:
  found = "".join(show_figure(content, name) for name in names)
  return f'<div class="figures">{found}</div>' if found else ""


def show_figure(content: Content, name: str) -> str:
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


def show_table(content: Content, name: str) -> str:
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
  return scrolled(
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


def scrolled(label: str, table: str) -> str:
  """A table scrolls in its own box, never the page."""
  return (
    f'<div class="scroll" tabindex="0" role="region" '
    f'aria-label="{escape(label)}">{table}</div>'
  )
