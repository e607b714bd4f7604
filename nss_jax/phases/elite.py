"""Which space a search ends with, and how sure it is of it.

The paper draws five spaces and keeps the closest to the target. `scored` looks
at the most probable ones near the target, and has the search's own supernet
score archs of each on the images that the logits were trained on: probability
says which spaces the search means, the score which of these is best.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from nss_jax.phases.job import Job
from nss_jax.results.elite_space import (
  Chances,
  Choice,
  Entry,
  FoundSpace,
  Scored,
)
from nss_jax.results.met_constraint import MetConstraint
from nss_jax.spaces import constraints, cost, distribution, sampling, table
from nss_jax.spaces.feasible import (
  LEAST_SHARE,
  Candidates,
  elite_candidates,
)
from nss_jax.spaces.search_space import (
  Arch,
  Space,
  space_ranges,
)
from nss_jax.version import __version__

# A stage whose archs may have so few channels passes next to nothing on.
_NARROW = 2
# Of a constraint; a space that may use all of it and uses less is odd.
_LITTLE = 0.8


# `archs [N, S] -> (error [N], loss [N])`
ScoreFn = Callable[[Arch], tuple[np.ndarray, np.ndarray]]


def find(job: Job, logits: Any, score_fn: ScoreFn) -> FoundSpace:
  """Returns the Elite Space that logits, on the host, lead to, as it is
  written; nothing is scored where one space only can be chosen."""
  settings, space, wanted = job.config.search, job.search_space, job.constraints
  draws = distribution.elite_space(
    job.keys["elite"],
    logits,
    cost_fn=lambda x: constraints.mean_costs(space, wanted, x),
    target=None,
    num_samples=settings.num_elite_samples,
    penalty_fn=lambda costs, _: constraints.penalties(wanted, costs),
  )
  entries = _entries(job, logits, draws.candidates)
  rule, tolerance = settings.elite, settings.elite_tolerance
  choice = Choice(rule=rule, tolerance=None, scored=[])
  chosen = entries[int(draws.index)]
  if rule == "scored":
    found = elite_candidates(
      space,
      logits,
      wanted,
      tolerance,
      num_candidates=settings.num_candidates,
    )
    scored = _score(job, logits, found, score_fn)
    chosen = min(scored, key=lambda one: one["loss"] or 0.0)
    choice = Choice(
      rule=rule,
      tolerance=found.tolerance,
      scored=[Scored(**one) for one in scored],
    )
  most_probable = distribution.most_probable_space(logits)
  mode = jax.tree.map(lambda x: np.asarray(x)[None], most_probable)
  result = FoundSpace(
    **{key: chosen[key] for key in _KEPT},
    target_flops=job.target,
    constraints=[
      MetConstraint(
        metric=one.name,
        mode=one.mode,
        target=one.target,
        weight=one.weight,
        mean_cost=chosen["costs"][one.name],
        deviation=chosen["costs"][one.name] / one.target - 1,
      )
      for one in wanted
    ],
    choice=choice,
    candidates=[Entry(**one) for one in entries],
    argmax_space=Entry(**_entries(job, logits, mode)[0]),
    probabilities=Chances(**bin_probabilities(logits)),
    seed=job.config.seed,
    search_space=space.to_dict(),
    version=__version__,
    warnings=[],
  )
  warnings = list(_warnings(result, tolerance))
  return result.model_copy(update={"warnings": warnings})


_KEPT = ("space", "mean_flops", "deviation", "probability", "rank")


def bin_probabilities(logits: Any) -> dict[str, list]:
  """Returns `{"depth": [S][Kd], "width": [S][Kw]}`, six digits."""
  chances = distribution.probabilities(logits)
  return {
    kind: [[round(float(p), 6) for p in row] for row in np.asarray(rows)]
    for kind, rows in (("depth", chances.depth), ("width", chances.width))
  }


def _entries(job: Job, logits: Any, spaces: Space) -> list[dict[str, Any]]:
  """Returns spaces `[N, S]` as JSON: what each costs, how probable it is."""
  search_space, target = job.search_space, job.target
  # Of every space where they can be listed, for the rank.
  logs = None
  if search_space.num_spaces <= table.MAX_SPACES:
    logs = table.space_log_probabilities(search_space, logits).ravel()
  bins = jax.tree.map(
    lambda x: np.asarray(jax.nn.log_softmax(x), np.float64), logits
  )
  stages, entries = np.arange(search_space.num_stages), []
  given = np.asarray(spaces.depth), np.asarray(spaces.width)
  for depth, width in zip(*given, strict=True):
    space = Space(depth=depth, width=width)
    macs = cost.space_macs(search_space, space)
    log = bins.depth[stages, depth].sum() + bins.width[stages, width].sum()
    rank = None
    if logs is not None:
      index = int(table.space_indices(search_space, space))
      rank = int((logs > logs[index]).sum()) + 1
    entry = {
      "space": space_ranges(search_space, space),
      "mean_flops": macs,
      "deviation": None if target is None else macs / target - 1,
      "costs": {
        one.name: cost.space_cost(
          search_space, cost.cost_tables(search_space, one.metric), space
        )
        for one in job.constraints
      },
      "probability": float(np.exp(log)),
      "rank": rank,
    }
    entries.append(entry)
  return entries


def _score(
  job: Job, logits: Any, found: Candidates, score_fn: ScoreFn
) -> list[dict[str, Any]]:
  """Returns an entry for each candidate, with the mean loss and error of its
  archs by the search's supernet; None where there is no choice to be made."""
  number, count = len(found.ranks), job.config.search.num_choice_archs
  entries = _entries(job, logits, found.spaces)
  nothing = {"loss": None, "loss_error": None, "error": None}
  if number == 1 or not count:
    return [{**entry, **nothing} for entry in entries]
  archs = sampling.sample_archs_of_spaces(
    jax.random.fold_in(job.keys["elite"], 1),
    job.search_space,
    found.spaces,
    count,
  )
  archs = jax.tree.map(lambda x: x.reshape(number * count, -1), archs)
  error, loss = (x.reshape(number, count) for x in score_fn(archs))
  return [
    {
      **entry,
      "loss": float(loss[i].mean()),
      "loss_error": float(loss[i].std() / np.sqrt(count)),
      "error": float(error[i].mean()),
    }
    for i, entry in enumerate(entries)
  ]


def _warnings(result: FoundSpace, tolerance: float) -> Iterator[str]:
  """Tells what to know before the space is used, a sentence each."""
  mode, chosen = result.argmax_space, result.probability
  if chosen < LEAST_SHARE * mode.probability:
    yield (
      f"the space has a probability of {chosen:.2g}, the most probable one "
      f"{mode.probability:.2g}, "
      f"{constraints.from_targets(result.deviations(mode))}: the "
      "search does not stand behind this choice"
    )
  wide = result.choice.tolerance
  if wide is not None and wide > tolerance:
    yield (
      f"no space within {100 * tolerance:g} % of what was asked for is a third "
      f"as probable as the most probable one; {100 * wide:.3g} % were accepted"
    )
  narrow = [
    f"{stage} ({low} to {high})"
    for stage, (low, high) in enumerate(result.space.width, 1)
    if low <= _NARROW
  ]
  if narrow:
    several = len(narrow) > 1
    yield (
      f"stage{'s' if several else ''} {', '.join(narrow)} may have only "
      f"{_NARROW} channels or fewer, through which all information must pass"
    )
  used = [one.mean_cost / one.target for one in result.constraints]
  if max(used) < _LITTLE:
    yield (
      f"the space uses {100 * max(used):.0f} % of what it may: larger networks "
      "may be better"
    )
