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

from nss_jax.phases import loop, scoring, supernet_program
from nss_jax.phases.job import Job
from nss_jax.phases.ledger import Ledger
from nss_jax.runtime.console import say
from nss_jax.runtime.preemption import Preemption
from nss_jax.spaces.search_space import Arch
from nss_jax.spaces.text import format_arch

# `(source, archs [n, S], seed) -> (error [n], loss [n])`.
ScoreAlone = Callable[[str, Arch, int], tuple[np.ndarray, np.ndarray]]


def make_score_alone(
  job: Job, path: pathlib.Path, preemption: Preemption, *, epochs: int
) -> ScoreAlone:
  """What trains archs with a seed and scores each by its own weights.

  Args:
    job: of the run.
    path: of the scores that are kept; the archs train in `archs` beside it.
    preemption: asked between dispatches.
    epochs: of each training.
  """
  parts = job.config, job.search_space, job.dataset, job.mesh
  program = supernet_program.build_alone(*parts, epochs)
  score_fn = scoring.make_score_fn(*parts)

  def score_one(seed, archs, by):
    arch = jax.tree.map(lambda x: np.asarray(x)[0], archs)
    say(job.console, f"training alone: {format_arch(arch)}, seed {seed}")
    # As the evaluator's own, whose seed is that of the first.
    init = functools.partial(
      program.init, arch, (job.config.evaluate.seed + seed) % 2**32
    )
    state = loop.run(
      job,
      dataclasses.replace(program, init=init),
      path.parent / "archs" / format_arch(arch) / f"seed_{seed}",
      preemption,
      checkpoint_every=epochs,
    )
    return score_fn(state.weights.params, archs, by)

  def score(source, archs, seed):
    ledger = Ledger(
      path,
      job.search_space,
      functools.partial(score_one, seed),
      choose_fn=lambda count: scoring.Split("images", 1),
      preemption=preemption,
      on_progress=lambda done, timed: None,
    )
    return ledger.score(source, archs)

  return score
