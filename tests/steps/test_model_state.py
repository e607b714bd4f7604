"""Models with a state: the steps do what a loop written by hand does."""

import functools
import runpy

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import PartitionSpec as P

import nss_jax as nss

EXAMPLES = runs.ROOT / "tests" / "examples"
NAMES = ("linen_state", "nnx_state", "equinox_state")


@pytest.fixture(autouse=True)
def libraries_promote_ranks():
  """Their normalisations do, which ours never do."""
  with jax.numpy_rank_promotion("allow"):
    yield


@functools.cache
def _run(name):
  """The names that an example ends with."""
  return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_finds_the_size_that_was_asked_for(name):
  found = _run(name)
  assert found["UNITS"][found["search"].logits.argmax()] == 16
  assert found["metrics"]["accuracy"] > 0.97
  moved = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()) if jnp.size(a) else 0.0,
    _arrays(found["weights"].model_state),
    _arrays(found["STATE"]),
  )
  assert max(moved) > 0.1  # the batch statistics are kept


def _arrays(state):
  return [jnp.float32(x) for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("name", NAMES)
def test_steps_equal_a_loop_written_by_hand(name):
  found = _run(name)
  loss, draw, key = (found[x] for x in ("loss", "draw", "KEY"))
  # Adam would make full steps of the rounding of biases that a normalisation
  # takes away again.
  sgd = optax.sgd(0.1, momentum=0.9)
  logits = jnp.array([0.3, -0.1, 0.2, 0.0])
  weights = nss.init_weight_state(found["PARAMS"], sgd, _again(found["STATE"]))
  search = nss.init_search_state(logits, sgd)
  params, state = found["PARAMS"], _again(found["STATE"])
  opt_state, logit_state = sgd.init(params), sgd.init(logits)

  def penalty(logits, step_key, step):
    return jnp.abs(
      draw(step_key, logits, step).weights @ found["UNITS"] / 16 - 1
    )

  def step_both(search, weights):
    how = {"loss_fn": loss, "sample_fn": draw, "optimizer": sgd}
    search, _ = nss.search_step(
      search,
      weights.params,
      found["halves"][0],
      key,
      model_state=weights.model_state,
      cost_fn=found["UNITS"].dot,
      target=16.0,
      cost_weight=1.0,
      **how,
    )
    weights, seen = nss.weight_step(
      weights, search.logits, found["halves"][1], key, **how
    )
    return search, weights, seen["loss"]

  def by_hand(step, params, state, opt_state, logits, logit_state):
    step_key = jax.random.fold_in(key, step)
    of_model = jax.random.fold_in(step_key, 2)

    def of_logits(logits):
      mask = draw(step_key, logits, step).choice
      batch = found["halves"][0]
      value, _ = loss(params, mask, batch, _again(state), of_model)
      return value + penalty(logits, step_key, step)

    updates, logit_state = sgd.update(
      jax.grad(of_logits)(logits), logit_state, logits
    )
    logits = optax.apply_updates(logits, updates)

    def of_params(params):
      mask = draw(step_key, logits, step).choice
      batch = found["halves"][1]
      value, (moved, _) = loss(params, mask, batch, _again(state), of_model)
      return value, moved

    both = jax.value_and_grad(of_params, has_aux=True)(params)
    (value, state), gradients = both
    updates, opt_state = sgd.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, state, opt_state, logits, logit_state, value

  step_both, by_hand = jax.jit(step_both), jax.jit(by_hand)
  for step in range(3):
    search, weights, ours = step_both(search, weights)
    *rest, theirs = by_hand(step, params, state, opt_state, logits, logit_state)
    params, state, opt_state, logits, logit_state = rest
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  for one, other in (
    (search.logits, logits),
    (weights.params, params),
    (weights.model_state, state),
  ):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def _again(state):
  """Copies a state: equinox's can be used once."""
  return jax.tree.map(lambda x: x, state)


def _loss(params, choice, batch, state, rng):
  noise = jax.random.normal(rng, batch.shape)
  value = jnp.mean((batch - params * state["mean"]) ** 2)
  moved = {"mean": 0.5 * state["mean"] + 0.5 * batch.mean()}
  moved["count"] = state["count"] + 1
  return value, (moved, {"noise": noise.mean()})


def test_devices_average_the_state_and_draw_for_themselves():
  mesh = jax.sharding.Mesh(jax.devices()[:4], ("devices",))
  state = {"mean": jnp.float32(1), "count": jnp.int32(0)}
  optimizer = optax.sgd(0.1)
  start = nss.init_weight_state(jnp.float32(2), optimizer, state)
  batch = jnp.arange(8, dtype=jnp.float32)

  def step(weights, batch, axis_name=None):
    return nss.weight_step(
      weights,
      None,
      batch,
      jax.random.key(0),
      loss_fn=_loss,
      sample_fn=lambda rng, logits, step: nss.Sample(None, None),
      optimizer=optimizer,
      axis_name=axis_name,
    )

  many, seen = jax.jit(
    jax.shard_map(
      functools.partial(step, axis_name="devices"),
      mesh=mesh,
      in_specs=(P(), P("devices")),
      out_specs=P(),
    )
  )(start, batch)
  one, _ = step(start, batch)
  chex.assert_trees_all_close(many, one, rtol=1e-6)
  assert many.model_state["count"] == 1
  assert many.model_state["count"].dtype == jnp.int32
  # Were the keys the same, the mean over devices would be that of one of them.
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 2)
  each = [
    jax.random.normal(jax.random.fold_in(key, i), (2,)).mean() for i in range(4)
  ]
  assert seen["noise"] == pytest.approx(float(np.mean(each)), rel=1e-5)


def test_a_network_alone_can_draw_too():
  def loss(params, averages, batch, rng):
    value = params * jax.random.uniform(rng)
    return value, (averages + 1, {})

  optimizer = optax.sgd(1.0)
  state = nss.init_train_state(jnp.float32(0), jnp.float32(0), optimizer)
  key = jax.random.key(3)
  for step in range(2):
    before = state.params
    state, _ = nss.train_step(
      state, None, loss_fn=loss, optimizer=optimizer, rng=key
    )
    drawn = jax.random.uniform(jax.random.fold_in(key, step))
    assert state.params == before - drawn
  assert state.averages == 2


def test_a_loss_that_returns_no_state_is_told_what_it_should():
  optimizer = optax.sgd(0.1)
  start = nss.init_weight_state(jnp.float32(2), optimizer, {})
  with pytest.raises(
    TypeError, match=r"must return \(scalar loss, \(model_state, metrics\)\)"
  ):
    nss.weight_step(
      start,
      None,
      jnp.zeros(2),
      jax.random.key(0),
      loss_fn=lambda params, choice, batch, state, rng: (params, {}),
      sample_fn=lambda rng, logits, step: nss.Sample(None, None),
      optimizer=optimizer,
    )
