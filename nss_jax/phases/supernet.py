"""Training without a search: the stand-alone supernet (paper 4.2), or one arch.

Neither ever sees the weights of the search, nor the images that are held out
for scores.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax import data
from nss_jax.data.streaming import image_memory
from nss_jax.errors import UserError
from nss_jax.phases import loop
from nss_jax.phases.job import Job, base_keys
from nss_jax.phases.program import (
  Program,
  batch_fn,
  check_batch,
  class_weights,
  make_training,
  training_fn,
)
from nss_jax.phases.schedules import Schedule, make_schedule
from nss_jax.phases.work import supernet_work
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.steps import losses, optimizers, weight_step
from nss_jax.supernet import masks, network, sharing

# Of `config.evaluate`, what the trained weights depend on.
_TRAINING = (
  "epochs",
  "coin_epochs",
  "batch_size",
  "archs_per_batch",
  "sandwich",
  "fair",
  "largest_epochs",
  "own_norms",
  "own_kernels",
  "own_kernel_epochs",
  "seed",
  "split_seed",
  "holdout_fraction",
  "score_batch_size",
  "calibration_images",
)
# The loss that is descended, and what draws the archs.
_Rule = tuple[losses.LossFn, losses.SampleFn]


def train_supernet(job: Job) -> Any:
  """Returns the weights of the stand-alone supernet, trained or kept before.

  All targets of a sweep, and all phases that score archs, share it.
  """
  beside = job.supernets or job.workdir.parent / "supernets"
  folder = pathlib.Path(job.config.evaluate.cache or beside) / cache_key(job)
  job.say(f"stand-alone supernet: {folder}")
  state = loop.run_shared(job, build_supernet(job), folder)
  return state.weights.params


def build_supernet(job: Job) -> Program:
  """Puts the uniform training of a supernet together; compiles nothing yet.

  A step draws single paths, uniformly over the search space, with the coins of
  warmup until `evaluate.coin_epochs`: `evaluate.archs_per_batch` of them, or
  those of the sandwich rule. The largest network trains alone before, for
  `evaluate.largest_epochs`.
  """
  settings, space = job.config.evaluate, job.search_space
  training = training_fn(job)

  def apply(weights, images, arch):
    weights = sharing.weights_of(space, weights, arch)  # which may have groups
    return training(weights, images, arch)

  steps = _schedule(job, 1).num_steps
  first, coins = settings.largest_epochs * steps, settings.coin_epochs * steps
  weights = class_weights(job)
  single = losses.single_loss(apply, weights)
  given = _draws(
    space,
    settings,
    lambda step: jnp.clip(1 - (step - first) / max(coins, 1), 0.0, 1.0),
  )
  loss_fn = single
  if settings.sandwich:
    loss_fn = losses.distilled_loss(apply, weights)
  elif settings.archs_per_batch > 1:
    loss_fn = losses.mean_loss(apply, weights)
  largest = single, masks.largest_sampler(space)
  program = _build(
    job,
    settings.epochs,
    (loss_fn, given),
    (first, largest) if first else None,
  )
  work = supernet_work(job, program.schedule)
  return dataclasses.replace(program, work=work)


def _draws(
  search_space: SearchSpace, settings: Any, coins: Callable
) -> masks.SampleFn:
  """Returns what draws an arch for a step, or several `[A, S]`."""
  count, sandwich = settings.archs_per_batch, settings.sandwich
  drawn = count - 2 if sandwich else count
  if settings.fair:
    sampler = masks.fair_sampler(search_space, drawn)
    sampler = masks.coin_sampler(search_space, sampler, coins)
  else:
    sampler = masks.warmup_sampler(search_space, coins)
    if count == 1:
      return sampler
    sampler = masks.repeat_sampler(sampler, drawn)
  return masks.sandwich_sampler(search_space, sampler) if sandwich else sampler


def build_alone(job: Job, epochs: int) -> Program:
  """Puts the training of one arch from scratch together.

  `init(arch, seed)` says which, and both are part of the state: one program
  trains all of them.
  """
  loss_fn = losses.single_loss(training_fn(job), class_weights(job))

  def given(rng, given, step):
    return masks.Sample(None, given["arch"])

  return _build(job, epochs, (loss_fn, given), grouped=False)


def _schedule(job: Job, epochs: int) -> Schedule:
  """Returns the steps of so many epochs of what is not held out."""
  return make_schedule(
    len(split(job)[0]),
    batch_size=job.config.evaluate.batch_size,
    epochs=epochs,
    steps_per_dispatch=job.config.search.steps_per_dispatch,
  )


def _build(
  job: Job,
  epochs: int,
  rule: _Rule,
  first: tuple[int, _Rule] | None = None,
  *,
  grouped: bool = True,
) -> Program:
  """Puts training by a rule together, the first steps by another one."""
  settings, space = job.config.evaluate, job.search_space
  schedule = _schedule(job, epochs)
  optimizer = optimizers.weight_optimizer(
    **job.config.weights.model_dump(), num_steps=schedule.num_steps
  )
  if grouped and settings.own_kernel_epochs:
    late = settings.epochs - settings.own_kernel_epochs
    late *= schedule.steps_per_epoch
    optimizer = optimizers.late(optimizer, late, sharing.label_kernels)

  def keys_of(given: Any) -> dict[str, jax.Array]:
    return base_keys(settings.seed if given is None else given["seed"])

  def init_fn(arch: Arch | None = None, seed: int = 0):
    given = None
    if arch is not None:
      given = {"arch": arch, "seed": jnp.uint32(seed)}
    params = jax.jit(network.init_weights, static_argnums=1)(
      keys_of(given)["init"], space
    )
    if grouped:
      params = sharing.add_groups(
        params, norms=settings.own_norms, kernels=settings.own_kernels
      )
    return weight_step.init_weight_state(params, optimizer), given

  def update_fn(state, part, indices, positions):
    keys = keys_of(state.search)
    make_batch = batch_fn(job, keys["augment"])
    batch = make_batch(part, indices, positions, 0, state.weights.step)

    def step_by(rule):
      loss_fn, sample_fn = rule
      return weight_step.weight_step(
        state.weights,
        state.search,
        batch,
        keys["weight"],
        loss_fn=losses.microbatched(loss_fn, job.config.supernet.microbatches),
        sample_fn=sample_fn,
        optimizer=optimizer,
        axis_name=sharding.AXIS,
        own_draws=job.config.supernet.draws == "per_device",
      )

    if first is None:
      return step_by(rule)
    until, other = first
    is_first = state.weights.step < until
    return jax.lax.cond(is_first, lambda: step_by(other), lambda: step_by(rule))

  return make_training(
    job,
    schedule,
    batch_size=settings.batch_size,
    init_fn=init_fn,
    update_fn=update_fn,
    rows=split(job)[0],
    order_key=lambda state: keys_of(state.search)["order"],
  )


def split(job: Job) -> tuple[np.ndarray, np.ndarray]:
  """Splits the training images into those to train on, and those held out for
  scores: sorted disjoint indices that cover all.

  Whole batches are held out, so that every arch sees each image once. A split
  that leaves too few images to train on is refused.
  """
  settings, labels = job.config.evaluate, job.dataset.train_labels
  num_images = len(labels)
  batch = min(settings.score_batch_size, num_images)
  wanted = round(num_images * settings.holdout_fraction / batch)
  count = max(wanted, 1) * batch
  least = max(settings.batch_size, settings.calibration_images)
  if num_images - count < least:
    raise UserError(
      f"config.evaluate.holdout_fraction: {settings.holdout_fraction} is not "
      f"accepted; expected to leave {least} of {num_images} images to train "
      f"on, after whole batches of {batch}"
    )
  if job.config.data.balanced_split:
    held_out, train = data.draw_balanced(labels, count, settings.split_seed)
  else:
    rng = np.random.default_rng(settings.split_seed)
    held_out, train = np.split(rng.permutation(num_images), [count])
  return np.sort(train), np.sort(held_out)


def check(job: Job) -> None:
  """Refuses batches that do not fit, and too little or much that is held out.

  Scores need all of it on each device, whether the rest is streamed or not.
  """
  settings = job.config.evaluate
  check_batch(job, "evaluate", microbatches=job.config.supernet.microbatches)
  _, held_out = split(job)
  numbers = len(held_out) * math.prod(job.search_space.image_shape)
  needed = numbers * jnp.dtype(job.config.supernet.activations).itemsize
  if needed > (memory := image_memory()):
    raise UserError(
      f"config.evaluate.holdout_fraction: {settings.holdout_fraction} is not "
      f"accepted; expected less: {len(held_out):,} images are "
      f"{needed / 2**30:.1f} GiB, and a device has {memory / 2**30:.1f} GiB"
    )


def cache_key(job: Job) -> str:
  """Returns sixteen hexadecimal digits of what the weights depend on."""
  settings = job.config.to_json()
  # The same weights come out of either way to the images.
  del settings["data"]["stream"]
  parts = {
    "data": settings["data"],
    "supernet": settings["supernet"],
    "weights": settings["weights"],
    "sync_batch_norm": settings["search"]["sync_batch_norm"],
    "evaluate": {name: settings["evaluate"][name] for name in _TRAINING},
    "search_space": job.search_space.to_dict(),
  }
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
