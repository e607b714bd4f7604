"""The train phase: a network alone, and its test error (paper 4.3)."""

import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np

from nss_jax.phases import evaluate, loop, train_program
from nss_jax.phases.job import Job
from nss_jax.phases.program import LoopState
from nss_jax.runtime import files
from nss_jax.runtime.console import say
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.report import errors, fields
from nss_jax.runtime.report.networks import (
  FOUND,
  read_found_archs,
  read_trained,
)
from nss_jax.spaces.cost import arch_macs, arch_params
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_arch, format_macs, parse_arch
from nss_jax.supernet import network, sharing

_LINE = {
  "train_loss": fields.NON_NEGATIVE,
  "images_per_second": fields.POSITIVE,
}


def run(job: Job) -> dict[str, Any]:
  """Trains every arch that is named, or that the nas phase has found.

  Writes `train/<name>/seed_<k>/result.json` for each, and goes on with what is
  missing.

  Returns:
    `{name: [the result of each seed]}`.

  Raises:
    Diverged, Interrupted: as the search.
  """
  results = {}
  with Preemption() as preemption:
    start = _start(job, preemption)
    for name, arch in archs_to_train(job).items():
      folder = job.workdir / "train" / name
      results[name] = _train_seeds(job, name, arch, folder, start, preemption)
  return results


def archs_to_train(job: Job) -> dict[str, Arch]:
  """By the name of their folder."""
  texts = {text: text for text in job.archs}
  summary = job.workdir / "nas" / "summary.json"
  if not texts and summary.exists():
    texts = read_found_archs(summary, job.search_space)
  return {name: parse_arch(text) for name, text in texts.items()}


def _start(job: Job, preemption: Preemption) -> Callable[[Arch], Any]:
  """`arch -> weights to start from`, or None for fresh ones."""
  if job.config.train.start == "fresh":
    return lambda arch: None
  params = evaluate.train_supernet(job, preemption)
  space = job.search_space
  return lambda arch: network.extract_subnet(
    space, sharing.weights_of(space, params, arch), arch
  )


def _train_seeds(
  job: Job,
  name: str,
  arch: Arch,
  folder: pathlib.Path,
  start: Callable[[Arch], Any],
  preemption: Preemption,
) -> list[dict[str, Any]]:
  paths = {
    seed: folder / f"seed_{seed}" / "result.json"
    for seed in range(job.config.train.num_seeds)
  }
  if not all(path.exists() for path in paths.values()):
    space = job.search_space.only(arch)
    parts = job.config, space, job.dataset, job.mesh
    program = train_program.build(*parts)
    test = train_program.make_test_fn(*parts)
    for seed, path in paths.items():
      if not path.exists():
        say(job.console, f"training {name}, {format_arch(arch)}, seed {seed}")
        init = functools.partial(program.init, seed, start(arch))
        seeded = dataclasses.replace(program, init=init)
        state = loop.run(job, seeded, path.parent, preemption)
        result = _result(job, name, arch, seed, state, test, path.parent)
        files.write_json(path, result)
  return [read_trained(path, job.search_space) for path in paths.values()]


def _result(
  job: Job,
  name: str,
  arch: Arch,
  seed: int,
  state: LoopState,
  test: Callable,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """What is written: the last epoch's test error, never the best."""
  error, loss = test(state.weights.params, state.weights.averages)
  path = folder / "metrics.jsonl"
  lines = files.read_lines(path)
  for line in lines:
    fields.check(path, line, _LINE)
  images = job.config.train.batch_size * (
    len(job.dataset.train_labels) // job.config.train.batch_size
  )
  return {
    "arch": format_arch(arch),
    "name": name,
    "depth": np.asarray(arch.depth).tolist(),
    "width": np.asarray(arch.width).tolist(),
    "flops": int(arch_macs(job.search_space, arch)),
    "params": int(arch_params(job.search_space, arch)),
    "seed": seed,
    "epochs": job.config.train.epochs,
    "start": job.config.train.start,
    # What it takes to use the weights, see `load.py`.
    "search_space": job.search_space.only(arch).to_dict(),
    "mean": list(job.dataset.mean),
    "std": list(job.dataset.std),
    "test_error": error,
    "test_loss": loss,
    "train_loss": lines[-1]["train_loss"],
    # From the log, so that what an interruption cost does not count.
    "seconds": sum(images / line["images_per_second"] for line in lines),
  }


def _stages(search_space: SearchSpace) -> str:
  count = search_space.num_stages
  return f"{count} stage" if count == 1 else f"{count} stages"


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Test errors in words: mean and standard error over the seeds.

  Of each control also the difference to the network that was found.
  """
  lines = ["", "Networks trained alone, test error of the last epoch"]
  found = errors.test_errors(result.get(FOUND, []))
  for name, runs in result.items():
    seeds = errors.test_errors(runs)
    told = _percent(statistics.fmean(seeds), errors.standard_error(seeds))
    against = ""
    if found and name != FOUND:
      difference, deviation = errors.compare(seeds, found)
      against = f", {_percent(difference, deviation, '+')} above {FOUND}"
    lines.append(
      f"  {name:26} {format_macs(runs[0]['flops']):>8}: {told} "
      f"({len(runs)} seeds){against}"
    )
  return [*lines, "", f"Files in {job.workdir / 'train'}: */seed_*/result.json"]


def _percent(value: float, deviation: float | None, sign: str = "") -> str:
  noise = "" if deviation is None else f" +- {100 * deviation:.2f}"
  return f"{100 * value:{sign}.2f}{noise} %"


def check(
  config: ml_collections.ConfigDict,
  archs: Sequence[str],
  search_space: SearchSpace,
) -> None:
  """Refuses archs that cannot be trained, before anything is compiled.

  Raises:
    ValueError: naming the arch and what is accepted.
  """
  largest = (search_space.max_depths, search_space.max_widths)
  for text in archs:
    arch = parse_arch(text)
    if len(arch.depth) != search_space.num_stages:
      raise ValueError(
        f"{text!r} is not accepted; expected {_stages(search_space)}"
      )
    beyond = any(
      np.greater(given, most).any()
      for given, most in zip((arch.depth, arch.width), largest, strict=True)
    )
    if beyond and config.train.start == "supernet":
      raise ValueError(
        f"{text!r} is not accepted; expected at most depths {largest[0]} and "
        f"widths {largest[1]}, with config.train.start=supernet"
      )
