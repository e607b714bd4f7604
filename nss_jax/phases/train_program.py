"""Training one network alone as a program: the Cutout recipe (paper 4.3)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from nss_jax import data
from nss_jax.data.batches import normalize
from nss_jax.errors import UserError
from nss_jax.phases.program import Program, base_keys
from nss_jax.phases.training import batch_fn, make_program, training_schedule
from nss_jax.runtime import sharding
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.steps import losses, optimizers, train_step
from nss_jax.supernet import network


def check(config: ml_collections.ConfigDict, search_space: SearchSpace) -> None:
  """Refuses to cut out whole images.

  Raises:
    UserError: naming the field, the value and what is accepted.
  """
  side = min(search_space.image_shape[:2])
  if config.train.cutout >= side:
    raise UserError(
      f"config.train.cutout: {config.train.cutout} is not accepted; expected "
      f"less than the {side} pixels of the images' shorter side"
    )


def build(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Program:
  """Trains the largest network of a search space on all training images.

  `init(seed, params)` starts it, from fresh weights if `params` is None. The
  seed is part of the state, so that all seeds share one compiled program.
  """
  settings = config.train
  axis_name = sharding.AXIS if config.search.sync_batch_norm else None
  schedule = training_schedule(
    len(dataset.train_labels),
    batch_size=settings.batch_size,
    epochs=settings.epochs,
    steps_per_dispatch=config.search.steps_per_dispatch,
  )
  optimizer = optimizers.train_optimizer(
    learning_rate=settings.learning_rate,
    decay_factor=settings.decay_factor,
    decay_steps=[round(x * schedule.num_steps) for x in settings.decay_at],
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
  )

  def init_fn(seed: int = 0, params: Any = None):
    if params is None:
      params = jax.jit(network.init_weights, static_argnums=1)(
        base_keys(seed)["init"], search_space
      )
    averages = network.init_averages(search_space)
    weights = train_step.init_train_state(params, averages, optimizer)
    return weights, jnp.uint32(seed)

  weights = data.class_weights(
    config.data.class_weights, dataset.train_labels, search_space.num_classes
  )

  def loss_fn(params, averages, batch):
    images, labels = batch
    logits, averages = network.apply_alone(
      search_space, params, averages, images, train=True, axis_name=axis_name
    )
    loss, metrics = losses.cross_entropy(logits, labels, weights)
    return loss, (averages, metrics)

  def update_fn(state, part, indices, positions):
    key = base_keys(state.search)["augment"]
    make_batch = batch_fn(config, dataset, key, cutout=settings.cutout)
    batch = make_batch(part, indices, positions, 0, state.weights.step)
    return train_step.train_step(
      state.weights,
      batch,
      loss_fn=loss_fn,
      optimizer=optimizer,
      axis_name=sharding.AXIS,
    )

  return make_program(
    search_space,
    schedule,
    mesh,
    batch_size=settings.batch_size,
    init_fn=init_fn,
    update_fn=update_fn,
    dataset=dataset,
    rows=np.arange(len(dataset.train_labels)),
    order_key=lambda state: base_keys(state.search)["order"],
  )


def make_test_fn(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  dataset: data.Dataset,
  mesh: jax.sharding.Mesh,
) -> Callable[[Any, Any], tuple[float, float]]:
  """`(params, averages) -> (error, loss)` on the test images.

  Every device takes its share of them; what fills the last batch up counts
  nothing.
  """
  count = len(dataset.test_labels)
  batch = min(config.train.test_batch_size, -(-count // mesh.size))
  rows = -(-count // (batch * mesh.size)) * mesh.size
  fill = np.arange(rows * batch)
  labels = np.where(fill < count, dataset.test_labels[fill % count], -1)
  images = dataset.test_images[fill % count]
  dtype = jnp.dtype(config.supernet.activations)
  prepare = functools.partial(normalize, mean=dataset.mean, std=dataset.std)

  def on_device(params, averages, images, labels):
    def one_batch(batch):
      x, y = batch
      logits, _ = network.apply_alone(
        search_space, params, averages, prepare(x).astype(dtype), train=False
      )
      loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(y, 0)
      )
      wrong = (logits.argmax(-1) != y) & (y >= 0)
      return wrong.sum(), jnp.where(y >= 0, loss, 0).sum()

    sums = jax.tree.map(jnp.sum, jax.lax.map(one_batch, (images, labels)))
    return jax.lax.psum(sums, sharding.AXIS)

  run = jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(P(), P(), P(sharding.AXIS), P(sharding.AXIS)),
      out_specs=P(),
      check_vma=False,
    )
  )
  parts = sharding.split(
    (
      images.reshape(rows, batch, *images.shape[1:]),
      labels.reshape(rows, batch),
    ),
    mesh,
  )

  def test(params, averages) -> tuple[float, float]:
    wrong, loss = jax.device_get(run(params, averages, *parts))
    return int(wrong) / count, float(loss) / count

  return test
