"""Eight CPU devices compute what one computes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import nss_jax as nss
from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases import pipeline, search
from nss_jax.runtime import sharding
from nss_jax.steps import losses
from nss_jax.supernet import engine as engine_lib

DIGITS = data.load("digits")


def _after_two_steps(num_devices, **overrides):
  """Returns the state after two steps, of the logits too if all is masked."""
  config = runs.load_config(
    **{
      **runs.TINY,
      "space.strides": (1,),  # compiles faster than three stages
      "data.crop_padding": 1,
      "data.flip": True,
      "search.steps_per_dispatch": 2,
      **overrides,
    }
  )
  built = search.build(runs.make_job(config, num_devices=num_devices))
  is_warmup = config.supernet.engine == "sliced"
  state, _ = built.dispatch(built.init(), 0, 0, 2, is_warmup)
  return jax.device_get(state)


def test_eight_devices_equal_one():
  one = _after_two_steps(1, **{"search.sync_batch_norm": True})
  eight = _after_two_steps(8, **{"search.sync_batch_norm": True})
  chex.assert_trees_all_close(one, eight, rtol=2e-3, atol=2e-4)
  assert np.abs(one.search.logits.width).max() > 0.01
  apart = _after_two_steps(8, **{"search.sync_batch_norm": False})
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(one, apart, rtol=2e-3, atol=2e-4)


def test_sliced_engine_shares_statistics():
  """It does so inside its loops too, whose lengths the arch decides."""
  fields = {
    "search.sync_batch_norm": True,
    "supernet.engine": "sliced",
    "supernet.bucket_shares": (1.0,),  # each takes long to compile
  }
  one, eight = (_after_two_steps(count, **fields) for count in (1, 8))
  chex.assert_trees_all_close(one, eight, rtol=2e-3, atol=2e-4)


@pytest.mark.slow
def test_microbatches_equal_devices():
  """Two parts of a batch on one device are a part on each of two devices.

  Statistics of the batch are of a part in both.
  """
  one = _after_two_steps(1, **{"supernet.microbatches": 2})
  two = _after_two_steps(2)
  chex.assert_trees_all_close(one, two, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"search.batch_size": 60}, r"60 is not accepted.*multiple of the 8 dev"),
    ({"supernet.microbatches": 5}, "72 is not .* 8 devices times 5 micro"),
  ],
)
def test_batch_must_divide(fields, message, tmp_path):
  config = runs.load_config(**{**runs.TINY, **fields})
  with pytest.raises(UserError, match=message):
    pipeline.run(config, tmp_path / "run", ["search"])


@pytest.mark.parametrize("group", ["evaluate", "train"])
def test_batches_of_other_phases_must_divide(group, tmp_path):
  fields = {**runs.TINY, f"{group}.batch_size": 60}
  with pytest.raises(UserError, match=rf"{group}.batch_size: 60 "):
    pipeline.run(
      runs.load_config(**fields),
      tmp_path / "run",
      ["search", "evaluate", "train"],
      archs=["d1-1-1_w2-2-2"],
    )


def test_microbatches_accumulate():
  """Without batch statistics, loss and gradient are of the whole batch."""
  rng = np.random.default_rng(0)
  weights, batch = rng.normal(size=3), rng.normal(size=(12, 3))

  def loss_fn(weights, choice, batch):
    value = jnp.square(batch @ weights * choice).mean()
    return value, {"twice": 2 * value}

  parts = losses.microbatched(loss_fn, 4)
  with jax.enable_x64(True):
    expected, found = (
      jax.value_and_grad(fn, has_aux=True)(jnp.array(weights), 0.5, batch)
      for fn in (loss_fn, parts)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="a batch of 10 has no 4 equal parts"):
      parts(weights, 0.5, batch[:10])


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


def test_each_device_draws_its_own():
  """The result is the mean over devices, each with the draw of its own key."""
  optimizer, rng = optax.sgd(1.0), jax.random.key(3)
  fields = {
    "loss_fn": lambda w, choice, b: ((b @ w).mean() * choice, {"seen": choice}),
    "sample_fn": lambda rng, logits, step: nss.Sample(
      None, jax.random.uniform(rng)
    ),
    "optimizer": optimizer,
  }
  state = nss.init_weight_state(jnp.ones(3), optimizer)
  batch = jnp.arange(24.0).reshape(8, 3) / 10
  steps = {
    own: jax.jit(
      jax.shard_map(
        lambda batch, own=own: nss.weight_step(
          state,
          None,
          batch,
          rng,
          axis_name=sharding.AXIS,
          own_draws=own,
          **fields,
        ),
        mesh=sharding.make_mesh(4),
        in_specs=P(sharding.AXIS),
        out_specs=P(),
      )
    )
    for own in (False, True)
  }
  key = jax.random.fold_in(rng, 0)
  draws = [jax.random.uniform(jax.random.fold_in(key, k)) for k in range(4)]
  gradients = [
    draw * part.mean(0)
    for draw, part in zip(draws, batch.reshape(4, 2, 3), strict=True)
  ]
  found, metrics = steps[True](batch)
  np.testing.assert_allclose(found.params, 1 - sum(gradients) / 4, rtol=1e-6)
  np.testing.assert_allclose(metrics["seen"], sum(draws) / 4, rtol=1e-6)
  _, metrics = steps[False](batch)
  np.testing.assert_allclose(metrics["seen"], jax.random.uniform(key))
  with pytest.raises(ValueError, match="own_draws needs axis_name"):
    nss.weight_step(state, None, batch, rng, own_draws=True, **fields)


def _search_step(batch, axis_name=None):
  """Moves the logits by loss and cost; the draw is the logits."""
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
  """They take the mean of the devices' gradients, not their sum."""
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


@pytest.mark.parametrize("step", [_weight_step, _search_step])
@pytest.mark.parametrize("mapped", [True, False])
def test_steps_run_under_an_explicit_mesh(step, mapped):
  """An importer may have one: arrays then have their sharding in their type."""
  mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
  batch = jnp.arange(24.0).reshape(8, 3) / 10
  expected = jax.device_get(step(batch))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(batch, P("x"))
    assert jax.typeof(sharded).sharding.spec == P("x", None)
    run = step
    if mapped:
      run = jax.shard_map(
        lambda batch: step(batch, "x"), in_specs=P("x"), out_specs=P()
      )
    found = jax.device_get(jax.jit(run)(sharded))
  chex.assert_trees_all_close(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_supernet_runs_under_an_explicit_mesh():
  """Both engines have the gradient of one device; each has its own images."""
  mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))
  space = nss.SearchSpace.expanded(
    max_depth=2,
    max_width=4,
    image_shape=(4, 4, 1),
    num_classes=3,
    num_depth_bins=2,
    num_width_bins=2,
    strides=(1,),
  )
  weights = nss.init_weights(jax.random.key(0), space)
  images = jax.random.normal(jax.random.key(1), (8, 4, 4, 1))
  arch = nss.parse_arch("d2_w3")

  def loss(engine, axis, weights, images):
    logits = engine_lib.make_apply(space, engine, axis_name=axis)(
      weights, images, arch
    )
    return jnp.square(logits).mean()

  for engine in ("masked", "sliced"):
    expected = jax.grad(lambda w, e=engine: loss(e, None, w, images))(weights)

    def on_device(weights, images, engine=engine):
      local = losses.vary_over_devices(weights, "x")
      gradient = jax.grad(lambda w: loss(engine, "x", w, images))(local)
      return jax.lax.pmean(gradient, "x")

    with jax.set_mesh(mesh):
      run = jax.shard_map(
        on_device, in_specs=(P(), P("x")), out_specs=P(), check_vma=False
      )
      found = jax.jit(run)(weights, jax.device_put(images, P("x")))
    chex.assert_trees_all_close(
      jax.device_get(found), jax.device_get(expected), rtol=2e-3, atol=1e-5
    )
