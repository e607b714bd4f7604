"""A table is defined once, and shown as CSV, Markdown, HTML and text."""

import csv
import io
import itertools
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import rich.box
import rich.console
import rich.markup
import rich.table

from nss_jax.spaces.text import format_macs

# What a cell says whose number was not made, and one that has none to make.
NOT_RUN = "not run"
NO_VALUE = "-"

# A terminal may have no other letters.
_PLAIN = str.maketrans({"±": "+-", "─": "-"})

Record = dict[str, Any]
Cell = Callable[[Record], str]
Columns = Sequence[tuple[str, Cell]]


class Table(NamedTuple):
  """Some records, and how people read them.

  Attributes:
    name: of the CSV, `table_<name>.csv`.
    title: in one line.
    records: equal keys; None is no value, `NOT_RUN` one that was not made.
    columns: titles, and the words of a record's cell.
    brief: titles of the columns that a terminal has room for; empty: all.
  """

  name: str
  title: str
  records: list[Record]
  columns: Columns
  brief: Sequence[str] = ()

  def rows(self) -> list[list[str]]:
    """Returns the words of every cell."""
    return [[words(r) for _, words in self.columns] for r in self.records]

  def heads(self) -> list[tuple[str, bool]]:
    """Returns titles, with units on lines of their own so that columns are
    narrow, and whether a column is of numbers."""
    columns = zip(*self.rows(), strict=True)
    return [
      (
        re.sub(r"(?<=:) | (?=\()", "\n", title),
        all(re.match(r"[-+]?\d|-$|not run", cell) for cell in cells),
      )
      for (title, _), cells in zip(self.columns, columns, strict=True)
    ]

  def to_csv(self) -> str:
    """Returns every number as it is in the file it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(self.records[0])
    for record in self.records:
      writer.writerow([NO_VALUE if v is None else v for v in record.values()])
    return text.getvalue()

  def to_markdown(self) -> str:
    """Returns the table as GitHub reads it."""
    rows = [[title for title, _ in self.columns], *self.rows()]
    rows = [[escape_markdown(cell) for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(self.columns))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)

  def to_json(self) -> list[Record]:
    """Returns the records for JSON: null is what was not run, too."""
    return [
      {k: None if v == NOT_RUN else v for k, v in record.items()}
      for record in self.records
    ]

  def to_lines(self) -> list[str]:
    """Returns the title and a line for each row, as a terminal shows them; a
    table without rows is not shown."""
    if not self.records:
      return []
    shown = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    kept = [c for c in self.columns if not self.brief or c[0] in self.brief]
    for title, _ in kept:
      shown.add_column(title, no_wrap=True)
    for record in self.records:
      shown.add_row(*(rich.markup.escape(cell(record)) for _, cell in kept))
    text = io.StringIO()
    rich.console.Console(file=text, width=1000).print(shown)
    lines = text.getvalue().translate(_PLAIN).splitlines()
    return ["", self.title, *(f" {x.rstrip()}" for x in lines if x.strip())]


def describe(
  folder: pathlib.Path,
  names: str,
  shown: Iterable[Table],
  sentences: Iterable[str] = (),
) -> list[str]:
  """Returns what a terminal shows of a result: its tables, what they say, and
  the names of its files."""
  return [
    *itertools.chain.from_iterable(table.to_lines() for table in shown),
    *(f"  {sentence.translate(_PLAIN)}" for sentence in sentences),
    "",
    f"Files in {folder}: {names}",
  ]


def words_of(key: str, words: Callable[[Any], str]) -> Cell:
  """Returns a cell in words; those below are each for one kind of value."""

  def cell(record: Record) -> str:
    value = record[key]
    if value is None:
      return NO_VALUE
    return NOT_RUN if value == NOT_RUN else words(value)

  return cell


def text(key: str) -> Cell:
  """Returns a cell that is the value as it is."""
  return words_of(key, str)


def yes(key: str) -> Cell:
  """Returns a cell that says yes or no."""
  return words_of(key, lambda value: "yes" if value else "no")


def macs(key: str) -> Cell:
  """Returns a cell of multiply-adds in MF or GF."""
  return words_of(key, format_macs)


def number(key: str, spec: str) -> Cell:
  """Returns a cell of a number in a format of Python."""
  return words_of(key, lambda value: f"{value:{spec}}")


def percent(key: str, spec: str = ".2f") -> Cell:
  """Returns a cell of a share, in percent."""
  return words_of(key, lambda value: f"{100 * value:{spec}}")


def interval(key: str, spec: str) -> Cell:
  """Returns a cell `low to high`, of two fields."""

  def cell(record: Record) -> str:
    low, high = record[f"{key}_low"], record[f"{key}_high"]
    return NO_VALUE if low is None else f"{low:{spec}} to {high:{spec}}"

  return cell


def give_or_take(key: str, spec: str = ".2f") -> Cell:
  """Returns a cell `12.34 ± 0.56` of a share and its standard error."""

  def cell(record: Record) -> str:
    error = record[f"{key}_standard_error"]
    noise = "" if error is None else f" ± {100 * error:.2f}"
    return percent(key, spec)(record) + noise

  return cell


def escape_markdown(text: str) -> str:
  """Returns text that can not end its cell nor be read as HTML."""
  for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
    text = text.replace(old, new)
  return " ".join(text.split())
