"""The programs of phases, handed out to be compiled for chips."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.phases import evaluate, scoring, search, supernet, train
from nss_jax.phases.job import Job
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
  """Describes a program of a phase, to be compiled.

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


def programs(job: Job, arch: Arch | None = None) -> Iterator[ChipProgram]:
  """Returns the programs of the job's phases, for the devices of its mesh."""
  for phase in job.phases:
    if phase == "search":
      yield from _of_search(job)
    elif phase == "evaluate":
      yield from _of_evaluator(job)
    elif phase == "train":
      yield _of_training(job, arch)


def _of_search(job: Job) -> Iterator[ChipProgram]:
  space, program = job.search_space, search.build(job)
  warmup = program.schedule.warmup_steps
  if warmup:
    draws = _draw(space, lambda step: 1 - step / _NUM_DRAWS)
    steps = slice(0, warmup)
    yield _of_loop(job, "search, warmup", program, steps, True, draws)
  draws = None
  if ESTIMATORS[job.config.search.estimator].draws != "soft":
    draws = _on_target(job)
  steps = slice(warmup, program.schedule.num_steps)
  yield _of_loop(job, "search, both steps", program, steps, False, draws)


def _of_evaluator(job: Job) -> Iterator[ChipProgram]:
  settings, space, mesh = job.config.evaluate, job.search_space, job.mesh
  program = supernet.build_supernet(job)
  first, coins = (
    epochs / settings.epochs * _NUM_DRAWS
    for epochs in (settings.largest_epochs, settings.coin_epochs)
  )
  draws = _draw(
    space, lambda step: jnp.clip(1 - (step - first) / max(coins, 1), 0, 1)
  )
  steps = slice(0, program.schedule.num_steps)
  yield _of_loop(job, "evaluate, supernet", program, steps, True, draws)
  score_fn = scoring.make_score_fn(job)
  images = scoring.held_out_images(job)
  count = evaluate.num_archs(job)
  split = scoring.choose_split(count, len(images.batches), mesh.size)
  on_target = _on_target(job)
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
      job, space, on_target, settings.score_bucket_shares
    ),
  )


def _of_training(job: Job, arch: Arch | None) -> ChipProgram:
  if arch is None:
    arch = proportional_arch(job.search_space, job.constraints)
  only = job.search_space.only(arch)
  program = train.build(job.within(only))
  program = dataclasses.replace(
    program, work=3.0 * program.work * cost.largest_macs(only)
  )
  steps = slice(0, program.schedule.num_steps)
  return _of_loop(job, "train, one network", program, steps, True, None)


def _of_loop(
  job: Job,
  name: str,
  program: Program,
  steps: slice,
  warmup: bool,
  draws: Arch | None,
) -> ChipProgram:
  """Returns the first call of an epoch, which stands for all these steps."""
  _, length = program.schedule.dispatches[0]
  state = sharding.abstract(_state(program), program.mesh)
  shares = job.config.supernet.bucket_shares
  return ChipProgram(
    name=name,
    lower=functools.partial(program.dispatch.lower, state, length, warmup),
    calls=(steps.stop - steps.start) / length,
    steps=length,
    macs=float(program.work[steps].mean()) * program.batch_size,
    loop_counts=_loop_counts(job, program.search_space, draws, shares),
  )


def _state(program: Program) -> Any:
  return jax.eval_shape(program.init)


def _draw(space: SearchSpace, probability_fn: Callable) -> Arch:
  """Draws what a phase does from its beginning to its end, `[N, S]`."""
  sample = masks.warmup_sampler(space, probability_fn)
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
    draw = jax.vmap(lambda key, step: sample(key, None, step).choice)
    return jax.device_get(jax.jit(draw)(keys, jnp.arange(_NUM_DRAWS)))


def _on_target(job: Job) -> Arch:
  """Returns one arch, `[1, S]`, of what the constraints allow."""
  arch = proportional_arch(job.search_space, job.constraints)
  return jax.tree.map(lambda x: np.asarray(x)[None], arch)


def _loop_counts(
  job: Job,
  space: SearchSpace,
  archs: Arch | None,
  shares: Sequence[float],
) -> dict[str, float]:
  if archs is None or job.config.supernet.engine != "sliced":
    return {}
  buckets = sliced.default_buckets(space, shares)
  counts = sliced.loop_counts(space, buckets, archs)
  return {name: float(count.mean()) for name, count in counts.items()}
