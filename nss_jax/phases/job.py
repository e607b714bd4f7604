"""What every phase is given."""

import pathlib
from typing import NamedTuple

import jax
import ml_collections
import rich.console

from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases.program import Program
from nss_jax.runtime import space_file
from nss_jax.runtime.progress import DEFAULT_OPTIONS, ProgressOptions
from nss_jax.spaces.search_space import SearchSpace, Space


class Job(NamedTuple):
  """One run of the command.

  Attributes:
    config: valid.
    dataset: the images.
    mesh: the devices.
    search: the search, not run yet.
    workdir: every phase writes to a folder of its own name.
    console: where lines and progress go.
    archs: to be trained, as text; none: those that the nas phase has found.
    config_flags: the words of the command line that give the config.
    supernets: folder of the stand-alone supernets; None: beside the workdir.
    take_over: whether a process that was on another host has surely ended.
    progress: what is shown meanwhile.
  """

  config: ml_collections.ConfigDict
  dataset: data.Dataset
  mesh: jax.sharding.Mesh
  search: Program
  workdir: pathlib.Path
  console: rich.console.Console
  archs: tuple[str, ...] = ()
  config_flags: tuple[str, ...] = ()
  supernets: pathlib.Path | None = None
  take_over: bool = False
  progress: ProgressOptions = DEFAULT_OPTIONS

  @property
  def search_space(self) -> SearchSpace:
    return self.search.search_space

  def load_elite(self) -> Space:
    """The Elite Space that the search phase has written.

    Raises:
      UserError: if there is none, or it is of another search space.
    """
    path = self.workdir / "search" / space_file.ELITE_SPACE
    search_space, space = space_file.load_space(path)
    if search_space != self.search_space:
      raise UserError(
        f"{path}: search_space: is not that of the config and the images"
      )
    return space
