"""Tables of a report: records for machines, words for people."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nss_jax.spaces.text import format_macs

# What a cell says whose number was not made, and one that has none to make.
NOT_RUN = "not run"
NO_VALUE = "-"

Record = dict[str, Any]
Cell = Callable[[Record], str]


class Table(NamedTuple):
  """Some records and how people read them.

  Attributes:
    name: of the CSV, `table_<name>.csv`.
    title: in one line.
    records: equal keys; None is no value, `NOT_RUN` one that was not made.
    columns: titles, and the words of a record's cell.
  """

  name: str
  title: str
  records: list[Record]
  columns: Sequence[tuple[str, Cell]]

  def rows(self) -> list[list[str]]:
    """The words of every cell."""
    return [[words(r) for _, words in self.columns] for r in self.records]

  def to_csv(self) -> str:
    """Every number as it is in the file it comes from."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(self.records[0])
    for record in self.records:
      writer.writerow([NO_VALUE if v is None else v for v in record.values()])
    return text.getvalue()

  def to_markdown(self) -> str:
    """A table as GitHub reads it."""
    rows = [[title for title, _ in self.columns], *self.rows()]
    rows = [[escape_markdown(cell) for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(self.columns))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def plain(records: list[Record]) -> list[Record]:
  """Records for JSON: null is what was not run too."""
  return [
    {k: None if v == NOT_RUN else v for k, v in record.items()}
    for record in records
  ]


def words_of(key: str, words: Callable[[Any], str]) -> Cell:
  """A cell in words; so are all functions below, for one kind of value."""

  def cell(record: Record) -> str:
    value = record[key]
    if value is None:
      return NO_VALUE
    return NOT_RUN if value == NOT_RUN else words(value)

  return cell


def text(key: str) -> Cell:
  """As it is."""
  return words_of(key, str)


def yes(key: str) -> Cell:
  """Yes or no."""
  return words_of(key, lambda value: "yes" if value else "no")


def macs(key: str) -> Cell:
  """Multiply-adds in MF or GF."""
  return words_of(key, format_macs)


def number(key: str, spec: str) -> Cell:
  """A number in a format of Python."""
  return words_of(key, lambda value: f"{value:{spec}}")


def percent(key: str, spec: str = ".2f") -> Cell:
  """A share, as percent."""
  return words_of(key, lambda value: f"{100 * value:{spec}}")


def interval(key: str, spec: str) -> Cell:
  """`low to high`, of two fields."""

  def cell(record: Record) -> str:
    low, high = record[f"{key}_low"], record[f"{key}_high"]
    return NO_VALUE if low is None else f"{low:{spec}} to {high:{spec}}"

  return cell


def escape_markdown(text: str) -> str:
  """Text that can not end its cell nor be read as HTML."""
  for old, new in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|")):
    text = text.replace(old, new)
  return " ".join(text.split())
