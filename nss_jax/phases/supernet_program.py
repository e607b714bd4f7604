"""Training without a search: the stand-alone supernet (paper 4.2), or one arch.

Both never see the weights of the search, nor the images that are held out for
scores.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.data.streaming import image_memory
from nss_jax.errors import UserError
from nss_jax.phases.program import Program, Schedule, base_keys, training_fn
from nss_jax.phases.training import batch_fn, make_program, training_schedule
from nss_jax.phases.work import supernet_work
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.steps import losses, optimizers, weight_step
from nss_jax.supernet import masks, network, sharing


def build_supernet(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Program:
  """Uniform training; compiles nothing yet.

  Single-path draws, uniform over the search space, with the coins of warmup
  until `evaluate.coin_epochs`; `evaluate.archs_per_batch` of them a step, or
  those of the sandwich rule; before, `evaluate.largest_epochs` of the largest
  network alone.
  """
  settings = config.evaluate
  apply = _apply_fn(config, search_space, mesh)
  steps = _schedule(config, dataset, 1).num_steps
  first, coins = settings.largest_epochs * steps, settings.coin_epochs * steps
  weights = data.class_weights(
    config.data.class_weights, dataset.train_labels, search_space.num_classes
  )
  single = losses.single_loss(apply, weights)
  given = _draws(
    search_space,
    settings,
    lambda step: jnp.clip(1 - (step - first) / max(coins, 1), 0.0, 1.0),
  )
  loss_fn = single
  if settings.sandwich:
    loss_fn = losses.distilled_loss(apply, weights)
  elif settings.archs_per_batch > 1:
    loss_fn = losses.mean_loss(apply, weights)
  largest = single, masks.largest_sampler(search_space)
  program = _build(
    config,
    search_space,
    dataset,
    mesh,
    settings.epochs,
    (loss_fn, given),
    (first, largest) if first else None,
  )
  work = supernet_work(config, search_space, program.schedule)
  return dataclasses.replace(program, work=work)


def _draws(
  search_space: SearchSpace, settings: Any, coins: Callable
) -> masks.SampleFn:
  """What a step trains: an arch, or several `[A, S]`."""
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


def _apply_fn(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  mesh: jax.sharding.Mesh,
) -> Callable:
  """As `training_fn`, of weights that may have groups."""
  apply = training_fn(config, search_space, mesh)

  def grouped(weights, images, arch):
    weights = sharing.weights_of(search_space, weights, arch)
    return apply(weights, images, arch)

  return grouped


def build_alone(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
  epochs: int,
) -> Program:
  """Trains one arch from scratch; `init(arch, seed)` says which, and how.

  Both are part of the state: one program for all of them.
  """
  return _build(
    config,
    search_space,
    dataset,
    mesh,
    epochs,
    (
      losses.single_loss(
        training_fn(config, search_space, mesh),
        data.class_weights(
          config.data.class_weights,
          dataset.train_labels,
          search_space.num_classes,
        ),
      ),
      lambda rng, given, step: masks.Sample(None, given["arch"]),
    ),
    grouped=False,
  )


def _schedule(
  config: ml_collections.ConfigDict, dataset: data.Dataset, epochs: int
) -> Schedule:
  train, _ = split(config, dataset.train_labels)
  return training_schedule(
    len(train),
    batch_size=config.evaluate.batch_size,
    epochs=epochs,
    steps_per_dispatch=config.search.steps_per_dispatch,
  )


def _build(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
  epochs: int,
  rule: tuple[losses.LossFn, losses.SampleFn],
  first: tuple[int, tuple[losses.LossFn, losses.SampleFn]] | None = None,
  *,
  grouped: bool = True,
) -> Program:
  """Trains by a loss and a sampler; the `first` so many steps by others."""
  settings = config.evaluate
  train, _ = split(config, dataset.train_labels)
  schedule = _schedule(config, dataset, epochs)
  optimizer = optimizers.weight_optimizer(
    **config.weights, num_steps=schedule.num_steps
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
      keys_of(given)["init"], search_space
    )
    if grouped:
      params = sharing.add_groups(
        params, norms=settings.own_norms, kernels=settings.own_kernels
      )
    return weight_step.init_weight_state(params, optimizer), given

  def update_fn(state, part, indices, positions):
    keys = keys_of(state.search)
    make_batch = batch_fn(config, dataset, keys["augment"])
    batch = make_batch(part, indices, positions, 0, state.weights.step)

    def step_by(rule):
      loss_fn, sample_fn = rule
      return weight_step.weight_step(
        state.weights,
        state.search,
        batch,
        keys["weight"],
        loss_fn=losses.microbatched(loss_fn, config.supernet.microbatches),
        sample_fn=sample_fn,
        optimizer=optimizer,
        axis_name=sharding.AXIS,
        own_draws=config.supernet.draws == "per_device",
      )

    if first is None:
      return step_by(rule)
    until, other = first
    is_first = state.weights.step < until
    return jax.lax.cond(is_first, lambda: step_by(other), lambda: step_by(rule))

  return make_program(
    search_space,
    schedule,
    mesh,
    batch_size=settings.batch_size,
    init_fn=init_fn,
    update_fn=update_fn,
    dataset=dataset,
    rows=train,
    order_key=lambda state: keys_of(state.search)["order"],
  )


def split(
  config: ml_collections.ConfigDict, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Indices of the training images: to train on, and held out for scores.

  Whole batches are held out, so that every arch sees each image once.

  Args:
    config: of the run.
    labels: `[N]` of the training images.

  Returns:
    Sorted disjoint indices that cover all.

  Raises:
    UserError: if too few images are left to train on, or if a class of a
      balanced split is too small.
  """
  settings, num_images = config.evaluate, len(labels)
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
  if config.data.balanced_split:
    held_out, train = data.draw_balanced(labels, count, settings.split_seed)
  else:
    rng = np.random.default_rng(settings.split_seed)
    held_out, train = np.split(rng.permutation(num_images), [count])
  return np.sort(train), np.sort(held_out)


def check(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  labels: np.ndarray,
) -> None:
  """Refuses what is held out if it is too little or too much.

  Scores need all of it on each device, whether the rest is streamed or not.

  Raises:
    UserError, UserError: naming the field, the value and what is accepted.
  """
  _, held_out = split(config, labels)
  numbers = len(held_out) * math.prod(search_space.image_shape)
  needed = numbers * jnp.dtype(config.supernet.activations).itemsize
  if needed > (memory := image_memory()):
    raise UserError(
      f"config.evaluate.holdout_fraction: {config.evaluate.holdout_fraction} "
      f"is not accepted; expected less: {len(held_out):,} images are "
      f"{needed / 2**30:.1f} GiB, and a device has {memory / 2**30:.1f} GiB"
    )


def cache_key(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> str:
  """What the trained weights depend on, as sixteen hexadecimal digits."""
  settings = config_lib.to_json(config)
  training = (
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
  # The same weights come out of either way to the images.
  del settings["data"]["stream"]
  parts = {
    "data": settings["data"],
    "supernet": settings["supernet"],
    "weights": settings["weights"],
    "sync_batch_norm": settings["search"]["sync_batch_norm"],
    "evaluate": {name: settings["evaluate"][name] for name in training},
    "search_space": search_space.to_dict(),
  }
  text = json.dumps(parts, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]
