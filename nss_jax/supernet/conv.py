"""Channels-last convolution whose gradients stay fast inside loops on CPU.

XLA on CPU rewrites convolutions into the form that its fast kernel takes in the
entry computation only. The filter gradient that autodiff writes is not
channels-last, so inside `scan`, `cond` or `switch` it runs 20 to 100 times
slower (jax issue 12868). Here both gradients are written channels-last by hand;
they are the same sums. Other platforms choose their own layouts, and keep the
gradient of autodiff. `tests/benchmarks/conv_in_scan.py` measures when CPU no
longer needs this file.

Second derivatives, forward over reverse too, are those of autodiff: the rules
below are made of plain operations. At no order is a padding negative, which XLA
computes wrongly on CPU for few channels (openxla issue 48713).

Two kinds of convolution have no fast kernel on CPU at all. A depthwise one is
written as a product and a sum for each place in the window. One with one or
four output pixels, which runs at a twentieth of the speed of larger images, is
written as the one matrix product that it is.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from nss_jax.supernet.precision import widen

# Images and kernel, or their gradients.
Pair = tuple[jax.Array, jax.Array]
_NHWC = ("NHWC", "HWIO", "NHWC")
_TINY = 2  # output pixels in each direction


def conv2d(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves with an odd square kernel, padded by (k - 1) / 2 on all sides.

  Args:
    images: `[B, H, W, Cin]`.
    kernel: `[k, k, Cin, Cout]`; or `[k, k, 1, Cin]`, depthwise: one for each
      channel.
    stride: step in both directions.

  Returns:
    `[B, ceil(H / stride), ceil(W / stride), Cout]`.
  """
  if _is_product(images, kernel, stride):
    return _product(images, kernel, stride)
  return _by_hand(images, kernel, stride)


def plain_conv2d(
  images: jax.Array, kernel: jax.Array, stride: int = 1
) -> jax.Array:
  """Computes `conv2d` with the gradients of autodiff, in forward mode too."""
  if _is_product(images, kernel, stride):
    return _product(images, kernel, stride)
  if not _is_depthwise(images, kernel):
    return _conv(images, kernel, stride)
  return lax.platform_dependent(
    images,
    kernel,
    cpu=functools.partial(_shifted, stride=stride),
    default=functools.partial(_conv, stride=stride),
  )


def _is_depthwise(images: jax.Array, kernel: jax.Array) -> bool:
  return kernel.shape[2] < images.shape[3]


def _is_product(images: jax.Array, kernel: jax.Array, stride: int) -> bool:
  tiny = all(-(-n // stride) <= _TINY for n in images.shape[1:3])
  return tiny and kernel.shape[0] > 1 and not _is_depthwise(images, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _by_hand(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  return plain_conv2d(images, kernel, stride)


def _forward(
  images: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, Pair]:
  return plain_conv2d(images, kernel, stride), (images, kernel)


def _backward(stride: int, saved: Pair, upstream: jax.Array) -> Pair:
  on_cpu = _channels_last_gradients
  if _is_depthwise(*saved):
    on_cpu = functools.partial(_autodiff_gradients, _shifted)
  return lax.platform_dependent(
    *saved,
    upstream,
    cpu=functools.partial(on_cpu, stride),
    default=functools.partial(_autodiff_gradients, _conv, stride),
  )


_by_hand.defvjp(_forward, _backward)


def _autodiff_gradients(
  convolve: Callable[..., jax.Array],
  stride: int,
  images: jax.Array,
  kernel: jax.Array,
  upstream: jax.Array,
) -> Pair:
  convolve = functools.partial(convolve, stride=stride)
  return jax.vjp(convolve, images, kernel)[1](upstream)


def _shifted(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Convolves depthwise: a product and a sum for each place in the window."""
  size = kernel.shape[0]
  pad = ((size - 1) // 2,) * 2
  # Accelerators sum in float32 too: a sum of nine in bfloat16 would be rounded
  # nine times, and the gradient of a kernel, a sum over all pixels, be lost.
  wide, kernel = widen(images), widen(kernel)
  padded = jnp.pad(wide, ((0, 0), pad, pad, (0, 0)))
  rows, columns = (
    [slice(k, k + n, stride) for k in range(size)] for n in images.shape[1:3]
  )
  summed = functools.reduce(
    jnp.add,
    (
      padded[:, row, column] * kernel[i, j, 0][None, None, None]
      for i, row in enumerate(rows)
      for j, column in enumerate(columns)
    ),
  )
  return summed.astype(images.dtype)


def _product(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """Multiplies all pixels and channels, `[B, HW Cin] x [HW Cin, HW Cout]`."""
  batch, height, width, _ = images.shape
  rows = _reach(height, kernel.shape[0], stride, kernel.dtype)
  columns = _reach(width, kernel.shape[0], stride, kernel.dtype)
  matrix = jnp.einsum("hpk,klio->hplio", rows, kernel)
  matrix = jnp.einsum("wql,hplio->hwipqo", columns, matrix)
  shape = (batch, rows.shape[1], columns.shape[1], kernel.shape[3])
  images = images.reshape(batch, -1)
  return (images @ matrix.reshape(images.shape[1], -1)).reshape(shape)


def _reach(full: int, size: int, stride: int, dtype: DTypeLike) -> jax.Array:
  """Says where in a kernel an output sees an input, one-hot `[in, out, k]`."""
  source, output, place = np.ogrid[:full, : -(-full // stride), :size]
  seen = source == output * stride + place - (size - 1) // 2
  return jnp.asarray(seen, dtype)


def _conv(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  pad = (kernel.shape[0] - 1) // 2
  return lax.conv_general_dilated(
    _seen(images, kernel.shape[0], stride),
    kernel,
    (stride, stride),
    ((pad, pad), (pad, pad)),
    dimension_numbers=_NHWC,
    feature_group_count=images.shape[3] // kernel.shape[2],
  )


def _seen(images: jax.Array, size: int, stride: int) -> jax.Array:
  """Drops the last rows of images, which no window reaches.

  In a gradient they would be padding by a negative amount.
  """
  rows, columns = (
    full + min(_high(full, size, stride), 0) for full in images.shape[1:3]
  )
  return images[:, :rows, :columns]


def _high(full: int, size: int, stride: int) -> int:
  """Returns how far the last window reaches beyond so many rows."""
  last = (-(-full // stride) - 1) * stride
  return last + size - (size - 1) // 2 - full


def _channels_last_gradients(
  stride: int, images: jax.Array, kernel: jax.Array, upstream: jax.Array
) -> Pair:
  # Or XLA would compute what came before anew inside the transpositions.
  images, upstream = lax.optimization_barrier((images, upstream))
  return (
    _image_gradient(stride, images, kernel, upstream),
    _kernel_gradient(stride, images, kernel, upstream),
  )


def _image_gradient(
  stride: int, images: jax.Array, kernel: jax.Array, upstream: jax.Array
) -> jax.Array:
  """Convolves the upstream gradient, spread, with the flipped kernel."""
  size = kernel.shape[0]
  low = size - 1 - (size - 1) // 2
  padding, unseen = [], []
  for full, small in zip(images.shape[1:3], upstream.shape[1:3], strict=True):
    cut = max(-_high(full, size, stride), 0)
    spread = (small - 1) * stride + 1
    padding.append((low, full - cut - spread - low + size - 1))
    unseen.append((0, cut))
  gradient = lax.conv_general_dilated(
    upstream,
    jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
    (1, 1),
    padding,
    lhs_dilation=(stride, stride),
    dimension_numbers=_NHWC,
  )
  return jnp.pad(gradient, ((0, 0), *unseen, (0, 0)))


def _kernel_gradient(
  stride: int, images: jax.Array, kernel: jax.Array, upstream: jax.Array
) -> jax.Array:
  """Convolves images `[Cin, H, W, B]` with the gradient `[H, W, B, Cout]`."""
  size = kernel.shape[0]
  padding = [
    ((size - 1) // 2, max(_high(full, size, stride), 0))
    for full in images.shape[1:3]
  ]
  columns = _seen(images, size, stride).transpose(3, 1, 2, 0)
  gradient = lax.conv_general_dilated(
    columns,
    upstream.transpose(1, 2, 0, 3),
    (1, 1),
    padding,
    rhs_dilation=(stride, stride),
    dimension_numbers=_NHWC,
  )
  return gradient.transpose(1, 2, 0, 3)
