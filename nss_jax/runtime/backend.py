"""Whether this jax is to be trusted, and where what it compiles is kept."""

import functools
import os
import pathlib
import stat
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from nss_jax.errors import UserError

# Smaller ones come out right; the square of the last is still exact, 2^30.
_NUM_ROWS = 2**15 + 1
# Kernels and strides; in the second no window sees the last row and column.
_CONVOLUTIONS = ((3, 1), (1, 2))
# Of the largest sum. Sums of small whole numbers are exact, also in bfloat16
# and TF32; but accelerators may take Winograd's way, through thirds.
_TOLERANCE = 1e-2

# The cache is of use where compiling takes minutes, on accelerators. Who can
# write it can run code in this process: jax loads what it then executes.
_ENVIRONMENT, _FLAG = "JAX_COMPILATION_CACHE_DIR", "--compile_cache"

Convolve = Callable[[jax.Array, jax.Array, int], jax.Array]


def check_platform() -> None:
  """Raises UserError if jax does not find its `JAX_PLATFORMS` here."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    asked = jax.config.values["jax_platforms"]
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    raise UserError(
      f"JAX_PLATFORMS={asked}: jax finds no such device here ({reason}); "
      "expected cpu, or `pip install -e '.[tpu]'` or '.[cuda]' where there is "
      "one"
    ) from error


def check_numbers(convolve: Convolve) -> None:
  """Runs what some jaxlibs have got wrong, silently; once in a process.

  * A program of the kind of jax issue 39103, exact on a sound backend: products
    of a small matrix with many rows, each summed. jaxlib 0.10.2 on CPU gets the
    last of them wrong.
  * The convolution of this package and its gradients, against sums in float64,
    exact on CPU. They are written without negative padding
    (`supernet/conv.py`), of which jaxlib 0.10.1 on CPU got 28 of 148 random
    ones wrong and 0.12.0.1 none (openxla issue 48713); so 0.10.1 is not refused
    for it.

  `convolve` takes images `[B, H, W, Cin]`, a kernel `[k, k, Cin, Cout]` and a
  stride. UserError names the version and what to install.
  """
  got, expected = last_square(), float((_NUM_ROWS - 1) ** 2)
  if got != expected:
    raise _broken(f"{got:.0f} for a sum of {expected:.0f}")
  for size, stride in _CONVOLUTIONS:
    _check_convolution(convolve, size, stride)


@functools.cache
def last_square() -> float:
  """Computes the squared length of `[n - 1, 0, 0]`, the last of n rows."""
  rows = np.zeros((_NUM_ROWS, 3), np.float32)
  rows[:, 0] = np.arange(_NUM_ROWS)
  identity = jnp.eye(3)
  lengths = jax.vmap(lambda row: jnp.square(identity @ row).sum())
  return float(jax.jit(lengths)(rows)[-1])


@functools.cache
def _check_convolution(convolve: Convolve, size: int, stride: int) -> None:
  @jax.jit
  def compute(images, kernel, upstream):
    outputs, vjp = jax.vjp(lambda x, k: convolve(x, k, stride), images, kernel)
    return outputs, *vjp(upstream)

  rng = np.random.default_rng(0)

  def draw(*shape: int) -> np.ndarray:
    return rng.integers(-3, 4, shape).astype(np.float32)

  images, kernel = draw(2, 8, 8, 3), draw(size, size, 3, 4)
  upstream = draw(2, 8 // stride, 8 // stride, 4)
  names = "convolution", "image gradient", "kernel gradient"
  tolerance = 0.0 if jax.default_backend() == "cpu" else _TOLERANCE
  found = compute(images, kernel, upstream)
  expected = in_float64(images, kernel, upstream, stride)
  for name, got, want in zip(names, found, expected, strict=True):
    off = np.abs(got - want).max()
    if not off <= tolerance * np.abs(want).max():  # nor is NaN
      raise _broken(f"the {name} of stride {stride} is off by {off:.3g}")


def in_float64(
  images: np.ndarray, kernel: np.ndarray, upstream: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Computes convolution, image and kernel gradient by their definition."""
  images, kernel, upstream = (
    np.asarray(x, np.float64) for x in (images, kernel, upstream)
  )
  size, (_, height, width, _) = len(kernel), images.shape
  pad = (size - 1) // 2
  padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  outputs, back = np.zeros_like(upstream), np.zeros_like(padded)
  kernel_gradient = np.zeros_like(kernel)
  for i, j in np.ndindex(size, size):
    seen = np.s_[:, i : i + height : stride, j : j + width : stride]
    outputs += padded[seen] @ kernel[i, j]
    back[seen] += upstream @ kernel[i, j].T
    kernel_gradient[i, j] = np.einsum("bhwi,bhwo->io", padded[seen], upstream)
  inner = slice(pad, pad + height), slice(pad, pad + width)
  return outputs, back[:, *inner], kernel_gradient


def _broken(what: str) -> UserError:
  return UserError(
    f"jaxlib {jax.lib.__version__} computes wrong numbers here ({what}); "
    "install another version, such as 0.10.1 or the newest"
  )


def set_up_cache(folder: str) -> str:
  """Sets where compiled programs are kept, before anything is compiled.

  Below the folder one of its own is used, for this jaxlib and platform; an
  empty name means what the environment says. Returns what to tell the user, in
  one line, which is empty if all is as was asked for.
  """
  if folder:
    return _set_up_own(pathlib.Path(folder))
  given = jax.config.values["jax_compilation_cache_dir"]
  if not given:
    return ""
  # The group of a folder that was not named to us is the user's own matter.
  reason = _danger(pathlib.Path(given), stat.S_IWOTH)
  return _turn_off(_ENVIRONMENT, given, reason) if reason else ""


def _set_up_own(folder: pathlib.Path) -> str:
  platform = jax.default_backend()
  if platform == "cpu":
    _use_cache(None)
    # What was kept is often refused, and has crashed after a new jaxlib.
    return f"{_FLAG}: off on CPU, where what was kept is not reliable"
  own = folder.absolute() / f"jaxlib-{jaxlib.__version__}-{platform}"
  try:
    for made in (folder, own):
      made.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    return _turn_off(_FLAG, str(folder), str(error.strerror))
  for used in (folder, own):
    if reason := _danger(used, stat.S_IWGRP | stat.S_IWOTH):
      return _turn_off(_FLAG, str(used), reason)
  _use_cache(str(own))
  return ""


def _danger(folder: pathlib.Path, writers: int) -> str:
  """Says why others could put programs into a folder; empty: they cannot."""
  try:
    found = folder.stat()
  except FileNotFoundError:
    return ""  # jax makes it
  except OSError as error:
    return str(error.strerror)
  if found.st_mode & writers:
    return "others can write it"
  if found.st_uid not in (os.getuid(), 0):
    return "it is another user's"
  return ""


def _turn_off(name: str, folder: str, reason: str) -> str:
  _use_cache(None)
  return (
    f"warning: {name}: {folder} is not used ({reason}); expected a folder that "
    "only you can write; nothing compiled is kept"
  )


def _use_cache(folder: str | None) -> None:
  jax.config.update("jax_compilation_cache_dir", folder)
  # jax looks once, at its first compilation; in notebooks that was before.
  compilation_cache.reset_cache()
