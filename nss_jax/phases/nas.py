"""The nas phase: one network of the Elite Space that meets the constraints.

By the evaluator, see `race.py`, or by gradient as in the paper (4.3), which is
the search phase on bins of size one: the same loop, steps, distribution and
cost, on `SearchSpace.refine`.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import chosen, loop, race, supernet
from nss_jax.phases import search as search_phase
from nss_jax.phases.job import Job
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import network_tables
from nss_jax.results.logits_file import LOGITS, read_logits, write_logits
from nss_jax.results.networks import ARCHITECTURE, NasSummary, Network
from nss_jax.runtime import files
from nss_jax.spaces import constraints, distribution, sampling
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.handmade import proportional_arch
from nss_jax.spaces.populations import sample_regnet_archs
from nss_jax.spaces.sampling import take
from nss_jax.spaces.search_space import Arch, SearchSpace

_RESAMPLES = 1000  # of the bootstrap of a mean
# Of the archs that are drawn; the last two are controls, without a search.
_NAMES = ("elite", "expanded", "elite_uniform", "expanded_uniform")
_WHERE = {"elite": "the Elite Space", "expanded": "all archs"}
# RegNet's networks that are drawn; the first that meets all is taken.
_REGNETS = 4096
_QUANTUM = 8  # of their widths, which pycls rounds to; less where few are wide


def run(job: Job) -> NasSummary:
  """Finds an arch in the Elite Space, and those that it has to beat.

  Writes `nas/elite`, `nas/controls` and, by gradient, `nas/expanded`, the
  paper's baseline: an `architecture.json` in each.
  """
  spaces = {
    "elite": job.search_space.refine(job.load_elite()),
    "expanded": job.search_space.refine(),
  }
  folder, result = job.workdir / "nas", {}
  method = job.config.nas.method
  for name in ("elite", "controls"):
    files.make_folder(folder / name)
  if method == "evaluator":
    result["elite"] = race.find(job, spaces["elite"])
  else:
    for name, space in spaces.items():
      result[name] = search_at_each_rate(job.within(space), name)
  for found in result.values():
    found["method"] = method
  result["controls"] = controls(job, spaces)
  if method == "evaluator":
    networks = {"elite": result["elite"], **result["controls"]}
    race.score_networks(job, networks)
  summary = NasSummary(**result)
  for name in result:
    files.make_folder(folder / name)
    getattr(summary, name).write(folder / name / ARCHITECTURE)
  return summary


def check(job: Job) -> None:
  """Refuses what its supernet, or that of a search, cannot be trained with."""
  if job.config.nas.method == "evaluator":
    supernet.check(job)
  else:
    search_phase.check_training(job)


def plan(job: Job) -> str:
  """Says how the network is looked for."""
  settings = job.config.nas
  if settings.method == "evaluator":
    return (
      "archs that meet the constraints to "
      f"{100 * settings.tolerance:g} %, by the supernet; the best "
      f"{settings.num_finalists} trained alone, {settings.race_epochs} epochs "
      "a round"
    )
  rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
  return (
    f"in the Elite Space and in all of it, {settings.epochs} epochs each, "
    f"learning rates {rates}"
  )


def controls(job: Job, spaces: dict[str, SearchSpace]) -> dict[str, Any]:
  """Returns networks for the same constraints that nobody has searched.

  By name they are a uniform draw from each of the spaces, `elite` and
  `expanded`, whose bins have size one, a hand-made network and one of RegNet's,
  unless its rule gives none here that meets the constraints.
  """
  settings, whole = job.config.nas, job.search_space
  found = {
    f"{name}_uniform": choose(
      job.within(space), f"{name}_uniform", distribution.init_logits(space)
    )
    for name, space in spaces.items()
  }
  found["handmade"] = chosen.entry(
    job,
    # At the cost itself, however wide the paper's "near" is.
    proportional_arch(whole, job.constraints, min(settings.tolerance, 0.02)),
    1,
    "equal depths and doubling widths, scaled to the budgets",
  )
  key = jax.random.fold_in(job.keys["nas"], len(_NAMES))
  quantum = max(1, min(_QUANTUM, whole.max_width // 32))
  try:
    archs = sample_regnet_archs(key, whole, _REGNETS, quantum=quantum)
  except ValueError:  # too few stages or channels for its rule
    return found
  near = np.flatnonzero(chosen.is_near(job, archs))
  if near.size:
    found["regnet"] = chosen.entry(
      job,
      take(archs, near[0]),
      int(near[0]) + 1,
      "the first draw from RegNet's design space that meets the budgets",
    )
  return found


def search_at_each_rate(job: Job, name: str) -> dict[str, Any]:
  """Returns the arch of the rate that did best, and `runs`: those of all rates.

  An arch that was drawn is better than the nearest by cost; then counts who
  needed fewer samples, and then who is closer to the target. So neither method
  is judged by a rate that does not suit it.
  """
  runs = []
  for rate in job.config.nas.learning_rates:
    path = search_folder(job, name, rate) / ARCHITECTURE
    if not path.exists():
      logits = search(job, name, rate, path.parent)
      found = choose(job, name, logits)
      Network(learning_rate=rate, **found).write(path)
    run = Network.read(path, job.search_space)
    if run.learning_rate is None:
      raise UserError(f"{path}: learning_rate: this field is missing")
    runs.append(run)
  best = min(runs, key=lambda run: (run.by_cost, run.mean_samples, run.off))
  return {**best.to_json(), "runs": runs}


def search(
  job: Job, name: str, rate: float, folder: pathlib.Path
) -> SpaceLogits:
  """Searches the job's space, whose bins have size one, as the search phase.

  Writes `logits.json`, what the search at this learning rate ends with, beside
  its log and checkpoints, and returns the logits. If the file is there it is
  read instead.
  """
  path, settings = folder / LOGITS, job.config.nas
  if not path.exists():
    job.say(f"arch search: {name}, logits' learning rate {rate:g}")
    one = job.vary(
      {
        "search.epochs": settings.epochs,
        "search.warmup_epochs": settings.warmup_epochs,
        "logits.learning_rate": rate,
      },
      search_space=job.search_space,
    )
    state = loop.run(one, search_phase.build(one), folder)
    write_logits(path, jax.device_get(state.search.logits))
  return read_logits(path, job.search_space)


def search_folder(job: Job, name: str, rate: float) -> pathlib.Path:
  """Returns where this phase searches at a rate."""
  return job.workdir / "nas" / name / f"lr_{rate:g}"


def choose(job: Job, name: str, logits: SpaceLogits) -> dict[str, Any]:
  """Returns the arch that is drawn from the logits, as the JSON of a file.

  In the Elite Space it is the closest of `nas.num_samples` draws; elsewhere it
  is the first within `nas.tolerance`, and the JSON says how many draws that
  took, over many seeds. Where all draws miss a constraint it is the nearest
  arch by exact cost.
  """
  settings = job.config.nas
  key = jax.random.fold_in(job.keys["nas"], _NAMES.index(name))
  if name == "elite":
    count = settings.num_samples
    archs, off = draw_archs(job, logits, key, count)
    words = f"the closest of {count} draws from what was searched"
    found = chosen.entry(job, take(archs, off.argmin()), count, words)
    return chosen.or_nearest(job, found)
  where, _, uniform = name.partition("_")
  words = f"draw from {_WHERE[where]}" + ("" if uniform else ", as searched,")
  firsts: list[int] = []
  found: dict[str, Any] = {}
  for seed in range(settings.num_sample_seeds):
    rng = jax.random.fold_in(key, seed)
    archs, off = draw_archs(job, logits, rng, settings.max_samples)
    near = np.flatnonzero(chosen.is_near(job, archs))
    # None near: all draws were in vain, and the closest has to do.
    index, count = (near[0], near[0] + 1) if near.size else (off.argmin(), None)
    firsts.append(int(count or settings.max_samples))
    if seed == 0:
      kind = "uniform " if uniform else ""
      first = f"the first {kind}{words} that meets {chosen.within(job)}"
      closest = f"the closest {kind}{words} of {settings.max_samples}"
      words = first if near.size else closest
      found = chosen.entry(job, take(archs, index), firsts[0], words)
  generator = np.random.default_rng(job.config.seed)
  means = generator.choice(firsts, (_RESAMPLES, len(firsts))).mean(1)
  return {
    **chosen.or_nearest(job, found),
    "num_samples_by_seed": firsts,
    "num_samples_mean": float(np.mean(firsts)),
    "num_samples_interval": np.quantile(means, (0.025, 0.975)).tolist(),
  }


def draw_archs(
  job: Job, logits: SpaceLogits, rng: jax.Array, count: int
) -> tuple[Arch, np.ndarray]:
  """Draws archs `[n, S]` of the job's space, whose bins have size one, and
  tells how far each is from the constraint that it meets worst `[n]`."""
  space = job.search_space
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
  costs = chosen.costs_of(job, archs)
  return archs, constraints.worst_penalty(job.constraints, costs)


PHASE = Phase(
  "nas",
  run,
  network_tables.describe,
  needs="search",
  reads=(*SEARCH, "nas"),
  check=check,
  plan=plan,
  read=NasSummary.read,
)
