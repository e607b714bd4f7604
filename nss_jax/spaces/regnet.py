"""The design spaces of RegNet: draws from AnyNetX and RegNet.

Other populations to compare an Elite Space with (paper 4.5). "RegNet" is
Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, and "pycls"
its code, github.com/facebookresearch/pycls. Work for the host, in numpy.
"""

import jax
import numpy as np

from nss_jax.spaces.bins import held
from nss_jax.spaces.feasible import check_at_least_one
from nss_jax.spaces.principles import (
  StageOrder,
  Window,
  check_stages,
  collect_archs,
  follows,
  stage_offers,
  take,
)
from nss_jax.spaces.sampling import host_rng
from nss_jax.spaces.search_space import Arch, SearchSpace

# RegNet bounds its parameters on AnyNetX, whose widths end at 1024, by
# w_0, w_a < 256 and 1.5 <= w_m <= 3.
_WIDTH_SHARE = 1 / 4
_MULTIPLIERS = (1.5, 3.0)


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
  """Draws archs as RegNet draws from AnyNetX: log-uniform, stages on their own.

  RegNet takes log-uniform depths d <= 16 and widths w <= 1024 that 8 divides;
  here those are the numbers that the bins offer. As in pycls
  (`sweep/random.py`), a number drawn log-uniformly is rounded up, so that v has
  the probability of (v - quantum, v], and the first multiple that of its upper
  half. Bottleneck ratios and group widths, which our blocks do not have, are
  left out: so it is AnyNetX A, and AnyNetX E with the order of the design
  principles. For uniform numbers see `sample_feasible_archs` and
  `sample_ordered_archs`.

  Args:
    rng: random key, consumed; it seeds a numpy generator.
    search_space: the bins.
    count: N.
    order: accept only archs that follow it (by rejection).
    window: accept only archs of `(low, high)` multiply-adds, ends included.
    quantum: widths are multiples of it.
    max_draws: give up after so many archs, accepted or not.

  Returns:
    An `Arch` with numpy int32 fields `[N, S]`.

  Raises:
    ValueError: if a stage offers no multiple of `quantum`, or `max_draws` did
      not suffice.
  """
  check_at_least_one("quantum", quantum)
  if order is not None:
    check_stages(search_space.num_stages, order)
  generator = host_rng(rng)
  tables = [
    [_log_uniform_table(stage_offers(stage), q) for stage in bins]
    for bins, q in (
      (search_space.depth_bins, 1),
      (search_space.width_bins, quantum),
    )
  ]

  def draw_fn(size: int) -> Arch:
    archs = Arch(
      *(
        np.stack([generator.choice(v, size, p=p) for v, p in kind], axis=-1)
        for kind in tables
      )
    )
    return archs if order is None else take(archs, follows(archs, order))

  return collect_archs(draw_fn, search_space, count, window, max_draws)


def regnet_stages(
  initial_width: int,
  slope: float,
  multiplier: float,
  depth: int,
  *,
  quantum: int = 8,
  group_width: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """The stages of a RegNet (RegNet 3.3, Eq. 2-4; pycls `generate_regnet`).

  Block j should have the width u = w_0 + w_a j. It gets w_0 w_m^s, where s is
  the nearest integer to log_wm(u / w_0), rounded to a multiple of the quantum.
  A stage is a run of blocks of equal width.

  Args:
    initial_width: w_0, channels; a multiple of the quantum.
    slope: w_a, channels per block.
    multiplier: w_m, the factor from stage to stage.
    depth: d, blocks of the whole body.
    quantum: widths are multiples of it.
    group_width: channels per group of the 3x3 convolutions. Then widths are
      rounded to multiples of it, or it is lowered to a narrower stage's width
      (pycls `adjust_block_compatibility`, bottleneck ratio 1).

  Returns:
    `(depths, widths)`, int64 `[S']` each: as many stages as came out.

  Raises:
    ValueError: if a parameter is out of range.
  """
  for name, value in (("depth", depth), ("quantum", quantum)):
    check_at_least_one(name, value)
  if initial_width < 1 or initial_width % quantum:
    raise ValueError(
      f"initial_width must be a multiple of {quantum}; got {initial_width}"
    )
  if not (0 <= slope < np.inf and 1 < multiplier < np.inf):
    raise ValueError(
      "slope must be at least 0, multiplier above 1 and both finite; got "
      f"{slope} and {multiplier}"
    )
  _, blocks = _regnet_blocks(initial_width, slope, multiplier, depth, quantum)
  widths, depths = np.unique(blocks, return_counts=True)
  if group_width is not None:
    check_at_least_one("group_width", group_width)
    group = np.minimum(group_width, widths)
    widths = np.round(widths / group).astype(np.int64) * group
  return depths, widths


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

  Args:
    rng: random key, consumed; it seeds a numpy generator.
    search_space: the bins.
    count: N.
    window: accept only archs of `(low, high)` multiply-adds, ends included.
    quantum: widths are multiples of it.
    max_draws: give up after so many sets of parameters, accepted or not.

  Returns:
    An `Arch` with numpy int32 fields `[N, S]`.

  Raises:
    ValueError: if a quarter of the largest width is less than the quantum, or
      `max_draws` did not suffice.
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
    level, blocks = _regnet_blocks(first, slope, multiplier, depth, quantum)
    # Blocks past the depth repeat the last, so they start no stage.
    stage = np.cumsum(np.diff(blocks, axis=-1, prepend=blocks[:, :1]) > 0, -1)
    kept = (stage[:, -1] == num_stages - 1) & (level[:, -1] == num_stages - 1)
    depth, blocks, stage = (x[kept] for x in (depth, blocks, stage))
    real = np.arange(blocks.shape[-1]) < depth
    here = [(stage == s) & real for s in range(num_stages)]
    archs = Arch(
      depth=np.stack([x.sum(-1) for x in here], -1).astype(np.int32),
      width=np.stack([(x * blocks).max(-1) for x in here], -1).astype(np.int32),
    )
    inside = [
      held(np.asarray(archs.depth), search_space.depth_bins),
      held(np.asarray(archs.width), search_space.width_bins),
    ]
    return take(archs, np.all(inside, axis=(0, -1)))

  return collect_archs(draw_fn, search_space, count, window, max_draws)


def _regnet_blocks(
  first: float | np.ndarray,
  slope: float | np.ndarray,
  multiplier: float | np.ndarray,
  depth: int | np.ndarray,
  quantum: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Level and width of every block, int64 `[..., max(depth)]`.

  Parameters are numbers or `[N, 1]`; blocks past the depth repeat the last.
  """
  block = np.minimum(np.arange(np.max(depth)), np.subtract(depth, 1))
  linear = first + slope * block
  level = np.round(np.log(linear / first) / np.log(multiplier))
  width = np.round(first * multiplier**level / quantum) * quantum
  return level.astype(np.int64), width.astype(np.int64)


def _log_uniform_table(values: np.ndarray, quantum: int) -> tuple:
  """Multiples of the quantum, int32, and their log-uniform probabilities."""
  multiples = values[values % quantum == 0].astype(np.int32)
  if not multiples.size:
    raise ValueError(
      f"no multiple of {quantum} from {values.min()} to {values.max()} on offer"
    )
  weights = -np.log1p(-np.minimum(quantum / multiples, 0.5))
  return multiples, weights / weights.sum()
