"""What masked blocks keep for their gradients changes no number."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from networks import arguments

import nss_jax as nss

# The others are run with --slow.
BLOCKS = (
  "basic",
  pytest.param("bottleneck", marks=pytest.mark.slow),
  pytest.param("inverted_residual", marks=pytest.mark.slow),
  pytest.param("mobilenet_v2", marks=pytest.mark.slow),
)


@functools.cache
def _space_and_arguments(block):
  space = nss.SearchSpace.expanded(
    max_depth=3,
    max_width=4,
    num_depth_bins=1,
    num_width_bins=2,
    strides=(2,),
    image_shape=(6, 6, 2),
    num_classes=3,
    block=block,
  )
  weights, images, _ = arguments(space, 4)
  draw = nss.gumbel_sampler(space, lambda step: 5.0)
  masks = draw(jax.random.key(1), nss.init_logits(space), 0).choice
  return space, (weights, masks, images)


def _loss(space, **options):
  def loss(weights, masks, images):
    logits = nss.apply_masked(space, weights, images, masks, **options)
    return jnp.square(logits).sum()

  return loss


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_are_those_of_autodiff(block, monkeypatch):
  """Those of weights, masks and images, in float64.

  Buffers begin with anything, as the compilers for accelerators leave them.
  """
  space, given = _space_and_arguments(block)
  monkeypatch.setattr(
    jax.lax, "empty", lambda shape, dtype: jnp.full(shape, jnp.nan, dtype)
  )
  with jax.enable_x64(True):
    given = jax.tree.map(lambda x: x.astype(jnp.float64), given)
    whole, outputs, ends = (
      jax.jit(jax.grad(_loss(space, **options), argnums=(0, 1, 2)))(*given)
      for options in (
        {"platform": "cpu"},
        {"platform": "tpu"},
        {"platform": "tpu", "remat": True},
      )
    )
  chex.assert_trees_all_close(outputs, whole, rtol=1e-9, atol=1e-11)
  chex.assert_trees_all_close(ends, whole, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("block", BLOCKS)
def test_accelerators_keep_less(block):
  """They keep outputs of convolutions, beside what goes in and out."""
  space, given = _space_and_arguments(block)

  def kept(platform, remat=False):
    loss = _loss(space, platform=platform, remat=remat)
    gradient = jax.eval_shape(lambda *x: jax.vjp(loss, *x)[1], *given)
    leaves = [x for x in jax.tree.leaves(gradient) if x.ndim >= 4]
    return sum(x.size for x in leaves if x.shape[-4] == 4)  # of images

  whole, outputs, ends = kept("cpu"), kept("tpu"), kept("cpu", remat=True)
  assert 0 < outputs - ends < 0.5 * (whole - ends)
