"""The hand-written gradients are those of autodiff."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nss_jax.supernet import conv

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
  keys = jax.random.split(jax.random.key(0))
  x = jax.random.normal(keys[0], (32, 8, 8, 16))
  k = jax.random.normal(keys[1], (3, 3, 16, 16))

  @jax.jit
  def gradient(x, k):
    def loss(k):
      y = conv.conv2d(x, k)
      return jnp.square(y - y.mean((0, 1, 2), keepdims=True)).mean()

    return jax.grad(loss)(k)

  assert len({np.asarray(gradient(x, k)).tobytes() for _ in range(200)}) == 1


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
