"""The hand-written gradients are those of autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nss_jax.runtime import backend
from nss_jax.supernet import conv, norm

SHAPES = [
  (5, 8, 8, 3, 17),
  (2, 9, 6, 17, 1),
  (1, 2, 1, 1, 5),
  (3, 2, 2, 4, 6),
  (4, 5, 4, 3, 2),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
  ("stride", "size"), [(1, 3), (2, 3), (1, 1), (2, 1), (3, 3)]
)
def test_gradients_equal_autodiff(shape, stride, size):
  batch, height, width, inputs, outputs = shape
  with jax.enable_x64(True):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, inputs), float)
    k = jax.random.normal(keys[1], (size, size, inputs, outputs), float)
    plain, vjp = jax.vjp(lambda x, k: conv._conv(x, k, stride), x, k)
    upstream = jax.random.normal(keys[2], plain.shape, float)
    expected = vjp(upstream)

    @jax.jit
    def in_loop(x, k, upstream):
      """The gradient inside `scan` and `cond`, as the loop runs it."""

      def body(carry, _):
        def gradient():
          _, vjp = jax.vjp(lambda x, k: conv.conv2d(x, k, stride), x, k)
          return vjp(upstream)

        zero = jax.tree.map(jnp.zeros_like, (x, k))
        return jax.lax.cond(carry > 0, gradient, lambda: zero), None

      def step(carry, _):
        grads, _ = body(carry, None)
        return carry, grads

      _, grads = jax.lax.scan(step, jnp.ones(()), length=2)
      return grads

    np.testing.assert_allclose(
      conv.conv2d(x, k, stride), plain, rtol=1e-12, atol=1e-12
    )
    for got, want in zip(in_loop(x, k, upstream), expected, strict=True):
      np.testing.assert_allclose(got[1], want, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("side", [1, 2, 7, 8, 9])
def test_no_negative_padding(stride, size, side):
  """XLA computes negative padding wrongly on CPU (openxla issue 48713)."""
  x = jnp.zeros((2, side, side, 3))
  k = jnp.zeros((size, size, 3, 4))
  upstream = conv._conv(x, k, stride)
  gradients = functools.partial(conv._channels_last_gradients, stride)
  jaxpr = jax.make_jaxpr(gradients)(x, k, upstream)
  found = [e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
  assert len(found) == 2
  for equation in found:
    assert min(min(pair) for pair in equation.params["padding"]) >= 0


def test_same_bits_every_time():
  """Of the kernels that take the time, and they are the sums of float64."""
  keys = jax.random.split(jax.random.key(0), 5)
  x = jax.random.normal(keys[0], (32, 8, 8, 16))
  kernel = jax.random.normal(keys[1], (3, 3, 16, 16))
  scale = 1 + 0.1 * jax.random.normal(keys[2], (16,))
  offset = jax.random.normal(keys[3], (16,))
  upstream = jax.random.normal(keys[4], x.shape)

  @jax.jit
  def call(x, kernel, scale, offset):
    def layer(*inputs):
      x, kernel, scale, offset = inputs
      return norm.batch_norm(conv.conv2d(x, kernel), scale, offset)

    outputs, vjp = jax.vjp(layer, x, kernel, scale, offset)
    return outputs, *vjp(upstream)

  inputs = x, kernel, scale, offset
  found = [[*map(np.asarray, call(*inputs))] for _ in range(200)]
  assert len({b"".join(x.tobytes() for x in each) for each in found}) == 1
  expected = _layer_in_float64(*inputs, upstream)
  for got, want in zip(found[0], expected, strict=True):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


def _layer_in_float64(*inputs):
  """Convolution and batch normalisation, and their gradients, by definition."""
  x, kernel, scale, offset, upstream = (np.asarray(x, float) for x in inputs)
  y, *_ = backend.in_float64(x, kernel, upstream, 1)
  axes = (0, 1, 2)
  deviation = np.sqrt(y.var(axes) + norm.EPSILON)
  unit = (y - y.mean(axes)) / deviation
  inner = upstream * scale / deviation
  inner = inner - inner.mean(axes) - unit * (inner * unit).mean(axes)
  _, image_gradient, kernel_gradient = backend.in_float64(x, kernel, inner, 1)
  return (
    unit * scale + offset,
    image_gradient,
    kernel_gradient,
    (upstream * unit).sum(axes),
    upstream.sum(axes),
  )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
  ("stride", "size"), [(1, 3), (2, 3), (1, 1), (2, 1), (3, 3), (1, 5), (2, 5)]
)
def test_channels_last_gradients_in_float32(shape, stride, size):
  """The sums of autodiff, on any platform, in the type of training."""
  batch, height, width, inputs, outputs = shape
  keys = jax.random.split(jax.random.key(1), 3)
  x = jax.random.normal(keys[0], (batch, height, width, inputs))
  k = jax.random.normal(keys[1], (size, size, inputs, outputs))
  plain, vjp = jax.vjp(lambda x, k: conv._conv(x, k, stride), x, k)
  upstream = jax.random.normal(keys[2], plain.shape)
  ours = conv._channels_last_gradients(stride, x, k, upstream)
  for got, want in zip(ours, vjp(upstream), strict=True):
    assert got.dtype == jnp.float32
    scale = np.abs(want).max() + 1e-6
    np.testing.assert_allclose(got / scale, want / scale, atol=3e-6)
