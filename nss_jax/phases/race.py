"""One network by the evaluator: scored, scored again, and raced.

The stand-alone supernet ranks all archs that meet every constraint, or those
that evolution comes to; where rank_check has trained archs alone, a regression
on these says what the sizes tell beside the score. The best are scored on more
images, and the best of these train alone, a short while, with a new seed each
round, until the better half of the better half is one. That is successive
halving, where another seed is another pull of an arm (Karnin et al., ICML
2013): near the top a short training is noisy, and its mean over seeds is what a
longer one would cost.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nss_jax.phases import alone, chosen, scoring, supernet
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import open_ledger
from nss_jax.results import predictors
from nss_jax.results.scores import read_scores
from nss_jax.spaces.archs import best_archs, nearest_arch, num_meeting
from nss_jax.spaces.sampling import take
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_arch

# For each finalist so many are scored on all images that are held out.
_SCORED_AGAIN = 4
# Sources of `nas/elite/scores.csv`, and of the rounds in `race.csv`.
_CANDIDATES, _AGAIN, _NETWORKS = "candidates", "again", "networks"
_ROUND = "round"


def find(job: Job, space: SearchSpace) -> dict[str, Any]:
  """Returns the network, as `chosen.entry`, with the `race` that it has won.

  It is looked for in a space whose bins have size one. Writes
  `nas/elite/scores.csv` and `race.csv`, and goes on with what is missing.
  """
  settings, one = job.config.nas, job.within(space)
  rng = jax.random.fold_in(job.keys["nas"], 2**31 - 1)
  window = job.constraints, settings.tolerance
  meeting = num_meeting(space, *window)
  within = chosen.within(job)
  candidates, losses = _score(job, space, rng, meeting)
  count = len(losses)
  if not count:
    arch, words = nearest_arch(rng, space, *window), "the nearest by exact cost"
    words = f"no arch of the Elite Space meets {within}: {words} is taken"
    return chosen.entry(one, arch, 1, words)
  finalists = np.arange(min(settings.num_finalists, count))
  errors = run_race(job, take(candidates, finalists))
  order = best_first(errors)
  words = f"of {count:,} archs of the Elite Space that meet {within}"
  if meeting is None:
    words += ", drawn uniformly,"
  elif meeting > count:
    words += f", which evolution found among {meeting:,} that do,"
  words += " the best by the stand-alone supernet"
  if learnt_rank(job) is not None:
    words += " and a ridge regression on the archs of rank_check"
  if len(order) > 1:
    epochs = settings.race_epochs
    words += (
      f", then by a race of the best {len(order)}, trained alone for "
      f"{epochs} epoch{'s' * (epochs > 1)} a round"
    )
  archs = [take(candidates, k) for k in order]
  race = [
    {
      "arch": format_arch(arch),
      "loss": float(losses[place]),
      "errors": errors[place],
    }
    for arch, place in zip(archs, order, strict=True)
  ]
  return {
    **chosen.entry(one, archs[0], count, words),
    "race": race,
  }


def _score(
  job: Job,
  space: SearchSpace,
  rng: jax.Array,
  meeting: int | None,
) -> tuple[Arch, np.ndarray]:
  """Returns archs `[n, S]` that meet the constraints, the best first, and their
  losses.

  Those of the first are on all images that are held out. Best is what the
  regression on the archs of rank_check says, or else the loss.
  """
  if meeting == 0:
    none = np.zeros((0, space.num_stages), np.int32)
    return Arch(none, none), np.zeros(0)
  settings = job.config.nas
  params = supernet.train_supernet(job)
  path = job.workdir / "nas" / "elite" / "scores.csv"
  total = settings.num_scored if meeting is None else meeting
  total = min(total, settings.num_scored)
  with open_ledger(job, params, path, total, settings.num_images) as ledger:
    archs, losses = best_archs(
      rng,
      space,
      lambda archs: ledger.score(_CANDIDATES, archs)[1],
      target=job.constraints,
      tolerance=settings.tolerance,
      num_scored=settings.num_scored,
    )
  rank = learnt_rank(job) or (lambda archs, losses: losses)
  archs, losses = rank_first(rank, archs, losses, len(losses))
  count = min(_SCORED_AGAIN * settings.num_finalists, len(losses))
  if count > 1 and scoring.leaves_images(job, settings.num_images):
    with open_ledger(job, params, path, count) as ledger:
      again = take(archs, np.arange(count))
      _, losses[:count] = ledger.score(_AGAIN, again)
    archs, losses = rank_first(rank, archs, losses, count)
  return archs, losses


def rank_first(
  rank: Callable[[Arch, np.ndarray], np.ndarray],
  archs: Arch,
  losses: np.ndarray,
  count: int,
) -> tuple[Arch, np.ndarray]:
  """Sorts the first archs and losses by their rank; the others follow."""
  order = np.arange(len(losses))
  if count:
    first = rank(take(archs, order[:count]), losses[:count])
    order[:count] = np.argsort(first, kind="stable")
  return take(archs, order), losses[order]


def learnt_rank(job: Job) -> Callable[[Arch, np.ndarray], np.ndarray] | None:
  """Returns what rank_check's archs teach, see `predictors.learn`, if any."""
  folder = job.workdir / "rank_check"
  if not (folder / "summary.json").exists():
    return None
  return predictors.learn(
    read_scores(folder / "scores.csv", job.search_space),
    read_scores(folder / "truths.csv", job.search_space),
  )


def score_networks(job: Job, networks: dict[str, dict[str, Any]]) -> None:
  """Adds `evaluator`, error and loss by the stand-alone supernet, to networks.

  They are scored on all images that are held out, so that they compare with the
  archs that the evaluate phase has scored.
  """
  params = supernet.train_supernet(job)
  path = job.workdir / "nas" / "elite" / "scores.csv"
  archs = Arch(
    *(
      np.asarray([network[kind] for network in networks.values()], np.int32)
      for kind in ("depth", "width")
    )
  )
  with open_ledger(job, params, path, len(networks)) as ledger:
    scored = ledger.score(_NETWORKS, archs)
  for network, error, loss in zip(networks.values(), *scored, strict=True):
    network["evaluator"] = {"error": float(error), "loss": float(loss)}


def run_race(job: Job, archs: Arch) -> list[list[float]]:
  """Returns errors of each finalist `[n, S]`, in each of its rounds."""
  errors: list[list[float]] = [[] for _ in archs.depth]
  if len(errors) < 2:
    return errors
  score_alone = alone.make_score_alone(
    job,
    job.workdir / "nas" / "elite" / "race.csv",
    epochs=job.config.nas.race_epochs,
  )
  left, number = np.arange(len(errors)), 0
  while len(left) > 1:
    found, _ = score_alone(f"{_ROUND}_{number}", take(archs, left), number)
    for place, error in zip(left, found.tolist(), strict=True):
      errors[place].append(error)
    # In the order of the supernet, so that it decides between equal ones.
    means = [np.mean(errors[place]) for place in left]
    best = np.argsort(means, kind="stable")[: len(left) // 2]
    left, number = np.sort(left[best]), number + 1
  return errors


def best_first(errors: list[list[float]]) -> list[int]:
  """Sorts by rounds survived, then by mean error, then as they are."""
  return sorted(
    range(len(errors)),
    key=lambda place: (-len(errors[place]), np.mean(errors[place] or [0.0])),
  )
