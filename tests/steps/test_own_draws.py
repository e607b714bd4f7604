"""With `supernet.draws = "per_device"` each device has an arch of its own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import PartitionSpec as P
from networks import arguments

import nss_jax as nss
from nss_jax.phases import search
from nss_jax.runtime import sharding
from nss_jax.steps import losses, search_step
from nss_jax.supernet import engine, masks

DEVICES = 4
SPACE = nss.SearchSpace.expanded(
  max_depth=4,
  max_width=16,
  image_shape=(4, 4, 1),
  num_classes=3,
  num_depth_bins=2,
  num_width_bins=4,
  strides=(1,),
)
PARAMS, *_ = arguments(SPACE, 1)
LOGITS = nss.SpaceLogits(
  depth=jnp.array([[0.3, -0.2]]), width=jnp.array([[0.1, 0.4, -0.3, 0.2]])
)
BATCH = (
  jax.random.normal(jax.random.key(1), (4 * DEVICES, 4, 4, 1)),
  jnp.arange(4 * DEVICES) % 3,
)
RNG = jax.random.key(2)
ARCHS = masks.arch_sampler(SPACE)
MIXED = masks.gumbel_sampler(SPACE, lambda step: 1.0)
# What a step descends is what it subtracts.
SGD = optax.sgd(1.0)
_one_loss = losses.single_loss(engine.make_apply(SPACE, "masked"))


def _weight_step(batch, rng, loss_fn=_one_loss, **fields):
  state = nss.init_weight_state(PARAMS, SGD)
  fields = {"sample_fn": ARCHS, **fields}
  state, metrics = nss.weight_step(
    state, LOGITS, batch, rng, loss_fn=loss_fn, optimizer=SGD, **fields
  )
  return jax.tree.map(jnp.subtract, PARAMS, state.params), metrics


def _search_step(batch, rng, loss_fn=_one_loss, **fields):
  state = nss.init_search_state(LOGITS, SGD)
  fields = {"sample_fn": MIXED, **fields}
  state, metrics = search_step.search_step(
    state,
    PARAMS,
    batch,
    rng,
    loss_fn=loss_fn,
    cost_fn=functools.partial(nss.mean_macs, SPACE),
    optimizer=SGD,
    target=2e4,
    cost_weight=1.0,
    **fields,
  )
  return jax.tree.map(jnp.subtract, LOGITS, state.logits), metrics


def _telling_loss(weights, choice, batch):
  """Tells the choice of each device too, in the row of its number."""
  loss, metrics = _one_loss(weights, choice, batch)
  place = jax.lax.axis_index(sharding.AXIS)

  def in_its_row(x):
    rows = jnp.zeros((DEVICES, *x.shape))
    return rows.at[place].set(DEVICES * x)  # metrics are averaged

  return loss, {**metrics, "choices": jax.tree.map(in_its_row, choice)}


def _over_devices(step, **fields):
  run = jax.shard_map(
    lambda batch: step(
      batch, RNG, _telling_loss, axis_name=sharding.AXIS, **fields
    ),
    mesh=sharding.make_mesh(DEVICES),
    in_specs=P(sharding.AXIS),
    out_specs=P(),
    check_vma=False,
  )
  gradient, metrics = jax.device_get(jax.jit(run)(BATCH))
  return gradient, metrics.pop("choices"), metrics


def _alone(step, sample_fn):
  """Draws for each device, and takes its gradient, all on one device."""
  step_rng = jax.random.fold_in(RNG, 0)
  parts = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), BATCH)

  @jax.jit
  def one(part, device):
    rng = jax.random.fold_in(step_rng, device)
    # The draw by the device's key, whatever key the step makes of its own.
    fixed = {"sample_fn": lambda _, logits, step: sample_fn(rng, logits, step)}
    return step(part, RNG, **fixed), sample_fn(rng, LOGITS, 0).choice

  found = [
    one(jax.tree.map(lambda x, k=k: x[k], parts), k) for k in range(DEVICES)
  ]
  (results, choices) = zip(*jax.device_get(found), strict=True)
  mean = jax.tree.map(lambda *x: np.mean(x, 0, dtype=np.float64), *results)
  return mean, jax.tree.map(lambda *x: np.stack(x), *choices)


def _rows(choices):
  return np.concatenate(
    [np.reshape(x, (DEVICES, -1)) for x in jax.tree.leaves(choices)], axis=1
  )


@pytest.mark.parametrize(
  ("step", "sample_fn"), [(_weight_step, ARCHS), (_search_step, MIXED)]
)
def test_gradient_is_the_mean_over_each_devices_arch(step, sample_fn):
  gradient, choices, metrics = _over_devices(step, own_draws=True)
  assert len(np.unique(_rows(choices), axis=0)) == DEVICES
  (expected, metrics_alone), drawn = _alone(step, sample_fn)
  np.testing.assert_allclose(_rows(choices), _rows(drawn), rtol=1e-6)
  scale = max(np.abs(x).max() for x in jax.tree.leaves(expected))
  assert scale > 1e-3
  chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6 * scale)
  chex.assert_trees_all_close(metrics, metrics_alone, rtol=1e-5)


def _apart(one, other):
  """Returns the distance of two pytrees over the length of the second."""
  one, other = (
    np.concatenate(
      [x.ravel() for x in jax.tree.leaves(tree) if x.dtype == np.float32]
    )
    for tree in (one, other)
  )
  return np.linalg.norm(one - other) / np.linalg.norm(other)


def test_the_search_has_it_by_its_field():
  """Both steps have other gradients than by shared draws."""
  found = []
  fields = {
    **runs.TINY,
    "space.strides": (1,),
    "space.max_depth": 1,
    "space.num_depth_bins": 1,
    "objective.cost_weight": 0.0,  # which no draw changes
  }
  for draws in ("shared", "per_device"):
    config = runs.load_config(**fields, **{"supernet.draws": draws})
    program = search.build(runs.make_job(config, num_devices=DEVICES))
    state, seen = program.dispatch(program.init(), 0, 0, 1, False)
    assert np.isfinite(seen).all()
    found.append(jax.device_get(state))
  # The moments of the optimizers, which the first gradients alone have made.
  assert _apart(*(state.weights.opt_state for state in found)) > 0.1
  assert _apart(*(state.search.opt_state for state in found)) > 0.1
