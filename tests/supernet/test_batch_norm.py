"""Statistics of accelerators, in one pass, are those of two."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nss_jax.supernet import norm
from nss_jax.supernet.norm import OWN_BATCH, NormScope

ONE_PASS = NormScope(one_pass=True)


def _images(ratio, dtype):
  """Draws channels whose mean is so many times their deviation of 1."""
  x = jax.random.normal(jax.random.key(0), (32, 16, 16, 8), jnp.float64)
  return (x + ratio).astype(dtype)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0, 100.0])
def test_how_accurate_one_pass_is(ratio):
  """It is held against two passes in float64; no deviation is imaginary."""
  with jax.enable_x64(True):
    x = _images(ratio, jnp.float32)
    want = norm.batch_statistics(x, jnp.float64)
    found = norm.batch_statistics(x, jnp.float32, ONE_PASS)
    np.testing.assert_allclose(found[0], want[0], rtol=1e-5, atol=1e-6)
    # By how jax 0.10 sums on CPU; jax 0.12 needs 1e-7.
    bound = 5e-6 * (1 + ratio**2)
    np.testing.assert_allclose(found[1], want[1], rtol=bound)
    exact = norm.batch_statistics(x, jnp.float64, ONE_PASS)
    np.testing.assert_allclose(exact, want, rtol=1e-10)
  constant = jnp.full((4, 3, 3, 2), 1234.5678)
  assert np.isfinite(
    norm.batch_statistics(constant, constant.dtype, ONE_PASS)
  ).all()


@pytest.mark.parametrize("calibration", [None, 2])
def test_normalised_in_one_pass(calibration):
  """Outputs and gradients agree, with statistics of some images too."""
  with jax.enable_x64(True):
    x = _images(1.0, jnp.float64)
    scale, offset = jnp.arange(1.0, 9.0), jnp.arange(8.0)
    found = []
    for scope in (OWN_BATCH, ONE_PASS):
      scope = scope._replace(num_calibration=calibration)

      def total(x, scale, offset, scope=scope):
        return jnp.sin(norm.batch_norm(x, scale, offset, scope)).sum()

      found.append(jax.value_and_grad(total, (0, 1, 2))(x, scale, offset))
    chex.assert_trees_all_close(*found, rtol=1e-9, atol=1e-9)
