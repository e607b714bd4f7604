"""Enumeration of spaces and archs, and uniform draws of archs."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.bins import bin_edges
from nss_jax.spaces.search_space import (
  Arch,
  Array,
  SearchSpace,
  Space,
  check_spaces,
  space_ranges,
)


def enumerate_spaces(search_space: SearchSpace) -> Iterator[Space]:
  """Every space, last stage's width fastest. For tiny search spaces."""
  counts = map(len, (*search_space.depth_bins, *search_space.width_bins))
  for indices in itertools.product(*map(range, counts)):
    depth, width = np.split(np.asarray(indices, np.int32), 2)
    yield Space(depth=depth, width=width)


def enumerate_archs(search_space: SearchSpace, space: Space) -> Iterator[Arch]:
  """Every arch of a space. For tiny spaces.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(strides=(1,))
    >>> space = nss.parse_space(search_space, "d1:4_w33:64")
    >>> len(list(enumerate_archs(search_space, space)))
    128
  """
  ranges = space_ranges(search_space, space)
  values = [range(low, high + 1) for k in ranges.values() for low, high in k]
  for numbers in itertools.product(*values):
    depth, width = np.split(np.asarray(numbers, np.int32), 2)
    yield Arch(depth=depth, width=width)


def sample_archs(
  rng: jax.Array, search_space: SearchSpace, space: Space, num_archs: int
) -> Arch:
  """Draws archs uniformly from a space (P_theta of Eq. 3, paper 3.3).

  Args:
    rng: random key, consumed.
    search_space: the bins.
    space: one space, indices `[S]`.
    num_archs: N.

  Returns:
    An `Arch` with fields `[N, S]`.

  Raises:
    ValueError: if the space names a bin that its stage does not have. Inside
      `jit` its values are not seen; do not trust what comes of such a space.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded()
    >>> space = nss.parse_space(search_space, "d1:4-1:4-1:4_w33:64-1:32-1:32")
    >>> archs = sample_archs(jax.random.key(0), search_space, space, 1000)
    >>> archs.width.shape
    (1000, 3)
    >>> int(archs.width[:, 0].min()), int(archs.width[:, 0].max())
    (33, 64)
  """
  check_spaces(search_space, space, one=True)
  offers = sample_bin_archs(rng, search_space, num_archs)
  return Arch(
    depth=_pick(offers.depth, space.depth),
    width=_pick(offers.width, space.width),
  )


def sample_archs_of_spaces(
  rng: jax.Array, search_space: SearchSpace, spaces: Space, num_archs: int
) -> Arch:
  """Draws archs uniformly from each of many spaces, on the host.

  Args:
    rng: random key, consumed; it seeds a numpy generator.
    search_space: the bins.
    spaces: indices `[n, S]`.
    num_archs: N, of each space.

  Returns:
    An `Arch` with numpy int32 fields `[n, N, S]`.

  Raises:
    ValueError: if a space names a bin that its stage does not have.
  """
  check_spaces(search_space, spaces)
  generator, fields = host_rng(rng), {}
  stages = np.arange(search_space.num_stages)
  for kind, bins in (
    ("depth", search_space.depth_bins),
    ("width", search_space.width_bins),
  ):
    index = np.asarray(getattr(spaces, kind))
    low, high = (edge[stages, index] for edge in bin_edges(bins))
    shape = (len(index), num_archs, len(stages))
    fields[kind] = generator.integers(
      low[:, None], high[:, None] + 1, shape, np.int32
    )
  return Arch(**fields)


def host_rng(rng: jax.Array) -> np.random.Generator:
  """A numpy generator seeded with all the bits of a random key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(rng)).ravel())


def sample_bin_archs(
  rng: jax.Array, search_space: SearchSpace, num_archs: int
) -> Arch:
  """Draws one depth and one width uniformly from **each** bin of each stage.

  Returns:
    An `Arch` whose fields are `[N, S, Kd]` and `[N, S, Kw]`: the candidates
    that the bins' weights choose from or mix.
  """
  depth_rng, width_rng = jax.random.split(rng)
  fields = {}
  for kind, key, bins in (
    ("depth", depth_rng, search_space.depth_bins),
    ("width", width_rng, search_space.width_bins),
  ):
    # Ranks agree, so that `jax_numpy_rank_promotion="raise"` has no complaint.
    low, high = (edge[None] for edge in bin_edges(bins))
    shape = (num_archs, *low.shape[1:])
    fields[kind] = jax.random.randint(key, shape, low, high + 1, jnp.int32)
  return Arch(**fields)


def _pick(offers: Array, indices: Array) -> jax.Array:
  """`[N, S, K]` at the indices `[S]` -> `[N, S]`."""
  index = jnp.asarray(indices)[None, :, None]
  return jnp.take_along_axis(offers, index, axis=-1)[..., 0]
