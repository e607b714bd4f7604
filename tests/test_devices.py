"""Eight CPU devices compute what one computes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import PartitionSpec as P

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.phases import search_program
from nss_jax.runtime import data, sharding

DIGITS = data.load("digits")


def _two_dispatches(num_devices, **overrides):
  config = runs.load_config(
    **{
      **runs.TINY,
      "space.strides": (1, 2),  # compiles faster than three stages
      "data.crop_padding": 1,
      "data.flip": True,
      "search.steps_per_dispatch": 2,
      **overrides,
    }
  )
  built = search_program.build(config, DIGITS, sharding.make_mesh(num_devices))
  state = built.init()
  state, _ = built.dispatch(state, 0, 0, 2, True)
  if config.supernet.engine == "masked":
    state, _ = built.dispatch(state, 2, 0, 2, False)
  return jax.device_get(state)


def test_eight_devices_equal_one():
  one = _two_dispatches(1, **{"search.sync_batch_norm": True})
  eight = _two_dispatches(8, **{"search.sync_batch_norm": True})
  chex.assert_trees_all_close(one, eight, rtol=2e-3, atol=2e-4)
  assert np.abs(one.search.logits.width).max() > 0.01
  apart = _two_dispatches(8, **{"search.sync_batch_norm": False})
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(one, apart, rtol=2e-3, atol=2e-4)


def test_sliced_engine_shares_statistics():
  """Also inside its loops, whose lengths the arch decides."""
  fields = {
    "search.sync_batch_norm": True,
    "supernet.engine": "sliced",
    "supernet.bucket_shares": (1.0,),  # each takes long to compile
  }
  one, eight = (_two_dispatches(count, **fields) for count in (1, 8))
  chex.assert_trees_all_close(one, eight, rtol=2e-3, atol=2e-4)


def test_batch_must_divide():
  with pytest.raises(
    config_lib.ConfigError, match=r"60 is not accepted.*multiple of the 8"
  ):
    _two_dispatches(8, **{"search.batch_size": 60})


def test_dispatch_reduces_over_devices():
  """Gradients and metrics of both steps; without it devices would part."""
  config = runs.load_config(**runs.TINY)
  built = search_program.build(config, DIGITS, sharding.make_mesh(8))
  state = jax.eval_shape(built.init)
  for warmup in (True, False):
    lowered = jax.jit(
      lambda state, warmup=warmup: built.dispatch(state, 0, 0, 2, warmup)
    ).lower(state)
    assert lowered.as_text().count("all_reduce") > 0


def _weight_step(batch, axis_name=None):
  optimizer = optax.sgd(1.0)
  return nss.weight_step(
    nss.init_weight_state({"w": jnp.ones(3)}, optimizer),
    None,
    batch,
    jax.random.key(0),
    loss_fn=lambda w, m, b: (jnp.square(b @ w["w"]).mean() / 100, {}),
    sample_fn=lambda rng, logits, step: nss.Sample(None, None),
    optimizer=optimizer,
    axis_name=axis_name,
  )


def _search_step(batch, axis_name=None):
  """Loss and cost both move the logits; the draw is the logits."""
  optimizer = optax.sgd(1.0)
  return nss.search_step(
    nss.init_search_state(jnp.array([0.1, 0.2, 0.3]), optimizer),
    None,
    batch,
    jax.random.key(0),
    loss_fn=lambda w, m, b: (jnp.square(b @ m).mean() / 100, {}),
    cost_fn=lambda weights: jnp.square(weights).sum(),
    sample_fn=lambda rng, logits, step: nss.Sample(logits, logits),
    optimizer=optimizer,
    target=0.7,
    cost_weight=0.5,
    axis_name=axis_name,
  )


@pytest.mark.parametrize("step", [_weight_step, _search_step])
@pytest.mark.parametrize("check_vma", [True, False])
def test_steps_average_in_any_shard_map(step, check_vma):
  """The mean of the devices' gradients, not their sum."""
  batch = jnp.arange(24.0).reshape(8, 3) / 10
  sharded = jax.jit(
    jax.shard_map(
      lambda batch: step(batch, sharding.AXIS),
      mesh=sharding.make_mesh(8),
      in_specs=P(sharding.AXIS),
      out_specs=P(),
      check_vma=check_vma,
    )
  )
  chex.assert_trees_all_close(
    jax.device_get(sharded(batch)), jax.device_get(step(batch)), rtol=1e-5
  )
