"""The phases by name, in order, and what each of them tells the pipeline.

A phase is a file of this folder with a `PHASE`, and its name here. It is loaded
when it is asked for, so that names can be told at once.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nss_jax.config.bounds import PHASES_OF_A_TARGET

if TYPE_CHECKING:
  import pathlib

  from nss_jax.config import Config
  from nss_jax.phases.job import Job

# The sections of the config that results of every search depend on, beside
# those of the data, the space and the supernet, which matter to all phases.
SEARCH = ("seed", "objective", "search", "weights", "logits")


@dataclasses.dataclass(frozen=True)
class Phase:
  """Tells the pipeline what it has to know of a phase.

  The pipeline holds the folder `<workdir>/<name>` for it, notices SIGTERM and
  writes the result, last of all files.

  Attributes:
    name: of the phase and its folder.
    run: does it all, or goes on where it was stopped; returns the result.
    show: tells a result and the phase's folder in words, line by line.
    result: the file that says that it is finished; None: it runs every time,
      since what it reads may have changed, and does nothing twice.
    needs: the phase whose result it reads.
    reads: sections of the config that its results depend on.
    fits: tells whether it can follow the constraints of a config.
    check: raises what is wrong before anything is compiled.
    plan: says what it is going to do, in a line; None for the search, whose
      steps are in every plan.
    read: reads the file again, as the result; None: it is plain JSON.
  """

  name: str
  run: "Callable[[Job], Any]"
  show: "Callable[[Any, pathlib.Path], list[str]]"
  result: str | None = "summary.json"
  needs: str | None = None
  reads: tuple[str, ...] = SEARCH
  fits: "Callable[[Config], bool]" = lambda config: True
  check: "Callable[[Job], None]" = lambda job: None
  plan: "Callable[[Job], str] | None" = None
  read: "Callable[[pathlib.Path], Any] | None" = None


_APART = ("sweep", "latency_table")
_OURS = (*PHASES_OF_A_TARGET, *_APART)
_ADDED: dict[str, Phase] = {}


def of_a_target() -> tuple[str, ...]:
  """Returns the phases that `all` runs, and that a sweep may run."""
  return tuple(PHASES_OF_A_TARGET)


def names() -> tuple[str, ...]:
  """Returns the names of all phases, in order."""
  *others, last = PHASES_OF_A_TARGET
  return (*others, *_APART, last)


def find(name: str) -> Phase:
  """Returns a phase by its name."""
  if name in _ADDED:
    return _ADDED[name]
  return importlib.import_module(f"nss_jax.phases.{name}").PHASE


def register_phase(phase: Phase) -> None:
  """Makes a phase known that is in no file of this folder.

  Args:
    phase: of a target, and of a name of its own.

  Raises:
    ValueError: if the name is one of ours.
  """
  if phase.name in _OURS:
    raise ValueError(f"the phase {phase.name!r} is there already")
  if phase.name not in _ADDED:
    PHASES_OF_A_TARGET.insert(-1, phase.name)
  _ADDED[phase.name] = phase


def unregister_phase(name: str) -> None:
  """Takes a phase away that was registered."""
  del _ADDED[name]
  PHASES_OF_A_TARGET.remove(name)
