"""Tells other programs what a compiler says of a config's programs."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nss_jax.spaces.search_space import Arch

if TYPE_CHECKING:  # programs of phases load much that a library does not need
  import ml_collections

  from nss_jax.data import Dataset
  from nss_jax.phases.compilation import Compiled


def compile_for(
  config: "ml_collections.ConfigDict",
  topology: str,
  phases: Sequence[str] = ("search",),
  *,
  dataset: "Dataset | None" = None,
  arch: Arch | None = None,
) -> "Iterator[Compiled]":
  """Compiles the programs of phases for chips that need not be there.

  Needs the compiler, `pip install libtpu` for TPUs and `jax-cuda13-plugin
  jax-cuda13-pjrt` for GPUs, and minutes for a program of the paper's size. Set
  `JAX_PLATFORMS=cpu` if there is an accelerator that another program has.

  Args:
    config: of the run, such as `nss_jax.config.paper("cifar100_600mf")`.
    topology: the chips, such as "v5e-1" or "h100".
    phases: of "search", "evaluate" and "train".
    dataset: the images, of which the shapes are enough; those of the config
      by default.
    arch: of `train`; one of equal depths at the target by default.

  Yields:
    What the compiler says of each program, as soon as it does.

  Raises:
    UserError: if there are no such chips, or no compiler for them, or if a
      program needs more memory than a chip has.
  """
  import pathlib

  from nss_jax.phases import chip_programs, compilation, registry
  from nss_jax.phases.job import Job
  from nss_jax.runtime import chips as chips_lib

  chips = chips_lib.find(topology)
  job = Job.open(
    config,
    pathlib.Path(),
    dataset=dataset,
    mesh=chips_lib.make_mesh(chips),
    fetch=False,
    phases=tuple(phases),
  )
  for phase in sorted({*phases} & {*chip_programs.PHASES}):
    registry.find(phase).check(job)
  for program in chip_programs.programs(job, arch):
    yield compilation.compile_program(job, program, chips)
