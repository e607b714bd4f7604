"""The weight-sharing supernet with masks: the reference forward pass.

It always computes the largest network and multiplies by masks, whatever was
drawn. Simple and differentiable in the masks; the cost does not follow the
arch.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nss_jax.spaces.search_space import SearchSpace
from nss_jax.supernet.blocks import BLOCKS, OWN_BATCH, ConvNorm, NormScope
from nss_jax.supernet.masks import Masks


class Stage(nn.Module):
  """Blocks whose outputs are mixed by depth weights (paper 6.3.1).

  Block 1 owns the stride and a projection; blocks 2..D are identical, so
  their parameters are stacked `[D - 1, ...]` and a `scan` runs them: one
  traced block, whatever the depth.

  Attributes:
    block: the block's class.
    features: W of this stage.
    max_depth: D of this stage.
    stride: stride of the first block.
    norm_scope: of the normalisations' statistics.
  """

  block: type[nn.Module]
  features: int
  max_depth: int
  stride: int
  norm_scope: NormScope = OWN_BATCH

  @nn.compact
  def __call__(self, x, depth, width):
    """`x` `[B, H, W, Cin]`, `depth` `[D]` weights, `width` `[W]` mask."""
    first = self.block(
      self.features, self.stride, True, self.norm_scope, name="block_1"
    )
    x = first(x, width)
    mixed = depth[0].astype(x.dtype) * x
    if self.max_depth == 1:
      return mixed

    def body(block, carry, weight):
      x, mixed = carry
      x = block(x, width)
      return (x, mixed + weight.astype(x.dtype) * x), None

    scan = nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.max_depth - 1,
    )
    rest = self.block(
      self.features, 1, False, self.norm_scope, name="blocks_rest"
    )
    (_, mixed), _ = scan(rest, (x, mixed), depth[1:])
    return mixed


class Supernet(nn.Module):
  """Stem, stages, global average pooling and a linear head (paper Fig. 7).

  Attributes:
    search_space: depths, widths, strides, classes.
    norm_scope: of the normalisations' statistics.
  """

  search_space: SearchSpace
  norm_scope: NormScope = OWN_BATCH

  @nn.compact
  def __call__(self, images: jax.Array, masks: Masks) -> jax.Array:
    """Logits `[B, C]` of normalised images `[B, H, W, channels]`."""
    space = self.search_space
    x = ConvNorm(space.stem_width, norm_scope=self.norm_scope, name="stem")(
      images
    )
    x = nn.relu(x)
    for stage, stride in enumerate(space.strides):
      features = space.max_widths[stage]
      depth = space.max_depths[stage]
      x = Stage(
        BLOCKS[space.block],
        features,
        depth,
        stride,
        self.norm_scope,
        name=f"stage_{stage + 1}",
      )(x, masks.depth[stage, :depth], masks.width[stage, :features])
    # At least float32 from here on, whatever the activations are.
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
    return nn.Dense(space.num_classes, name="head")(x)


def init_weights(rng: jax.Array, search_space: SearchSpace):
  """Fresh float32 parameters of the supernet, a pytree."""
  images = jnp.zeros((1, *search_space.image_shape))
  masks = Masks(
    depth=jnp.ones((search_space.num_stages, search_space.max_depth)),
    width=jnp.ones((search_space.num_stages, search_space.max_width)),
  )
  return Supernet(search_space).init(rng, images, masks)["params"]


def apply_masked(
  search_space: SearchSpace,
  weights,
  images: jax.Array,
  masks: Masks,
  *,
  axis_name: str | None = None,
  num_calibration: int | None = None,
) -> jax.Array:
  """Logits `[B, C]` of the supernet under masks.

  Args:
    search_space: the static description.
    weights: parameters from `init_weights`.
    images: `[B, H, W, channels]`, normalised; their type is that of the
      activations.
    masks: hard or mixed masks.
    axis_name: device axis over which batch statistics are shared.
    num_calibration: batch statistics of the first so many images only.
  """
  network = Supernet(search_space, NormScope(axis_name, num_calibration))
  return network.apply({"params": weights}, images, masks)
