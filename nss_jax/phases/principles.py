"""The principles phase: design principles against the paper's trend (4.5)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import evaluate, supernet
from nss_jax.phases.job import Job, has_flops
from nss_jax.phases.ledger import open_ledger
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.runtime import files, panels, populations, scores, space_file
from nss_jax.runtime.populations import (
  ANY_COST,
  COSTS,
  IN_WINDOW,
  KINDS,
  NAMES,
  OWN,
  PRINCIPLES,
  TREND,
  TRENDS,
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
from nss_jax.spaces.text import format_macs

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


class OwnOrder(NamedTuple):
  """Tells the order of the stages in the Elite Space of this run.

  Attributes:
    stages: from the smallest bins to the largest; None if it has no such order.
    note: why it is no population of its own; empty if it is one.
  """

  stages: tuple[int, ...] | None
  note: str


class Populations(NamedTuple):
  """Holds what is to be compared.

  Attributes:
    archs: `{source: fields [N, S]}`.
    missing: why the others are not there, `{source: a line}`.
    own: the order of this run.
  """

  archs: dict[str, Arch]
  missing: dict[str, str]
  own: OwnOrder


def run(job: Job) -> dict[str, Any]:
  """Scores networks of each population on the evaluator (Fig. 6).

  Writes `principles/scores.csv` and `edf.png`.

  Raises:
    Diverged, Interrupted: as the evaluate phase.
  """
  folder, drawn = job.workdir / "principles", draw_populations(job)
  path = folder / "scores.csv"
  params = supernet.train_supernet(job)
  total = sum(len(archs.depth) for archs in drawn.archs.values())
  with open_ledger(job, params, path, total) as ledger:
    for name, archs in drawn.archs.items():
      ledger.score(name, archs)
  table = scores.read_scores(path, job.search_space)
  with files.atomic_path(folder / "edf.png") as picture:
    panels.draw_error_edfs(picture, populations.error_curves(table))
  stages = None if drawn.own.stages is None else list(drawn.own.stages)
  return {
    "window": list(window_of(job)),
    "own_order": {"stages": stages, "note": drawn.own.note},
    "missing": drawn.missing,
    **summarize(table),
  }


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
  some population in the window: those are missing.

  Raises:
    UserError: if too few archs of either trend are in the window, or the
      stages are not the three that the paper's trend orders.
  """
  own, samplers = own_order(job), dict(_SAMPLERS)
  if own.stages is not None and not own.note:
    order = StageOrder(own.stages)
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
  path = job.workdir / "search" / space_file.ELITE_SPACE
  if not path.exists():
    return OwnOrder(None, "the search has not ended")
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
    return OwnOrder(None, "its depths have another order than its widths")
  for name, known in _ORDERS.items():
    if len(known.stages) == len(order.stages) and follows(lows, known):
      return OwnOrder(known.stages, f"the same as {NAMES[name]}")
  return OwnOrder(order.stages, "")


def summarize(table: scores.Scores) -> dict[str, Any]:
  """The numbers of `summary.json`.

  Returns:
    `groups`: count, errors (shares) and mean multiply-adds of each population.
    `against_principles`: for each other kind, at each cost, `mean_difference`
    of the errors, which is the signed area between the two EDFs (negative: the
    kind is better), and `pairs_won`, the share of all pairs in which the kind
    has the smaller error, ties half. `matched`: for each trend, the same over
    `pairs` of equal cost, and both groups.
  """
  groups, against, matched = {}, {}, {}
  for name in dict.fromkeys(table.source.tolist()):
    groups[name] = _describe(table.group(name))
  for cost in COSTS:
    reference = populations.group_of(table, PRINCIPLES, cost)
    for kind in KINDS[1:]:
      group = populations.group_of(table, kind, cost)
      if len(group) and len(reference):
        against[f"{kind}_{cost}"] = _compare(group, reference)
  for kind in TRENDS:
    if f"{kind}_{ANY_COST}" in groups:
      reference, group = populations.match_principles(table, kind)
      matched[kind] = {"pairs": len(group)}
      if len(group):
        matched[kind] |= {
          PRINCIPLES: _describe(reference),
          kind: _describe(group),
          **_compare(group, reference),
        }
  return {
    "groups": groups,
    "against_principles": against,
    "matched": matched,
  }


def _compare(group: scores.Scores, reference: scores.Scores) -> dict:
  won = populations.share_of_pairs_won(group.error, reference.error)
  return {
    "mean_difference": float(group.error.mean() - reference.error.mean()),
    "pairs_won": won,
  }


def _describe(group: scores.Scores) -> dict[str, Any]:
  return {
    "count": len(group),
    "mean_error": float(group.error.mean()),
    "median_error": float(np.median(group.error)),
    "min_error": float(group.error.min()),
    "mean_flops": float(group.flops.mean()),
  }


def report(result: dict[str, Any], job: Job) -> list[str]:
  """Mean errors in words."""
  lines = ["", "Design principles against the trend of Elite Spaces"]
  found = dict(result["groups"])
  for kind, matched in result["matched"].items():
    for name in (PRINCIPLES, kind) if matched["pairs"] else ():
      found[f"{name}, {matched['pairs']} pairs with {kind}"] = matched[name]
  for name, group in found.items():
    lines.append(
      f"  {name:48} {group['count']:5} archs of "
      f"{format_macs(group['mean_flops']):>8}: error "
      f"{100 * group['mean_error']:.2f} % mean, "
      f"{100 * group['median_error']:.2f} % median"
    )
  for name, against in result["against_principles"].items():
    lines.append(
      f"  {name} beats design principles in "
      f"{100 * against['pairs_won']:.0f} % of pairs"
    )
  for kind, matched in result["matched"].items():
    if not matched["pairs"]:
      lines.append(f"  no arch of {kind} costs what one of the principles does")
  for name, why in result["missing"].items():
    lines.append(f"  missing: {name}: {why}")
  if result["own_order"]["note"]:
    lines.append(f"  no own_trend: {result['own_order']['note']}")
  folder = job.workdir / "principles"
  return [*lines, "", f"Files in {folder}: scores.csv, summary.json, edf.png"]


PHASE = Phase(
  "principles",
  run,
  report,
  reads=(*SEARCH, "evaluate", "principles"),
  fits=has_flops,
  check=check,
  plan=plan,
)
