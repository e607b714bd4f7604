"""The residual block and its parts."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nss_jax.supernet.conv import conv2d


class Statistics(NamedTuple):
  """Over which images batch normalisation takes its statistics.

  Attributes:
    axis_name: device axis over which they are shared; None keeps them per
      device.
    num_calibration: only the first so many images of the batch count; None for
      all. Statistics that are estimated anew, without running averages.
  """

  axis_name: str | None = None
  num_calibration: int | None = None


class ConvNorm(nn.Module):
  """Convolution and batch normalisation, without activation.

  Attributes:
    features: output channels.
    size: side of the kernel, odd.
    stride: step of the convolution.
    statistics: of the normalisation.
    conv: the convolution, `(images, kernel, stride) -> images`.
  """

  features: int
  size: int = 3
  stride: int = 1
  statistics: Statistics = Statistics()
  conv: Callable = conv2d

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
      (self.size, self.size, x.shape[-1], self.features),
    )
    scale = self.param("scale", nn.initializers.ones, (self.features,))
    offset = self.param("offset", nn.initializers.zeros, (self.features,))
    x = self.conv(x, kernel.astype(x.dtype), self.stride)
    return batch_norm(x, scale, offset, self.statistics)


class BasicBlock(nn.Module):
  """Two 3x3 convolutions and the residual (He et al.; paper Fig. 8).

  The mask multiplies each branch that enters the residual stream, after its
  normalisation (which would give masked channels an offset), never the stream
  itself (soft masks would decay with depth). With 0/1 masks the live channels
  are exactly those of the network that owns no others.

  Attributes:
    features: output channels, W of the stage.
    stride: step of the first convolution.
    project: whether a 1x1 convolution replaces the identity.
    statistics: of the normalisations.
    conv: the convolution of all branches.
  """

  features: int
  stride: int = 1
  project: bool = False
  statistics: Statistics = Statistics()
  conv: Callable = conv2d

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps `[B, H, W, Cin]` with a width mask `[features]`."""
    mask = mask.astype(x.dtype)[None, None, None, :]

    def branch(name, size, stride):
      return ConvNorm(
        self.features, size, stride, self.statistics, self.conv, name=name
      )

    y = nn.relu(branch("first", 3, self.stride)(x) * mask)
    y = branch("second", 3, 1)(y) * mask
    if self.project:
      x = branch("project", 1, self.stride)(x) * mask
    return nn.relu(x + y)


BLOCKS = {"basic": BasicBlock}


def batch_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  statistics: Statistics = Statistics(),  # noqa: B008
) -> jax.Array:
  """Normalises `[B, H, W, C]` by the statistics of the batch (Ioffe, Szegedy).

  No running averages: in a supernet every arch has statistics of its own.
  They are in the precision of `scale`, the result in that of `x`.
  """
  if statistics.num_calibration is None:
    return _batch_norm(x, scale, offset, statistics)
  return _normalise(x, scale, offset, statistics)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x, scale, offset, statistics):
  """With the closed form of the source's section 3 for the gradient.

  Two sums and one elementwise pass; autodiff writes four passes over the
  activations.
  """
  return _normalise(x, scale, offset, statistics)[0]


def _normalise(x, scale, offset, statistics):
  wide = x.astype(scale.dtype)
  seen = wide[: statistics.num_calibration]
  mean = _mean(seen, statistics.axis_name)
  variance = _mean(jnp.square(seen - mean), statistics.axis_name)
  inverse = jax.lax.rsqrt(variance + 1e-5)
  y = (wide - mean) * (inverse * _spread(scale)) + _spread(offset)
  return y.astype(x.dtype), (x, mean, inverse, scale)


def _batch_norm_gradient(statistics, saved, upstream):
  x, mean, inverse, scale = saved
  unit = (x.astype(scale.dtype) - mean) * inverse
  upstream = upstream.astype(scale.dtype)
  count = x.size // x.shape[-1]
  offset_gradient = upstream.sum((0, 1, 2))
  scale_gradient = (upstream * unit).sum((0, 1, 2))
  mean_gradient, mean_product = _share(
    (_spread(offset_gradient) / count, _spread(scale_gradient) / count),
    statistics.axis_name,
  )
  gradient = (upstream - mean_gradient - unit * mean_product) * (
    inverse * _spread(scale)
  )
  return gradient.astype(x.dtype), scale_gradient, offset_gradient


def _mean(x, axis_name):
  return _share(x.mean((0, 1, 2), keepdims=True), axis_name)


def _share(tree, axis_name):
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _spread(channels):
  return channels[None, None, None, :]


_batch_norm.defvjp(_normalise, _batch_norm_gradient)
