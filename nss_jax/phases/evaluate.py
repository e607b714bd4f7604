"""The evaluate phase: is the Elite Space elite? (paper 4.2)"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import loop, scoring, summary, supernet_program
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import Ledger, open_ledger
from nss_jax.phases.program import base_keys, check_batch
from nss_jax.runtime import figures, files, scores
from nss_jax.runtime.console import say
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces import cost, sampling
from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.evolution import evolve_spaces
from nss_jax.spaces.feasible import (
  feasible_indices,
  sample_feasible_archs,
  sample_feasible_spaces,
)
from nss_jax.spaces.handmade import proportional_space
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.text import format_macs

# Rows of spaces that the oracle looked at; no group of the summary.
ORACLE_SEARCH = "oracle_search"
# Of each space, for how the images differ: enough for the mean of each image.
_ARCHS_BY_IMAGE = 16


def run(job: Job) -> dict[str, Any]:
  """Scores the Elite Space and its controls from a supernet of their own.

  Writes `evaluate/scores.csv`, `summary.json` and `pareto.png`.

  Returns:
    The content of `summary.json`.

  Raises:
    Diverged, Interrupted: as the search.
  """
  config = job.config
  search_space, elite = job.search_space, job.load_elite()
  folder = job.workdir / "evaluate"
  files.make_folder(folder)
  with Preemption() as preemption:
    params = train_supernet(job, preemption)
    with open_ledger(
      job,
      params,
      folder / "scores.csv",
      preemption,
      num_archs(config, search_space),
    ) as ledger:
      _score_groups(config, search_space, elite, ledger)
    result = _summarize(job, params, folder)
  return result


def train_supernet(job: Job, preemption: Preemption) -> Any:
  """The weights of the stand-alone supernet, trained or from the cache."""
  config = job.config
  key = supernet_program.cache_key(config, job.search_space)
  beside = job.supernets or job.workdir.parent / "supernets"
  cache = pathlib.Path(config.evaluate.cache or beside)
  program = supernet_program.build_supernet(
    config, job.search_space, job.dataset, job.mesh
  )
  say(job.console, f"stand-alone supernet: {cache / key}")
  state = loop.run_shared(job, program, cache / key, preemption)
  return state.weights.params


def num_archs(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> int:
  """How many archs the phase scores."""
  settings = config.evaluate
  spaces = sum(_num_spaces(config, search_space, hard) for hard in (0, 1))
  found = feasible_indices(search_space, *_window(config)).size
  oracle = min(settings.oracle_spaces, found)
  finalists = min(settings.oracle_finalists, oracle)
  return (
    4 * settings.num_archs
    + spaces * settings.archs_per_space
    + oracle * settings.oracle_archs
    + finalists * settings.oracle_final_archs
  )


def check(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  labels: np.ndarray,
) -> None:
  """Refuses what cannot be evaluated, before anything is compiled.

  Raises:
    UserError, UserError: naming the field, the value and what is accepted.
  """
  supernet_program.check(config, search_space, labels)
  try:
    feasible_indices(search_space, *_window(config))
  except ValueError as error:
    raise UserError(f"config.evaluate.tolerance: {error}") from None


# Phases that train or use the stand-alone supernet.
_SCORED = {"evaluate", "rank_check", "principles", "complexity", "nas"}


def check_phases(job: Job, phases: Sequence[str]) -> None:
  """Refuses what those of the phases that use the supernet cannot do.

  Raises:
    UserError, UserError: as `check`.
  """
  config = job.config
  parts = config, job.search_space, job.dataset.train_labels
  scored = _SCORED & set(phases)
  if config.nas.method == "gradient":
    scored.discard("nas")
  if scored:
    microbatches = config.supernet.microbatches
    check_batch(config, job.mesh, "evaluate", microbatches=microbatches)
    supernet_program.check(*parts)
  if scored - {"complexity", "nas"}:  # which compare no spaces
    check(*parts)


def _window(
  config: ml_collections.ConfigDict,
) -> tuple[tuple[Constraint, ...], float]:
  """The budgets, and how near is near."""
  return config_lib.constraints(config), config.evaluate.tolerance


def _num_spaces(
  config: ml_collections.ConfigDict, search_space: SearchSpace, hard: int
) -> int:
  """As many as asked for, or as there are."""
  try:
    found = feasible_indices(
      search_space, *_window(config), without_lowest_width=bool(hard)
    ).size
  except ValueError:
    found = 0
  return min(config.evaluate.num_spaces, found)


def elite_archs(
  config: ml_collections.ConfigDict, search_space: SearchSpace, elite: Space
) -> Arch:
  """The archs `[N, S]` of the Elite Space that are scored.

  They do not depend on the run: two runs that agree score the same.
  """
  only = jax.tree.map(lambda x: np.asarray(x)[None], elite)
  archs = sampling.sample_archs_of_spaces(
    _rngs(config)[0], search_space, only, config.evaluate.num_archs
  )
  return jax.tree.map(lambda x: x[0], archs)


def _rngs(config: ml_collections.ConfigDict) -> jax.Array:
  """A key for each thing that is drawn, in an order that never changes."""
  return jax.random.split(base_keys(config.evaluate.seed)["evaluate"], 8)


def hand_made(
  config: ml_collections.ConfigDict, search_space: SearchSpace
) -> Space:
  """The space that one would draw by hand at the target, fields `[1, S]`.

  As near to it as the Elite Space is to be, if there is one.
  """
  target, tolerance = _window(config)
  try:
    space = proportional_space(
      search_space, target, config.search.elite_tolerance
    )
  except ValueError:  # none so near
    space = proportional_space(search_space, target, tolerance)
  return jax.tree.map(lambda x: np.asarray(x)[None], space)


def _score_groups(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  elite: Space,
  ledger: Ledger,
) -> None:
  """Every group, in an order and with draws that never change."""
  settings = config.evaluate
  rngs = iter(_rngs(config))
  count = settings.num_archs
  next(rngs)  # of the elite archs
  ledger.score(scores.ELITE, elite_archs(config, search_space, elite))
  archs = sampling.sample_uniform_archs(next(rngs), search_space, count)
  ledger.score(scores.EXPANDED, archs)
  archs = sample_feasible_archs(
    next(rngs), search_space, *_window(config), count
  )
  ledger.score(scores.EXPANDED_NEAR, archs)
  for source, hard in (
    (scores.RANDOM_SPACES, False),
    (scores.HARD_RANDOM_SPACES, True),
  ):
    draw_rng, arch_rng = next(rngs), next(rngs)
    number = _num_spaces(config, search_space, hard)
    if not number:
      continue
    spaces = sample_feasible_spaces(
      draw_rng,
      search_space,
      *_window(config),
      number,
      without_lowest_width=hard,
    )
    _score_spaces(
      arch_rng, search_space, spaces, settings.archs_per_space, source, ledger
    )
  _score_spaces(
    # Of its own, for the other keys to stay what they were.
    jax.random.fold_in(base_keys(settings.seed)["evaluate"], 8),
    search_space,
    hand_made(config, search_space),
    count,
    scores.HAND_MADE,
    ledger,
  )
  if settings.oracle_spaces:
    _oracle(config, search_space, next(rngs), ledger)


def _oracle(
  config: ml_collections.ConfigDict,
  search_space: SearchSpace,
  rng: jax.Array,
  ledger: Ledger,
) -> None:
  """Evolution on the evaluator; the best spaces scored again, with more archs.

  The first scores chose the spaces, so they flatter them; only the second ones
  count.
  """
  settings = config.evaluate
  search_rng, final_rng = jax.random.split(rng)
  seen = []

  def score(spaces):
    archs_rng = jax.random.fold_in(search_rng, len(seen))
    seen.append(len(spaces.depth))
    return _score_spaces(
      archs_rng,
      search_space,
      spaces,
      settings.oracle_archs,
      ORACLE_SEARCH,
      ledger,
    )

  target, tolerance = _window(config)
  found = evolve_spaces(
    search_rng,
    search_space,
    score,
    target=target,
    tolerance=tolerance,
    num_scored=settings.oracle_spaces,
  )
  best = jax.tree.map(lambda x: x[: settings.oracle_finalists], found.spaces)
  _score_spaces(
    final_rng,
    search_space,
    best,
    settings.oracle_final_archs,
    scores.ORACLE,
    ledger,
  )


def _score_spaces(
  rng: jax.Array,
  search_space: SearchSpace,
  spaces: Space,
  count: int,
  source: str,
  ledger: Ledger,
) -> np.ndarray:
  """Mean loss `[n]` of `count` archs of each of the spaces `[n, S]`."""
  archs = sampling.sample_archs_of_spaces(rng, search_space, spaces, count)
  number = len(spaces.depth)
  archs = jax.tree.map(lambda x: x.reshape(number * count, -1), archs)
  index = np.repeat(np.arange(number), count)
  _, loss = ledger.score(source, archs, index)
  return loss.reshape(number, count).mean(-1)


def _summarize(job: Job, params: Any, folder: pathlib.Path) -> dict[str, Any]:
  config, search_space = job.config, job.search_space
  table = scores.read_scores(folder / "scores.csv", search_space)
  target = config_lib.flops_target(config)
  with files.atomic_path(folder / "pareto.png") as path:
    figures.draw_pareto(path, table, target)
  result = summary.summarize(
    table,
    target,
    largest_flops=cost.largest_macs(search_space),
    by_image=_by_image(job, params),
    num_resamples=config.evaluate.bootstrap_samples,
    seed=config.evaluate.seed,
  )
  # Last: this file says that the evaluation is finished.
  files.write_json(folder / "summary.json", result)
  return result


def _by_image(job: Job, params: Any) -> summary.ByImage:
  """What each held-out image gets in the mean of the first archs of some."""
  image_fn = scoring.make_image_fn(
    job.config, job.search_space, job.dataset, job.mesh
  )
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


def report(result: dict[str, Any], job: Job) -> list[str]:
  """The summary in words."""
  lines = ["", "Is the Elite Space elite?"]
  for name, group in result["groups"].items():
    lines.append(
      f"  {name:22} {group['count']:5} archs of "
      f"{format_macs(group['mean_flops']):>8}: error "
      f"{100 * group['mean_error']:5.2f} % mean, "
      f"{100 * group['min_error']:5.2f} % best; loss {group['mean_loss']:.4f}"
    )
  for name, against in result["elite_against"].items():
    loss = against["loss"]
    if "percentile" in loss:
      low, high = loss["bootstrap_interval"]
      lines.append(
        f"  among {against['num_spaces']} of {name}: percentile "
        f"{loss['percentile']:.0f} by loss ({low:.0f} to {high:.0f}), "
        f"{against['error']['percentile']:.0f} by error"
      )
    else:
      lines.append(
        f"  regret to the best of {name}: {loss['regret']:+.4f} +- "
        f"{loss['regret_error']:.4f} in loss, "
        f"{100 * against['error']['regret']:+.2f} % in error"
      )
  folder = job.workdir / "evaluate"
  lines += ["", f"Files in {folder}: scores.csv, summary.json, pareto.png"]
  return lines
