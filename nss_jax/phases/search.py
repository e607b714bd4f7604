"""The search phase: find an Elite Space (paper 3 and 4.1).

`make_iteration` is section 3 of the paper, and `run` what is around it.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nss_jax import data
from nss_jax.phases import elite, loop, schedules, scoring
from nss_jax.phases.job import Job
from nss_jax.phases.program import (
  LoopState,
  Program,
  batch_fn,
  check_batch,
  class_weights,
  make_dispatch,
  training_fn,
)
from nss_jax.phases.registry import Phase
from nss_jax.phases.schedules import Schedule, make_schedule
from nss_jax.phases.search_log import (
  METRICS,
  OF_EACH_CONSTRAINT,
  epoch_metrics,
  measure,
  temperature_of,
)
from nss_jax.phases.work import search_work
from nss_jax.results import block_times, elite_space, epochs, load
from nss_jax.results.elite_space import FoundSpace
from nss_jax.runtime import sharding
from nss_jax.spaces import distribution
from nss_jax.spaces.constraints import mean_costs, penalties
from nss_jax.spaces.search_space import Arch
from nss_jax.steps import losses, optimizers, search_step, weight_step
from nss_jax.steps.estimators import ESTIMATORS
from nss_jax.steps.penalties import expected_penalty
from nss_jax.supernet import masks, network


def make_iteration(
  job: Job,
  schedule: Schedule,
  weight_opt: optax.GradientTransformation,
  logit_opt: optax.GradientTransformation,
) -> Callable[..., tuple[LoopState, jax.Array]]:
  """Returns an iteration of the search: section 3 of the paper, as code.

  Theta, the logits, is a distribution over spaces: over bins of depths and bins
  of widths, in each stage. The supernet holds the weights of all their archs.
  What Theta ends at has the Elite Space: see `run`.
  """
  draw_in_warmup, draw_space, draw_archs = _samplers(job, schedule)
  loss, objective = _loss(job), _objective(job, schedule)
  make_batch = batch_fn(job, job.keys["augment"])

  def iterate(state, halves, indices, positions, *, warmup):
    weights, search, seen = state.weights, state.search, {}

    def batch(half, stream):
      parts = halves[half], indices[half], positions
      return make_batch(*parts, stream, state.weights.step)

    if warmup:  # Theta is frozen (4.1)
      search = search.replace(step=search.step + 1)
    else:
      # An arch step, on the validation half: a space is drawn from Theta by
      # Gumbel-Softmax, and archs uniformly from its bins (3.3). Theta descends
      # their task loss plus lambda E |cost / target - 1|, the expectation over
      # all spaces (3.2, Eq. 3 to 5).
      search, seen = search_step.search_step(
        search,
        weights.params,
        batch("validation", 1),
        job.keys["search"],
        sample_fn=draw_space,
        optimizer=logit_opt,
        **objective,
        **loss,
      )
    # A weight step, on the training half: archs are drawn, and the weights of
    # the supernet descend their task loss: the inner minimum of Eq. 3.
    weights, metrics = weight_step.weight_step(
      weights,
      search.logits,
      batch("train", 0),
      job.keys["weight"],
      sample_fn=draw_in_warmup if warmup else draw_archs,
      optimizer=weight_opt,
      **loss,
    )
    seen = epoch_metrics(metrics, seen, state.sums)
    sums = {name: state.sums[name] + seen[name] for name in METRICS}
    of_both = jnp.stack([seen["train_loss"], seen["validation_loss"]])
    return LoopState(weights, search, sums), of_both

  return iterate


def run(job: Job) -> FoundSpace:
  """Searches, or goes on where an earlier run stopped; returns the content of
  `search/elite_space.json`.

  As other phases that train, it raises Diverged at a loss that is not finite,
  and Interrupted after SIGTERM, once all is saved.
  """
  state = loop.run(job, build(job), job.workdir / "search")
  logits = jax.device_get(state.search.logits)
  score_fn = functools.partial(_score, job, state.weights.params)
  result = elite.find(job, logits, score_fn)  # 3.4: the Elite Space
  draw_trajectory(job, result)
  return result


def build(job: Job) -> Program:
  """Puts a search together; nothing is compiled yet."""
  schedule = schedule_of(job)
  weight_opt = optimizers.weight_optimizer(
    **job.config.weights.model_dump(), num_steps=schedule.num_steps
  )
  logit_opt = optimizers.logit_optimizer(**job.config.logits.model_dump())
  batch_size = job.config.search.batch_size

  def init() -> LoopState:
    params = jax.jit(network.init_weights, static_argnums=1)(
      job.keys["init"], job.search_space
    )
    of_each = (len(job.constraints),)
    return LoopState(
      weights=weight_step.init_weight_state(params, weight_opt),
      search=search_step.init_search_state(
        distribution.init_logits(job.search_space), logit_opt
      ),
      sums={
        name: jnp.zeros(of_each if name in OF_EACH_CONSTRAINT else ())
        for name in METRICS
      },
    )

  return Program(
    search_space=job.search_space,
    schedule=schedule,
    mesh=job.mesh,
    batch_size=batch_size,
    work=search_work(job, schedule),
    init=init,
    dispatch=make_dispatch(
      job,
      make_iteration(job, schedule, weight_opt, logit_opt),
      dict(zip(("train", "validation"), halves(job), strict=True)),
      schedule=schedule,
      batch_size=batch_size,
      order_key=lambda state: job.keys["order"],
      idle_in_warmup=("validation",),
    ),
    measure=functools.partial(measure, job, schedule),
  )


def halves(job: Job) -> tuple[np.ndarray, np.ndarray]:
  """Returns the training images of the weights, and those of the logits."""
  labels = job.dataset.train_labels
  return data.split_halves(
    len(labels),
    job.config.data.validation_fraction,
    job.config.data.split_seed,
    job.config.search.batch_size,
    labels=labels if job.config.data.balanced_split else None,
  )


def schedule_of(job: Job) -> Schedule:
  """Returns the steps of a search, as many as the smaller half has."""
  settings = job.config.search
  return make_schedule(
    min(map(len, halves(job))),
    batch_size=settings.batch_size,
    epochs=settings.epochs,
    warmup_epochs=settings.warmup_epochs,
    steps_per_dispatch=settings.steps_per_dispatch,
  )


def _samplers(job: Job, schedule: Schedule) -> list[losses.SampleFn]:
  """Returns what is drawn, masks of all bins, mixed, or archs: for the weight
  steps of warmup, the arch steps and the weight steps after warmup."""
  space, estimator = job.search_space, ESTIMATORS[job.config.search.estimator]
  warmup_steps = max(schedule.warmup_steps, 1)
  warmup = masks.warmup_sampler(space, lambda step: 1 - step / warmup_steps)
  archs = masks.arch_sampler(space)
  if estimator.draws == "archs":
    return [warmup, archs, archs]
  hard, temperature = estimator.draws == "hard", temperature_of(job, schedule)
  mixed = masks.gumbel_sampler(space, temperature, hard=hard)
  # Only soft masks need every channel; hard ones are an arch.
  return [warmup, mixed, archs if hard else mixed]


def _loss(job: Job) -> dict[str, Any]:
  """Returns the task loss of either step, and how devices share it."""
  settings = job.config.supernet
  loss = losses.single_loss(training_fn(job), class_weights(job))
  return {
    "loss_fn": losses.microbatched(loss, settings.microbatches),
    "axis_name": sharding.AXIS,
    "own_draws": settings.draws == "per_device",
  }


def _objective(job: Job, schedule: Schedule) -> dict[str, Any]:
  """Returns what an arch step descends beside the task loss."""
  settings, space, wanted = job.config.search, job.search_space, job.constraints
  arch_steps = schedule.warmup_steps, schedule.num_steps
  expected = None
  if job.config.objective.penalty == "expected":
    expected = expected_penalty(space, wanted)
  return {
    "cost_fn": functools.partial(mean_costs, space, wanted),
    "target": np.asarray([one.target for one in wanted]),
    "penalty_fn": lambda costs, _: penalties(wanted, costs),
    "expected_penalty_fn": expected,
    "cost_weight": schedules.penalty_weight(
      np.asarray([one.weight for one in wanted]),
      settings.penalty_growth,
      *arch_steps,
    ),
    "entropy_fn": schedules.entropy_weight(
      settings.entropy_start, settings.entropy_end, *arch_steps
    ),
    "estimator": ESTIMATORS[settings.estimator].make(settings.num_score_archs),
  }


def check_training(job: Job) -> None:
  """Refuses batches of a search, of spaces or archs, that do not fit."""
  check_batch(job, "search", microbatches=job.config.supernet.microbatches)


def check(job: Job) -> None:
  """Refuses batches that do not fit, the Elite Space of another search space,
  and a latency table of another device.

  What has begun goes on, and is evaluated and reported, anywhere.
  """
  check_training(job)
  if (job.workdir / "search" / load.ELITE_SPACE).exists():
    job.load_elite()
  objective = job.config.objective
  is_target = job.supernets is not None
  begun = job.workdir.parent if is_target else job.workdir / "search"
  if begun.exists() or objective.foreign_latency_table:
    return
  if any(one.name == "latency" for one in job.constraints):
    block_times.check_origin(
      objective.latency_table, job.config.supernet.activations
    )


def _score(
  job: Job, weights: Any, archs: Arch
) -> tuple[np.ndarray, np.ndarray]:
  """Returns error and loss `[N]` of archs by the search's own supernet, on
  images of the half that the logits were trained on."""
  images = scoring.validation_images(job, *halves(job))
  score_fn = scoring.make_score_fn(job, images)
  split = scoring.choose_split(
    len(archs.depth), len(images.batches), job.mesh.size
  )
  score_fn = functools.partial(score_fn, weights)
  calls = scoring.score_calls(score_fn, archs, split)
  _, error, loss = map(np.concatenate, zip(*calls, strict=True))
  return error, loss


def draw_trajectory(job: Job, result: FoundSpace) -> None:
  """Draws `trajectory.png` from `metrics.jsonl`."""
  folder = job.workdir / "search"
  picture = epochs.picture(
    epochs.read_epochs(folder / "metrics.jsonl", job.search_space),
    job.search_space,
    result,
    warmup_epochs=job.config.search.warmup_epochs,
  )
  if picture:
    picture.write(folder / "trajectory.png")


def show(result: FoundSpace, folder: pathlib.Path) -> list[str]:
  """Tells the space that was found in words."""
  return elite_space.describe(result, *load.load_space(folder), folder)


PHASE = Phase(
  "search",
  run,
  show,
  result=load.ELITE_SPACE,
  check=check,
  read=FoundSpace.read,
)
