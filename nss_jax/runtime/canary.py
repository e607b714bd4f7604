"""A short program whose answer is known: is this jaxlib to be trusted?"""

import jax
import jax.numpy as jnp
import numpy as np


class BrokenBackend(ValueError):
  """The installed jaxlib computes wrong numbers, in one line."""


def check() -> None:
  """Runs the program of jax issue 39103: a mapped product, then a sum.

  jaxlib 0.10.2 on CPU is 0.8 % off, silently; all terms are small integers,
  so a sound backend is exact.

  Raises:
    BrokenBackend: naming the version and what to install.
  """
  matrix = np.ones((64, 256, 256), np.float32)
  vector = np.ones((64, 256), np.float32)

  @jax.jit
  def program(matrix, vector):
    return jax.vmap(jnp.matmul)(matrix, vector).sum()

  got, expected = float(program(matrix, vector)), 64.0 * 256 * 256
  if got != expected:
    raise BrokenBackend(
      f"jaxlib {jax.lib.__version__} computes wrong numbers here ({got:.0f} "
      f"for a sum of {expected:.0f}); install another version, such as 0.10.1 "
      "or the newest"
    )
