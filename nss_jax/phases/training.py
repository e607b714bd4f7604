"""What loops that train weights share, and one that moves no logits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nss_jax import data
from nss_jax.data.batches import make_batch_fn
from nss_jax.phases.program import (
  LoopState,
  Program,
  Schedule,
  make_dispatch,
  make_schedule,
)
from nss_jax.spaces.search_space import SearchSpace

_METRICS = {"train_loss": "loss", "train_accuracy": "accuracy"}


def batch_fn(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  key: jax.Array,
  *,
  cutout: int = 0,
) -> Callable:
  """Makes `data.batches.make_batch_fn` of a config: its crops, flips, types."""
  return make_batch_fn(
    dataset,
    key,
    crop_padding=config.data.crop_padding,
    flip=config.data.flip,
    dtype=config.supernet.activations,
    cutout=cutout,
  )


def training_schedule(
  num_images: int, *, batch_size: int, epochs: int, steps_per_dispatch: int
) -> Schedule:
  """As `make_schedule`; warmup has no end, as there are no logits to move."""
  return make_schedule(
    num_images,
    batch_size=batch_size,
    epochs=epochs,
    warmup_epochs=epochs,
    steps_per_dispatch=steps_per_dispatch,
  )


def make_program(
  search_space: SearchSpace,
  schedule: Schedule,
  mesh: jax.sharding.Mesh,
  *,
  batch_size: int,
  init_fn: Callable[..., tuple[Any, Any]],
  update_fn: Callable,
  dataset: data.Dataset,
  rows: np.ndarray,
  order_key: Callable[[LoopState], jax.Array],
) -> Program:
  """The program of a loop with one update a step, all of the same work.

  Args:
    search_space: what the weights span.
    schedule: steps and epochs.
    mesh: the devices.
    batch_size: images of a step, on all devices together.
    init_fn: `(*args) -> (weights, given)`; `given` is `LoopState.search`, which
      stays as it is.
    update_fn: `(state, part, indices, positions) -> (weights, metrics)` on one
      device; `part` is images and labels.
    dataset: has the training images.
    rows: `[n]`, which of them to train on.
    order_key: see `make_dispatch`.
  """

  def init(*args) -> LoopState:
    weights, given = init_fn(*args)
    sums = {name: jnp.zeros(()) for name in _METRICS}
    return LoopState(weights, given, sums)

  def step_fn(state, parts, indices, positions, *, warmup):
    weights, metrics = update_fn(
      state, parts["train"], indices["train"], positions
    )
    sums = {n: state.sums[n] + metrics[key] for n, key in _METRICS.items()}
    return LoopState(weights, state.search, sums), metrics["loss"][None]

  dispatch = make_dispatch(
    step_fn,
    dataset,
    {"train": rows},
    schedule=schedule,
    batch_size=batch_size,
    mesh=mesh,
    order_key=order_key,
  )
  return Program(
    search_space=search_space,
    schedule=schedule,
    mesh=mesh,
    batch_size=batch_size,
    work=np.ones(schedule.num_steps),
    init=init,
    dispatch=dispatch,
    measure=lambda state, step, means: means,
  )
