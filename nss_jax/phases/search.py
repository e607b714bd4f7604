"""The search phase: find an Elite Space (paper 3.3-3.4, 4.1)."""

import pathlib
from typing import Any

import jax
import ml_collections

from nss_jax import config as config_lib
from nss_jax.phases import loop
from nss_jax.phases.job import Job
from nss_jax.phases.program import Program, base_keys
from nss_jax.phases.search_program import bin_probabilities
from nss_jax.runtime import artifacts, budgets, figures
from nss_jax.runtime.log import format_macs
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.report.workdir import read_epochs
from nss_jax.spaces import constraints, cost, distribution
from nss_jax.spaces.feasible import exact_elite_space
from nss_jax.spaces.search_space import Space, space_ranges
from nss_jax.spaces.text import describe_space
from nss_jax.version import __version__


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
    elite = find_elite(config, program, jax.device_get(state.search.logits))
    _draw_trajectory(program, elite, folder)
    # Last: this file says that the search is finished.
    artifacts.write_json(folder / "elite_space.json", elite)
  return elite


def _draw_trajectory(
  program: Program, elite: dict[str, Any], folder: pathlib.Path
) -> None:
  """Draws `trajectory.png` from `metrics.jsonl`."""
  with artifacts.atomic_path(folder / "trajectory.png") as path:
    figures.draw_trajectory(
      path,
      read_epochs(folder / "metrics.jsonl", program.search_space),
      program.search_space,
      elite,
      warmup_epochs=program.schedule.warmup_epochs,
    )


def find_elite(
  config: ml_collections.ConfigDict, program: Program, logits: Any
) -> dict[str, Any]:
  """The Elite Space of the logits, as the JSON object that is written."""
  space, wanted = program.search_space, config_lib.constraints(config)
  elite = distribution.elite_space(
    base_keys(config.seed)["elite"],
    logits,
    cost_fn=lambda weights: constraints.mean_costs(space, wanted, weights),
    target=None,
    num_samples=config.search.num_elite_samples,
    penalty_fn=lambda costs, _: constraints.penalties(wanted, costs),
  )
  selected = elite.space
  if config.search.elite == "exact":
    tolerance = config.search.elite_tolerance
    selected = exact_elite_space(space, logits, wanted, tolerance).space
  target = config_lib.flops_target(config)

  def entry(chosen: Space) -> dict[str, Any]:
    macs = cost.space_macs(space, chosen)
    return {
      "space": space_ranges(space, chosen),
      "mean_flops": macs,
      "deviation": None if target is None else macs / target - 1,
      "costs": {
        one.name: cost.space_cost(
          space, cost.cost_tables(space, one.metric), chosen
        )
        for one in wanted
      },
    }

  candidates = [
    entry(jax.tree.map(lambda x, i=i: x[i], elite.candidates))
    for i in range(config.search.num_elite_samples)
  ]
  chosen = entry(selected)
  return {
    "space": chosen["space"],
    "mean_flops": chosen["mean_flops"],
    "target_flops": target,
    "deviation": chosen["deviation"],
    "constraints": [
      {
        "metric": one.name,
        "mode": one.mode,
        "target": one.target,
        "weight": one.weight,
        "mean_cost": chosen["costs"][one.name],
        "deviation": chosen["costs"][one.name] / one.target - 1,
      }
      for one in wanted
    ],
    "candidates": candidates,
    "argmax_space": entry(distribution.most_probable_space(logits)),
    "probabilities": bin_probabilities(logits),
    "seed": config.seed,
    "search_space": space.to_dict(),
    "version": __version__,
  }


def report(elite: dict[str, Any], job: Job) -> list[str]:
  """The result in words, where the files are, and the next command."""
  folder, search_space = job.workdir / "search", job.search_space
  chosen = job.load_elite()
  return [
    "",
    "Elite Space",
    *(f"  {line}" for line in describe_space(search_space, chosen)),
    *_describe_cost(elite, search_space.num_archs_in(chosen)),
    "",
    f"Files in {folder}: elite_space.json, trajectory.png, metrics.jsonl",
    "Next: draw archs from it,",
    '  python -c "import jax, nss_jax as nss; space = nss.load_space('
    f"'{folder / 'elite_space.json'}'); print(nss.sample_archs("
    'jax.random.key(0), *space, 5))"',
  ]


def _describe_cost(elite: dict[str, Any], num_archs: int) -> list[str]:
  """How large the space is, and how each budget is met."""
  names = [one["metric"] for one in budgets.of_elite(elite)]
  met = budgets.met(elite)
  if names == ["flops"]:
    return [f"  {num_archs} archs, {met[0].replace('mean', 'mean cost', 1)}"]
  return [
    f"  {num_archs} archs, mean cost {format_macs(elite['mean_flops'])}",
    *(f"  {name}: {words}" for name, words in zip(names, met, strict=True)),
  ]
