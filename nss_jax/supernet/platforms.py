"""The one place that chooses by platform how the supernet is computed.

No choice changes a number by more than rounding.

Buffers have three layouts, each the fastest one where it is chosen here:

* `flat`, for CPUs: a buffer is `[N]`, what is stored is contiguous, nothing is
  padded channel by channel, and loops update the buffers in place.
* `nhwc`, for GPUs: a buffer is `[B, H, W, C]` and what is stored has its front
  channels. There a change between one axis and four moves every number: on a
  v5e a step of the widest stage took 753 M cycles flat, 306 M so (the
  compiler's estimates).
* `hwnc`, for TPUs: the same, and the axes lie in memory in that order, which
  most convolutions there want.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
from jax import lax
from jax.experimental.layout import Layout as JaxLayout
from jax.experimental.layout import with_layout_constraint
from jax.typing import DTypeLike

Keep = Literal["all", "outputs", "ends"]
Layout = Literal["flat", "nhwc", "hwnc"]


class Ways(NamedTuple):
  """How programs are written for a platform.

  Attributes:
    keep: what a masked block keeps for its gradient. `all`: what autodiff asks
      for. `outputs`: those of convolutions, and the statistics, so that only
      elementwise arithmetic is done again; it is less to write and to read,
      where that takes as long as a convolution. `ends`: what goes into the
      block and comes out.
    layout: of the sliced engine's activations.
    switched: whether the sliced engine chooses a bucket by a conditional, or
      by loops of which all but one are empty. On CPU a conditional copies the
      results of its branches. On GPUs the host waits for the length of every
      loop, and for a conditional once.
    one_pass: how variances are computed, see `norm.batch_statistics`.
  """

  keep: Keep
  layout: Layout
  switched: bool
  one_pass: bool


_CPU = Ways("all", "flat", switched=False, one_pass=False)
_TPU = Ways("outputs", "hwnc", switched=False, one_pass=True)
_GPU = Ways("outputs", "nhwc", switched=True, one_pass=True)


def ways(platform: str | None = None) -> Ways:
  """Returns how to compute on a platform: cpu, gpu, tpu; None: the default."""
  platform = jax.default_backend() if platform is None else platform
  return {"cpu": _CPU, "tpu": _TPU}.get(platform, _GPU)


def empty(layout: Layout, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
  """Makes a buffer for tensors of a shape, or of fewer channels.

  On CPU it is filled with zeros; elsewhere the compiler writes nothing.
  """
  shape = (math.prod(shape),) if layout == "flat" else tuple(shape)
  return lax.empty(shape, dtype)


def load(buffer: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Returns the tensor at the front of a buffer."""
  if buffer.ndim == 1:
    return buffer[: math.prod(shape)].reshape(shape)
  return buffer[..., : shape[-1]]


def store(layout: Layout, buffer: jax.Array, x: jax.Array) -> jax.Array:
  """Returns the buffer with a tensor at its front."""
  if buffer.ndim == 1:
    # Behind a barrier: what is fused with the update runs on one core.
    x = lax.optimization_barrier(x).reshape(-1)
  buffer = lax.dynamic_update_slice(buffer, x, (0,) * buffer.ndim)
  return ordered(layout, buffer)


def ordered(layout: Layout, buffer: jax.Array) -> jax.Array:
  """Orders the axes of a buffer in memory as the layout has them.

  Else XLA would copy whole buffers from one loop to the next: convolutions of
  few channels want another order of the axes than those of many.
  """
  if layout != "hwnc":
    return buffer
  height, width, images, channels = (buffer.ndim - k for k in (3, 2, 4, 1))
  order = *range(buffer.ndim - 4), height, width, images, channels
  return with_layout_constraint(buffer, JaxLayout(major_to_minor=order))
