"""Tables: one number for every space of a search space, cost or probability.

The cost of a space is a sum of small tables, one per stage, and its
log-probability a sum of one term per bin, so that those of **every** space are
one broadcast sum. A *table* is an array `[Kd_1, ..., Kd_S, Kw_1, ..., Kw_S]`
over the bins that each stage really has; flattened, it is in the order of
`enumerate_spaces`, and an *index* is a place in that order.

It is work for the host, in float64.
"""

import numpy as np

from nss_jax.spaces.cost import cost_tables, stage_costs
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.metrics import METRICS, Metric
from nss_jax.spaces.search_space import SearchSpace, Space, check_spaces

# 2^24 spaces are 128 MiB of float64. The paper has 2^18, and the archs inside
# one of its spaces, as spaces with bins of size one, are 2^21.
MAX_SPACES = 2**24


def table_shape(search_space: SearchSpace) -> tuple[int, ...]:
  """Returns `(Kd_1, ..., Kd_S, Kw_1, ..., Kw_S)`: the bins that stages have."""
  return tuple(map(len, (*search_space.depth_bins, *search_space.width_bins)))


def spaces_at(search_space: SearchSpace, indices: np.ndarray) -> Space:
  """Returns the spaces `[..., S]` of flat table indices `[...]`, in int32."""
  indices = np.asarray(indices)
  count = search_space.num_spaces
  if indices.size and not (0 <= indices.min() <= indices.max() < count):
    raise ValueError(
      f"spaces have indices 0 to {count - 1}; got {indices.min()} to "
      f"{indices.max()}"
    )
  bins = np.stack(np.unravel_index(indices, table_shape(search_space)), -1)
  depth, width = np.split(bins.astype(np.int32), 2, axis=-1)
  return Space(depth=depth, width=width)


def space_indices(search_space: SearchSpace, spaces: Space) -> np.ndarray:
  """Returns the flat table indices `[...]`, int64, of spaces `[..., S]`."""
  check_spaces(search_space, spaces)
  bins = np.concatenate([spaces.depth, spaces.width], -1, dtype=np.int64)
  shape = table_shape(search_space)
  axes = tuple(np.moveaxis(bins, -1, 0))
  return np.asarray(np.ravel_multi_index(axes, shape))


def all_space_macs(search_space: SearchSpace) -> np.ndarray:
  """Returns mean multiply-adds of every space: a table, float64, on the host.

  Each entry is `space_macs` of its space, up to float64 rounding.

  Raises:
    ValueError: if there are more than `MAX_SPACES` spaces.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> macs = all_space_macs(search_space)
    >>> macs.shape
    (4, 4, 4, 16, 16, 16)
    >>> low, high = nss.macs_range(search_space)
    >>> bool(np.isclose(macs.min(), low)), bool(np.isclose(macs.max(), high))
    (True, True)
  """
  return all_space_costs(search_space, METRICS["flops"])


def all_space_costs(search_space: SearchSpace, metric: Metric) -> np.ndarray:
  """Returns the mean cost of every space: a table, float64, on the host."""
  if search_space.num_spaces > MAX_SPACES:
    raise ValueError(
      f"{search_space.num_spaces} spaces are too many to list; at most "
      f"{MAX_SPACES}"
    )
  num_stages = search_space.num_stages
  tables = cost_tables(search_space, metric)
  total = tables.ends  # On the last axis: the last stage's width.
  for stage in range(num_stages):
    costs = stage_costs(search_space, tables, stage)
    num_depths, num_before, num_widths = costs.shape
    shape = [1] * (2 * num_stages)
    shape[stage], shape[num_stages + stage] = num_depths, num_widths
    if stage > 0:
      shape[num_stages + stage - 1] = num_before
    total = total + costs.reshape(shape)
  return total


def space_log_probabilities(
  search_space: SearchSpace, logits: SpaceLogits
) -> np.ndarray:
  """Returns every space's log-probability in nats under softmax(logits)."""
  rows = []
  for name, bins in search_space.bins.items():
    given = np.asarray(getattr(logits, name), np.float64)
    shape = (len(bins), max(map(len, bins)))
    if given.shape != shape:
      raise ValueError(
        f"{name} logits must be of shape {shape}; got {given.shape}"
      )
    if not np.isfinite(given).all():
      raise ValueError(f"{name} logits must be finite; got {given.tolist()}")
    rows += [row[: len(b)] for row, b in zip(given, bins, strict=True)]
  return np.asarray(sum(np.ix_(*map(_log_softmax, rows))))


def _log_softmax(row: np.ndarray) -> np.ndarray:
  row = row - row.max()
  return row - np.log(np.exp(row).sum())
