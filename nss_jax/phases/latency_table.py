"""The latency_table phase: times of blocks on this device, and their error."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, SupportsInt

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from nss_jax.config import Config
from nss_jax.errors import Interrupted, UserError
from nss_jax.phases.job import Job, wants_latency
from nss_jax.phases.registry import Phase
from nss_jax.results import block_times
from nss_jax.results.block_times import BlockTimes
from nss_jax.spaces.bins import Bin
from nss_jax.spaces.cost import arch_cost, arch_macs, cost_range, cost_tables
from nss_jax.spaces.metrics import LatencyTable, latency_metric, stage_shapes
from nss_jax.spaces.sampling import sample_uniform_archs, take
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_arch
from nss_jax.supernet import network
from nss_jax.version import __version__

# Draws of the networks that check the table, until there are enough.
_DRAWS = 20
_FEWEST = 2  # or nothing can be ordered
WARMUP = 3  # calls that compile and fill caches
# Seconds of the largest network of a search space.
TimeFn = Callable[[SearchSpace], float]


def run(job: Job) -> BlockTimes:
  """Times blocks by themselves, then whole networks, to compare.

  Writes `latency_table/table.csv`. `spread` is the interquartile range of the
  calls of a network over their median, of the median network: where it is large
  the machine was busy, and the table is poor.
  """
  settings, space = job.config.latency_table, job.search_space
  archs = held_out(job)
  spreads = []
  lost = "the times so far are not kept"
  job.preemption.tell(lambda: lost)

  @functools.cache
  def seconds(probe: SearchSpace) -> float:
    if job.preemption.requested():
      raise Interrupted(lost)
    times = network_seconds(job.config, probe)
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75))
    spreads.append((high - low) / median)
    return float(np.quantile(times, settings.quantile))

  job.say("latency_table: timing blocks")
  table = measure(space, settings.num_widths, seconds)
  job.say(f"latency_table: timing {len(archs.depth)} networks")
  compared = compare(space, table, archs, seconds)
  path = job.workdir / block_times.FOLDER / block_times.TABLE
  block_times.write_csv(path, table)
  tables = cost_tables(space, latency_metric(table))
  return BlockTimes(
    **block_times.Origin.here(job.config.supernet.activations).to_json(),
    backend=jax.default_backend(),
    jax=jax.__version__,
    batch_size=settings.batch_size,
    quantile=settings.quantile,
    spread=float(np.median(spreads)),
    mean_range=list(cost_range(space, tables)),
    **compared,
    search_space=space.to_dict(),
    table=block_times.Table.of(table),
    version=__version__,
  )


def is_measured_first(
  config: Config, workdir: pathlib.Path, phases: Sequence[str]
) -> bool:
  """Tells whether the first phase measures the table that the others need."""
  if phases[0] != block_times.FOLDER or not wants_latency(config):
    return False
  own = workdir / block_times.FOLDER
  missing = not (own / block_times.SUMMARY).exists()
  here = pathlib.Path(config.objective.latency_table) == own
  return len(phases) == 1 or (missing and here)


def plan(job: Job) -> str:
  """Says what is timed."""
  settings = job.config.latency_table
  return (
    f"blocks of {settings.num_widths} widths a stage, {settings.repeats} calls "
    f"each, {settings.batch_size} images a call; then "
    f"{settings.num_networks} networks"
  )


def call_seconds(call: Callable[[], Any], repeats: int) -> np.ndarray:
  """Times calls `[repeats]`, each until its arrays are there."""
  for _ in range(WARMUP):
    jax.block_until_ready(call())
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - began)
  return np.asarray(seconds)


def network_seconds(config: Config, space: SearchSpace) -> np.ndarray:
  """Times forward passes of the largest network, with running averages.

  The numbers in it do not matter, so they are made up on the host.
  """
  settings = config.latency_table
  rng = np.random.default_rng(0)
  params, averages = (
    jax.tree.map(
      lambda x: jnp.asarray(rng.uniform(0.01, 0.1, x.shape), x.dtype),
      jax.eval_shape(functools.partial(make, search_space=space)),
    )
    for make in (
      functools.partial(network.init_weights, jax.random.key(0)),
      network.init_averages,
    )
  )
  images = jnp.asarray(
    rng.normal(size=(settings.batch_size, *space.image_shape)),
    config.supernet.activations,
  )
  apply = jax.jit(
    lambda *inputs: network.apply_alone(space, *inputs, train=False)[0]
  )
  return call_seconds(lambda: apply(params, averages, images), settings.repeats)


def measure(
  space: SearchSpace, num_widths: int, seconds: TimeFn
) -> LatencyTable:
  """Returns block times: differences of small networks that differ by them.

  So what every network pays, the call, stem and head, is in `ends` alone, and a
  block is timed as a network has it: behind another one. Depths are not timed
  one by one: see `_rest_seconds`. Blocks that take less than the noise of the
  clock may come out as 0.
  """
  grids = [_grid(bins, num_widths) for bins in space.width_bins]
  before: list[np.ndarray] = [np.asarray([space.stem_width]), *grids[:-1]]
  rest = [
    np.asarray([_rest_seconds(space, stage, w, seconds) for w in grid])
    for stage, grid in enumerate(grids)
  ]
  first = [
    np.asarray(
      [[_first_seconds(space, s, b, w, seconds) for w in grids[s]] for b in row]
    )
    for s, row in enumerate(before)
  ]
  table = LatencyTable(
    tuple(before),
    tuple(grids),
    tuple(first),
    tuple(rest),
    np.zeros(len(grids[-1])),
  )
  middle = [int(grid[len(grid) // 2]) for grid in grids[:-1]]
  ends = [
    _ends_seconds(space, table, [*middle, int(w)], seconds) for w in grids[-1]
  ]
  return table._replace(ends=np.asarray(ends))


def held_out(job: Job) -> Arch:
  """Draws networks, `[N, S]`, each once, none of which the table is made of.

  There are as many as `num_networks`, or as are left in a small search space;
  fewer than two are refused.
  """
  settings, space = job.config.latency_table, job.search_space
  timed: set[SearchSpace] = set()

  def remember(probe: SearchSpace) -> float:
    timed.add(probe)
    return 1.0

  measure(space, settings.num_widths, remember)
  kept: dict[SearchSpace, Arch] = {}
  rng = jax.random.key(settings.seed)
  for draw in range(_DRAWS):
    # The first are those that were drawn before any was left out.
    key = jax.random.fold_in(rng, draw) if draw else rng
    archs = sample_uniform_archs(key, space, settings.num_networks)
    for i in range(settings.num_networks):
      arch = take(archs, i)
      only = space.only(arch)
      if only not in timed and len(kept) < settings.num_networks:
        kept.setdefault(only, arch)
  if len(kept) < _FEWEST:
    raise UserError(
      f"config.latency_table.num_widths: {settings.num_widths} is not accepted;"
      " expected fewer: the table would hold nearly all networks of the search "
      "space, and none would be left to check it by"
    )
  return jax.tree.map(lambda *x: np.stack(x), *kept.values())


def compare(
  space: SearchSpace,
  table: LatencyTable,
  archs: Arch,
  seconds: TimeFn,
) -> dict[str, Any]:
  """Tells how well the table predicts the times of networks, `[N, S]`.

  In the result `relative_error` is of `|predicted / measured - 1|`, and `tau`
  is Kendall's, of the predictions and, beside them, of the multiply-adds.
  """
  predicted = arch_cost(space, latency_metric(table), archs)
  each = [take(archs, i) for i in range(len(predicted))]
  measured = np.asarray([seconds(space.only(arch)) for arch in each])
  errors = np.abs(predicted / measured - 1)
  return {
    "relative_error": {"mean": errors.mean(), "max": errors.max()},
    "tau": {
      "latency": _kendall(predicted, measured),
      "flops": _kendall(arch_macs(space, archs), measured),
    },
    "networks": [
      {"arch": format_arch(arch), "measured": m, "predicted": p}
      for arch, m, p in zip(each, measured, predicted, strict=True)
    ],
  }


def _rest_seconds(
  space: SearchSpace, stage: int, width: int | np.integer, seconds: TimeFn
) -> float:
  """Times one further block: the mean of all that the deepest stage has.

  From two networks, of one block and of the most, so the time of a stage is
  taken to be linear in its depth.
  """
  shape = stage_shapes(space)[stage + 1]
  more = max(space.max_depths[stage] - 1, 1)
  one, all_ = (
    seconds(_probe(space, shape, width, [width], [depth], [1]))
    for depth in (1, 1 + more)
  )
  return max(all_ - one, 0.0) / more


def _first_seconds(
  space: SearchSpace,
  stage: int,
  before: int | np.integer,
  width: int | np.integer,
  seconds: TimeFn,
) -> float:
  """Times a stage's first block, with a projection, behind another block."""
  shape = stage_shapes(space)[stage]
  stride = space.strides[stage]
  if stride == 1 and before == width:
    before += 1  # or it would need no projection
  one = _probe(space, shape, before, [before], [1], [1])
  two = _probe(space, shape, before, [before, width], [1, 1], [1, stride])
  return max(seconds(two) - seconds(one), 0.0)


def _ends_seconds(
  space: SearchSpace,
  table: LatencyTable,
  widths: Sequence[int],
  seconds: TimeFn,
) -> float:
  """Times a network without its blocks, by what the table says of these."""
  depths = np.ones(space.num_stages, np.int64)
  arch = Arch(depth=depths, width=np.asarray(widths))
  blocks = arch_cost(space, latency_metric(table), arch)
  return max(seconds(space.only(arch)) - float(blocks), 0.0)


def _probe(
  space: SearchSpace,
  shape: tuple[int, int],
  stem: SupportsInt,
  widths: Sequence[SupportsInt],
  depths: Sequence[SupportsInt],
  strides: Sequence[int],
) -> SearchSpace:
  """Returns a small network on images of a stage's size."""
  return dataclasses.replace(
    space,
    image_shape=(*shape, space.image_shape[-1]),
    stem_width=int(stem),
    stem_stride=1,
    width_bins=tuple(((int(w), int(w)),) for w in widths),
    depth_bins=tuple(((int(d), int(d)),) for d in depths),
    strides=tuple(strides),
  )


def _grid(bins: Sequence[Bin], count: int) -> np.ndarray:
  """Returns widths from the smallest to the largest, evenly, `[G]`."""
  low, high = bins[0][0], bins[-1][1]
  return np.unique(np.linspace(low, high, count).round().astype(np.int64))


def _kendall(one: np.ndarray, other: np.ndarray) -> float | None:
  tau = float(stats.kendalltau(one, other).statistic)
  return None if np.isnan(tau) else tau


def check(job: Job) -> None:
  """Refuses a table that would leave no networks to compare it with."""
  held_out(job)


PHASE = Phase(
  block_times.FOLDER,
  run,
  block_times.describe,
  result=block_times.SUMMARY,
  reads=("latency_table",),
  check=check,
  plan=plan,
  read=BlockTimes.read,
)
