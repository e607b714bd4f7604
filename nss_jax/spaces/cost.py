"""Cost of an arch, mean cost of a space, and the FLOPs loss.

A metric says what the first block of a stage costs, what each further one does,
and what stem and head do. The cost of an arch is their sum. The mean over a
pair of width bins is the mean of the same numbers over all pairs of widths, a
table; the mean cost of a space is a sum of table entries, because depth and
widths are independent; and that of weighted bins is linear in the weights of
each stage, so differentiable. So the three cannot drift apart.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.bins import Bin, bin_edges, stage_offers
from nss_jax.spaces.metrics import COUNTS, METRICS, Metric
from nss_jax.spaces.search_space import (
  Arch,
  Array,
  SearchSpace,
  Space,
  check_archs,
  check_spaces,
)


class CostTables(NamedTuple):
  """Mean costs by the bins of a search space, float64, on the host.

  K is the number of width bins of a stage, K' of the stage before (one, the
  stem, for the first stage).

  Attributes:
    first: `[S]` tables `[K', K]`: of the first block.
    rest: `[S]` tables `[K]`: of each further block.
    ends: `[K]`, by the last stage's width: of stem and head.
  """

  first: tuple[np.ndarray, ...]
  rest: tuple[np.ndarray, ...]
  ends: np.ndarray


def arch_cost(
  search_space: SearchSpace, metric: Metric, arch: Arch
) -> np.ndarray:
  """Returns the costs `[...]` of archs `[..., S]`, on the host.

  They are int64 where the metric is exact, and Python integers where a search
  space is so large that int64 might not hold them.

  Raises:
    ValueError: if an arch is not of the search space.
  """
  check_archs(search_space, arch)
  integer = _integer(search_space, metric)
  # In rows, for an element of an array of Python's integers is no array.
  fields = np.broadcast_arrays(arch.depth, arch.width)
  depth, width = (
    x.astype(integer).reshape(-1, search_space.num_stages) for x in fields
  )
  total = _sum_up(search_space, metric, depth, width)
  return total.reshape(fields[0].shape[:-1])


def _sum_up(
  search_space: SearchSpace, metric: Metric, depth: Any, width: Any
) -> Any:
  """Sums up the cost of numbers `[..., S]` of any type."""
  total = metric.ends(search_space, width[..., -1])
  before = np.asarray(search_space.stem_width, width.dtype)
  for stage in range(search_space.num_stages):
    d, w = depth[..., stage], width[..., stage]
    total = total + metric.first(search_space, stage, before, w)
    total = total + (d - 1) * metric.rest(search_space, stage, w)
    before = w
  return total


@functools.lru_cache(maxsize=64)
def _integer(search_space: SearchSpace, metric: Metric) -> type:
  """Returns int64, or Python's integers if twice the largest arch is more.

  Twice, because an arch that is smaller may take projections that the largest
  does not. A metric of one's own is given int64 (see `Metric`).
  """
  if metric not in COUNTS.values():
    return np.int64
  largest = largest_arch(search_space)
  depth, width = (x.astype(float) for x in (largest.depth, largest.width))
  cost = _sum_up(search_space, metric, depth, width)
  return np.int64 if 2 * cost < np.iinfo(np.int64).max else object


@functools.lru_cache(maxsize=64)
def cost_tables(search_space: SearchSpace, metric: Metric) -> CostTables:
  """Returns the means of a metric over all pairs of widths of two bins."""
  first, rest = [], []
  integer = _integer(search_space, metric)
  before = ((search_space.stem_width,) * 2,)
  for stage, bins in enumerate(search_space.width_bins):
    entering, widths = (
      stage_offers(kind).astype(integer) for kind in (before, bins)
    )
    # A width before at a time: all the pairs may not fit in memory.
    rows = [
      _bin_means(bins, metric.first(search_space, stage, one, widths))
      for one in entering
    ]
    first.append(_bin_means(before, np.stack(rows)))
    rest.append(_bin_means(bins, metric.rest(search_space, stage, widths)))
    before = bins
  last = search_space.width_bins[-1]
  widths = stage_offers(last).astype(integer)
  ends = _bin_means(last, metric.ends(search_space, widths))
  return CostTables(tuple(first), tuple(rest), ends)


def mean_cost(
  search_space: SearchSpace, tables: CostTables, weights: Any
) -> Array:
  """Returns the mean cost of a space whose bins are weighted.

  Args:
    search_space: the bins.
    tables: the costs.
    weights: `.depth` `[S, Kd]` and `.width` `[S, Kw]`, rows that sum to one:
      one-hot for a space, probabilities for a distribution over spaces,
      Gumbel-Softmax weights in between. numpy in, numpy out (float64).

  Returns:
    A scalar, differentiable in the weights; exact for one-hot rows and for
    independent probabilities. float32 under jax: relative error about 1e-6.
  """
  dtype = weights.width.dtype
  if isinstance(weights.width, np.ndarray):
    dtype = np.float64
  # Also where jax's default is float64.
  mean_depths, tables = jax.tree.map(
    lambda x: x.astype(dtype), (_mean_depths(search_space), tables)
  )
  depth = (weights.depth * mean_depths).sum(-1)
  total: Any = 0.0
  before: Any = np.ones(1, dtype)
  for stage, (first, rest) in enumerate(
    zip(tables.first, tables.rest, strict=True)
  ):
    here = weights.width[stage, : len(rest)]
    # Not a matrix product: accelerators may compute those in bfloat16.
    total = total + (before[:, None] * first * here[None, :]).sum()
    total = total + (depth[stage] - 1) * (rest * here).sum()
    before = here
  return total + (tables.ends * before).sum()


def drawn_costs(
  search_space: SearchSpace, tables: CostTables, spaces: Space
) -> Array:
  """Looks up mean costs of spaces `[N, S]` that are drawn inside jit: `[N]`.

  They are float32. Where bins are many, one-hot weights for `mean_cost` would
  be large. An index that a stage does not have is not noticed.
  """
  depths = np.asarray(_mean_depths(search_space), np.float32)
  total: Any = 0.0
  before: Any = np.zeros(1, np.int32)
  for stage, (first, rest) in enumerate(
    zip(tables.first, tables.rest, strict=True)
  ):
    here = spaces.width[..., stage]
    further = jnp.asarray(depths[stage])[spaces.depth[..., stage]] - 1
    total = total + jnp.asarray(first, jnp.float32)[before, here]
    total = total + further * jnp.asarray(rest, jnp.float32)[here]
    before = here
  return total + jnp.asarray(tables.ends, jnp.float32)[before]


def space_cost(
  search_space: SearchSpace, tables: CostTables, space: Space
) -> float:
  """Returns the mean cost over the archs of one space, float64, on the host.

  Raises:
    ValueError: if the space names a bin that its stage does not have.
  """
  check_spaces(search_space, space, one=True)
  counts = search_space.num_depth_bins, search_space.num_width_bins
  indices = map(np.asarray, (space.depth, space.width))
  one_hot = Space(*(np.eye(n)[i] for n, i in zip(counts, indices, strict=True)))
  return float(mean_cost(search_space, tables, one_hot))


def stage_costs(
  search_space: SearchSpace, tables: CostTables, stage: int
) -> np.ndarray:
  """Returns mean costs of one stage, `[Kd, K', K]` float64, on the host.

  One entry for each depth bin of the stage, each width bin of the stage before
  (one, the stem, for the first stage) and each width bin of the stage; no entry
  for bins that the stages do not have. A space costs the sum of one entry per
  stage and one of `tables.ends`.
  """
  num_bins = len(search_space.depth_bins[stage])
  depth = _mean_depths(search_space)[stage, :num_bins, None, None]
  return tables.first[stage] + (depth - 1) * tables.rest[stage]


def cost_range(
  search_space: SearchSpace, tables: CostTables
) -> tuple[float, float]:
  """Returns the smallest and the largest mean cost that a space can have.

  They are not simply those of the first and the last bins: one channel less can
  cost more, because it takes a projection. So this walks the stages, and keeps
  for each width bin the cheapest and the dearest way to get there.
  """
  lowest = highest = np.zeros(1)
  for stage in range(search_space.num_stages):
    costs = stage_costs(search_space, tables, stage)
    lowest = (lowest[:, None] + costs.min(0)).min(0)
    highest = (highest[:, None] + costs.max(0)).max(0)
  ends = tables.ends
  return float((lowest + ends).min()), float((highest + ends).max())


def arch_macs(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Counts multiply-adds of archs `[..., S]`, exactly: `[...]` int64.

  Example:
    >>> import nss_jax as nss
    >>> resnet_20 = nss.parse_arch("d3-3-3_w16-32-64")
    >>> int(nss.arch_macs(nss.SearchSpace.expanded(), resnet_20))
    40813194
  """
  return arch_cost(search_space, METRICS["flops"], arch)


def arch_params(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Counts parameters of archs `[..., S]`, exactly: `[...]` int64.

  These are trainable numbers, scale and offset of the normalisations included.

  Example:
    >>> import nss_jax as nss
    >>> resnet_20 = nss.parse_arch("d3-3-3_w16-32-64")
    >>> int(nss.arch_params(nss.SearchSpace.expanded(), resnet_20))
    272474
  """
  return arch_cost(search_space, METRICS["params"], arch)


def arch_activations(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Counts what convolutions and head put out for one image: `[...]` int64."""
  return arch_cost(search_space, METRICS["activations"], arch)


def mean_macs(search_space: SearchSpace, weights: Any) -> Array:
  """Returns a weighted space's mean multiply-adds in closed form (`mean_cost`).

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=32)
    >>> logits = nss.init_logits(search_space)  # all spaces equally likely
    >>> mean = mean_macs(search_space, nss.probabilities(logits))
    >>> round(float(mean) / 1e6, 2)
    21.31
    >>> round(float(nss.all_space_macs(search_space).mean()) / 1e6, 2)
    21.31
  """
  return mean_cost(search_space, _macs_tables(search_space), weights)


def space_macs(search_space: SearchSpace, space: Space) -> float:
  """Returns mean multiply-adds of the archs of one space, float64, on the host.

  Raises:
    ValueError: if the space names a bin that its stage does not have.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(
    ...   max_depth=2, max_width=4, num_depth_bins=2, num_width_bins=2
    ... )
    >>> space = nss.parse_space(search_space, "d1:1-2:2-1:1_w1:2-1:2-3:4")
    >>> space_macs(search_space, space)
    744813.0
    >>> archs = nss.enumerate_archs(search_space, space)
    >>> float(np.mean([arch_macs(search_space, arch) for arch in archs]))
    744813.0
  """
  return space_cost(search_space, _macs_tables(search_space), space)


def macs_range(search_space: SearchSpace) -> tuple[float, float]:
  """Returns smallest and largest mean multiply-adds that a space can have."""
  return cost_range(search_space, _macs_tables(search_space))


def largest_macs(search_space: SearchSpace) -> int:
  """Counts multiply-adds of the largest network, which a masked step pays."""
  return int(arch_macs(search_space, largest_arch(search_space)))


def largest_arch(search_space: SearchSpace) -> Arch:
  """Returns the arch with every block and channel."""
  ends = search_space.max_depths, search_space.max_widths
  return Arch(*(np.asarray(x, np.int32) for x in ends))


def smallest_arch(search_space: SearchSpace) -> Arch:
  """Returns the arch of the smallest depths and widths on offer."""
  return Arch(*(bin_edges(x)[0][:, 0] for x in search_space.bins.values()))


def _macs_tables(search_space: SearchSpace) -> CostTables:
  return cost_tables(search_space, METRICS["flops"])


def _mean_depths(search_space: SearchSpace) -> np.ndarray:
  """Returns the mean of each depth bin, `[S, Kd]`."""
  low, high = bin_edges(search_space.depth_bins)
  return (low.astype(np.float64) + high) / 2


def _bin_means(bins: Sequence[Bin], values: np.ndarray) -> np.ndarray:
  """Averages over each bin what its numbers have, `[n, ...]`: `[K, ...]`."""
  sizes = np.asarray([high - low + 1 for low, high in bins])
  starts = np.cumsum(sizes) - sizes
  values = np.asarray(values, np.float64)
  if not values.ndim:
    values = np.broadcast_to(values, sizes.sum())
  sums = np.add.reduceat(values, starts, axis=0)
  return (sums.T / sizes).T
