"""The residual block and its parts."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nss_jax.supernet.conv import conv2d


class NormScope(NamedTuple):
  """Over which images batch normalisation takes its statistics.

  Attributes:
    axis_name: device axis over which they are shared; None keeps them per
      device.
    num_calibration: only the first so many images of the batch count; None for
      all. Statistics that are estimated anew, without running averages.
    averages: of a network trained alone: "update" running averages with those
      of the batch, or "use" them instead. A supernet has none: every arch has
      statistics of its own.
  """

  axis_name: str | None = None
  num_calibration: int | None = None
  averages: str | None = None


# Of this device's whole batch.
OWN_BATCH = NormScope()


class ConvNorm(nn.Module):
  """Convolution and batch normalisation, without activation.

  Attributes:
    features: output channels.
    size: side of the kernel, odd.
    stride: step of the convolution.
    norm_scope: of the normalisation's statistics.
    conv: the convolution, `(images, kernel, stride) -> images`.
    norm: the normalisation, `(images, scale, offset, scope) -> images`;
      `batch_norm` if None.
  """

  features: int
  size: int = 3
  stride: int = 1
  norm_scope: NormScope = OWN_BATCH
  conv: Callable = conv2d
  norm: Callable | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      he_normal,
      (self.size, self.size, x.shape[-1], self.features),
    )
    scale = self.param("scale", nn.initializers.ones, (self.features,))
    offset = self.param("offset", nn.initializers.zeros, (self.features,))
    x = self.conv(x, kernel.astype(x.dtype), self.stride)
    if self.norm_scope.averages:
      return self._averaged_norm(x, scale, offset)
    norm = batch_norm if self.norm is None else self.norm
    return norm(x, scale, offset, self.norm_scope)

  def _averaged_norm(self, x, scale, offset):
    """Normalises, with running means and variances `[2, C]`."""
    running = self.variable(
      AVERAGES,
      "moments",
      lambda: jnp.stack([jnp.zeros_like(offset), jnp.ones_like(offset)]),
    )
    if self.norm_scope.averages == "use":
      mean, variance = running.value
      statistics = jnp.stack([mean, jax.lax.rsqrt(variance + EPSILON)])
    else:
      statistics = batch_statistics(x, scale.dtype, self.norm_scope)
      statistics = jax.lax.stop_gradient(statistics)
      mean, inverse = statistics
      moments = jnp.stack([mean, inverse**-2 - EPSILON])
      running.value += AVERAGE_RATE * (moments - running.value)
    return normalise(x, scale, offset, statistics, self.norm_scope)


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
    norm_scope: of the normalisations' statistics.
    conv: the convolution of all branches.
    norm: the normalisation of all branches.
  """

  features: int
  stride: int = 1
  project: bool = False
  norm_scope: NormScope = OWN_BATCH
  conv: Callable = conv2d
  norm: Callable | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps `[B, H, W, Cin]` with a width mask `[features]`."""
    mask = mask.astype(x.dtype)[None, None, None, :]

    def branch(name, size, stride):
      return ConvNorm(
        self.features,
        size,
        stride,
        self.norm_scope,
        self.conv,
        self.norm,
        name=name,
      )

    y = nn.relu(branch("first", 3, self.stride)(x) * mask)
    y = branch("second", 3, 1)(y) * mask
    if self.project:
      x = branch("project", 1, self.stride)(x) * mask
    return nn.relu(x + y)


BLOCKS = {"basic": BasicBlock}
EPSILON = 1e-5
AVERAGES = "averages"  # flax's collection of running averages
AVERAGE_RATE = 0.1  # the share of a new batch


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32):
  """Kernels `[.., Cin, Cout]` of variance 2 / fan-out (He et al. 2015).

  As flax's `variance_scaling(2.0, "fan_out", "normal")`, of which XLA on CPU
  compiles the random bits of every dimension by themselves: flat, these numbers
  take a fifth of the time.
  """
  size = math.prod(shape)
  normal = nn.initializers.normal(math.sqrt(2 * shape[-2] / size))
  return normal(key, (size,), dtype).reshape(shape)


def batch_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  scope: NormScope = OWN_BATCH,
) -> jax.Array:
  """Normalises `[B, H, W, C]` by the statistics of the batch (Ioffe, Szegedy).

  No running averages: in a supernet every arch has statistics of its own.
  They are in the precision of `scale`, the result in that of `x`. No gradient
  is offered for the statistics of calibration images.
  """
  statistics = batch_statistics(x, scale.dtype, scope)
  # `normalise` has all of the gradient, that through the statistics too.
  statistics = jax.lax.stop_gradient(statistics)
  return normalise(x, scale, offset, statistics, scope)


def batch_statistics(
  x: jax.Array,
  dtype,
  scope: NormScope = OWN_BATCH,
) -> jax.Array:
  """Mean and inverse deviation of each channel, `[2, C]`."""
  seen = x[: scope.num_calibration].astype(dtype)
  mean = _mean(seen, scope.axis_name)
  variance = _mean(jnp.square(seen - _spread(mean)), scope.axis_name)
  return jnp.stack([mean, jax.lax.rsqrt(variance + EPSILON)])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def normalise(x, scale, offset, statistics, scope):
  """`batch_norm` whose statistics `[2, C]` of the same `x` are known.

  The gradient is the closed form of the source's section 3, two sums and one
  elementwise pass: autodiff writes four passes over the activations.
  """
  return _normalise(x, scale, offset, statistics, scope)[0]


def _normalise(x, scale, offset, statistics, scope):
  del scope
  mean, inverse = statistics
  factor = _spread(inverse * scale)
  y = (x.astype(scale.dtype) - _spread(mean)) * factor + _spread(offset)
  return y.astype(x.dtype), (x, scale, statistics)


def _normalise_gradient(scope, saved, upstream):
  x, scale, statistics = saved
  mean, inverse = statistics
  unit = (x.astype(scale.dtype) - _spread(mean)) * _spread(inverse)
  upstream = upstream.astype(scale.dtype)
  count = x.size // x.shape[-1]
  offset_gradient = upstream.sum((0, 1, 2))
  scale_gradient = (upstream * unit).sum((0, 1, 2))
  mean_gradient, mean_product = _share(
    (offset_gradient / count, scale_gradient / count), scope.axis_name
  )
  gradient = upstream - _spread(mean_gradient) - unit * _spread(mean_product)
  gradient = (gradient * _spread(inverse * scale)).astype(x.dtype)
  # What depends on x through the statistics is in the gradient of x.
  nothing = jnp.zeros_like(statistics)
  return gradient, scale_gradient, offset_gradient, nothing


normalise.defvjp(_normalise, _normalise_gradient)


def _mean(x, axis_name):
  return _share(x.mean((0, 1, 2)), axis_name)


def _share(tree, axis_name):
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _spread(channels):
  return channels[None, None, None, :]
