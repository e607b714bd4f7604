"""The search phase: find an Elite Space (paper 3.3-3.4, 4.1)."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from nss_jax.phases import elite, loop, scoring
from nss_jax.phases.job import Job
from nss_jax.phases.program import Program
from nss_jax.runtime import figures, files, space_file
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.report.workdir import read_epochs
from nss_jax.spaces.search_space import Arch
from nss_jax.spaces.text import describe_space, format_macs


def run(job: Job) -> dict[str, Any]:
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
    files.write_json(folder / "elite_space.json", result)
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
  program: Program, result: dict[str, Any], folder: pathlib.Path
) -> None:
  """Draws `trajectory.png` from `metrics.jsonl`."""
  with files.atomic_path(folder / "trajectory.png") as path:
    figures.draw_trajectory(
      path,
      read_epochs(folder / "metrics.jsonl", program.search_space),
      program.search_space,
      result,
      warmup_epochs=program.schedule.warmup_epochs,
    )


def report(result: dict[str, Any], job: Job) -> list[str]:
  """The result in words, where the files are, and the next command."""
  folder, search_space = job.workdir / "search", job.search_space
  chosen = job.load_elite()
  return [
    "",
    "Elite Space",
    *(f"  {line}" for line in describe_space(search_space, chosen)),
    *_describe_cost(result, search_space.num_archs_in(chosen)),
    f"  {space_file.how_sure(result)}",
    *(f"warning: {text}" for text in result["warnings"]),
    "",
    f"Files in {folder}: elite_space.json, trajectory.png, metrics.jsonl",
    "Next: draw archs from it,",
    '  python -c "import jax, nss_jax as nss; space = nss.load_space('
    f"'{folder / 'elite_space.json'}'); print(nss.sample_archs("
    'jax.random.key(0), *space, 5))"',
  ]


def _describe_cost(result: dict[str, Any], num_archs: int) -> list[str]:
  """How large the space is, and how each budget is met."""
  names = [one["metric"] for one in result["constraints"]]
  met = space_file.describe_costs(result)
  if names == ["flops"]:
    return [f"  {num_archs} archs, {met[0].replace('mean', 'mean cost', 1)}"]
  return [
    f"  {num_archs} archs, mean cost {format_macs(result['mean_flops'])}",
    *(f"  {name}: {words}" for name, words in zip(names, met, strict=True)),
  ]
