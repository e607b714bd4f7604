"""Weights that hide no mistake, and the gradients of a network by them.

By numpy: jax would compile every shape.
"""

import jax
import jax.numpy as jnp
import numpy as np

import nss_jax as nss


def normal(seed, shapes, dtype=jnp.float32):
  """Draws normal numbers of the shapes of a pytree."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.standard_normal(x.shape), dtype), shapes
  )


def shapes_of(space):
  """Returns shapes of the weights of a search space."""
  return jax.eval_shape(lambda: nss.init_weights(jax.random.key(0), space))


def arguments(space, count, dtype=jnp.float32):
  """Draws weights, images, and a gradient of their logits.

  Scales of one and offsets of zero, as they begin, would hide much.
  """

  def noisy(path, x):
    return 0.3 * x + (path[-1].key == "scale")

  weights = normal(1, shapes_of(space), dtype)
  weights = jax.tree_util.tree_map_with_path(noisy, weights)
  others = (
    np.zeros((count, *space.image_shape)),
    np.zeros((count, space.num_classes)),
  )
  return weights, *normal(2, others, dtype)


def with_gradient(apply):
  """Makes `(weights, images, upstream, *choice) -> (logits, gradients)`."""

  def fn(weights, images, upstream, *choice):
    logits, vjp = jax.vjp(lambda w, x: apply(w, x, *choice), weights, images)
    return logits, vjp(upstream)

  return fn


def as_arrays(text):
  """Returns an arch that jit takes for an argument."""
  arch = nss.parse_arch(text)
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), arch)
