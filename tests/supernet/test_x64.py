"""Where jax's default is float64: the same numbers, in the same types."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from strategies import RAGGED

import nss_jax as nss
from nss_jax.data import batches
from nss_jax.steps import losses

SPACE = nss.SearchSpace(
  depth_bins=(((1, 1), (2, 2)),),
  width_bins=(((1, 3), (4, 5)),),
  strides=(2,),
  stem_width=3,
  image_shape=(4, 3, 2),
  num_classes=3,
)


def _assert_same(run):
  """Runs without and with float64, and compares all bits and types."""
  want = run()
  with jax.enable_x64(True):
    got = run()
  chex.assert_trees_all_equal_dtypes(got, want)
  chex.assert_trees_all_equal(got, want)


def _batch():
  images = jax.random.normal(jax.random.key(2), (4, 4, 3, 2), jnp.float32)
  return images, jnp.array([0, 1, 2, 1], jnp.int32)


def test_the_sliced_engine():
  """It takes float32 images, and an arch of numpy's own integers."""
  apply = nss.make_apply(SPACE, buckets=((5,),))
  loss_fn = losses.single_loss(apply)

  def run():
    weights = nss.init_weights(jax.random.key(0), SPACE)
    arch = nss.Arch(depth=np.array([2]), width=np.array([4]))
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    return jax.jit(lambda w: gradient(w, arch, _batch()))(weights)

  _assert_same(run)


def test_float64_weights_of_the_sliced_engine():
  """Activations are of the type of the images, float32."""
  with jax.enable_x64(True):
    weights = nss.init_weights(jax.random.key(0), SPACE)
    weights = jax.tree.map(lambda x: x.astype(jnp.float64), weights)
    arch = nss.parse_arch("d2_w4")

    def gradient(engine):
      apply = nss.make_apply(SPACE, engine, buckets=((5,),))
      loss = losses.single_loss(apply)
      return jax.jit(jax.grad(lambda w: loss(w, arch, _batch())[0]))(weights)

    chex.assert_trees_all_close(
      gradient("sliced"), gradient("masked"), rtol=1e-4, atol=1e-5
    )


def test_steps():
  """Takes two steps of each kind; optax has Adam's rates in float64."""
  optimizer = optax.sgd(0.1, momentum=0.9)
  loss_fn = losses.single_loss(nss.make_apply(SPACE, "masked"))

  def run():
    state = nss.init_weight_state(
      nss.init_weights(jax.random.key(0), SPACE), optimizer
    )
    found = nss.init_search_state(nss.init_logits(SPACE), optimizer)

    @jax.jit
    def both(state, found):
      found, searched = nss.search_step(
        found,
        state.params,
        _batch(),
        jax.random.key(1),
        loss_fn=loss_fn,
        cost_fn=functools.partial(nss.mean_macs, SPACE),
        sample_fn=nss.gumbel_sampler(SPACE, lambda step: 2.0),
        optimizer=optimizer,
        target=2000,
        cost_weight=1,
      )
      state, weighed = nss.weight_step(
        state,
        found.logits,
        _batch(),
        jax.random.key(2),
        loss_fn=loss_fn,
        sample_fn=nss.warmup_sampler(SPACE, lambda step: 0.5),
        optimizer=optimizer,
      )
      return state, found, (searched, weighed)

    for _ in range(2):
      state, found, metrics = both(state, found)
    return state, found, metrics

  _assert_same(run)


def test_draws():
  """Draws archs, coins, spaces, crops and holes."""

  def run():
    rng, logits = jax.random.key(3), nss.init_logits(RAGGED)
    warm = nss.warmup_sampler(RAGGED, lambda step: 0.5)
    cost_fn = functools.partial(nss.mean_macs, RAGGED)

    @jax.jit
    def draw(rng, logits):
      index = jnp.arange(4, dtype=jnp.int32)
      images, _ = _batch()
      return (
        jax.vmap(lambda key: warm(key, None, 0))(jax.random.split(rng, 20)),
        nss.elite_space(rng, logits, cost_fn=cost_fn, target=1e5),
        nss.sample_archs(rng, RAGGED, nss.sample_space(rng, logits), 5),
        batches.cut_out(rng, index, images, 2),
        batches.augment(rng, index, images, crop_padding=1, flip=True),
      )

    return draw(rng, logits)

  _assert_same(run)
