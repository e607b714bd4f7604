"""A report: all tables and pictures of a workdir, and one page of them.

The page is a template and needs nothing else: no network, no script.
"""

import base64
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import jinja2

from nss_jax.results import (
  elite_space,
  group_tables,
  larger_spaces,
  network_tables,
  overview,
  scores,
  trained,
  trends,
)
from nss_jax.results.contents import Contents
from nss_jax.results.networks import expected_names
from nss_jax.results.overview import Facts
from nss_jax.results.plots import Picture
from nss_jax.results.tables import NOT_RUN, Table, escape_markdown
from nss_jax.runtime import files
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import describe_space, format_macs
from nss_jax.version import __version__

_PICTURES = (
  *("elite_space", "trajectory", "pareto", "spaces", "trained", "rank_check"),
  *("principles", "complexity", "targets"),
)
_FLOPS = (
  "FLOPs are multiply-adds: convolutions and the fully connected layer. "
  "1 MF = 1e6, 1 GF = 1e9."
)
# Sections of the page: the phase that a run may lack, and the title.
_SECTIONS = {
  "found": ("search", "What was found"),
  "elite": ("evaluate", "Is it elite?"),
  "nas": ("nas", "Networks found"),
  "trained": ("train", "Trained networks"),
  "rank": ("rank_check", "Rank check"),
  "principles": ("principles", "Design principles"),
  "complexity": ("complexity", "Complexity"),
  "targets": ("sweep", "Targets"),
}


def write(folder: pathlib.Path, facts: Facts, contents: Contents) -> None:
  """Writes a report, whole or not at all; nothing is computed."""
  tables = overview.make_tables(facts, contents)
  with _replaced_files(folder) as new:
    pictures = overview.make_pictures(facts, contents)
    svgs = {name: one.save_both(new) for name, one in pictures.items()}
    for name, table in tables.items():
      (new / f"table_{name}.csv").write_text(table.to_csv(), "utf-8")
    (new / "tables.md").write_text(_markdown(facts, tables), "utf-8")
    page = render(facts, contents, tables, pictures, svgs)
    (new / "index.html").write_text(page, "utf-8")
    files.write_json(
      new / overview.RESULT, overview.numbers(facts, contents, tables)
    )


@contextlib.contextmanager
def _replaced_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder to write to, whose files replace the old ones at the end.

  Files of an earlier report that are not made again are removed; other files
  stay.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for left in folder.glob(".*.tmp"):  # by a report that was killed
    shutil.rmtree(left, ignore_errors=True)
  new = pathlib.Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder))
  try:
    yield new
    made = sorted(new.iterdir(), key=lambda path: path.name == overview.RESULT)
    old = [folder / f"{n}.{kind}" for n in _PICTURES for kind in ("png", "svg")]
    for path in {*old, *folder.glob("table_*.csv")}:
      if not (new / path.name).exists():
        path.unlink(missing_ok=True)
    for path in made:
      files.fsync(path)
    for path in made:
      os.replace(path, folder / path.name)
    files.fsync(folder)
  finally:
    shutil.rmtree(new, ignore_errors=True)


def _markdown(facts: Facts, tables: dict[str, Table]) -> str:
  parts = [f"# {escape_markdown(facts.name)}", _FLOPS]
  for table in tables.values():
    parts += [f"## {table.title}", table.to_markdown().rstrip("\n")]
  parts.append(network_tables.paper_note(tables["nas"]))
  return "\n\n".join(parts) + "\n"


def render(
  facts: Facts,
  contents: Contents,
  tables: dict[str, Table],
  pictures: Mapping[str, Picture] = {},
  svgs: Mapping[str, str] = {},
) -> str:
  """Returns the page."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("nss_jax.results", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
  )
  missing = overview.not_run(facts, contents)
  phases = [name for name in facts.phases if name not in missing] or ["search"]
  sections = [
    (key, title)
    for key, (phase, title) in _SECTIONS.items()
    if phase in facts.phases
  ]
  if contents.sweep and not contents.epochs:
    # All there is: the sections above are of this workdir's own target.
    sections.sort(key=lambda section: section[0] != "targets")
  expected = expected_names(contents.networks)
  records = tables["train"].records
  return environment.get_template("page.html").render(
    title=f"Network Space Search: {facts.name}",
    subtitle=(
      f"{facts.dataset}, target {facts.target}; {_size(contents.search_space)}."
    ),
    sections=[*sections, ("reproduce", "How to reproduce")],
    tiles=list(_tiles(facts, contents, tables)),
    elite_space=elite_space.sentences,
    group_tables=group_tables.sentences,
    network_tables=network_tables.sentences,
    trained=trained.sentences,
    trends=trends.sentences,
    larger_spaces=larger_spaces.sentences,
    facts=facts,
    contents=contents,
    tables=tables,
    pictures=pictures,
    svgs={k: base64.b64encode(x.encode()).decode() for k, x in svgs.items()},
    describe_space=describe_space,
    note=network_tables.paper_note(tables["nas"]),
    not_run=missing,
    not_found=[x for x in expected if x not in contents.networks],
    all_trained=all(one["test_error"] != NOT_RUN for one in records),
    reproduced=facts.command(",".join([*phases, overview.FOLDER])),
    flops=_FLOPS,
    version=__version__,
  )


def _tiles(
  facts: Facts, contents: Contents, tables: dict[str, Table]
) -> Iterator[tuple[str, str, str]]:
  """Yields `(term, value, note)` of each tile at the top."""
  yield "target", facts.target, facts.dataset
  if contents.elite and contents.space:
    search_space = contents.search_space
    yield (
      "Elite Space, mean cost",
      format_macs(contents.elite.mean_flops),
      from_targets(contents.elite.deviations()),
    )
    yield (
      "archs in it",
      f"{search_space.num_archs_in(contents.space):,}",
      f"of {_large(search_space.num_archs)}",
    )
  against = contents.evaluation.elite_against if contents.evaluation else {}
  term, found = "percentile by loss", against.get(scores.RANDOM_SPACES)
  if found is None or found.loss.percentile is None:
    yield term, NOT_RUN, "0 is best"
  else:
    note = f"among {found.num_spaces} random spaces; 0 is best"
    yield term, f"{found.loss.percentile:.3g}", note
  # Of the network that the method is about, not the best that luck gave.
  records = (x for x in tables["train"].records if x["num_trained"])
  if (record := next(records, None)) is None:
    yield "test error", NOT_RUN, "of a trained network"
  else:
    seeds = f"{record['num_trained']} seed" + "s" * (record["num_trained"] != 1)
    error = f"{100 * record['test_error']:.2f} %"
    yield "test error", error, f"{record['name']}, {seeds}"


def _large(number: int) -> str:
  """Returns a count in words: `6,400`, `1.34 × 10⁸`."""
  if number < 1e7:
    return f"{number:,}"
  digits, _, exponent = f"{number:.2e}".partition("e+")
  raised = str(int(exponent)).translate(
    str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
  )
  return f"{digits} \N{MULTIPLICATION SIGN} 10{raised}"


def _size(search_space: SearchSpace) -> str:
  """Returns what was searched, in a line."""
  shape = "x".join(map(str, search_space.image_shape))
  return (
    f"{search_space.num_stages} stages of 1 to {search_space.max_depth} blocks "
    f"and 1 to {search_space.max_width} channels, "
    f"{_large(search_space.num_archs)} archs; images of {shape}, "
    f"{search_space.num_classes} classes"
  )
