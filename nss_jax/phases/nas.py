"""The nas phase: one network of the Elite Space that meets the budgets.

By the evaluator, see `race.py`, or by gradient as in the paper (4.3), which is
the search phase on bins of size one: the same loop, steps, distribution and
cost, on `SearchSpace.refine`.
"""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.phases import chosen, loop, race, search_program
from nss_jax.phases.job import Job
from nss_jax.phases.program import base_keys
from nss_jax.runtime import files
from nss_jax.runtime.console import say
from nss_jax.runtime.logits_file import LOGITS, read_logits, write_logits
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.report.networks import read_architecture
from nss_jax.spaces import constraints, distribution, sampling
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.handmade import proportional_arch
from nss_jax.spaces.populations import sample_regnet_archs
from nss_jax.spaces.sampling import take
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_macs

_RESAMPLES = 1000  # of the bootstrap of a mean
ARCHITECTURE = "architecture.json"
# Of the archs that are drawn; the last two are controls, without a search.
_NAMES = ("elite", "expanded", "elite_uniform", "expanded_uniform")
_WHERE = {"elite": "the Elite Space", "expanded": "all archs"}
# RegNet's networks that are drawn; the first that meets the budgets is taken.
_REGNETS = 4096
_QUANTUM = 8  # of their widths, which pycls rounds to; less where few are wide


def run(job: Job) -> dict[str, Any]:
  """Finds an arch in the Elite Space, and those that it has to beat.

  Writes `nas/elite`, `nas/controls` and, by gradient, `nas/expanded`, the
  paper's baseline: an `architecture.json` in each.

  Raises:
    Diverged, Interrupted: as the search.
  """
  spaces = {
    "elite": job.search_space.refine(job.load_elite()),
    "expanded": job.search_space.refine(),
  }
  folder, result = job.workdir / "nas", {}
  method = job.config.nas.method
  for name in ("elite", "controls"):
    files.make_folder(folder / name)
  with Preemption() as preemption:
    if method == "evaluator":
      result["elite"] = race.find(job, spaces["elite"], preemption)
    else:
      for name, space in spaces.items():
        result[name] = _search_at_each_rate(job, name, space, preemption)
    for found in result.values():
      found["method"] = method
    result["controls"] = controls(job.config, job.search_space, spaces)
    if method == "evaluator":
      networks = {"elite": result["elite"], **result["controls"]}
      race.score_networks(job, networks, preemption)
    for name, content in result.items():
      files.make_folder(folder / name)
      files.write_json(folder / name / ARCHITECTURE, content)
  # Last: this file says that the phase is finished.
  files.write_json(folder / "summary.json", result)
  return result


def controls(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  spaces: dict[str, SearchSpace],
) -> dict[str, Any]:
  """Networks for the same budgets that nobody has searched, by name.

  Args:
    config: of the run.
    search_space: the bins.
    spaces: `elite` and `expanded`, whose bins have size one.

  Returns:
    A uniform draw of each space that meets the budgets, a hand-made one and
    one of RegNet's, unless its rule gives none here that meets them.
  """
  found = {
    f"{name}_uniform": choose(
      config, f"{name}_uniform", space, distribution.init_logits(space)
    )
    for name, space in spaces.items()
  }
  budgets = config_lib.constraints(config)
  found["handmade"] = chosen.entry(
    config,
    search_space,
    # At the cost itself, however wide the paper's "near" is.
    proportional_arch(search_space, budgets, min(config.nas.tolerance, 0.02)),
    1,
    "equal depths and doubling widths, scaled to the budgets",
  )
  key = jax.random.fold_in(base_keys(config.seed)["nas"], len(_NAMES))
  try:
    archs = sample_regnet_archs(
      key,
      search_space,
      _REGNETS,
      quantum=max(1, min(_QUANTUM, search_space.max_width // 32)),
    )
  except ValueError:  # too few stages or channels for its rule
    return found
  near = np.flatnonzero(chosen.is_near(config, search_space, archs))
  if near.size:
    found["regnet"] = chosen.entry(
      config,
      search_space,
      take(archs, near[0]),
      int(near[0]) + 1,
      "the first draw from RegNet's design space that meets the budgets",
    )
  return found


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

  Best is one that was drawn, not the nearest by cost; then fewest samples; then
  closest to the target, so that neither method is judged by a rate that does
  not suit it.
  """
  runs = []
  for rate in job.config.nas.learning_rates:
    path = search_folder(job, name, rate) / ARCHITECTURE
    if not path.exists():
      logits = search(job, name, rate, space, path.parent, preemption)
      found = {"learning_rate": rate, **choose(job.config, name, space, logits)}
      files.write_json(path, found)
    runs.append(read_architecture(path, job.search_space))
  best = min(
    runs, key=lambda r: (r.get("by_cost", False), _samples(r), _off(r))
  )
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

  Of a search in the Elite Space the closest of `nas.num_samples`; else the
  first within `nas.tolerance`, and how many draws that took, over many seeds.
  Where they miss a budget, the nearest arch by exact cost.
  """
  settings = config.nas
  key = base_keys(config.seed)["nas"]
  key = jax.random.fold_in(key, _NAMES.index(name))
  if name == "elite":
    count = settings.num_samples
    archs, off = draw_archs(config, space, logits, key, count)
    words = f"the closest of {count} draws from what was searched"
    found = chosen.entry(config, space, take(archs, off.argmin()), count, words)
    return chosen.or_nearest(config, space, found)
  where, _, uniform = name.partition("_")
  words = f"draw from {_WHERE[where]}" + ("" if uniform else ", as searched,")
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
    near = np.flatnonzero(chosen.is_near(config, space, archs))
    # None near: all draws were in vain, and the closest has to do.
    index, count = (near[0], near[0] + 1) if near.size else (off.argmin(), None)
    firsts.append(int(count or settings.max_samples))
    if seed == 0:
      kind = "uniform " if uniform else ""
      first = f"the first {kind}{words} that meets {chosen.within(config)}"
      closest = f"the closest {kind}{words} of {settings.max_samples}"
      found = chosen.entry(
        config,
        space,
        take(archs, index),
        firsts[0],
        first if near.size else closest,
      )
  rng = np.random.default_rng(config.seed)
  means = rng.choice(firsts, (_RESAMPLES, len(firsts))).mean(1)
  return {
    **chosen.or_nearest(config, space, found),
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
  budgets, costs = chosen.costs_of(config, space, archs)
  return archs, constraints.worst_penalty(budgets, costs)


def _off(found: dict[str, Any]) -> float:
  """How far an arch is from the budget that it meets worst."""
  return found.get("off", max(map(abs, found["deviations"].values())))


def _samples(found: dict[str, Any]) -> float:
  return found.get("num_samples_mean", found["num_samples"])


def report(result: dict[str, Any], job: Job) -> list[str]:
  """The archs in words, and how each was chosen."""
  found = {n: result[n] for n in ("elite", "expanded") if n in result}
  found |= result["controls"]
  lines = ["", "Architectures"]
  for name, entry in found.items():
    low, high = entry.get("num_samples_interval", (None, None))
    seeds = "" if low is None else f" (draws: mean {_samples(entry):.3g}, "
    seeds += "" if low is None else f"{low:.3g} to {high:.3g})"
    missed = "" if entry["within_tolerance"] else ", which misses"
    lines += [
      f"  {name:16} {entry['arch']:26} {format_macs(entry['flops']):>8}, "
      f"{constraints.from_targets(entry['deviations'])}{missed}",
      f"    {entry['chosen']}{seeds}",
    ]
  folder = job.workdir / "nas"
  return [*lines, "", f"Files in {folder}: summary.json, */{ARCHITECTURE}"]
