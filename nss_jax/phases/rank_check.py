"""The rank_check phase: do scores of the supernet order archs rightly?"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.phases import evaluate, loop, scoring, summary, supernet_program
from nss_jax.phases.job import Job
from nss_jax.phases.program import base_keys
from nss_jax.runtime import artifacts, scores
from nss_jax.runtime.log import say
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.cost import arch_macs
from nss_jax.spaces.feasible import sample_feasible_archs, sample_uniform_archs
from nss_jax.spaces.search_space import Arch, SearchSpace

_CANDIDATES = 4096


def run(job: Job) -> dict[str, Any]:
  """Trains archs alone and compares their order with the supernet's scores.

  Writes `rank_check/scores.csv` (sources `supernet` and `alone`) and
  `summary.json`.

  Raises:
    Diverged, Interrupted: as the search.
  """
  config, search_space = job.config, job.search_space
  folder = job.workdir / "rank_check"
  artifacts.make_folder(folder)
  archs = choose_archs(config, search_space)
  with Preemption() as preemption:
    params = evaluate.train_supernet(job, preemption)
    score_fn = scoring.make_score_fn(
      config, search_space, job.dataset, job.mesh
    )
    train = _trainer(job, folder, preemption)
    ledger = functools.partial(
      scoring.Ledger,
      folder / "scores.csv",
      search_space,
      preemption=preemption,
      on_progress=lambda done, timed: None,
    )
    ledger(
      functools.partial(score_fn, params), choose_fn=scoring.splitter(job)
    ).score(scores.SUPERNET, archs)
    ledger(
      functools.partial(_score_alone, train, score_fn),
      choose_fn=lambda count: scoring.Split("images", 1),
    ).score(scores.ALONE, archs)
  result = _summarize(config, search_space, folder)
  artifacts.write_json(folder / "summary.json", result)
  return result


def check(config: ml_collections.ConfigDict, search_space: SearchSpace) -> None:
  """Refuses budgets that too few archs meet, before anything is compiled.

  Raises:
    ConfigError: naming the field and how many there are.
  """
  try:
    choose_archs(config, search_space)
  except ValueError as error:
    raise config_lib.ConfigError(
      f"config.rank_check.num_near_archs: {error}"
    ) from None


def choose_archs(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> Arch:
  """Archs spread evenly in the logarithm of their multiply-adds, then some that
  meet every budget within `evaluate.tolerance`, `[k, S]`."""
  settings = config.rank_check
  spread_rng, near_rng = jax.random.split(
    base_keys(config.evaluate.seed)["evaluate"]
  )
  drawn = sample_uniform_archs(spread_rng, search_space, _CANDIDATES)
  logs = np.log(arch_macs(search_space, drawn))
  order = np.argsort(logs, kind="stable")
  marks = np.linspace(logs.min(), logs.max(), settings.num_archs)
  places = np.searchsorted(logs[order], marks).clip(0, _CANDIDATES - 1)
  parts = [jax.tree.map(lambda x: x[order[places]], drawn)]
  if settings.num_near_archs:
    parts.append(
      sample_feasible_archs(
        near_rng,
        search_space,
        config_lib.constraints(config),
        config.evaluate.tolerance,
        settings.num_near_archs,
      )
    )
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _trainer(
  job: Job, folder: pathlib.Path, preemption: Preemption
) -> Callable[[Arch], Any]:
  """`arch [S] -> weights`, trained from scratch; a checkpoint at the end."""
  program = supernet_program.build_alone(
    job.config, job.search_space, job.dataset, job.mesh
  )

  def train(arch):
    name = "-".join(str(n) for n in (*arch.depth, *arch.width))
    say(
      job.console, f"training alone: depths {arch.depth}, widths {arch.width}"
    )
    state = loop.run(
      job,
      dataclasses.replace(program, init=functools.partial(program.init, arch)),
      folder / "archs" / name,
      preemption,
      checkpoint_every=program.schedule.epochs,
    )
    return state.weights.params

  return train


def _score_alone(
  train: Callable[[Arch], Any], score_fn: Callable, archs: Arch, by: str
) -> tuple[jax.Array, jax.Array]:
  """Error and loss `[1]` of the one arch."""
  arch = jax.tree.map(lambda x: np.asarray(x)[0], archs)
  return score_fn(train(arch), archs, by)


def _summarize(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  folder: pathlib.Path,
) -> dict[str, Any]:
  table = scores.read_scores(folder / "scores.csv", search_space)
  predicted = table.group(scores.SUPERNET)
  truth = table.group(scores.ALONE).error
  near = np.arange(len(truth)) >= config.rank_check.num_archs
  result = {}
  for name, rows in (("spread", ~near), ("near_target", near)):
    if rows.sum() >= 2:
      result[name] = summary.rank_agreement(predicted.select(rows), truth[rows])
  return result


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Kendall's tau in words."""

  def words(tau):
    return "undefined" if tau is None else f"{tau:+.2f}"

  lines = ["", "Does the supernet order archs as training alone does?"]
  lines += [
    f"  {name:12} {tau['count']} archs, Kendall's tau: error "
    f"{words(tau['tau_error'])}, loss {words(tau['tau_loss'])}, "
    f"MACs alone {words(tau['tau_macs'])}"
    for name, tau in result.items()
  ]
  folder = job.workdir / "rank_check"
  return [*lines, "", f"Files in {folder}: scores.csv, summary.json"]
