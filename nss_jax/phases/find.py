"""From images and what a network may cost to a trained network, in one call.

A front on the pipeline: it chooses settings for the images and the constraints,
runs the phases that it takes, and reads back what they have written. Light to
import, as all that the library offers.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nss_jax.deploy.trained_network import TrainedNetwork
from nss_jax.errors import Diverged, Interrupted, UserError
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.text import format_arch, format_space

if TYPE_CHECKING:
  import ml_collections

  from nss_jax.runtime.progress import ProgressOptions

_PHASES = ("search", "evaluate", "nas", "train", "report")
_LEAST = ("search", "nas", "train")


@dataclasses.dataclass(frozen=True)
class Found:
  """What a run has found. It prints as what there is to know of it.

  Attributes:
    search_space: where it was looked for.
    space: the Elite Space, the range that the search ended at.
    arch: of the network, `[S]`.
    network: trained, to predict with, to save and to export.
    workdir: all that the run has written; its `best` is the network.
    lines: why this one, and how good it is.
  """

  search_space: SearchSpace
  space: Space
  arch: Arch
  network: TrainedNetwork
  workdir: pathlib.Path
  lines: tuple[str, ...]

  def __str__(self) -> str:
    return "\n".join(self.lines)


def find(
  images: Any,
  labels: Any = None,
  *,
  flops: float | None = None,
  params: float | None = None,
  activations: float | None = None,
  latency: float | None = None,
  effort: str = "quick",
  image_size: int | None = None,
  evaluate: bool = False,
  seed: int = 0,
  workdir: str | os.PathLike[str] | None = None,
  settings: Mapping[str, Any] | None = None,
  progress: "ProgressOptions | None" = None,
) -> Found:
  """Finds and trains the best network that costs at most so much.

  It searches the Elite Space of the images, chooses one network in it that
  meets every constraint, trains it beside one drawn by hand, and tells how far
  apart they are. Called again with the same arguments it goes on where it was
  stopped, or reads what it has found.

  Args:
    images: a folder of classes or of `train/` and `test/`, a `.npz` file, or
      the name of a source of `config.data`; arrays `[N, H, W, C]` uint8; a
      `Dataset`; or a whole config, beside which no constraint is accepted.
    labels: `[N]` integers or names, of arrays.
    flops: at most so many multiply-adds an image.
    params: at most so many trainable numbers.
    activations: at most so many numbers that layers put out.
    latency: at most so many seconds an image, measured on this device first.
    effort: quick (minutes for a thousand small images on two cores), normal or
      thorough, with three and ten times as many steps.
    image_size: pixels of a side that pictures of a folder are resized to; 32,
      64 or 96 by the effort if None.
    evaluate: whether to compare the Elite Space with random spaces of its cost
      as well, and to draw the report, `report/index.html` of the workdir.
    seed: of the run.
    workdir: folder of the run; by the images and the constraints if None.
    settings: fields of the config that are to be others, such as
      `{"data.flip": False}`.
    progress: what is shown meanwhile; bars or lines if None.

  Raises:
    UserError: in one line, if anything of it cannot be used.
    Diverged, Interrupted: as the phases.
  """
  import ml_collections

  from nss_jax.phases import find_settings

  given = {
    "flops": flops,
    "params": params,
    "activations": activations,
    "latency": latency,
  }
  limits = {name: value for name, value in given.items() if value is not None}
  if isinstance(images, ml_collections.ConfigDict):
    if limits or labels is not None:
      raise UserError(
        "find: a config has its own constraints and images; expected it alone"
      )
    config = images.copy_and_resolve_references()
    folder = pathlib.Path(workdir or f"runs/{config.name}")
  else:
    find_settings.check(limits, effort)
    words = [f"{name}{value:g}" for name, value in limits.items()]
    name = "_".join([find_settings.name_of(images), effort, *words])
    folder = pathlib.Path(workdir or f"runs/{name}")
    source = find_settings.find_source(
      images, labels, folder, image_size, effort
    )
    config = find_settings.make_config(source, limits, effort=effort, seed=seed)
    config.name = folder.name
  find_settings.change(config, settings or {})
  phases = _PHASES if evaluate else _LEAST
  try:
    return _run(config, folder, phases, progress)
  except UserError as error:
    text = str(error)
    for index, name in enumerate(limits):
      field = f"config.objective.constraints[{index}].target: "
      text = text.replace(field, f"find: {name}=")
    raise UserError(text, error.details) from error


def _run(
  config: "ml_collections.ConfigDict",
  folder: pathlib.Path,
  phases: tuple[str, ...],
  progress: "ProgressOptions | None",
) -> Found:
  """Runs the phases and reads what they have written."""
  from nss_jax import config as config_lib
  from nss_jax.phases import job, pipeline
  from nss_jax.results import load, trained
  from nss_jax.results.networks import NasSummary
  from nss_jax.runtime.preemption import EXIT_SAVED
  from nss_jax.runtime.progress import DEFAULT_OPTIONS

  if job.wants_latency(config_lib.validate(config)):
    phases = ("latency_table", *phases)
  code = pipeline.run(
    config, folder, phases, progress=progress or DEFAULT_OPTIONS
  )
  if code == EXIT_SAVED:
    raise Interrupted(f"{folder}: stopped and saved; call again to go on")
  if code:
    raise Diverged(f"{folder}: a loss is not finite; see the last lines")
  search_space, space = load.load_space(folder)
  summary = NasSummary.read(folder / "nas" / "summary.json", search_space)
  networks = trained.find_trained(folder / "train", search_space)
  best = load.load_network(folder)
  lines = (
    f"Elite Space: {format_space(search_space, space)}",
    f"Network: {format_arch(best.arch)}, {summary.elite.chosen}",
    *trained.best_lines(best.about),
    *trained.sentences(trained.table(networks).records),
    f"Saved in {folder / load.BEST}",
  )
  return Found(search_space, space, best.arch, best, folder, lines)
