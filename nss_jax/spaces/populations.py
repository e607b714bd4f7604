"""Draws by rule: archs in an order of their stages, of AnyNetX and of RegNet.

Populations to compare an Elite Space with (paper 4.5, Fig. 6). "RegNet" is
Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, and "pycls"
its code, github.com/facebookresearch/pycls. It is work for the host, in numpy.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from nss_jax.spaces.bins import held, stage_offers
from nss_jax.spaces.cost import arch_macs
from nss_jax.spaces.sampling import (
  check_at_least_one,
  collect_archs,
  host_rng,
  take,
)
from nss_jax.spaces.search_space import Arch, SearchSpace

# `(low, high)` in multiply-adds, ends included.
Window = tuple[float, float]
_ARCHS_PER_BATCH = 2**14
# RegNet bounds its parameters on AnyNetX, whose widths end at 1024, by
# w_0, w_a < 256 and 1.5 <= w_m <= 3.
_WIDTH_SHARE = 1 / 4
_MULTIPLIERS = (1.5, 3.0)


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
    """Returns d1 <= ... <= dS and w1 <= ... <= wS (RegNet, AnyNetX E)."""
    return cls(tuple(range(num_stages)))

  @classmethod
  def elite_trend(cls) -> "StageOrder":
    """Returns d1 <= d3 <= d2 and w1 <= w3 <= w2: the paper's Elite Spaces."""
    return cls((0, 2, 1))


def follows(archs: Arch, order: StageOrder) -> np.ndarray:
  """Says which archs `[..., S]` have depths and widths in an order."""
  fields = [np.asarray(x) for x in (archs.depth, archs.width)]
  for field in fields:
    _check_stages(field.shape[-1], order)
  depth, width = (x[..., list(order.stages)] for x in fields)
  return np.asarray(((np.diff(depth) >= 0) & (np.diff(width) >= 0)).all(-1))


def num_ordered_archs(search_space: SearchSpace, order: StageOrder) -> int:
  """Counts the archs of a search space that follow an order, exactly."""
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
  """Draws archs uniformly from those that follow an order, `[count, S]`.

  Ordered tuples are drawn directly: the smallest stage first, each of its
  numbers weighted by how many ways the other stages have to go on from it. The
  window is met by rejection, which keeps 1 in 480 (design principles) or 1 in
  1,474 (elite trend) at 360 to 400 MF in the paper's search space; rejection
  from all archs would keep 1 in 14,387 or 1 in 44,127.
  """
  if not num_ordered_archs(search_space, order):
    raise ValueError(f"no arch has stages in the order {order.stages}")
  generator, places = host_rng(rng), np.argsort(order.stages)
  tables = _tables(search_space, order)

  def draw_fn(size: int) -> Arch:
    tuples = (_ordered_tuples(generator, kind, size) for kind in tables)
    return Arch(*(x[:, places].astype(np.int32) for x in tuples))

  return _collect(draw_fn, search_space, count, window, max_draws)


def sample_anynet_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  count: int,
  *,
  order: StageOrder | None = None,
  window: Window | None = None,
  quantum: int = 8,
  max_draws: int = 2**26,
) -> Arch:
  """Draws archs as RegNet draws from AnyNetX: log-uniform, each stage alone.

  RegNet takes log-uniform depths d <= 16 and widths w <= 1024 that 8 divides;
  here those are the numbers that the bins offer. As in pycls
  (`sweep/random.py`), a number drawn log-uniformly is rounded up, so that v has
  the probability of (v - quantum, v], and the first multiple that of its upper
  half. Bottleneck ratios and group widths, which our blocks do not have, are
  left out: so it is AnyNetX A, and AnyNetX E with the order of the design
  principles. Order and window are met by rejection.
  """
  check_at_least_one("quantum", quantum)
  if order is not None:
    _check_stages(search_space.num_stages, order)
  generator = host_rng(rng)
  quanta = {"depth": 1, "width": quantum}
  tables = [
    [_log_uniform_table(stage_offers(stage), quanta[kind]) for stage in bins]
    for kind, bins in search_space.bins.items()
  ]

  def draw_fn(size: int) -> Arch:
    archs = Arch(
      *(
        np.stack([generator.choice(v, size, p=p) for v, p in kind], axis=-1)
        for kind in tables
      )
    )
    return archs if order is None else take(archs, follows(archs, order))

  return _collect(draw_fn, search_space, count, window, max_draws)


def regnet_blocks(
  first: float | np.ndarray,
  slope: float | np.ndarray,
  multiplier: float | np.ndarray,
  depth: int | np.ndarray,
  quantum: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns level and width of every block of RegNets (RegNet 3.3, Eq. 2-4).

  Block j of d should have the width u = w_0 + w_a j. Its level s is the nearest
  integer to log_wm(u / w_0), its width w_0 w_m^s, rounded to a multiple of the
  quantum; a stage is a run of blocks of equal width. Both are int64
  `[..., max(depth)]`; parameters are numbers or `[N, 1]`, and blocks past the
  depth repeat the last.
  """
  block = np.minimum(np.arange(np.max(depth)), np.subtract(depth, 1))
  linear = first + slope * block
  level = np.round(np.log(linear / first) / np.log(multiplier))
  width = np.round(first * multiplier**level / quantum) * quantum
  return level.astype(np.int64), width.astype(np.int64)


def sample_regnet_archs(
  rng: jax.Array,
  search_space: SearchSpace,
  count: int,
  *,
  window: Window | None = None,
  quantum: int = 8,
  max_draws: int = 2**22,
) -> Arch:
  """Draws archs of the RegNet design space that a search space offers.

  RegNet bounds d < 64, w_0 and w_a < 256 and 1.5 <= w_m <= 3 for four stages of
  AnyNetX, d <= 16 and w <= 1024. Scaled to the search space: d up to the sum of
  the stages' largest depths, w_0 and w_a from the quantum up to a quarter of
  the largest width. As in pycls (`sweep/samplers.py`), d is uniform and the
  others log-uniform, w_0 a multiple of the quantum; and kept are parameters of
  exactly S stages that skip no power of w_m. Those whose stages the bins do not
  offer are rejected. There is no group width: our blocks have no groups.
  """
  check_at_least_one("quantum", quantum)
  widest = _WIDTH_SHARE * search_space.max_width
  if widest < quantum:
    raise ValueError(
      f"w_0 and w_a are at most a quarter of the largest width, {widest:.6g}, "
      f"and at least the quantum; got {quantum}"
    )
  generator, num_stages = host_rng(rng), search_space.num_stages
  firsts, chance = _log_uniform_table(np.arange(1, int(widest) + 1), quantum)

  def draw_fn(size: int) -> Arch:
    most = sum(search_space.max_depths)
    depth = generator.integers(num_stages, most + 1, (size, 1))
    first = generator.choice(firsts, (size, 1), p=chance)
    slope, multiplier = (
      np.exp(generator.uniform(low, high, (size, 1)))
      for low, high in np.log(((quantum, widest), _MULTIPLIERS))
    )
    level, blocks = regnet_blocks(first, slope, multiplier, depth, quantum)
    # Blocks past the depth repeat the last, so they start no stage.
    stage = np.cumsum(np.diff(blocks, axis=-1, prepend=blocks[:, :1]) > 0, -1)
    kept = (stage[:, -1] == num_stages - 1) & (level[:, -1] == num_stages - 1)
    depth, blocks, stage = (x[kept] for x in (depth, blocks, stage))
    real = np.arange(blocks.shape[-1]) < depth
    here = [(stage == s) & real for s in range(num_stages)]
    fields = {
      "depth": np.stack([x.sum(-1) for x in here], -1).astype(np.int32),
      "width": np.stack([(x * blocks).max(-1) for x in here], -1),
    }
    inside = [
      held(fields[kind], bins) for kind, bins in search_space.bins.items()
    ]
    archs = Arch(**{kind: x.astype(np.int32) for kind, x in fields.items()})
    return take(archs, np.all(inside, axis=(0, -1)))

  return _collect(draw_fn, search_space, count, window, max_draws)


def _collect(
  draw_fn: Callable[[int], Arch],
  search_space: SearchSpace,
  count: int,
  window: Window | None,
  max_draws: int,
) -> Arch:
  """Draws until `count` archs lie in the window, or gives up."""
  check_at_least_one("count", count)
  low, high = (0, np.inf) if window is None else window
  if not 0 <= low <= high:
    raise ValueError(
      f"a window is 0 <= low <= high multiply-adds; got {window}"
    )

  def draw_inside(size: int) -> Arch:
    archs = draw_fn(size)
    macs = arch_macs(search_space, archs)
    return take(archs, (low <= macs) & (macs <= high))

  where = "" if window is None else f" of {low:.6g} to {high:.6g} MACs"
  return collect_archs(
    draw_inside, count, max_draws, _ARCHS_PER_BATCH, f"archs{where}"
  )


def _tables(search_space: SearchSpace, order: StageOrder) -> list[list]:
  """Returns for depths and widths `[S]` pairs (numbers on offer, table).

  Stages come in the order. The table, `[K + 1]`, is cumulative: entry k counts
  the ordered tuples of a stage and those after it whose first number comes
  before the k-th of the K that the stage offers.
  """
  _check_stages(search_space.num_stages, order)
  result = []
  for bins in search_space.bins.values():
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
  """Draws tuples `[count, S]`, each number at least the one before it."""
  columns, previous = [], np.zeros(count, np.int64)
  for offers, table in pairs:
    start = table[np.searchsorted(offers, previous)]
    place = generator.integers(start, table[-1], count)
    previous = offers[np.searchsorted(table, place, side="right") - 1]
    columns.append(previous)
  return np.stack(columns, axis=-1)


def _log_uniform_table(values: np.ndarray, quantum: int) -> tuple:
  """Returns multiples of the quantum, int32, and log-uniform probabilities."""
  multiples = values[values % quantum == 0].astype(np.int32)
  if not multiples.size:
    raise ValueError(
      f"no multiple of {quantum} from {values.min()} to {values.max()} on offer"
    )
  weights = -np.log1p(-np.minimum(quantum / multiples, 0.5))
  return multiples, weights / weights.sum()


def _check_stages(num_stages: int, order: StageOrder) -> None:
  if num_stages != len(order.stages):
    raise ValueError(
      f"the order {order.stages} is one of {len(order.stages)} stages, not "
      f"{num_stages}"
    )
