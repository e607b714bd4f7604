"""The residual block and its parts."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from nss_jax.supernet.conv import conv2d


class ConvNorm(nn.Module):
  """Convolution and batch normalisation, without activation.

  Attributes:
    features: output channels.
    size: side of the kernel, odd.
    stride: step of the convolution.
    axis_name: device axis over which statistics are shared; None keeps them
      per device.
  """

  features: int
  size: int = 3
  stride: int = 1
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param(
      "kernel",
      nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
      (self.size, self.size, x.shape[-1], self.features),
    )
    scale = self.param("scale", nn.initializers.ones, (self.features,))
    offset = self.param("offset", nn.initializers.zeros, (self.features,))
    return batch_norm(
      conv2d(x, kernel, self.stride), scale, offset, self.axis_name
    )


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
    axis_name: device axis of synchronised statistics, or None.
  """

  features: int
  stride: int = 1
  project: bool = False
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """Maps `[B, H, W, Cin]` with a width mask `[features]`."""
    mask = mask.astype(x.dtype)[None, None, None, :]

    def branch(name, size, stride):
      return ConvNorm(self.features, size, stride, self.axis_name, name=name)

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
  axis_name: str | None = None,
  epsilon: float = 1e-5,
) -> jax.Array:
  """Normalises `[B, H, W, C]` by the statistics of the batch (Ioffe, Szegedy).

  No running averages: in a supernet every arch has statistics of its own.
  """

  def mean_of(y):
    mean = y.mean((0, 1, 2), keepdims=True)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

  centred = x - mean_of(x)
  inverse = jax.lax.rsqrt(mean_of(jnp.square(centred)) + epsilon)
  spread = (None, None, None, slice(None))
  return centred * (inverse * scale[spread]) + offset[spread]
