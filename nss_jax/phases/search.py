"""The search phase: find an Elite Space (paper 3.3-3.4, 4.1)."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from nss_jax.phases import elite, loop, scoring
from nss_jax.phases.job import Job
from nss_jax.phases.program import Program
from nss_jax.results import elite_space, epochs
from nss_jax.results.elite_space import FoundSpace
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.search_space import Arch


def run(job: Job) -> FoundSpace:
  """Searches, or goes on where an earlier run stopped, and writes the result.

  Returns:
    The content of `search/elite_space.json`.

  Raises:
    Diverged: at a loss that is not finite.
    Interrupted: after SIGTERM, once all is saved.
  """
  config, program = job.config, job.search
  folder = job.workdir / "search"
  # From the start, which compiles, to the last file: SIGTERM is always 75.
  with Preemption() as preemption:
    state = loop.run(job, program, folder, preemption)
    logits = jax.device_get(state.search.logits)
    score_fn = functools.partial(_score, job, state.weights.params)
    result = elite.find(config, program.search_space, logits, score_fn)
    _draw_trajectory(program, result, folder)
    # Last: this file says that the search is finished.
    result.write(folder / "elite_space.json")
  return result


def _score(
  job: Job, weights: Any, archs: Arch
) -> tuple[np.ndarray, np.ndarray]:
  """Error and loss `[N]` of archs by the search's own supernet, on images of
  the half that the logits were trained on."""
  images = scoring.validation_images(job.config, job.dataset)
  score_fn = scoring.make_score_fn(
    job.config, job.search_space, job.dataset, job.mesh, images
  )
  split = scoring.choose_split(
    len(archs.depth), len(images.batches), job.mesh.size
  )
  return scoring.score_all(score_fn, weights, archs, split)


def _draw_trajectory(
  program: Program, result: FoundSpace, folder: pathlib.Path
) -> None:
  """Draws `trajectory.png` from `metrics.jsonl`."""
  picture = epochs.picture(
    epochs.read_epochs(folder / "metrics.jsonl", program.search_space),
    program.search_space,
    result,
    warmup_epochs=program.schedule.warmup_epochs,
  )
  if picture:
    picture.write(folder / "trajectory.png")


def report(result: FoundSpace, job: Job) -> list[str]:
  """Tells the result in words."""
  parts = job.search_space, job.load_elite(), job.workdir / "search"
  return elite_space.describe(result, *parts)
