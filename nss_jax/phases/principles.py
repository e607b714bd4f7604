"""The principles phase: design principles against the paper's trend (4.5)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import evaluate
from nss_jax.phases.job import Job, has_flops
from nss_jax.phases.ledger import score_groups
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import edfs, load, trends
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
MAX_DRAWS = 2**22
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
  """Holds what is to be compared: archs `[N, S]` by their source, why others
  are missing, and the order of this run."""

  archs: dict[str, Arch]
  missing: dict[str, str]
  own: OwnOrder


def run(job: Job) -> Principles:
  """Scores networks of each population on the evaluator (Fig. 6).

  Writes `principles/scores.csv` and `edf.png`.
  """
  folder, drawn = job.workdir / "principles", draw_populations(job)
  table = score_groups(job, folder / "scores.csv", drawn.archs)
  if picture := edfs.picture(table):
    picture.write(folder / "edf.png")
  return trends.summarize(
    table,
    window=window_of(job),
    own_order=drawn.own,
    missing=drawn.missing,
  )


def check(job: Job) -> None:
  """Refuses a window that either trend has too few archs in.

  Warns of populations that are missing there.
  """
  evaluate.check(job)
  for name, why in draw_populations(job).missing.items():
    job.say(f"warning: principles: no {name}: {why}")


def plan(job: Job) -> str:
  """Says how much is scored."""
  return (
    f"up to 10 times {job.config.principles.num_archs} archs, on the evaluate "
    "phase's supernet"
  )


def draw_populations(job: Job) -> Populations:
  """Draws every population that there is, with its own key each.

  This run's own order takes part if the search has ended and the order is none
  of the others'. A small search space may have no RegNet, or too few archs of
  some population in the window: those are missing. Of either trend none may be
  missing, and the stages have to be the three that the paper's trend orders.
  """
  own, samplers = own_order(job), dict(_SAMPLERS)
  if own.stages is not None and not own.note:
    order = StageOrder(tuple(own.stages))
    samplers[OWN] = functools.partial(sample_ordered_archs, order=order)
  rng = jax.random.fold_in(job.evaluator_key, 1)
  archs, missing = {}, {}
  for index, (cost, kind) in enumerate(
    (cost, kind) for cost in COSTS for kind in KINDS
  ):
    if kind not in samplers:
      continue
    found = _draw(
      job,
      samplers[kind],
      jax.random.fold_in(rng, index),
      window_of(job) if cost == IN_WINDOW else None,
    )
    if not isinstance(found, str):
      archs[f"{kind}_{cost}"] = found
    elif kind in _ORDERS:
      raise UserError(f"config.principles: {kind}: {found}")
    else:
      missing[f"{kind}_{cost}"] = found
  return Populations(archs, missing, own)


def _draw(
  job: Job, sample: Callable, rng: jax.Array, window: Window | None
) -> Arch | str:
  """Returns archs, or why there are too few."""
  try:
    return sample(
      rng,
      job.search_space,
      count=job.config.principles.num_archs,
      window=window,
      max_draws=MAX_DRAWS,
    )
  except ValueError as error:
    return str(error)


def window_of(job: Job) -> Window:
  """Returns the window in multiply-adds."""
  assert job.target is not None  # or the phase was refused
  low, high = job.config.principles.window
  return low * job.target, high * job.target


def own_order(job: Job) -> OwnOrder:
  """Returns the order of this run's Elite Space, for `own_trend`."""
  path = job.workdir / "search" / load.ELITE_SPACE
  if not path.exists():
    return OwnOrder(stages=None, note="the search has not ended")
  return order_of(job.search_space, job.load_elite())


def order_of(search_space: SearchSpace, space: Space) -> OwnOrder:
  """Returns the order of a space's bins, of depths and widths together.

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
    note = "its depths have another order than its widths"
    return OwnOrder(stages=None, note=note)
  for name, known in _ORDERS.items():
    if len(known.stages) == len(order.stages) and follows(lows, known):
      note = f"the same as {NAMES[name]}"
      return OwnOrder(stages=[*known.stages], note=note)
  return OwnOrder(stages=[*order.stages], note="")


PHASE = Phase(
  "principles",
  run,
  trends.describe,
  reads=(*SEARCH, "evaluate", "principles"),
  fits=has_flops,
  check=check,
  plan=plan,
  read=Principles.read,
)
