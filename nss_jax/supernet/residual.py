"""The residual block, built from its description, and its parts."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from nss_jax.spaces.blocks import Block, Channels, Depthwise, SqueezeExcite
from nss_jax.supernet.conv import conv2d
from nss_jax.supernet.norm import (
  EPSILON,
  KEPT,
  OWN_BATCH,
  NormScope,
  batch_norm,
  batch_statistics,
  normalise,
  spread,
)
from nss_jax.supernet.precision import multiply, widen


def check_images(images: Any) -> None:
  """Refuses integers, as files have them: weights would be rounded to such."""
  dtype = jnp.result_type(images)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      "images must be normalised and of a floating type, such as float32; got "
      f"{dtype}"
    )


class ConvNorm(nn.Module):
  """Convolution and batch normalisation, without activation.

  Attributes:
    features: output channels.
    size: side of the kernel, odd.
    stride: step of the convolution.
    norm_scope: of the normalisation's statistics.
    conv: the convolution, `(images, kernel, stride) -> images`.
    norm: the normalisation, `(images, scale, offset, scope) -> images`.
    depthwise: one kernel for each channel; as many go in as come out.
  """

  features: int
  size: int = 3
  stride: int = 1
  norm_scope: NormScope = OWN_BATCH
  conv: Callable = conv2d
  norm: Callable = batch_norm
  depthwise: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inputs = 1 if self.depthwise else x.shape[-1]
    shape = (self.size, self.size, inputs, self.features)
    kernel = self.param(
      "kernel",
      functools.partial(he_normal, groups=x.shape[-1] // inputs),
      shape,
    )
    # float32, also where jax's default is float64.
    one = (self.features,), jnp.float32
    scale = self.param("scale", nn.initializers.ones, *one)
    offset = self.param("offset", nn.initializers.zeros, *one)
    x = self.conv(x, kernel.astype(x.dtype), self.stride)
    x = checkpoint_name(x, KEPT)
    if self.norm_scope.averages:
      return self._averaged_norm(x, scale, offset)
    return self.norm(x, scale, offset, self.norm_scope)

  def _averaged_norm(
    self, x: jax.Array, scale: jax.Array, offset: jax.Array
  ) -> jax.Array:
    """Normalises, with running means and variances `[2, C]`."""
    running = self.variable(
      AVERAGES,
      "moments",
      lambda: jnp.stack([jnp.zeros_like(offset), jnp.ones_like(offset)]),
    )
    if self.norm_scope.averages == "use":
      mean, variance = running.value
      statistics = jnp.stack([mean, jax.lax.rsqrt(variance + EPSILON)])
      return normalise(x, scale, offset, statistics)
    # XLA computes the statistics once.
    mean, inverse = jax.lax.stop_gradient(
      batch_statistics(x, scale.dtype, self.norm_scope)
    )
    moments = jnp.stack([mean, inverse**-2 - EPSILON])
    running.value += AVERAGE_RATE * (moments - running.value)
    return self.norm(x, scale, offset, self.norm_scope)


class Excitation(nn.Module):
  """Squeeze-excite (Hu et al. 2018): factors of channels, `[B, 1, 1, C]`.

  Attributes:
    hidden: channels between its two layers.
  """

  hidden: int

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns factors of `[B, H, W, C]`; the mask is of the hidden channels."""
    # The means of many pixels, and all that follows, are in the weights' type.
    y = widen(x).mean((1, 2))
    # Its bias would switch a hidden channel on that no one owns.
    dense = functools.partial(nn.Dense, kernel_init=he_normal)
    y = nn.relu(dense(self.hidden, name="squeeze")(y)) * mask[None]
    y = nn.sigmoid(dense(x.shape[-1], name="excite")(y))
    return y[:, None, None, :]


class ResidualBlock(nn.Module):
  """A residual block (He et al.; paper Fig. 8) as its description says.

  Each layer is followed by its mask, after the normalisation (which would give
  masked channels an offset) and before the activation: so each branch that
  enters the residual stream is masked, and never the stream itself (soft masks
  would decay with depth). With 0/1 masks the live channels are exactly those of
  the network that owns no others.

  Attributes:
    block: the description.
    features: output channels, W of the stage.
    stride: step of the strided layer.
    project: whether the identity does not fit: a 1x1 convolution replaces it,
      or nothing does, as the description says.
    norm_scope: of the normalisations' statistics.
    conv: the convolution of all branches.
    norm: the normalisation of all branches.
  """

  block: Block
  features: int
  stride: int = 1
  project: bool = False
  norm_scope: NormScope = OWN_BATCH
  conv: Callable = conv2d
  norm: Callable = batch_norm

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array, before: jax.Array | None = None
  ) -> jax.Array:
    """Maps `[B, H, W, Cin]`.

    Args:
      x: images.
      mask: width mask of the stage, `[features]`.
      before: width mask of what comes in, `[Cin]`; all of it by default.
    """

    def mask_of(channels: Channels):
      source = mask
      if channels.of == "before":
        source = jnp.ones(x.shape[-1]) if before is None else before
      if channels.times == channels.over:
        return source
      count = channels.number(x.shape[-1], self.features)
      return source[channels.sources(count)]

    conv_norm = functools.partial(
      ConvNorm, norm_scope=self.norm_scope, conv=self.conv, norm=self.norm
    )
    width = Channels("width")
    width_mask = spread(mask_of(width))
    y = x
    for layer, channels in zip(
      self.block.layers, self.block.channels()[1:], strict=True
    ):
      if isinstance(layer, SqueezeExcite):
        hidden = layer.hidden.number(x.shape[-1], self.features)
        excite = Excitation(hidden, name=layer.name)
        y = multiply(y, excite(y, mask_of(layer.hidden)))
        continue
      count = channels.number(x.shape[-1], self.features)
      stride = self.stride if layer.strided else 1
      depthwise = isinstance(layer, Depthwise)
      y = conv_norm(
        count, layer.size, stride, depthwise=depthwise, name=layer.name
      )(y)
      y = multiply(
        y, width_mask if channels == width else spread(mask_of(channels))
      )
      y = _ACTIVATIONS[layer.activation](y)
    if self.project and self.block.projects:
      x = conv_norm(self.features, 1, self.stride, name="project")(x)
      x = multiply(x, width_mask)
    if not self.project or self.block.projects:
      y = x + y
    return _ACTIVATIONS[self.block.activation](y)


_ACTIVATIONS = {
  "none": lambda x: x,
  "relu": nn.relu,
  "relu6": nn.relu6,
  "silu": nn.silu,
}
AVERAGES = "averages"  # flax's collection of running averages
AVERAGE_RATE = 0.1  # the share of a new batch


def he_normal(
  key: jax.Array,
  shape: tuple[int, ...],
  dtype: DTypeLike = jnp.float32,
  groups: int = 1,
) -> jax.Array:
  """Draws kernels `[.., Cin, Cout]` of variance 2 / fan-out (He et al. 2015).

  Each of the groups of channels has a fan-out of its own.

  The numbers are those of flax's `variance_scaling(2.0, "fan_out", "normal")`,
  of which XLA on CPU compiles the random bits of every dimension by themselves.
  Drawn flat, they take a fifth of the time.
  """
  size = math.prod(shape)
  normal = nn.initializers.normal(math.sqrt(2 * shape[-2] * groups / size))
  return normal(key, (size,), dtype).reshape(shape)
