"""Archs trained alone, from scratch, and scored on the images held out.

One program for all archs and seeds. The scores are kept, so that nothing is
trained twice; see `Ledger`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from nss_jax.phases import loop, scoring, supernet
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import Ledger
from nss_jax.spaces.search_space import Arch
from nss_jax.spaces.text import format_arch

# `(source, archs [n, S], seed) -> (error [n], loss [n])`.
ScoreAlone = Callable[[str, Arch, int], tuple[np.ndarray, np.ndarray]]


def make_score_alone(
  job: Job, path: pathlib.Path, *, epochs: int
) -> ScoreAlone:
  """Returns what trains archs with a seed and scores them by their weights.

  The path is of the scores that are kept; the archs train in `archs` beside it.
  """
  program = supernet.build_alone(job, epochs)
  score_fn = scoring.make_score_fn(job)

  def score_one(seed, archs, by):
    arch = jax.tree.map(lambda x: np.asarray(x)[0], archs)
    job.say(f"training alone: {format_arch(arch)}, seed {seed}")
    # As the evaluator's own, whose seed is that of the first.
    init = functools.partial(
      program.init, arch, (job.config.evaluate.seed + seed) % 2**32
    )
    state = loop.run(
      job,
      dataclasses.replace(program, init=init),
      path.parent / "archs" / format_arch(arch) / f"seed_{seed}",
      checkpoint_every=epochs,
    )
    return score_fn(state.weights.params, archs, by)

  def score(source, archs, seed):
    ledger = Ledger(
      path,
      job.search_space,
      functools.partial(score_one, seed),
      choose_fn=lambda count: scoring.Split("images", 1),
      preemption=job.preemption,
    )
    return ledger.score(source, archs)

  return score
