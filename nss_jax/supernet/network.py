"""The weight-sharing supernet with masks: the reference forward pass.

It always computes the largest network and multiplies by masks, whatever was
drawn. It is simple, and differentiable in the masks; its cost does not follow
the arch.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from nss_jax.spaces.blocks import Block, find_block
from nss_jax.spaces.search_space import Arch, SearchSpace, check_archs
from nss_jax.supernet.conv import conv2d, plain_conv2d
from nss_jax.supernet.masks import Masks, all_masks, check_masks
from nss_jax.supernet.norm import (
  KEPT,
  OWN_BATCH,
  NormScope,
  batch_norm,
  plain_batch_norm,
)
from nss_jax.supernet.platforms import Keep, ways
from nss_jax.supernet.precision import multiply, widen
from nss_jax.supernet.residual import (
  AVERAGES,
  ConvNorm,
  ResidualBlock,
  check_images,
)
from nss_jax.supernet.scan import scan_in_place


class Stage(nn.Module):
  """Blocks whose outputs are mixed by depth weights (paper 6.3.1).

  Block 1 owns the stride and the projection; blocks 2..D are identical, so
  their parameters are stacked `[D - 1, ...]` and a `scan` runs them: one
  traced block, whatever the depth.

  Attributes:
    block: the block's description.
    features: W of this stage.
    max_depth: D of this stage.
    stride: stride of the first block.
    project: whether the identity does not fit block 1.
    norm_scope: of the normalisations' statistics.
    keep: what a block keeps for its gradient, see `platforms.Ways`.
    autodiff: see `apply_masked`.
  """

  block: Block
  features: int
  max_depth: int
  stride: int
  project: bool = True
  norm_scope: NormScope = OWN_BATCH
  keep: Keep = "all"
  autodiff: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    depth: jax.Array,
    width: jax.Array,
    before: jax.Array | None = None,
  ) -> jax.Array:
    """Runs `[B, H, W, Cin]` with `[D]` weights of depth and a `[W]` mask.

    What comes in has the mask `before`, `[Cin]`; all of it is on by default.
    """

    def make(name, stride=1, project=False, *, looped):
      block = _keeping(self.keep, looped)
      fixed = self.block, self.features, stride, project, self.norm_scope
      return block(*fixed, *_parts(self.autodiff), name=name)

    first = make("block_1", self.stride, self.project, looped=False)
    rest = make("blocks_rest", looped=True)
    x = first(x, width, before)
    if self.max_depth == 1:
      return multiply(x, depth[0])
    start = x, jnp.zeros_like(x)
    if self.keep == "all" or self.autodiff:  # which has forward mode too

      def body(module, carry, weight):
        return _mix_and_run(module, carry, weight, width), None

      scan = nn.scan(
        body,
        variable_axes={"params": 0, AVERAGES: 0},
        split_rngs={"params": True},
        length=self.max_depth - 1,
      )
      (x, mixed), _ = scan(rest, start, depth[:-1])
    else:
      alone = rest.clone(parent=None, name=None)

      def run(width, carry, row):
        params, weight = row
        apply = functools.partial(alone.apply, {"params": params})
        return _mix_and_run(apply, carry, weight, width)

      rows = self.variables["params"]["blocks_rest"], depth[:-1]
      x, mixed = scan_in_place(run, width, start, rows)
    return mixed + multiply(x, depth[-1])


def _keeping(keep: Keep, looped: bool) -> type[ResidualBlock]:
  if keep == "all":
    return ResidualBlock
  policy = None
  if keep == "outputs":
    policy = jax.checkpoint_policies.save_only_these_names(KEPT)
  # A loop keeps XLA from merging the two computations of a block.
  return nn.remat(ResidualBlock, policy=policy, prevent_cse=not looped)


def _parts(autodiff: bool) -> tuple[Callable, Callable]:
  """Returns the convolution and the normalisation of all layers."""
  if autodiff:
    return plain_conv2d, plain_batch_norm
  return conv2d, batch_norm


def _mix_and_run(
  block: Callable[..., Any],
  carry: tuple[jax.Array, jax.Array],
  weight: jax.Array,
  width: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  # A block's input is mixed in, not its output: one is kept for the gradient.
  x, mixed = carry
  mixed = mixed + multiply(x, weight)
  return block(x, width, width), mixed


class Supernet(nn.Module):
  """Stem, stages, global average pooling and a linear head (paper Fig. 7).

  Attributes:
    search_space: depths, widths, strides, classes.
    norm_scope: of the normalisations' statistics.
    keep: what blocks keep for their gradients, see `platforms.Ways`.
    autodiff: see `apply_masked`.
  """

  search_space: SearchSpace
  norm_scope: NormScope = OWN_BATCH
  keep: Keep = "all"
  autodiff: bool = False

  @nn.compact
  def __call__(self, images: jax.Array, masks: Masks) -> jax.Array:
    """Returns logits `[B, C]` of normalised images `[B, H, W, channels]`."""
    space = self.search_space
    stem = ConvNorm(
      *(space.stem_width, 3, space.stem_stride, self.norm_scope),
      *_parts(self.autodiff),
      name="stem",
    )
    x, before = nn.relu(stem(images)), None
    for stage, stride in enumerate(space.strides):
      features = space.max_widths[stage]
      depth = space.max_depths[stage]
      blocks = masks.depth[stage, :depth]
      width = masks.width[stage, :features]
      x = Stage(
        find_block(space.block),
        features,
        depth,
        stride,
        space.projects(stage),
        self.norm_scope,
        self.keep,
        self.autodiff,
        name=f"stage_{stage + 1}",
      )(x, blocks, width, before)
      before = width
    # At least float32 from here on, whatever the activations are.
    x = widen(x).mean((1, 2))
    return nn.Dense(space.num_classes, name="head")(x)


def init_weights(rng: jax.Array, search_space: SearchSpace) -> Any:
  """Makes fresh float32 parameters of the supernet, a pytree."""
  return _init(rng, search_space, OWN_BATCH)["params"]


def _init(rng: jax.Array, search_space: SearchSpace, scope: NormScope) -> Any:
  images = jnp.zeros((1, *search_space.image_shape))
  masks = all_masks(search_space)
  return Supernet(search_space, scope).init(rng, images, masks)


def apply_masked(
  search_space: SearchSpace,
  weights: Any,
  images: jax.Array,
  masks: Masks,
  *,
  axis_name: str | None = None,
  num_calibration: int | None = None,
  remat: bool = False,
  autodiff: bool = False,
  platform: str | None = None,
) -> jax.Array:
  """Returns logits `[B, C]` of the supernet under masks.

  Differentiable in weights, images and masks, as often as you like: unrolled
  steps, Hessian-vector products, forward over reverse. Forward mode of the
  function itself (`jax.jvp`, `jax.jacfwd`) needs `autodiff`, without which jax
  raises an error.

  Args:
    search_space: the static description.
    weights: parameters from `init_weights`.
    images: `[B, H, W, channels]`, normalised; their type is that of the
      activations.
    masks: hard or mixed masks.
    axis_name: device axis over which batch statistics are shared.
    num_calibration: how many images, the first ones, batch statistics are of;
      all by default.
    remat: keep only what goes in and out of each block, and compute the rest
      again for the gradient: less memory for one more forward pass, and the
      same numbers.
    autodiff: leave all gradients to jax, instead of those written by hand:
      the same numbers, in forward mode too, slower on CPU.
    platform: see `make_apply`; it decides what blocks keep, without `remat`.

  Raises:
    TypeError: if the images are not of a floating type.
    ValueError: if the masks do not have the shapes of the search space.
  """
  check_images(images)
  check_masks(search_space, masks)
  chosen = ways(platform)
  scope = NormScope(axis_name, num_calibration, one_pass=chosen.one_pass)
  keep: Keep = "ends" if remat else chosen.keep
  network = Supernet(search_space, scope, keep, autodiff)
  return cast(jax.Array, network.apply({"params": weights}, images, masks))


def init_averages(search_space: SearchSpace) -> Any:
  """Makes running means of zero and variances of one, for `apply_alone`."""
  scope = NormScope(averages="update")
  make = functools.partial(_init, search_space=search_space, scope=scope)
  shapes = jax.eval_shape(make, jax.random.key(0))[AVERAGES]
  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype).at[..., 1, :].set(1), shapes
  )


def apply_alone(
  search_space: SearchSpace,
  weights: Any,
  averages: Any,
  images: jax.Array,
  *,
  train: bool,
  axis_name: str | None = None,
) -> tuple[jax.Array, Any]:
  """Returns logits `[B, C]` and next running averages of a network alone.

  It is the largest one of the search space, usually `SearchSpace.only(arch)`.
  Trained by itself it can have running averages, which a supernet cannot have.

  Args:
    search_space: the static description.
    weights: parameters from `init_weights` or `extract_subnet`.
    averages: from `init_averages`.
    images: `[B, H, W, channels]`, normalised.
    train: whether to normalise by the batch and move the averages, which no
      gradient goes through; else it normalises by the averages, which stay.
    axis_name: device axis over which batch statistics are shared.

  Raises:
    TypeError: if the images are not of a floating type.
  """
  check_images(images)
  mode = "update" if train else "use"
  network = Supernet(search_space, NormScope(axis_name, averages=mode))
  logits, moved = network.apply(
    {"params": weights, AVERAGES: averages},
    images,
    all_masks(search_space),
    mutable=[AVERAGES],
  )
  return logits, moved[AVERAGES]


def extract_subnet(search_space: SearchSpace, weights: Any, arch: Arch) -> Any:
  """Cuts out the weights of one arch: those of `search_space.only(arch)`.

  Args:
    search_space: that of the weights.
    weights: of the supernet.
    arch: depths and widths `[S]`, of the search space.

  Returns:
    A smaller pytree: the front corner of every parameter that the arch has, so
    that the small network computes what the supernet computes under its masks.
    A stage that needs no projection drops it, and computes something else.

  Raises:
    ValueError: if the arch is not of the search space.
  """
  check_archs(search_space, arch, one=True)
  make = functools.partial(init_weights, search_space=search_space.only(arch))

  def cut(path, small):
    leaf = weights
    for entry in path:
      leaf = leaf[entry.key]
    return leaf[tuple(map(slice, small.shape))]

  shapes = jax.eval_shape(make, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(cut, shapes)
