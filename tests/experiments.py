"""Results of the experiments, as their phases would write them."""

import shutil

import jax
import numpy as np

from nss_jax.phases import complexity, principles
from nss_jax.runtime import files, scores
from nss_jax.spaces.populations import StageOrder, sample_ordered_archs
from nss_jax.spaces.sampling import sample_uniform_archs
from nss_jax.spaces.search_space import Arch

NAMES = {"principles", "complexity", "sweep"}
PICTURES = ("principles", "complexity", "targets")
COUNT = 20


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_json(path, content)


def _append(path, search_space, source, archs, rng):
  path.parent.mkdir(parents=True, exist_ok=True)
  error = rng.uniform(0.1, 0.9, len(archs.depth))
  table = scores.make_scores(
    search_space, source, archs, error=error, loss=error
  )
  scores.append_scores(path, search_space, table)


def write_principles(search_space, workdir, rng, target):
  path = workdir / "principles" / "scores.csv"
  orders = {
    "design_principles": StageOrder.design_principles(),
    "elite_trend": StageOrder.elite_trend(),
    "own_trend": StageOrder((1, 0, 2)),
  }
  window = (0.5 * target, 1.5 * target)
  for cost, costs in (("in_window", window), ("any_cost", None)):
    for seed, (name, order) in enumerate(orders.items()):
      archs = sample_ordered_archs(
        jax.random.key(seed), search_space, order, COUNT, window=costs
      )
      _append(path, search_space, f"{name}_{cost}", archs, rng)
  table = scores.read_scores(path, search_space)
  content = {
    "window": window,
    "own_order": {"stages": [1, 0, 2], "note": ""},
    "missing": {"regnet_in_window": "only 0 of 20 archs"},
    **principles.summarize(table),
  }
  write(path.parent / "summary.json", content)


def write_complexity(search_space, workdir, rng, target):
  path = workdir / "complexity" / "scores.csv"
  for name, width, depth in (("w4_d1", 4, 1), ("w4_d2", 4, 2), ("w8_d2", 8, 2)):
    shape = (COUNT, search_space.num_stages)
    drawn = Arch(
      rng.integers(1, depth + 1, shape), rng.integers(1, width + 1, shape)
    )
    _append(path, search_space, name, drawn, rng)
  elite = sample_uniform_archs(jax.random.key(1), search_space, COUNT)
  _append(path, search_space, "elite", elite, rng)
  table = scores.read_scores(path, search_space)
  numbers = complexity.summarize(table, search_space, target, 0.3)
  content = {
    "target_flops": target,
    "elite_target_flops": 2 * target,
    "tolerance": 0.3,
    **numbers,
  }
  write(path.parent / "summary.json", content)


def write_sweep(search_space, workdir, rng, targets):
  """Targets with scores; the last has the networks of the run, if any."""
  for target in targets:
    folder = workdir / "sweep" / f"{target / 1e6:g}mf"
    write(folder / "config.json", {"objective": {"target_flops": target}})
    for seed, source in enumerate(("elite", "expanded")):
      archs = sample_uniform_archs(jax.random.key(seed), search_space, COUNT)
      path = folder / "evaluate" / "scores.csv"
      _append(path, search_space, source, archs, rng)
  if (workdir / "nas").exists():
    shutil.copytree(workdir / "nas", folder / "nas")
  write(workdir / "sweep" / "summary.json", {})


def write_all(search_space, workdir, target):
  rng = np.random.default_rng(1)
  write_principles(search_space, workdir, rng, target)
  write_complexity(search_space, workdir, rng, target)
  write_sweep(search_space, workdir, rng, (target / 2, target))
