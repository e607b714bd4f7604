"""The masked supernet is what it says it is."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import written_out
from networks import arguments

import nss_jax as nss
from nss_jax.supernet.residual import he_normal

SPACE = nss.SearchSpace(
  depth_bins=(((1, 2),), ((1, 1), (2, 4))),
  width_bins=(((1, 3), (4, 5)), ((2, 7),)),
  strides=(2, 1),
  stem_width=3,
  image_shape=(9, 9, 1),
  num_classes=4,
)


@pytest.mark.parametrize("block", ["basic", "inverted_residual"])
def test_masked_is_the_network_written_out(block):
  """Logits and gradients agree, for hard and mixed masks, in float64."""
  space = dataclasses.replace(SPACE, block=block)
  with jax.enable_x64(True):
    weights, images, upstream = arguments(space, 5, jnp.float64)

    def gradient(apply):
      def loss(weights, masks):
        logits = apply(space, weights, images, masks)
        return (logits * upstream).sum(), logits

      return jax.jit(jax.grad(loss, (0, 1), has_aux=True))

    ours, theirs = map(gradient, (nss.apply_masked, written_out.apply))
    hard = nss.arch_masks(space, nss.parse_arch("d1-3_w5-4"))
    draw = nss.gumbel_sampler(space, lambda step: 2.0)
    mixed = draw(jax.random.key(0), nss.init_logits(space), 0).choice
    for masks in (hard, mixed):
      masks = jax.tree.map(lambda x: x.astype(jnp.float64), masks)
      found, wanted = ours(weights, masks), theirs(weights, masks)
      chex.assert_trees_all_close(found, wanted, rtol=1e-8, atol=1e-9)
      assert all(map(np.any, jax.tree.leaves(found[0][1])))


def test_kernels_are_those_of_flax():
  """They are, to the last bit, with a key per block: only XLA is faster."""
  keys = jax.random.split(jax.random.key(0), 2)
  flax = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
  for shape in ((3, 3, 5, 16), (1, 1, 4, 7)):
    ours, theirs = (
      jax.vmap(functools.partial(make, shape=shape, dtype=jnp.float32))(keys)
      for make in (he_normal, flax)
    )
    np.testing.assert_array_equal(ours, theirs)
