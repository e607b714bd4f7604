"""The folder of a run: whose it is, and what may still change in it."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
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
# What fields that lack or are of another type end in.
_EDITED = (AttributeError, LookupError, TypeError, ValueError)


def check(config: config_lib.Config, workdir: pathlib.Path) -> None:
  """Refuses a workdir that belongs to another config or cannot be written.

  Of a run that has begun those fields may change that no number depends on, and
  those that only phases read which have not begun. More epochs are accepted
  where what has run would have been the same, and has not ended.

  Raises:
    UserError: naming the fields that differ and those that may, or the
      folder.
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
    if path not in _GROWS:
      yield text
      continue
    try:
      reason = _GROWS[path](old, new, workdir, readers)
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


def _more_seeds(
  old: Record, new: Record, workdir: pathlib.Path, readers: list[str]
) -> str:
  """Lets seeds be added, which have folders of their own."""
  if new["train"]["num_seeds"] < old["train"]["num_seeds"]:
    return "those that are there stay"
  return _only("train", readers)


def _more_train_epochs(
  old: Record, new: Record, workdir: pathlib.Path, readers: list[str]
) -> str:
  """Lets a run be longer up to the first fall of its rate when shorter."""
  before, now = old["train"], new["train"]
  if reason := _only("train", readers) or _fewer(before, now):
    return reason
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


def _more_search_epochs(
  old: Record, new: Record, workdir: pathlib.Path, readers: list[str]
) -> str:
  """Lets a search be longer whose schedules are constant."""
  if reason := _only("search", readers) or _fewer(old["search"], new["search"]):
    return reason
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


def _more_targets(
  old: Record, new: Record, workdir: pathlib.Path, readers: list[str]
) -> str:
  """Lets targets be added until they are summed up."""
  if not set(old["sweep"]["targets"]) <= set(new["sweep"]["targets"]):
    return "those that are there stay"
  ended = (workdir / "sweep" / "summary.json").exists()
  return "the sweep has ended" if ended else ""


def _only(phase: str, readers: list[str]) -> str:
  others = [name for name in readers if name != phase]
  return f"{', '.join(others)} has begun" if others else ""


def _fewer(old: Record, new: Record) -> str:
  return "has run for more" if new["epochs"] < old["epochs"] else ""


# Fields that may grow; each says why not, if so, of the phases that read it.
_GROWS: dict[str, Callable[..., str]] = {
  "search.epochs": _more_search_epochs,
  "train.epochs": _more_train_epochs,
  "train.num_seeds": _more_seeds,
  "sweep.targets": _more_targets,
}
