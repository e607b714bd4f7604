"""The evaluate phase: is the Elite Space elite? (paper 4.2)"""

import pathlib
from typing import Any

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.phases import scoring, supernet
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import Ledger, open_ledger
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.results import group_tables, groups, plots, scores
from nss_jax.results.groups import Evaluation
from nss_jax.spaces import cost, sampling
from nss_jax.spaces.evolution import evolve_spaces
from nss_jax.spaces.feasible import (
  feasible_indices,
  sample_feasible_archs,
  sample_feasible_spaces,
)
from nss_jax.spaces.handmade import proportional_space
from nss_jax.spaces.search_space import Arch, Space

# Rows of spaces that the oracle looked at; no group of the summary.
ORACLE_SEARCH = "oracle_search"
# Of each space, for how the images differ: enough for the mean of each image.
_ARCHS_BY_IMAGE = 16


def run(job: Job) -> Evaluation:
  """Scores the Elite Space and its controls from a supernet of their own.

  Writes `evaluate/scores.csv` and `pareto.png`.
  """
  elite, folder = job.load_elite(), job.workdir / "evaluate"
  params = supernet.train_supernet(job)
  path = folder / "scores.csv"
  with open_ledger(job, params, path, num_archs(job)) as ledger:
    _score_groups(job, elite, ledger)
  return _summarize(job, params, folder)


def num_archs(job: Job) -> int:
  """Returns how many archs the phase scores."""
  settings = job.config.evaluate
  spaces = sum(_num_spaces(job, hard=hard) for hard in (False, True))
  found = _indices(job).size
  oracle = min(settings.oracle_spaces, found)
  finalists = min(settings.oracle_finalists, oracle)
  return (
    4 * settings.num_archs
    + spaces * settings.archs_per_space
    + oracle * settings.oracle_archs
    + finalists * settings.oracle_final_archs
  )


def check(job: Job) -> None:
  """Refuses what cannot be evaluated, before anything is compiled."""
  supernet.check(job)
  try:
    _indices(job)
  except ValueError as error:
    raise UserError(f"config.evaluate.tolerance: {error}") from None


def plan(job: Job) -> str:
  """Says what is trained and how much is scored."""
  return (
    f"a supernet of its own, {job.config.evaluate.epochs} epochs; then "
    f"{num_archs(job)} archs"
  )


def _indices(job: Job, **kind: bool) -> np.ndarray:
  """Returns the spaces that meet the constraints; ValueError if none does."""
  if not job.constraints:  # the only one, of latency, is measured first
    return np.arange(job.search_space.num_spaces)
  tolerance = job.config.evaluate.tolerance
  return feasible_indices(job.search_space, job.constraints, tolerance, **kind)


def _num_spaces(job: Job, *, hard: bool) -> int:
  """Returns as many as asked for, or as there are."""
  try:
    found = _indices(job, without_lowest_width=hard).size
  except ValueError:
    found = 0
  return min(job.config.evaluate.num_spaces, found)


def elite_archs(job: Job, elite: Space) -> Arch:
  """Draws the archs `[N, S]` of the Elite Space that are scored.

  They do not depend on the run: two runs that agree score the same.
  """
  only = jax.tree.map(lambda x: np.asarray(x)[None], elite)
  archs = sampling.sample_archs_of_spaces(
    _rngs(job)[0], job.search_space, only, job.config.evaluate.num_archs
  )
  return sampling.take(archs, 0)


def _rngs(job: Job) -> jax.Array:
  """Returns a key for each thing that is drawn; the order never changes."""
  return jax.random.split(job.evaluator_key, 8)


def hand_made(job: Job) -> Space:
  """Returns the space that one would draw by hand, fields `[1, S]`.

  As near to the target as the Elite Space is to be, if there is one.
  """
  parts, config = (job.search_space, job.constraints), job.config
  try:
    space = proportional_space(*parts, config.search.elite_tolerance)
  except ValueError:  # none so near
    space = proportional_space(*parts, config.evaluate.tolerance)
  return jax.tree.map(lambda x: np.asarray(x)[None], space)


def _score_groups(job: Job, elite: Space, ledger: Ledger) -> None:
  """Scores every group, in an order and with draws that never change."""
  settings, space = job.config.evaluate, job.search_space
  near = space, job.constraints, settings.tolerance
  rngs = iter(_rngs(job))
  count = settings.num_archs
  next(rngs)  # of the elite archs
  ledger.score(scores.ELITE, elite_archs(job, elite))
  archs = sampling.sample_uniform_archs(next(rngs), space, count)
  ledger.score(scores.EXPANDED, archs)
  archs = sample_feasible_archs(next(rngs), *near, count)
  ledger.score(scores.EXPANDED_NEAR, archs)
  for source, hard in (
    (scores.RANDOM_SPACES, False),
    (scores.HARD_RANDOM_SPACES, True),
  ):
    draw_rng, arch_rng = next(rngs), next(rngs)
    number = _num_spaces(job, hard=hard)
    if number:
      spaces = sample_feasible_spaces(
        draw_rng, *near, number, without_lowest_width=hard
      )
      of_each = settings.archs_per_space
      _score_spaces(job, ledger, source, arch_rng, spaces, of_each)
  # Of its own, for the other keys to stay what they were.
  hand_rng = jax.random.fold_in(job.evaluator_key, 8)
  by_hand = hand_made(job)
  _score_spaces(job, ledger, scores.HAND_MADE, hand_rng, by_hand, count)
  if settings.oracle_spaces:
    _oracle(job, next(rngs), ledger)


def _oracle(job: Job, rng: jax.Array, ledger: Ledger) -> None:
  """Searches by evolution on the evaluator; the best spaces are scored again.

  The first scores chose the spaces, so they flatter them; only the second ones,
  of more archs, count.
  """
  settings = job.config.evaluate
  search_rng, final_rng = jax.random.split(rng)
  seen = []

  def score(spaces):
    rng = jax.random.fold_in(search_rng, len(seen))
    seen.append(len(spaces.depth))
    count = settings.oracle_archs
    return _score_spaces(job, ledger, ORACLE_SEARCH, rng, spaces, count)

  found, _ = evolve_spaces(
    search_rng,
    job.search_space,
    score,
    target=job.constraints,
    tolerance=settings.tolerance,
    num_scored=settings.oracle_spaces,
  )
  best = jax.tree.map(lambda x: x[: settings.oracle_finalists], found)
  count = settings.oracle_final_archs
  _score_spaces(job, ledger, scores.ORACLE, final_rng, best, count)


def _score_spaces(
  job: Job,
  ledger: Ledger,
  source: str,
  rng: jax.Array,
  spaces: Space,
  count: int,
) -> np.ndarray:
  """Returns the mean loss `[n]` of `count` archs of each space `[n, S]`."""
  archs = sampling.sample_archs_of_spaces(rng, job.search_space, spaces, count)
  number = len(spaces.depth)
  archs = jax.tree.map(lambda x: x.reshape(number * count, -1), archs)
  index = np.repeat(np.arange(number), count)
  _, loss = ledger.score(source, archs, index)
  return loss.reshape(number, count).mean(-1)


def _summarize(job: Job, params: Any, folder: pathlib.Path) -> Evaluation:
  table = scores.read_scores(folder / "scores.csv", job.search_space)
  if picture := plots.pareto(table, job.target):
    picture.write(folder / "pareto.png")
  return groups.summarize(
    table,
    job.target,
    largest_flops=cost.largest_macs(job.search_space),
    by_image=_by_image(job, params),
    num_resamples=job.config.evaluate.bootstrap_samples,
    seed=job.config.evaluate.seed,
  )


def _by_image(job: Job, params: Any) -> groups.ByImage:
  """Returns what each held-out image gets in the mean of the first archs."""
  image_fn = scoring.make_image_fn(job)
  known: dict[bytes, np.ndarray] = {}

  def by_image(rows: scores.Scores) -> np.ndarray:
    # One shape, one program: the archs over again where a space has fewer.
    first = np.arange(_ARCHS_BY_IMAGE) % len(rows)
    archs = Arch(*(x[first].astype(np.int32) for x in (rows.depth, rows.width)))
    key = archs.depth.tobytes() + archs.width.tobytes()
    if key not in known:
      error, loss = image_fn(params, archs)
      found = np.stack([loss, error], axis=-1).astype(np.float64)
      known[key] = found[~np.isnan(found).any(1)]
    return known[key]

  return by_image


PHASE = Phase(
  "evaluate",
  run,
  group_tables.describe,
  needs="search",
  reads=(*SEARCH, "evaluate"),
  check=check,
  plan=plan,
  read=Evaluation.read,
)
