"""Enumeration of spaces and archs, and draws of archs."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.bins import bin_edges, edges_at, stage_offers
from nss_jax.spaces.search_space import (
  Arch,
  SearchSpace,
  Space,
  check_spaces,
  space_ranges,
)


def enumerate_spaces(search_space: SearchSpace) -> Iterator[Space]:
  """Yields every space of a tiny search space, last stage's width fastest."""
  counts = map(len, (*search_space.depth_bins, *search_space.width_bins))
  for indices in itertools.product(*map(range, counts)):
    depth, width = np.split(np.asarray(indices, np.int32), 2)
    yield Space(depth=depth, width=width)


def enumerate_archs(search_space: SearchSpace, space: Space) -> Iterator[Arch]:
  """Yields every arch of a tiny space.

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

  def pick(numbers, index):
    index = jnp.asarray(index)[None, :, None]
    return jnp.take_along_axis(numbers, index, axis=-1)[..., 0]

  return Arch(
    depth=pick(offers.depth, space.depth), width=pick(offers.width, space.width)
  )


def sample_archs_of_spaces(
  rng: jax.Array, search_space: SearchSpace, spaces: Space, num_archs: int
) -> Arch:
  """Draws N archs uniformly from each of n spaces, on the host: `[n, N, S]`."""
  check_spaces(search_space, spaces)
  generator, fields = host_rng(rng), {}
  for kind, bins in search_space.bins.items():
    low, high = edges_at(bins, getattr(spaces, kind))
    shape = (len(low), num_archs, search_space.num_stages)
    fields[kind] = generator.integers(
      low[:, None], high[:, None] + 1, shape, np.int32
    )
  return Arch(**fields)


def sample_uniform_archs(
  rng: jax.Array | np.random.Generator, search_space: SearchSpace, count: int
) -> Arch:
  """Draws archs uniformly from the whole search space, numpy `[count, S]`."""
  generator = host_rng(rng) if isinstance(rng, jax.Array) else rng
  fields = {}
  for kind, bins in search_space.bins.items():
    offers = (stage_offers(stage).astype(np.int32) for stage in bins)
    columns = [generator.choice(numbers, count) for numbers in offers]
    fields[kind] = np.stack(columns, axis=-1)
  return Arch(**fields)


def collect_archs(
  draw_fn: Callable[[int], Arch],
  count: int,
  max_draws: int,
  per_batch: int,
  what: str,
) -> Arch:
  """Draws batches until `count` archs are accepted, or gives up.

  `draw_fn` makes as many independent draws as it is asked for, and returns
  those that it accepts; the error says what they are.
  """
  kept, missing, num_draws = [], count, 0
  while missing > 0 and num_draws < max_draws:
    size = min(per_batch, max_draws - num_draws)
    num_draws += size
    kept.append(take(draw_fn(size), slice(missing)))
    missing -= len(kept[-1].depth)
  if missing > 0:
    raise ValueError(
      f"only {count - missing} of {count} {what} in {num_draws} draws"
    )
  return jax.tree.map(lambda *parts: np.concatenate(parts), *kept)


def take(archs: Arch, rows: Any) -> Arch:
  """Returns the archs at some rows, or the one at an index."""
  return jax.tree.map(lambda x: x[rows], archs)


def check_at_least_one(name: str, count: int) -> None:
  """Refuses a number below 1, by its name."""
  if count < 1:
    raise ValueError(f"{name} must be at least 1; got {count}")


def host_rng(rng: jax.Array) -> np.random.Generator:
  """Returns a numpy generator seeded with all the bits of a random key."""
  return np.random.default_rng(np.asarray(jax.random.key_data(rng)).ravel())


def sample_bin_archs(
  rng: jax.Array, search_space: SearchSpace, num_archs: int
) -> Arch:
  """Draws one depth and one width uniformly from **each** bin of each stage.

  Returns:
    An `Arch` whose fields are `[N, S, Kd]` and `[N, S, Kw]`: the candidates
    that the bins' weights choose from or mix.
  """
  keys, fields = jax.random.split(rng), {}
  for key, (kind, bins) in zip(keys, search_space.bins.items(), strict=True):
    # Ranks agree, so that `jax_numpy_rank_promotion="raise"` has no complaint.
    low, high = (edge[None] for edge in bin_edges(bins))
    shape = (num_archs, *low.shape[1:])
    fields[kind] = jax.random.randint(key, shape, low, high + 1, jnp.int32)
  return Arch(**fields)
