"""The nas phase: one arch near the target (paper 4.3).

Architecture search is the search phase on bins of size one: the same loop,
steps, distribution and cost, on `SearchSpace.refine`.
"""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.phases import loop, search_program
from nss_jax.phases.job import Job
from nss_jax.phases.program import base_keys
from nss_jax.runtime import artifacts
from nss_jax.runtime.budgets import deviations, from_targets
from nss_jax.runtime.log import format_macs, say
from nss_jax.runtime.logits_file import LOGITS, read_logits, write_logits
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.report.networks import read_architecture
from nss_jax.spaces import constraints, distribution, sampling
from nss_jax.spaces.cost import arch_cost, arch_macs, arch_params
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_arch

_RESAMPLES = 1000  # of the bootstrap of a mean
ARCHITECTURE = "architecture.json"
# Of the archs; the last two are controls, drawn without a search.
_NAMES = ("elite", "expanded", "elite_uniform", "expanded_uniform")


def run(job: Job) -> dict[str, Any]:
  """Searches archs in the Elite Space and, the baseline, among all.

  Writes `nas/elite`, `nas/expanded` and `nas/controls`, an `architecture.json`
  in each: the controls are draws that no search has led.

  Raises:
    Diverged, Interrupted: as the search.
  """
  spaces = {
    "elite": job.search_space.refine(job.load_elite()),
    "expanded": job.search_space.refine(),
  }
  folder, result = job.workdir / "nas", {}
  with Preemption() as preemption:
    for name, space in spaces.items():
      result[name] = _search_at_each_rate(job, name, space, preemption)
    result["controls"] = {
      f"{name}_uniform": choose(
        job.config,
        f"{name}_uniform",
        space,
        distribution.init_logits(space),
      )
      for name, space in spaces.items()
    }
    for name, content in result.items():
      artifacts.make_folder(folder / name)
      artifacts.write_json(folder / name / ARCHITECTURE, content)
  # Last: this file says that the phase is finished.
  artifacts.write_json(folder / "summary.json", result)
  return result


def search_config(
  config: ml_collections.ConfigDict, learning_rate: float
) -> ml_collections.ConfigDict:
  """The config of the search, with what `config.nas` says instead."""
  config = config.copy_and_resolve_references()
  config.search.epochs = config.nas.epochs
  config.search.warmup_epochs = config.nas.warmup_epochs
  config.logits.learning_rate = float(learning_rate)
  return config


def _search_at_each_rate(
  job: Job,
  name: str,
  space: SearchSpace,
  preemption: Preemption,
) -> dict[str, Any]:
  """The arch of the rate that did best, and `runs`: those of all rates.

  Best is fewest samples, then closest to the target, so that neither method is
  judged by a rate that does not suit it.
  """
  runs = []
  for rate in job.config.nas.learning_rates:
    path = search_folder(job, name, rate) / ARCHITECTURE
    if not path.exists():
      logits = search(job, name, rate, space, path.parent, preemption)
      found = {"learning_rate": rate, **choose(job.config, name, space, logits)}
      artifacts.write_json(path, found)
    runs.append(read_architecture(path, job.search_space))
  best = min(runs, key=lambda r: (_samples(r), _off(r)))
  return {**best, "runs": runs}


def search(
  job: Job,
  name: str,
  rate: float,
  space: SearchSpace,
  folder: pathlib.Path,
  preemption: Preemption,
) -> SpaceLogits:
  """The logits after the search of a space whose bins have size one.

  Written to `logits.json` in the folder, and read from there if they are.

  Args:
    job: its config has the target.
    name: of the search, to be said.
    rate: learning rate of the logits.
    space: to be searched.
    folder: for `metrics.jsonl` and `checkpoints/`; the search goes on there.
    preemption: asked between dispatches.

  Raises:
    Diverged, Interrupted: as the search phase.
  """
  path = folder / LOGITS
  if path.exists():
    return read_logits(path, space)
  say(job.console, f"arch search: {name}, logits' learning rate {rate:g}")
  config = search_config(job.config, rate)
  program = search_program.build(config, job.dataset, job.mesh, space)
  state = loop.run(job, program, folder, preemption)
  write_logits(path, jax.device_get(state.search.logits))
  return read_logits(path, space)


def search_folder(job: Job, name: str, rate: float) -> pathlib.Path:
  """Where this phase searches at a rate."""
  return job.workdir / "nas" / name / f"lr_{rate:g}"


def choose(
  config: ml_collections.ConfigDict,
  name: str,
  space: SearchSpace,
  logits: SpaceLogits,
) -> dict[str, Any]:
  """The arch that draws from the logits give, as the JSON that is written.

  In the Elite Space the closest of `nas.num_samples`; in the expanded one the
  first within `nas.tolerance`, and how many draws that took, over many seeds.
  """
  settings = config.nas
  key = base_keys(config.seed)["nas"]
  key = jax.random.fold_in(key, _NAMES.index(name))
  if name.startswith("elite"):
    archs, off = draw_archs(config, space, logits, key, settings.num_samples)
    return _entry(config, space, archs, off.argmin(), settings.num_samples)
  firsts: list[int] = []
  found: dict[str, Any] = {}
  for seed in range(settings.num_sample_seeds):
    archs, off = draw_archs(
      config,
      space,
      logits,
      jax.random.fold_in(key, seed),
      settings.max_samples,
    )
    near = np.flatnonzero(_is_near(config, space, archs))
    # None near: all draws were in vain, and the closest has to do.
    index, count = (near[0], near[0] + 1) if near.size else (off.argmin(), None)
    firsts.append(int(count or settings.max_samples))
    if seed == 0:
      found = _entry(config, space, archs, index, firsts[0])
  rng = np.random.default_rng(config.seed)
  means = rng.choice(firsts, (_RESAMPLES, len(firsts))).mean(1)
  return {
    **found,
    "num_samples_by_seed": firsts,
    "num_samples_mean": float(np.mean(firsts)),
    "num_samples_interval": np.quantile(means, (0.025, 0.975)).tolist(),
  }


def draw_archs(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  logits: SpaceLogits,
  rng: jax.Array,
  count: int,
) -> tuple[Arch, np.ndarray]:
  """Archs `[n, S]` of a search space with bins of size one, and how far each is
  from the target, relative `[n]`; of several, the one that is worst met."""
  # On the host: ten thousand draws of 512 widths are few random numbers there.
  generator, fields = sampling.host_rng(rng), {}
  chances = jax.tree.map(np.asarray, distribution.probabilities(logits))
  for kind, bins in (("depth", space.depth_bins), ("width", space.width_bins)):
    drawn = []
    for stage, row in zip(bins, getattr(chances, kind), strict=True):
      row = row[: len(stage)].astype(np.float64)
      index = generator.choice(len(stage), count, p=row / row.sum())
      drawn.append(np.asarray(stage, np.int32)[index, 0])
    fields[kind] = np.stack(drawn, -1)
  archs = Arch(**fields)
  budgets, costs = _costs(config, space, archs)
  return archs, constraints.worst_penalty(budgets, costs)


def _is_near(
  config: ml_collections.ConfigDict, space: SearchSpace, archs: Arch
) -> np.ndarray:
  """Whether archs meet every budget, within `nas.tolerance`."""
  budgets, costs = _costs(config, space, archs)
  return constraints.needed_tolerance(budgets, costs) <= config.nas.tolerance


def _costs(
  config: ml_collections.ConfigDict, space: SearchSpace, archs: Arch
) -> tuple[tuple[constraints.Constraint, ...], list[np.ndarray]]:
  budgets = config_lib.constraints(config)
  return budgets, [arch_cost(space, one.metric, archs) for one in budgets]


def _entry(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  archs: Arch,
  index: int | np.integer,
  num_samples: int,
) -> dict[str, Any]:
  arch = jax.tree.map(lambda x: x[index], archs)
  target = config_lib.flops_target(config)
  flops = int(arch_macs(space, arch))
  budgets, costs = _costs(config, space, arch)
  return {
    "arch": format_arch(arch),
    "depth": arch.depth.tolist(),
    "width": arch.width.tolist(),
    "flops": flops,
    "params": int(arch_params(space, arch)),
    "target_flops": target,
    "deviation": None if target is None else flops / target - 1,
    "deviations": {
      one.name: x.item() / one.target - 1
      for one, x in zip(budgets, costs, strict=True)
    },
    "off": float(constraints.worst_penalty(budgets, costs)),
    "costs": {
      one.name: x.item() for one, x in zip(budgets, costs, strict=True)
    },
    "within_tolerance": bool(_is_near(config, space, arch)),
    "num_samples": num_samples,
    "seed": config.seed,
  }


def _off(found: dict[str, Any]) -> float:
  """How far an arch is from the budget that it meets worst."""
  return found.get("off", max(map(abs, deviations(found).values())))


def _samples(found: dict[str, Any]) -> float:
  return found.get("num_samples_mean", found["num_samples"])


def report(result: dict[str, Any], job: Job) -> list[str]:
  """The archs in words."""
  found = {name: result[name] for name in ("elite", "expanded")}
  found |= result["controls"]
  lines = ["", "Architectures"]
  for name, entry in found.items():
    low, high = entry.get("num_samples_interval", (None, None))
    seeds = "" if low is None else f" (mean {_samples(entry):.3g}, "
    seeds += "" if low is None else f"{low:.3g} to {high:.3g})"
    lines.append(
      f"  {name:16} {entry['arch']:26} {format_macs(entry['flops']):>8}, "
      f"{from_targets(entry)}, "
      f"{entry['num_samples']} samples{seeds}"
    )
  folder = job.workdir / "nas"
  return [*lines, "", f"Files in {folder}: summary.json, */{ARCHITECTURE}"]
