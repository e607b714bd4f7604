"""Batch normalisation: statistics of a batch, with a gradient of one pass."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

EPSILON = 1e-5
# Names what a gradient needs, or else has to convolve again for: outputs of
# convolutions, and statistics.
KEPT = "kept"


class NormScope(NamedTuple):
  """Over which images batch normalisation takes its statistics.

  Attributes:
    axis_name: device axis over which they are shared; None keeps them per
      device.
    num_calibration: how many images of the batch, the first ones, count; None
      for all. So statistics are estimated anew, without running averages.
    averages: of a network trained alone: "update" running averages with those
      of the batch, or "use" them instead. A supernet has none: every arch has
      statistics of its own.
    one_pass: whether variances are the mean square less the squared mean, see
      `batch_statistics`.
  """

  axis_name: str | None = None
  num_calibration: int | None = None
  averages: str | None = None
  one_pass: bool = False


# The statistics of this device's whole batch.
OWN_BATCH = NormScope()


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  scope: NormScope = OWN_BATCH,
) -> jax.Array:
  """Normalises `[B, H, W, C]` by the statistics of the batch (Ioffe, Szegedy).

  It has no running averages: in a supernet every arch has statistics of its
  own. They are in the precision of `scale`, the result in that of `x`.

  The gradient is the closed form of the source's section 3, two sums and one
  elementwise pass, where autodiff writes four passes over the activations. It
  is made of plain operations, so it can be differentiated again.
  """
  return plain_batch_norm(x, scale, offset, scope)


def plain_batch_norm(
  x: jax.Array,
  scale: jax.Array,
  offset: jax.Array,
  scope: NormScope = OWN_BATCH,
) -> jax.Array:
  """Computes `batch_norm` with autodiff's gradient, in forward mode too."""
  statistics = batch_statistics(x, scale.dtype, scope)
  return normalise(x, scale, offset, statistics)


def batch_statistics(
  x: jax.Array, dtype: DTypeLike, scope: NormScope = OWN_BATCH
) -> jax.Array:
  """Returns mean and inverse deviation of each channel, `[2, C]`.

  In one pass, accelerators take both sums while they write what is normalised,
  and devices share them at once. That costs digits where a mean is far from
  zero: in float32 the deviation is off by about 1e-7 times one plus the squared
  ratio of mean and deviation (jax 0.12 on CPU; 3e-6 by the sums of jax 0.10).
  """
  seen = x[: scope.num_calibration].astype(dtype)
  if scope.one_pass:
    sums = seen.mean((0, 1, 2)), jnp.square(seen).mean((0, 1, 2))
    mean, square = _share(sums, scope.axis_name)
    variance = jnp.maximum(square - jnp.square(mean), 0)
  else:
    mean = _share(seen.mean((0, 1, 2)), scope.axis_name)
    squares = jnp.square(seen - spread(mean))
    variance = _share(squares.mean((0, 1, 2)), scope.axis_name)
  return jnp.stack([mean, jax.lax.rsqrt(variance + EPSILON)])


def normalise(
  x: jax.Array, scale: jax.Array, offset: jax.Array, statistics: jax.Array
) -> jax.Array:
  """Normalises `[B, H, W, C]` by statistics `[2, C]`, as precise as `scale`."""
  mean, inverse = statistics
  factor = spread(inverse * scale)
  y = (x.astype(scale.dtype) - spread(mean)) * factor + spread(offset)
  return y.astype(x.dtype)


def _batch_norm(
  x: jax.Array, scale: jax.Array, offset: jax.Array, scope: NormScope
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
  statistics = batch_statistics(x, scale.dtype, scope)
  statistics = checkpoint_name(statistics, KEPT)
  return normalise(x, scale, offset, statistics), (x, scale, statistics)


def batch_norm_gradient(
  scope: NormScope,
  saved: tuple[jax.Array, jax.Array, jax.Array],
  upstream: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns gradients of `x`, scale and offset, from what was saved of `x`."""
  x, scale, statistics = saved
  mean, inverse = statistics
  unit = (x.astype(scale.dtype) - spread(mean)) * spread(inverse)
  upstream = upstream.astype(scale.dtype)
  count = x[: scope.num_calibration].size // x.shape[-1]
  offset_gradient = upstream.sum((0, 1, 2))
  scale_gradient = (upstream * unit).sum((0, 1, 2))
  mean_gradient, mean_product = _share(
    (offset_gradient / count, scale_gradient / count), scope.axis_name
  )
  through = spread(mean_gradient), unit * spread(mean_product)
  if scope.num_calibration is not None:
    # The statistics are of these images alone.
    seen = jnp.arange(len(x)) < scope.num_calibration
    through = (jnp.where(seen[:, None, None, None], y, 0) for y in through)
  for part in through:
    upstream = upstream - part
  gradient = (upstream * spread(inverse * scale)).astype(x.dtype)
  return gradient, scale_gradient, offset_gradient


batch_norm.defvjp(_batch_norm, batch_norm_gradient)


def _share(tree: Any, axis_name: str | None) -> Any:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def spread(channels: jax.Array) -> jax.Array:
  """Returns `[C]` as `[1, 1, 1, C]`, for images."""
  return channels[None, None, None, :]
