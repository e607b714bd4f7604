"""The principles phase: design principles against the paper's trend (4.5)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import evaluate
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import open_ledger
from nss_jax.phases.program import base_keys
from nss_jax.results import edfs, load, scores, trends
from nss_jax.results.trends import (
  COSTS,
  IN_WINDOW,
  KINDS,
  NAMES,
  OWN,
  PRINCIPLES,
  TREND,
  OwnOrder,
  Principles,
)
from nss_jax.runtime import files
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.populations import (
  StageOrder,
  Window,
  follows,
  sample_anynet_archs,
  sample_ordered_archs,
  sample_regnet_archs,
)
from nss_jax.spaces.search_space import Arch, SearchSpace, Space

# The paper's window holds one in 1,500 of the archs that follow the trend.
_MAX_DRAWS = 2**22
_ORDERS = {
  PRINCIPLES: StageOrder.design_principles(),
  TREND: StageOrder.elite_trend(),
}
_SAMPLERS = {
  **{
    name: functools.partial(sample_ordered_archs, order=order)
    for name, order in _ORDERS.items()
  },
  "anynet_e": functools.partial(sample_anynet_archs, order=_ORDERS[PRINCIPLES]),
  "regnet": sample_regnet_archs,
}


class Populations(NamedTuple):
  """What is to be compared.

  Attributes:
    archs: `{source: fields [N, S]}`.
    missing: why the others are not there, `{source: a line}`.
    own: the order of this run.
  """

  archs: dict[str, Arch]
  missing: dict[str, str]
  own: OwnOrder


def run(job: Job) -> Principles:
  """Scores networks of each population on the evaluator (Fig. 6).

  Writes `principles/scores.csv`, `summary.json` and `edf.png`.

  Raises:
    Diverged, Interrupted: as the evaluate phase.
  """
  config, search_space = job.config, job.search_space
  folder = job.workdir / "principles"
  files.make_folder(folder)
  drawn = draw_populations(job)
  with Preemption() as preemption:
    params = evaluate.train_supernet(job, preemption)
    total = sum(len(archs.depth) for archs in drawn.archs.values())
    with open_ledger(
      job, params, folder / "scores.csv", preemption, total
    ) as ledger:
      for name, archs in drawn.archs.items():
        ledger.score(name, archs)
    table = scores.read_scores(folder / "scores.csv", search_space)
    if picture := edfs.picture(table):
      picture.write(folder / "edf.png")
    result = trends.summarize(
      table,
      window=_window(config),
      own_order=drawn.own,
      missing=drawn.missing,
    )
    # Last: this file says that the phase is finished.
    result.write(folder / "summary.json")
  return result


def draw_populations(job: Job) -> Populations:
  """Draws every population that there is, with its own key each.

  This run's own order takes part if the search has ended and the order is none
  of the others'. A small search space may have no RegNet, or too few archs of
  some population in the window: those are missing.

  Raises:
    UserError: if too few archs of either trend are in the window, or the
      stages are not the three that the paper's trend orders.
  """
  config, search_space = job.config, job.search_space
  own, samplers = own_order(job), dict(_SAMPLERS)
  if own.stages is not None and not own.note:
    order = StageOrder(tuple(own.stages))
    samplers[OWN] = functools.partial(sample_ordered_archs, order=order)
  rng = jax.random.fold_in(base_keys(config.evaluate.seed)["evaluate"], 1)
  archs, missing = {}, {}
  for index, (cost, kind) in enumerate(
    (cost, kind) for cost in COSTS for kind in KINDS
  ):
    if kind not in samplers:
      continue
    found = _draw(
      samplers[kind],
      jax.random.fold_in(rng, index),
      config,
      search_space,
      _window(config) if cost == IN_WINDOW else None,
    )
    if not isinstance(found, str):
      archs[f"{kind}_{cost}"] = found
    elif kind in _ORDERS:
      raise UserError(f"config.principles: {kind}: {found}")
    else:
      missing[f"{kind}_{cost}"] = found
  return Populations(archs, missing, own)


def _draw(
  sample: Callable,
  rng: jax.Array,
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  window: Window | None,
) -> Arch | str:
  """Archs, or why there are too few."""
  try:
    return sample(
      rng,
      search_space,
      count=config.principles.num_archs,
      window=window,
      max_draws=_MAX_DRAWS,
    )
  except ValueError as error:
    return str(error)


def _window(config: ml_collections.ConfigDict) -> Window:
  """In multiply-adds."""
  target = config_lib.flops_target(config)
  assert target is not None  # `config.check_phases`
  low, high = config.principles.window
  return low * target, high * target


def own_order(job: Job) -> OwnOrder:
  """The order of this run's Elite Space, for `own_trend`."""
  path = job.workdir / "search" / load.ELITE_SPACE
  if not path.exists():
    return OwnOrder(stages=None, note="the search has not ended")
  return order_of(job.search_space, job.load_elite())


def order_of(search_space: SearchSpace, space: Space) -> OwnOrder:
  """The order of the bins of a space, one for depths and widths together.

  Stages of equal bins go in either order, so a space can follow several; if the
  design principles or the paper's trend are one of them, it has none of its
  own.
  """
  lows = Arch(
    *(
      np.asarray([bins[s][i][0] for s, i in enumerate(np.asarray(chosen))])
      for bins, chosen in (
        (search_space.depth_bins, space.depth),
        (search_space.width_bins, space.width),
      )
    )
  )
  # If any order is that of both, sorting by one and then the other finds one.
  order = StageOrder(tuple(np.lexsort((lows.depth, lows.width)).tolist()))
  if not follows(lows, order):
    return OwnOrder(
      stages=None, note="its depths have another order than its widths"
    )
  for name, known in _ORDERS.items():
    if len(known.stages) == len(order.stages) and follows(lows, known):
      note = f"the same as {NAMES[name]}"
      return OwnOrder(stages=[*known.stages], note=note)
  return OwnOrder(stages=[*order.stages], note="")


def report(result: Principles, job: Job) -> list[str]:
  """Tells the result in words."""
  return trends.describe(result, job.workdir / "principles")
