"""What masked blocks keep for their gradients changes no number."""

import chex
import jax
import jax.numpy as jnp
import pytest

import nss_jax as nss

# The others are run with --slow.
BLOCKS = (
  "basic",
  pytest.param("bottleneck", marks=pytest.mark.slow),
  pytest.param("inverted_residual", marks=pytest.mark.slow),
  pytest.param("mobilenet_v2", marks=pytest.mark.slow),
)


def _loss(block, platform, **fields):
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

  def loss(weights, masks, images):
    logits = nss.apply_masked(
      space, weights, images, masks, platform=platform, **fields
    )
    return jnp.square(logits).sum()

  weights = nss.init_weights(jax.random.key(0), space)
  draw = nss.gumbel_sampler(space, lambda step: 5.0)
  masks = draw(jax.random.key(1), nss.init_logits(space), 0).choice
  images = jax.random.normal(jax.random.key(2), (4, *space.image_shape))
  return loss, (weights, masks, images)


@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_are_those_of_autodiff(block, monkeypatch):
  """Of weights, masks and images, in float64, and a second derivative.

  Buffers begin with anything, as the compilers for accelerators leave them.
  """
  found = {}
  monkeypatch.setattr(
    jax.lax, "empty", lambda shape, dtype: jnp.full(shape, jnp.nan, dtype)
  )
  with jax.enable_x64(True):
    for platform in ("cpu", "tpu"):
      loss, arguments = _loss(block, platform)
      arguments = jax.tree.map(lambda x: x.astype(jnp.float64), arguments)

      @jax.jit
      def run(weights, masks, images, loss=loss):
        gradient = jax.grad(loss, argnums=(0, 1, 2))
        along = jax.grad(
          lambda masks: jnp.square(
            jax.grad(loss)(weights, masks, images)["head"]["kernel"]
          ).sum()
        )
        return gradient(weights, masks, images), along(masks)

      found[platform] = run(*arguments)
  chex.assert_trees_all_close(found["tpu"], found["cpu"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("block", BLOCKS)
def test_accelerators_keep_less(block):
  """Outputs of convolutions and statistics, beside what goes in and out."""

  def kept(platform, **fields):
    loss, arguments = _loss(block, platform, **fields)
    gradient = jax.eval_shape(lambda *x: jax.vjp(loss, *x)[1], *arguments)
    leaves = [x for x in jax.tree.leaves(gradient) if x.ndim >= 4]
    return sum(x.size for x in leaves if x.shape[-4] == 4)  # of images

  whole, outputs, ends = kept("cpu"), kept("tpu"), kept("cpu", remat=True)
  assert 0 < outputs - ends < 0.5 * (whole - ends)
