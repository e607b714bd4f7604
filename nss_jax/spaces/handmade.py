"""What an engineer would draw by hand at a cost: equal depths, doubling widths.

The controls that a searched space or arch has to beat. Stages of equal depth
whose widths double from stage to stage, 1 : 2 : 4 and so on, are the
proportions of the CIFAR ResNets. They are computed, not typed, so that there
is one for every search space, number of stages and set of constraints.

It is work for the host, in numpy.
"""

import numpy as np

from nss_jax.spaces.bins import edges_at, stage_offers
from nss_jax.spaces.constraints import (
  Target,
  arch_costs,
  as_constraints,
  nearest,
  worst_penalty,
)
from nss_jax.spaces.feasible import (
  TIE,
  all_costs,
  check_window,
  feasible_indices,
)
from nss_jax.spaces.sampling import take
from nss_jax.spaces.search_space import Arch, Array, SearchSpace, Space
from nss_jax.spaces.table import spaces_at


def proportional_arch(
  search_space: SearchSpace, target: Target, tolerance: float = 0.02
) -> Arch:
  """Returns the arch of equal depths and doubling widths at a cost.

  All equal depths and all scales b of the widths b, 2 b, 4 b, ... are tried,
  each number rounded to the nearest on offer. Of those that meet the target
  within the tolerance the most regular one is taken: the nearest to the
  proportions, and to equal shares of the largest depth and of the widest
  network of these proportions, so that neither depth nor width alone pays for
  the target. Where none meets it, the nearest by cost is taken.

  Args:
    search_space: the bins.
    target: multiply-adds, or constraints.
    tolerance: largest `|cost / target - 1|` accepted, of the exact cost.

  Returns:
    An `Arch` with numpy int32 fields `[S]`.

  Raises:
    ValueError: if target or tolerance are out of range.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded()
    >>> arch = proportional_arch(search_space, 600e6)
    >>> nss.format_arch(arch), int(nss.arch_macs(search_space, arch))
    ('d6-6-6_w44-87-175', 609329440)
  """
  constraints = as_constraints(target)
  check_window(constraints, tolerance)
  archs = _proportional_archs(search_space)
  costs = arch_costs(search_space, constraints, archs)
  irregular = _spread(archs.depth, archs.width)
  irregular += _imbalance(search_space, archs)
  best = nearest(constraints, costs, tolerance, irregular.round(9))
  return take(archs, best)


def proportional_space(
  search_space: SearchSpace, target: Target, tolerance: float
) -> Space:
  """Returns the space of nearly equal depths and doubling widths at a cost.

  Of all spaces whose mean cost is within the tolerance, it is the one with the
  smallest sum of squares of the deviations, over stages, of log(mean depth) and
  of log(mean width / 2^stage) from their means. So the scale does not count,
  only the proportions. Of equal ones (to `TIE`) the nearest to the target is
  taken.

  Args:
    search_space: the bins.
    target: multiply-adds, or constraints.
    tolerance: largest `|mean cost / target - 1|` accepted.

  Returns:
    A `Space` with numpy int32 fields `[S]`.

  Raises:
    ValueError: naming the nearest cost there is, if no space is within the
      tolerance; if target or tolerance are out of range.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded()
    >>> space = proportional_space(search_space, 600e6, 0.02)
    >>> nss.format_space(search_space, space)
    'd1:4-1:4-1:4_w65:96-129:160-193:224'
  """
  constraints = as_constraints(target)
  indices = feasible_indices(search_space, target, tolerance)
  spaces = spaces_at(search_space, indices)
  means = []
  for kind, bins in search_space.bins.items():
    low, high = edges_at(bins, getattr(spaces, kind))
    means.append((low + high) / 2)
  spread = _spread(*means)
  indices = indices[spread <= spread.min() + TIE]
  costs = [x.ravel()[indices] for x in all_costs(search_space, constraints)]
  best = worst_penalty(constraints, costs).argmin()
  return spaces_at(search_space, indices[best])


def _proportional_archs(search_space: SearchSpace) -> Arch:
  """Returns every equal depth with every scale of the widths, `[N, S]`."""
  depths = [stage_offers(bins) for bins in search_space.depth_bins]
  widths = [stage_offers(bins) for bins in search_space.width_bins]
  depth = _nearest(depths, np.unique(np.concatenate(depths))[:, None])
  # Between two scales at which the rounding of a width changes, nothing does.
  factors = 2.0 ** np.arange(search_space.num_stages)
  changes = np.unique(
    np.concatenate(
      [
        np.concatenate([offers[:1], _middles(offers), offers[-1:]]) / factor
        for offers, factor in zip(widths, factors, strict=True)
      ]
    )
  )
  scales = np.concatenate([changes[:1], _middles(changes), changes[-1:]])
  width = _nearest(widths, scales[:, None] * factors)
  rows = np.indices((len(depth), len(width))).reshape(2, -1)
  return Arch(depth=depth[rows[0]], width=width[rows[1]])


def _nearest(offers: list[np.ndarray], wanted: np.ndarray) -> np.ndarray:
  """Returns the nearest offers of each stage, `[n, S]`, to such numbers."""
  wanted = np.broadcast_to(wanted, (len(wanted), len(offers)))
  columns = [
    offer[np.searchsorted(_middles(offer), column)]
    for offer, column in zip(offers, wanted.T, strict=True)
  ]
  return np.stack(columns, axis=-1).astype(np.int32)


def _middles(values: np.ndarray) -> np.ndarray:
  return (values[1:] + values[:-1]) / 2


def _spread(depth: Array, width: Array) -> np.ndarray:
  """Returns how far `[N]` depths are from equal and widths from doubling.

  It is the sum over stages of the squared deviations of the logarithms.
  """
  logs = np.stack([np.log(depth), _log_scales(width)])
  return ((logs - logs.mean(-1, keepdims=True)) ** 2).sum((0, -1))


def _imbalance(search_space: SearchSpace, archs: Arch) -> np.ndarray:
  """Returns the squared log of the share of depth over that of width, `[N]`.

  They are shares of the deepest equal stages and of the widest doubling ones.
  """
  depth = np.log(archs.depth).mean(-1) - np.log(min(search_space.max_depths))
  widest = _log_scales(np.asarray(search_space.max_widths)).min()
  return (depth - (_log_scales(archs.width).mean(-1) - widest)) ** 2


def _log_scales(width: Array) -> np.ndarray:
  """Returns log(width / 2^stage), `[..., S]`."""
  return np.log(width) - np.arange(width.shape[-1]) * np.log(2)
