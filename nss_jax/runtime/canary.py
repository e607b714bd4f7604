"""A short program whose answer is known: is this jaxlib to be trusted?"""

import jax
import jax.numpy as jnp
import numpy as np

# Smaller ones come out right; the square of the last is still exact, 2^30.
_NUM_ROWS = 2**15 + 1


class BrokenBackend(ValueError):
  """The installed jaxlib computes wrong numbers, in one line."""


def check() -> None:
  """Runs a program of the kind of jax issue 39103, exact on a sound backend.

  Products of a small matrix with many rows, each summed. jaxlib 0.10.2 on CPU
  gets the last of them wrong, silently.

  Raises:
    BrokenBackend: naming the version and what to install.
  """
  got, expected = _last_square(), float((_NUM_ROWS - 1) ** 2)
  if got != expected:
    raise BrokenBackend(
      f"jaxlib {jax.lib.__version__} computes wrong numbers here ({got:.0f} "
      f"for a sum of {expected:.0f}); install another version, such as 0.10.1 "
      "or the newest"
    )


def _last_square() -> float:
  """The squared length of `[n - 1, 0, 0]`, last of n rows, times one."""
  rows = np.zeros((_NUM_ROWS, 3), np.float32)
  rows[:, 0] = np.arange(_NUM_ROWS)
  identity = jnp.eye(3)
  lengths = jax.vmap(lambda row: jnp.square(identity @ row).sum())
  return float(jax.jit(lengths)(rows)[-1])
