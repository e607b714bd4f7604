"""A stranger's model, loss, optimizers and loop around our steps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nss_jax as nss

SEARCH_SPACE = nss.SearchSpace.expanded(
  max_depth=4,
  max_width=16,
  num_depth_bins=4,
  num_width_bins=8,
  strides=(1, 2),
  stem_width=4,
  image_shape=(8, 8, 1),
  num_classes=3,
)
TARGET = 40_000.0


def _model(weights, masks, x):
  """Two layers whose units are gated by the width masks. Not our supernet."""
  for stage, layer in enumerate(weights["layers"]):
    x = jnp.tanh(x @ layer) * masks.width[None, stage]
  return x @ weights["head"]


def _loss(weights, masks, batch):
  x, y = batch
  return nss.cross_entropy(_model(weights, masks, x), y)


def _data(rng):
  x = jax.random.normal(rng, (64, 6))
  return x, jnp.argmax(x[:, :3], axis=-1)


def test_a_stranger_reaches_the_target():
  keys = jax.random.split(jax.random.key(0), 4)
  weights = {
    "layers": [
      jax.random.normal(keys[0], (6, 16)) / 3,
      jax.random.normal(keys[1], (16, 16)) / 4,
    ],
    "head": jnp.zeros((16, 3)),
  }
  weight_opt, logit_opt = optax.sgd(0.1), optax.adam(0.05)
  cost_fn = functools.partial(nss.mean_macs, SEARCH_SPACE)

  def sample_fn(rng, logits, step):
    bins_rng, offers_rng = jax.random.split(rng)
    bins = nss.gumbel_softmax(bins_rng, logits, 1.0, hard=True)
    offers = nss.sample_bin_archs(offers_rng, SEARCH_SPACE, 1)
    offers = jax.tree.map(lambda x: x[0], offers)
    return nss.Sample(bins, nss.mix_masks(SEARCH_SPACE, offers, bins))

  # One trace serves every step.
  @jax.jit
  @chex.assert_max_traces(n=1)
  def train(state, logits, batch):
    return nss.weight_step(
      state,
      logits,
      batch,
      keys[2],
      loss_fn=_loss,
      sample_fn=sample_fn,
      optimizer=weight_opt,
    )

  @jax.jit
  @chex.assert_max_traces(n=1)
  def search(state, weights, batch):
    return nss.search_step(
      state,
      weights,
      batch,
      keys[3],
      loss_fn=_loss,
      cost_fn=cost_fn,
      sample_fn=sample_fn,
      optimizer=logit_opt,
      target=TARGET,
      cost_weight=1.0,
    )

  state = nss.init_weight_state(weights, weight_opt)
  found = nss.init_search_state(nss.init_logits(SEARCH_SPACE), logit_opt)
  start = float(cost_fn(nss.probabilities(found.logits)) / TARGET)
  assert abs(start - 1) > 0.5  # the search has something to do
  losses = []
  for step in range(300):
    found, _ = search(found, state.params, _data(jax.random.key(2 * step)))
    state, metrics = train(
      state, found.logits, _data(jax.random.key(2 * step + 1))
    )
    losses.append(float(metrics["loss"]))

  assert float(cost_fn(nss.probabilities(found.logits))) == pytest.approx(
    TARGET, rel=0.1
  )
  assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
  elite = nss.elite_space(
    jax.random.key(9), found.logits, cost_fn=cost_fn, target=TARGET
  )
  assert float(elite.cost) == pytest.approx(
    nss.space_macs(SEARCH_SPACE, elite.space), rel=1e-5
  )
  drawn = nss.sample_space(jax.random.key(1), found.logits, (1000,))
  assert drawn.depth.shape == (1000, 2)
  archs = nss.sample_archs(jax.random.key(2), SEARCH_SPACE, elite.space, 10)
  assert nss.arch_macs(SEARCH_SPACE, archs).shape == (10,)


def test_steps_never_change_what_they_only_read():
  """`weight_step` returns no logits, `search_step` no weights."""
  optimizer = optax.sgd(0.1)
  state = nss.init_weight_state({"w": jnp.ones(3)}, optimizer)
  after, _ = nss.weight_step(
    state,
    None,
    jnp.ones(3),
    jax.random.key(0),
    loss_fn=lambda w, masks, batch: ((w["w"] * batch).sum(), {}),
    sample_fn=lambda rng, logits, step: nss.Sample(None, None),
    optimizer=optimizer,
  )
  assert after.step == 1
  chex.assert_trees_all_close(after.params, {"w": jnp.full(3, 0.9)})


LOSSES = {
  "no metrics": (lambda *_: jnp.float32(1), r"got float32\[\]"),
  "metrics first": (lambda *_: ({}, 1.0), r"got \(dict, float\)"),
  "of each example": (lambda *_: (jnp.ones(4), {}), r"\(float32\[4\], dict\)"),
  "metrics alone": (lambda *_: {"loss": 1.0}, "got dict"),
  "no dict": (lambda *_: (1.0, 0.5), r"got \(float, float\)"),
}


def _search(**wrong):
  optimizer = optax.sgd(1.0)
  right = {
    "loss_fn": lambda *_: (0.0, {}),
    "cost_fn": functools.partial(nss.mean_macs, SEARCH_SPACE),
    "sample_fn": nss.arch_sampler(SEARCH_SPACE),
    "optimizer": optimizer,
    "target": TARGET,
    "cost_weight": 1.0,
  }
  logits = nss.init_logits(SEARCH_SPACE)
  state = nss.init_search_state(logits, optimizer)
  rng = jax.random.key(0)
  return nss.search_step(state, None, None, rng, **{**right, **wrong})


def _weigh(**wrong):
  optimizer = optax.sgd(1.0)
  right = {
    "loss_fn": lambda params, *_: (params, {}),
    "sample_fn": lambda *_: nss.Sample(None, None),
    "optimizer": optimizer,
  }
  state = nss.init_weight_state(1.0, optimizer)
  rng = jax.random.key(0)
  return nss.weight_step(state, None, None, rng, **{**right, **wrong})


def _train(**wrong):
  optimizer = optax.sgd(1.0)
  state = nss.init_train_state(1.0, None, optimizer)
  return nss.train_step(state, None, optimizer=optimizer, **wrong)


def test_cost_weight_zero_ignores_the_cost():
  def moved(cost_weight, target):
    state, _ = _search(
      loss_fn=lambda _, choice, batch: (jnp.square(choice.width).sum(), {}),
      sample_fn=lambda rng, x, _: nss.Sample(*[nss.probabilities(x)] * 2),
      cost_weight=cost_weight,
      target=target,
    )
    return state.logits

  chex.assert_trees_all_equal(moved(0.0, 1e3), moved(0.0, 1e9))
  cost = functools.partial(nss.mean_macs, SEARCH_SPACE)
  low, high = (cost(nss.probabilities(moved(10.0, x))) for x in (1.0, 1e9))
  assert low < high


@pytest.mark.parametrize("step", [_search, _weigh, _train])
@pytest.mark.parametrize("case", LOSSES)
def test_steps_name_a_loss_that_breaks_its_contract(step, case):
  loss_fn, got = LOSSES[case]
  with pytest.raises(TypeError, match=rf"^loss_fn must return.*{got}"):
    step(loss_fn=loss_fn)


def test_averages_come_with_metrics():
  with pytest.raises(TypeError, match=r"loss_fn .*\(averages, metrics\).* got"):
    _train(loss_fn=lambda params, *_: (params, {}))
  state, _ = _train(loss_fn=lambda params, *_: (params, (None, {})))
  assert float(state.params) == 0.0


@pytest.mark.parametrize("step", [_search, _weigh])
@pytest.mark.parametrize(
  ("sample", "got"), [((1, 2), r"\(int, int\)"), (jnp.ones(2), r"float32\[2\]")]
)
def test_steps_name_a_sampler_that_returns_no_sample(step, sample, got):
  with pytest.raises(TypeError, match=rf"sample_fn must .*Sample.*got {got}"):
    step(sample_fn=lambda *_: sample)
  step()


@pytest.mark.parametrize("name", ["target", "cost_weight"])
@pytest.mark.parametrize("value", [[1e6, 2.0], "1e6", None, True, (1.0,)])
def test_search_names_what_is_no_number(name, value):
  with pytest.raises(TypeError, match=f"^{name} must be a number, or an array"):
    _search(**{name: value})


@pytest.mark.parametrize(
  "target", [3_200_000_000, np.array(3_200_000_000), np.int64(3_200_000_000)]
)
def test_targets_are_no_int32(target):
  """3.2 GF are more than it holds."""
  _, found = _search(target=target)
  _, want = _search(target=3.2e9)
  chex.assert_trees_all_equal(found, want)
  assert 0 < found["sampled_cost"] < 1
