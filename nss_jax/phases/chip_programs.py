"""The programs of phases, handed out to be compiled for chips."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.phases import (
  evaluate,
  scoring,
  supernet_program,
  train_program,
)
from nss_jax.phases.program import Program
from nss_jax.runtime import sharding
from nss_jax.spaces import cost
from nss_jax.spaces.handmade import proportional_arch
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.steps.estimators import ESTIMATORS
from nss_jax.supernet import masks, sliced

# Those whose programs are known before any phase has run.
PHASES = ("search", "evaluate", "train")
_NUM_DRAWS = 2048


@dataclasses.dataclass(frozen=True)
class ChipProgram:
  """A program of a phase, to be compiled.

  Attributes:
    name: the phase and what of it.
    lower: hands it out, for the mesh of the chips.
    calls: of the device in the phase.
    steps: of a call.
    macs: multiply-adds of a step, on all chips together; about.
    loop_counts: how often loops of unknown length run, in the mean.
  """

  name: str
  lower: Callable[[], jax.stages.Lowered]
  calls: float
  steps: int
  macs: float
  loop_counts: dict[str, float] = dataclasses.field(default_factory=dict)


def programs(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  search: Program,
  phases: Sequence[str],
  arch: Arch | None = None,
) -> Iterator[ChipProgram]:
  """Those of the phases, on the mesh of the search."""
  parts = config, search.search_space, dataset, search.mesh
  for phase in phases:
    if phase == "search":
      yield from _of_search(config, search)
    elif phase == "evaluate":
      yield from _of_evaluator(*parts)
    elif phase == "train":
      yield _of_training(*parts, arch)


def _of_search(
  config: ml_collections.ConfigDict, program: Program
) -> Iterator[ChipProgram]:
  space, schedule = program.search_space, program.schedule
  warmup = schedule.warmup_steps
  if warmup:
    draws = _draw(space, lambda step: 1 - step / _NUM_DRAWS)
    steps = slice(0, warmup)
    yield _of_loop("search, warmup", program, steps, True, config, draws)
  draws = None
  if ESTIMATORS[config.search.estimator].draws != "soft":
    draws = _on_target(config, space)
  steps = slice(warmup, schedule.num_steps)
  yield _of_loop("search, both steps", program, steps, False, config, draws)


def _of_evaluator(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Iterator[ChipProgram]:
  settings = config.evaluate
  program = supernet_program.build_supernet(config, space, dataset, mesh)
  first, coins = (
    epochs / settings.epochs * _NUM_DRAWS
    for epochs in (settings.largest_epochs, settings.coin_epochs)
  )
  draws = _draw(
    space, lambda step: jnp.clip(1 - (step - first) / max(coins, 1), 0, 1)
  )
  steps = slice(0, program.schedule.num_steps)
  yield _of_loop("evaluate, supernet", program, steps, True, config, draws)
  score_fn = scoring.make_score_fn(config, space, dataset, mesh)
  images = scoring.held_out_images(config, dataset)
  count = evaluate.num_archs(config, space)
  split = scoring.choose_split(count, len(images.batches), mesh.size)
  on_target = _on_target(config, space)
  archs = jax.tree.map(
    lambda x: np.repeat(x, split.num_archs, 0).astype(np.int32), on_target
  )
  params = sharding.abstract(_state(program).weights.params, mesh)
  seen = images.batches.size + len(images.seen) * len(images.batches)
  yield ChipProgram(
    name="evaluate, scores",
    lower=functools.partial(score_fn.lower, params, archs, split.by),
    calls=count / split.num_archs,
    steps=split.num_archs,
    macs=seen * float(cost.arch_macs(space, on_target)[0]),
    loop_counts=_loop_counts(
      config, space, on_target, config.evaluate.score_bucket_shares
    ),
  )


def _of_training(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
  arch: Arch | None,
) -> ChipProgram:
  if arch is None:
    arch = jax.tree.map(lambda x: x[0], _on_target(config, space))
  only = space.only(arch)
  program = train_program.build(config, only, dataset, mesh)
  program = dataclasses.replace(
    program, work=3.0 * program.work * cost.largest_macs(only)
  )
  steps = slice(0, program.schedule.num_steps)
  return _of_loop("train, one network", program, steps, True, config, None)


def _of_loop(
  name: str,
  program: Program,
  steps: slice,
  warmup: bool,
  config: ml_collections.ConfigDict,
  draws: Arch | None,
) -> ChipProgram:
  """The first dispatch of an epoch, which stands for all of these steps."""
  _, length = program.schedule.dispatches[0]
  state = sharding.abstract(_state(program), program.mesh)
  shares = config.supernet.bucket_shares
  counts = _loop_counts(config, program.search_space, draws, shares)
  return ChipProgram(
    name=name,
    lower=functools.partial(program.dispatch.lower, state, length, warmup),
    calls=(steps.stop - steps.start) / length,
    steps=length,
    macs=float(program.work[steps].mean()) * program.batch_size,
    loop_counts=counts,
  )


def _state(program: Program) -> Any:
  return jax.eval_shape(program.init)


def _draw(space: SearchSpace, probability_fn: Callable) -> Arch:
  """What a phase draws from its beginning to its end, `[N, S]`."""
  sample = masks.warmup_sampler(space, probability_fn)
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
    draw = jax.vmap(lambda key, step: sample(key, None, step).choice)
    return jax.device_get(jax.jit(draw)(keys, jnp.arange(_NUM_DRAWS)))


def _on_target(config: ml_collections.ConfigDict, space: SearchSpace) -> Arch:
  """One arch, `[1, S]`, of what the budgets allow."""
  arch = proportional_arch(space, config_lib.constraints(config))
  return jax.tree.map(lambda x: np.asarray(x)[None], arch)


def _loop_counts(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  archs: Arch | None,
  shares: Sequence[float],
) -> dict[str, float]:
  if archs is None or config.supernet.engine != "sliced":
    return {}
  buckets = sliced.default_buckets(space, shares)
  counts = sliced.loop_counts(space, buckets, archs)
  return {name: float(count.mean()) for name, count in counts.items()}
