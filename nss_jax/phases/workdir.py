"""The folder of a run: whose it is, and what may still change in it."""

import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import registry
from nss_jax.results import fields
from nss_jax.results.artifact import Artifact
from nss_jax.runtime import files

Record = dict[str, Any]


class _Line(Artifact):
  """Says in a line of `metrics.jsonl` how far training is."""

  epoch: fields.Whole


# No number depends on them.
_FREE = (
  "name",
  "data.stream",
  "evaluate.cache",
  "objective.foreign_latency_table",
  "search.checkpoint_every",
  "search.keep_checkpoints",
  "search.steps_per_dispatch",
)
# Fields that may grow.
_GROWING = ("search.epochs", "train.epochs", "train.num_seeds", "sweep.targets")
# What fields that lack or are of another type end in.
_EDITED = (AttributeError, LookupError, TypeError, ValueError)


def check(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Refuses a workdir that belongs to another config or cannot be written.

  Of a run that has begun those fields may change that no number depends on, and
  those that only phases read which have not begun. More epochs are accepted
  where what has run would have been the same, and has not ended.
  """
  check_name(workdir)
  try:
    _check_folders(workdir)
    claimed = (workdir / "config.json").exists()
  except OSError as error:  # a name too long, a folder that is not ours
    raise UserError(
      f"--workdir: {workdir} cannot be used: {error.strerror}"
    ) from error
  if not claimed:
    return
  old = files.read_json(workdir / "config.json")
  new = config.record()
  begun = [name for name in _sections() if _has_begun(workdir, name)]
  if wrong := [*_contradictions(old, new, workdir, begun)]:
    groups = [
      f"config.{name}.*"
      for name in dict.fromkeys(itertools.chain(*_sections().values()))
      if not _readers(new, name, begun)
    ]
    free = [f"config.{name}" for name in _FREE]
    raise UserError(
      f"--workdir: {workdir} holds a run of another config "
      f"({'; '.join(wrong)}); choose another workdir; in this one may change: "
      f"{', '.join([*free, *groups])}"
    )


def claim(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Makes the folder and writes `config.json`, unless it is there as it is."""
  files.make_folder(workdir)
  path, record = workdir / "config.json", config.record()
  if not path.exists() or files.read_json(path) != record:
    files.write_json(path, record)


def check_name(workdir: pathlib.Path) -> None:
  """Refuses names that C++ libraries, in UTF-8, write in another way."""
  path = str(workdir.absolute())
  try:
    same = os.fsencode(path) == path.encode()
  except UnicodeEncodeError:
    same = False
  if not same:
    raise UserError(
      f"--workdir: {path!r} is not accepted, as it is not UTF-8; expected a "
      "name that is, and a locale such as LC_ALL=C.UTF-8"
    )


def _check_folders(workdir: pathlib.Path) -> None:
  """Refuses a run whose folders cannot be written to."""
  phases = [workdir / phase for phase in registry.names()]
  for folder in (workdir, *phases, workdir / "search" / "checkpoints"):
    existing = folder
    while not existing.exists() and existing != existing.parent:
      existing = existing.parent
    reason = ""
    if not existing.is_dir():
      reason = f"{existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
      reason = f"no permission to write to {existing}"
    if reason:
      raise UserError(f"--workdir: {workdir} cannot be written: {reason}")


def _contradictions(
  old: Record, new: Record, workdir: pathlib.Path, begun: list[str]
) -> Iterator[str]:
  """Lists what differs and contradicts what is there."""
  for text in config_lib.differences(old, new):
    path = text.partition(":")[0].removeprefix("config.")
    readers = _readers(new, path, begun)
    if path in _FREE or not readers:
      continue
    if path not in _GROWING:
      yield text
      continue
    try:
      reason = _why_not(path, old, new, workdir, readers)
    except _EDITED:
      reason = "config.json is not as it was written"
    if reason:
      yield f"{text}, but {reason}"


def _has_begun(workdir: pathlib.Path, phase: str) -> bool:
  """Tells whether a phase has left more than locks and torn files."""
  return any(
    path.is_file() and not path.name.startswith(".")
    for path in (workdir / phase).rglob("*")
  )


def _readers(new: Record, path: str, begun: list[str]) -> list[str]:
  """Returns the phases that have begun and that a field matters to.

  Sections that no phase reads by itself matter to all, and so does how a
  latency was measured that is a constraint; a sweep runs other phases in
  folders of its own.
  """
  section, sections = path.partition(".")[0], _sections()
  readers = [name for name in begun if section in sections[name]]
  if section == "latency_table" and _wants_latency(new):
    return begun
  if section not in itertools.chain(*sections.values()):
    return begun
  return [name for name in begun if name in (*readers, "sweep")]


def _sections() -> dict[str, tuple[str, ...]]:
  """Returns the sections of the config that each phase with a result reads."""
  found = {name: registry.find(name).reads for name in registry.names()}
  return {name: reads for name, reads in found.items() if reads}


def _wants_latency(record: Record) -> bool:
  constraints = record["objective"]["constraints"]
  return any(one["metric"] == "latency" for one in constraints)


def _why_not(
  path: str, old: Record, new: Record, workdir: pathlib.Path, readers: list[str]
) -> str:
  """Says why one of the fields that may grow may not; empty if it may."""
  section = path.partition(".")[0]
  before, now = old[section], new[section]
  if path == "sweep.targets":  # until they are summed up
    if not set(before["targets"]) <= set(now["targets"]):
      return "those that are there stay"
    ended = (workdir / "sweep" / "summary.json").exists()
    return "the sweep has ended" if ended else ""
  is_seeds = path == "train.num_seeds"  # which have folders of their own
  if is_seeds and now["num_seeds"] < before["num_seeds"]:
    return "those that are there stay"
  if others := [name for name in readers if name != section]:
    return f"{', '.join(others)} has begun"
  if is_seeds:
    return ""
  if now["epochs"] < before["epochs"]:
    return "has run for more"
  if path == "train.epochs":
    return _why_no_longer_training(before, now, workdir)
  return _why_no_longer_search(old, new, workdir)


def _why_no_longer_training(
  before: Record, now: Record, workdir: pathlib.Path
) -> str:
  """Says why training may not be longer: it may up to the step where its rate
  has fallen for the first time."""
  if before["decay_at"] != now["decay_at"]:
    return "so does their decay"
  if any(workdir.glob("train/*/seed_*/result.json")):
    return "results of before are there"
  if not before["decay_at"]:
    return ""
  for path in workdir.glob("train/*/seed_*/metrics.jsonl"):
    for line in files.read_lines(path):
      epoch = _Line.parse(path, line).epoch
      # The epoch after it may have begun.
      if epoch + 1 > before["decay_at"][0] * before["epochs"]:
        return "the learning rate has fallen"
  return ""


def _why_no_longer_search(
  old: Record, new: Record, workdir: pathlib.Path
) -> str:
  """Says why a search may not be longer: it may if its schedules are constant,
  until it has ended."""
  for rates in (old["weights"], new["weights"]):
    if rates["learning_rate"] != rates["final_learning_rate"]:
      return "the learning rate depends on it"
  for search in (old["search"], new["search"]):
    if search["temperature_start"] != search["temperature_end"]:
      return "the temperature depends on it"
    if search["entropy_start"] not in (0.0, search["entropy_end"]):
      return "the weight of the entropy depends on it"
    if search["penalty_growth"] != 1:
      return "the weight of the penalty depends on it"
  ended = (workdir / "search" / "elite_space.json").exists()
  return "the search has ended" if ended else ""
