"""The report phase: what a workdir holds, as tables, pictures and a page."""

import contextlib
import os
import pathlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

from flax import traverse_util

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import running
from nss_jax.phases.job import Job
from nss_jax.phases.registry import Phase
from nss_jax.runtime import files, processes, space_file
from nss_jax.runtime.report import (
  elements,
  experiment_pictures,
  experiment_tables,
  figures,
  page,
  tables,
  targets,
  train_tables,
)
from nss_jax.runtime.report.cells import (
  Table,
  escape_markdown,
  plain,
)
from nss_jax.runtime.report.workdir import Results, is_empty, read_results
from nss_jax.spaces.constraints import describe_targets
from nss_jax.version import __version__

FOLDER = "report"
# The last to be replaced: it says that the report is whole.
RESULT = "report.json"
_PICTURES = (
  *("elite_space", "trajectory", "pareto", "spaces", "trained", "rank_check"),
  *("principles", "complexity", "targets"),
)
_TABLES = (
  *("choice", "candidates", "spaces", "groups", "nas", "nas_runs", "race"),
  "train",
  *("rank_check", "principles", "complexity", "targets", "targets_nas"),
)
_FILES = (
  *(f"{name}.{kind}" for name in _PICTURES for kind in ("png", "svg")),
  *(f"table_{name}.csv" for name in _TABLES),
  "tables.md",
  "index.html",
  RESULT,
)


def run(job: Job) -> dict[str, Any]:
  """Writes `report/` from the files of the workdir; nothing is computed.

  Returns:
    The content of `report/report.json`.

  Raises:
    UserError: if there is nothing to report, or a file is not what it
      should be; the report that was there is as it was.
  """
  check(job)
  processes.run_once(lambda: _write(job))
  return files.read_json(job.workdir / FOLDER / RESULT)


def _write(job: Job) -> None:
  results = read_results(job.workdir, job.search_space)
  found = _make_tables(job, results)
  with _replaced_files(job.workdir / FOLDER) as folder:
    pictures = _draw(job, results, found, folder)
    for table in found.values():
      path = folder / f"table_{table.name}.csv"
      path.write_text(table.to_csv(), "utf-8")
    (folder / "tables.md").write_text(_markdown(job, found), "utf-8")
    content = _content(job, results, found, pictures)
    (folder / "index.html").write_text(page.render(content), "utf-8")
    result = _numbers(job, results, found)
    files.write_json(folder / RESULT, result)


def check(job: Job) -> None:
  """Refuses, naming the command, if nothing is to report or to be run."""
  if set(job.phases) == {FOLDER} and is_empty(job.workdir):
    raise UserError(
      f"{job.workdir}: nothing to report; run {_command(job, 'search', ' ')}"
    )


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Where the report is, and what it lacks."""
  folder = job.workdir / FOLDER
  lines = ["", f"Report: {folder / 'index.html'}"]
  if result["not_run"]:
    lines.append(f"  not run yet: {', '.join(result['not_run'])}")
  return [
    *lines,
    f"Files in {folder}: index.html, {RESULT}, "
    "tables.md, table_*.csv, pictures as .png and .svg",
  ]


@contextlib.contextmanager
def _replaced_files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write to, whose files replace the old ones when all are made.

  Files of an earlier report that are not made again go; other files stay.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for left in folder.glob(".*.tmp"):  # by a report that was killed
    shutil.rmtree(left, ignore_errors=True)
  new = pathlib.Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=folder))
  try:
    yield new
    made = {path.name for path in new.iterdir()}
    for path in new.iterdir():
      files.fsync(path)
    for name in _FILES:
      if name in made:
        os.replace(new / name, folder / name)
      else:
        (folder / name).unlink(missing_ok=True)
    files.fsync(folder)
  finally:
    shutil.rmtree(new, ignore_errors=True)


def _make_tables(job: Job, results: Results) -> dict[str, Table]:
  """Those that have rows, by name."""
  config, target = job.config, job.target
  words = describe_targets(job.constraints)
  made = (
    tables.choice_table(results),
    tables.candidates_table(results),
    tables.spaces_table(results),
    tables.groups_table(results),
    tables.nas_table(results, dataset_name(config), target, words),
    tables.nas_runs_table(results),
    train_tables.race_table(results),
    train_tables.train_table(results),
    experiment_tables.rank_table(results),
    experiment_tables.principles_table(results),
    experiment_tables.complexity_table(results),
    targets.table(results.sweep),
    targets.nas_table(results.sweep, dataset_name(config)),
  )
  return {table.name: table for table in made if table is not None}


def dataset_name(config: config_lib.Config) -> str:
  """The name that the paper's tables have, if they have it."""
  source = config.data.source
  if source == "tfds":
    return config.data.name.partition(":")[0]
  return source.removesuffix("_binary").removesuffix("_python")


def _draw(
  job: Job,
  results: Results,
  found: dict[str, Table],
  folder: pathlib.Path,
) -> dict[str, tuple[figures.Picture, str]]:
  target = job.target
  pictures = figures.pictures(
    results,
    target,
    found["train"].records,
    warmup_epochs=job.config.search.warmup_epochs,
  )
  pictures |= experiment_pictures.pictures(results, target)
  return {
    name: (picture, figures.write(picture, folder))
    for name, picture in pictures.items()
  }


def _markdown(job: Job, found: dict[str, Table]) -> str:
  parts = [f"# {escape_markdown(job.config.name)}", page.FLOPS]
  for table in found.values():
    parts += [f"## {table.title}", table.to_markdown().rstrip("\n")]
  parts += _notes(found["nas"])
  return "\n\n".join(parts) + "\n"


def _notes(nas: Table) -> list[str]:
  """The source of the paper's numbers, where some are shown."""
  if not tables.in_paper(nas.records):
    return ["The paper has no row for this data set and target."]
  paper = tables.read_paper()
  return [
    f"Paper: {paper['source']}. Known misprints: {'; '.join(paper['notes'])}."
  ]


def _content(
  job: Job,
  results: Results,
  found: dict[str, Table],
  pictures: dict[str, tuple[figures.Picture, str]],
) -> elements.Content:
  config = job.config
  phases = _phases(config, results)
  missing = _not_run(config, results, found)
  present = [name for name in phases if name not in missing]
  return elements.Content(
    name=config.name,
    dataset=dataset_name(config),
    target=describe_targets(job.constraints),
    results=results,
    tables=found,
    pictures=pictures,
    commands={name: _command(job, name) for name in phases},
    not_run=missing,
    reproduce=_command(job, ",".join([*(present or ["search"]), FOLDER])),
    settings=_settings(config),
    highlights=_highlights(job),
    notes=_notes(found["nas"]),
    version=__version__,
  )


_PHASES = (
  "search",
  "evaluate",
  "rank_check",
  "nas",
  "train",
  "principles",
  "complexity",
  "sweep",
)


def _phases(config: config_lib.Config, results: Results) -> list[str]:
  """Those that this run can have; a sweep needs targets."""
  swept = results.sweep or config.sweep.targets
  refused = running.refused(config)
  return [
    name
    for name in _PHASES
    if name not in refused and (name != "sweep" or swept)
  ]


def _not_run(
  config: config_lib.Config, results: Results, found: dict[str, Table]
) -> list[str]:
  """Phases without a result."""
  has_run = experiment_tables.has_run(results)
  missing = {
    "search": results.elite is None,
    "evaluate": results.evaluation is None,
    "rank_check": results.rank_check is None,
    "nas": not results.nas,
    "train": not results.trained,
    **{name: not done for name, done in has_run.items()},
  }
  if _is_swept(config, results):
    missing["sweep"] = False
  return [name for name in _phases(config, results) if missing[name]]


def _is_swept(config: config_lib.Config, results: Results) -> bool:
  """Whether every target is done, though none may have summed them up.

  Tasks of a job array run a target each; what the sweep phase then writes is
  in the tables and pictures of the report too.
  """
  found, targets = dict(results.sweep), config.sweep.targets
  done = (x in found and _is_done(config, found[x]) for x in targets)
  return bool(targets) and all(done)


def _is_done(config: config_lib.Config, target: Results) -> bool:
  """Whether all phases of a target of the sweep have ended."""
  for phase in config.sweep.phases:
    if phase == "train":
      runs = [target.trained.get(name, []) for name in target.nas]
      ended = min(map(len, runs), default=0) >= config.train.num_seeds
    else:
      file = {"search": space_file.ELITE_SPACE, FOLDER: RESULT}
      name = file.get(phase, "summary.json")
      ended = (target.workdir / phase / name).exists()
    if not ended:
      return False
  return True


def _numbers(
  job: Job, results: Results, found: dict[str, Table]
) -> dict[str, Any]:
  """The content of `report.json`: every table, and where it is from."""
  elite = results.elite or {}
  return {
    "name": job.config.name,
    "dataset": dataset_name(job.config),
    "target_flops": job.target,
    "seed": job.config.seed,
    "elite_space": {
      key: elite.get(key)
      for key in ("space", "mean_flops", "deviation", "constraints")
    },
    "tables": {name: plain(table.records) for name, table in found.items()},
    "not_run": _not_run(job.config, results, found),
    "version": __version__,
  }


def _command(job: Job, phases: str, joint: str = " \\\n  ") -> str:
  """What a shell takes to run phases on this workdir, a flag a line."""
  words = [
    "python -m nss_jax.main",
    *map(shlex.quote, job.config_flags or ("--config=CONFIG.py",)),
    shlex.quote(f"--workdir={job.workdir}"),
    f"--phases={phases}",
  ]
  return joint.join(words)


def _settings(config: config_lib.Config) -> list[elements.Setting]:
  base, own = (
    traverse_util.flatten_dict(c, sep=".")
    for c in (config_lib.to_json(config_lib.base()), config.to_json())
  )
  return [
    elements.Setting(field, repr(base[field]), repr(value))
    for field, value in own.items()
    if value != base[field]
  ]


def _weights(job: Job) -> str:
  found = job.constraints
  if [one.name for one in found] == ["flops"]:
    return f"cost weight {found[0].weight:g}"
  each = ", ".join(f"{one.weight:g} of {one.name}" for one in found)
  return f"cost weights {each}"


def _highlights(job: Job) -> list[str]:
  config = job.config
  search, objective = config.search, config.objective
  return [
    f"{search.epochs} epochs, {search.warmup_epochs} of them warmup; batches "
    f"of {search.batch_size}",
    f"estimator: {search.estimator}, temperature {search.temperature_start:g} "
    f"to {search.temperature_end:g}",
    f"{_weights(job)}, on the {objective.penalty} penalty",
    f"logits: learning rate {config.logits.learning_rate:g}",
    f"Elite Space by the rule '{search.elite}'"
    + (
      f", within {100 * search.elite_tolerance:g} % of the target"
      if search.elite == "scored"
      else f", of {search.num_elite_samples} draws"
    ),
    f"seed {config.seed}",
  ]


PHASE = Phase(FOLDER, run, report, result=None, reads=(), check=check)
