"""Design principles against the Elite Spaces' trend: draws and error EDFs.

Paper 4.5 (Fig. 6) compares the error EDF of archs that follow the design
principles of RegNet with that of archs that follow the trend of the Elite
Spaces, with and without a window of multiply-adds. "RegNet" is Radosavovic et
al., "Designing Network Design Spaces", CVPR 2020; its own samplers are in
`regnet.py`. Work for the host, in numpy.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from nss_jax.spaces.cost import arch_macs
from nss_jax.spaces.feasible import check_at_least_one
from nss_jax.spaces.sampling import host_rng
from nss_jax.spaces.search_space import Arch, Bin, SearchSpace

Window = tuple[float, float]

_ARCHS_PER_BATCH = 2**14


@dataclasses.dataclass(frozen=True)
class StageOrder:
  """An order of the stages, in depth and in width, ties allowed.

  Attributes:
    stages: `[S]` stages from 0, from the smallest depth and width to the
      largest: `(0, 2, 1)` is d1 <= d3 <= d2 and w1 <= w3 <= w2.

  Raises:
    ValueError: if `stages` is not a permutation of 0 to S - 1.
  """

  stages: tuple[int, ...]

  def __post_init__(self):
    object.__setattr__(self, "stages", tuple(map(int, self.stages)))
    if not self.stages or sorted(self.stages) != [*range(len(self.stages))]:
      raise ValueError(
        f"an order is a permutation of the stages 0 to S - 1; got {self.stages}"
      )

  @classmethod
  def design_principles(cls, num_stages: int = 3) -> "StageOrder":
    """d1 <= d2 <= ... <= dS and w1 <= w2 <= ... <= wS (RegNet, AnyNetX E)."""
    return cls(tuple(range(num_stages)))

  @classmethod
  def elite_trend(cls) -> "StageOrder":
    """d1 <= d3 <= d2 and w1 <= w3 <= w2: the Elite Spaces (paper 4.5)."""
    return cls((0, 2, 1))


def follows(archs: Arch, order: StageOrder) -> np.ndarray:
  """Which archs `[..., S]` have depths and widths in the order, bool `[...]`.

  Raises:
    ValueError: if the archs have another number of stages than the order.
  """
  fields = [np.asarray(x) for x in (archs.depth, archs.width)]
  for field in fields:
    check_stages(field.shape[-1], order)
  depth, width = (x[..., list(order.stages)] for x in fields)
  return np.asarray(((np.diff(depth) >= 0) & (np.diff(width) >= 0)).all(-1))


def num_ordered_archs(search_space: SearchSpace, order: StageOrder) -> int:
  """The number of archs of a search space that follow an order, exact.

  Raises:
    ValueError: as `sample_ordered_archs`, but none for the number zero.
  """
  depth, width = (first for (_, first), *_ in _tables(search_space, order))
  return int(depth[-1]) * int(width[-1])


def sample_ordered_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  order: StageOrder,
  count: int,
  *,
  window: Window | None = None,
  max_draws: int = 2**26,
) -> Arch:
  """Draws archs uniformly from those that follow an order (paper 4.5, Fig. 6).

  Every arch of the search space that has the order, and whose own cost lies in
  the window if there is one, is equally likely; draws are independent. Ordered
  tuples are drawn directly: the smallest stage first, each of its numbers
  weighted by how many ways the other stages have to go on from it. The window
  is met by rejection, which keeps 1 in 480 (design principles) or 1 in 1,474
  (elite trend) at 360 to 400 MF in the paper's search space; rejection from all
  archs would keep 1 in 14,387 or 1 in 44,127.

  Args:
    rng: random key, consumed; it seeds a numpy generator.
    search_space: the bins; stages may offer different ones, with gaps.
    order: see `StageOrder`.
    count: N.
    window: `(low, high)` in multiply-adds, ends included. None: any cost.
    max_draws: give up after so many ordered archs, in the window or not.

  Returns:
    An `Arch` with numpy int32 fields `[N, S]`.

  Raises:
    ValueError: if the order is not of the search space's stages, no arch
      follows it or too many to count in 63 bits do, or `max_draws` did not
      suffice.
  """
  if not num_ordered_archs(search_space, order):
    raise ValueError(f"no arch has stages in the order {order.stages}")
  generator, places = host_rng(rng), np.argsort(order.stages)
  tables = _tables(search_space, order)

  def draw_fn(size: int) -> Arch:
    tuples = (_ordered_tuples(generator, kind, size) for kind in tables)
    return Arch(*(x[:, places].astype(np.int32) for x in tuples))

  return collect_archs(draw_fn, search_space, count, window, max_draws)


def match_costs(
  reference_macs: np.ndarray,
  candidate_macs: np.ndarray,
  *,
  tolerance: float = 0.02,
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs archs of two populations that cost the same, each used once.

  Error EDFs of two populations of different cost compare the costs as well
  (without a window, archs of the elite trend cost twice those of the design
  principles). The EDFs over the pairs do not: at every quantile their costs
  agree within the tolerance. Of the pairings with the most pairs it is the one
  with the smallest sum of distances `|log(candidate / reference)|`, by dynamic
  programming over both populations sorted by cost. It looks at costs only and
  is no random draw, so at a given cost the errors of a population are as
  before. An arch without a partner is left out, of either population.

  Args:
    reference_macs: `[M]` multiply-adds, positive.
    candidate_macs: `[N]` multiply-adds, positive.
    tolerance: largest distance of a pair; 0.02 is 2 %.

  Returns:
    `(reference_indices, candidate_indices)`, int64 `[P]` each, in the order of
    cost; P may be 0. Takes time and bytes of memory in proportion to M N.

  Raises:
    ValueError: if a cost is not positive and finite, or tolerance negative.
  """
  macs = [
    np.asarray(x, np.float64).ravel() for x in (reference_macs, candidate_macs)
  ]
  for x in macs:
    if not ((x > 0) & (x < np.inf)).all():
      raise ValueError(f"multiply-adds must be positive and finite; got {x}")
  if not 0 <= tolerance < np.inf:
    raise ValueError(f"tolerance must be at least 0, finite; got {tolerance}")
  orders = [np.argsort(x, kind="stable") for x in macs]
  references, candidates = (
    np.log(x[o]) for x, o in zip(macs, orders, strict=True)
  )
  # More than all distances together, so that the number of pairs comes first.
  skip = 1 + len(references) * tolerance
  # best[j]: the least cost of the references so far with j candidates.
  best = np.zeros(len(candidates) + 1)
  paired = np.zeros((len(references), len(candidates) + 1), bool)
  dropped = np.zeros_like(paired)
  for i, reference in enumerate(references):
    distance = np.abs(candidates - reference)
    pair = np.where(distance <= tolerance, best[:-1] + distance, np.inf)
    pair = np.concatenate([[np.inf], pair])
    here = np.minimum(pair, best + skip)
    best = np.minimum.accumulate(here)
    paired[i], dropped[i] = pair <= best, here > best
  pairs, j = [], len(candidates)
  for i in range(len(references) - 1, -1, -1):
    while dropped[i, j]:
      j -= 1
    if paired[i, j]:
      j -= 1
      pairs.append((i, j))
  rows = np.asarray(pairs[::-1], np.int64).reshape(-1, 2).T
  return orders[0][rows[0]], orders[1][rows[1]]


def error_edf(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The empirical distribution function of errors (RegNet 3.1, Eq. 1).

  F(e), the share of archs with an error below e, is a step function. Returned
  are its steps: F is `share[k]` from just above `x[k]` to `x[k + 1]`, and 0 up
  to `x[0]`; so `share[k]` counts errors of at most `x[k]`. Plot it with
  `drawstyle="steps-post"`.

  Args:
    errors: `[N]`, in any unit.

  Returns:
    `(x, share)`, float64 `[K]` each: the K different errors, ascending, and
    shares that end with 1.

  Raises:
    ValueError: if there are no errors, or one is not a number.
  """
  errors = np.asarray(errors, np.float64).ravel()
  if not errors.size or np.isnan(errors).any():
    raise ValueError(
      f"an EDF needs errors that are numbers; got {errors.size}, "
      f"{np.isnan(errors).sum()} of them nan"
    )
  x, counts = np.unique(errors, return_counts=True)
  return x, np.cumsum(counts) / errors.size


def collect_archs(
  draw_fn: Callable[[int], Arch],
  search_space: SearchSpace,
  count: int,
  window: Window | None,
  max_draws: int,
) -> Arch:
  """Draws batches until `count` archs lie in the window, and returns those.

  Args:
    draw_fn: size -> archs; of `size` independent draws those that it accepts.
    search_space: the bins.
    count: N.
    window: `(low, high)` in multiply-adds, ends included. None: any cost.
    max_draws: give up after so many draws.

  Raises:
    ValueError: if an argument is out of range or `max_draws` did not suffice.
  """
  check_at_least_one("count", count)
  low, high = (0, np.inf) if window is None else window
  if not 0 <= low <= high:
    raise ValueError(
      f"a window is 0 <= low <= high multiply-adds; got {window}"
    )
  kept, missing, num_draws = [], count, 0
  while missing > 0 and num_draws < max_draws:
    size = min(_ARCHS_PER_BATCH, max_draws - num_draws)
    num_draws += size
    archs = draw_fn(size)
    macs = arch_macs(search_space, archs)
    rows = np.flatnonzero((low <= macs) & (macs <= high))[:missing]
    missing -= rows.size
    kept.append(take(archs, rows))
  if missing > 0:
    where = "" if window is None else f" of {low:.6g} to {high:.6g} MACs"
    raise ValueError(
      f"only {count - missing} of {count} archs{where} in {num_draws} draws"
    )
  return jax.tree.map(lambda *parts: np.concatenate(parts), *kept)


def _tables(search_space: SearchSpace, order: StageOrder) -> list[list]:
  """For depths and for widths, `[S]` pairs (numbers on offer, table).

  Stages come in the order. The table, `[K + 1]`, is cumulative: entry k counts
  the ordered tuples of a stage and those after it whose first number comes
  before the k-th of the K that the stage offers.
  """
  check_stages(search_space.num_stages, order)
  result = []
  for bins in (search_space.depth_bins, search_space.width_bins):
    pairs, ways = [], 1
    for stage in reversed(order.stages):
      offers = stage_offers(bins[stage])
      if pairs:
        after, table = pairs[0]
        ways = table[-1] - table[np.searchsorted(after, offers)]
      # Python integers, which do not overflow.
      table = np.zeros(offers.size + 1, object)
      table[1:] = ways
      pairs.insert(0, (offers, np.cumsum(table)))
    if max(table[-1] for _, table in pairs) >= 2**63:
      raise ValueError("there are 2^63 ordered tuples or more: too many")
    result.append([(x, table.astype(np.int64)) for x, table in pairs])
  return result


def _ordered_tuples(
  generator: np.random.Generator, pairs: list, count: int
) -> np.ndarray:
  """Uniform tuples `[count, S]`, each number at least the one before it."""
  columns, previous = [], np.zeros(count, np.int64)
  for offers, table in pairs:
    start = table[np.searchsorted(offers, previous)]
    place = generator.integers(start, table[-1], count)
    previous = offers[np.searchsorted(table, place, side="right") - 1]
    columns.append(previous)
  return np.stack(columns, axis=-1)


def stage_offers(bins: tuple[Bin, ...]) -> np.ndarray:
  """The numbers in the bins of one stage, ascending."""
  return np.concatenate([np.arange(low, high + 1) for low, high in bins])


def take(archs: Arch, rows: np.ndarray | np.integer | int) -> Arch:
  """The archs at indices, the one at an index, or those where a mask is set."""
  return jax.tree.map(lambda x: x[rows], archs)


def check_stages(num_stages: int, order: StageOrder) -> None:
  """Raises ValueError for an order of another number of stages."""
  if num_stages != len(order.stages):
    raise ValueError(
      f"the order {order.stages} is one of {len(order.stages)} stages, not "
      f"{num_stages}"
    )
