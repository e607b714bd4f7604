"""The hand-written gradients are those of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import normal

from nss_jax.runtime import backend
from nss_jax.supernet import conv, norm

SHAPES = [
  (5, 8, 8, 3, 17),
  (2, 9, 6, 17, 1),
  (1, 2, 1, 1, 5),
  (3, 2, 2, 4, 6),
  (4, 5, 4, 3, 2),
]


@pytest.mark.parametrize(
  ("shape", "depthwise"),
  [*((shape, False) for shape in SHAPES), ((2, 7, 8, 4, 4), True)],
)
@pytest.mark.parametrize(
  ("stride", "size"), [(1, 3), (2, 3), (2, 1), (3, 3), (2, 5)]
)
def test_gradients_are_those_of_the_definition(shape, depthwise, stride, size):
  """They run inside `scan` and `cond`, as in the loop of a training."""
  *shape, outputs = shape
  kernel = np.zeros((size, size, 1 if depthwise else shape[-1], outputs))

  @jax.jit
  def run(x, k, upstream):
    def step(carry, _):
      def gradient():
        out, vjp = jax.vjp(lambda x, k: conv.conv2d(x, k, stride), x, k)
        return out, *vjp(upstream)

      zero = jax.tree.map(jnp.zeros_like, (upstream, x, k))
      return carry, jax.lax.cond(carry > 0, gradient, lambda: zero)

    _, stacked = jax.lax.scan(step, jnp.ones(()), length=2)
    return jax.tree.map(lambda x: x[1], stacked)

  with jax.enable_x64(True):
    x, k = normal(0, (np.zeros(shape), kernel), float)
    out = jax.eval_shape(lambda: conv.conv2d(x, k, stride))
    upstream = normal(1, out, float)
    found = run(x, k, upstream)
  # A depthwise kernel is the diagonal of one over all pairs of channels.
  whole = np.asarray(k) * np.eye(outputs) if depthwise else k
  expected = [*backend.in_float64(x, whole, upstream, stride)]
  if depthwise:
    expected[2] = np.diagonal(expected[2], axis1=2, axis2=3)[:, :, None]
  for got, want in zip(found, expected, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-11)


def test_same_bits_every_time():
  """The kernels that take the most time give them, near those of float64."""
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
  """Computes a layer and its gradients by their definition."""
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
