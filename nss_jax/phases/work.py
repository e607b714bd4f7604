"""Counts the multiply-adds that each step of a loop is going to take, about."""

import dataclasses

import numpy as np

from nss_jax.phases.job import Job
from nss_jax.phases.schedules import Schedule
from nss_jax.spaces import cost
from nss_jax.spaces.search_space import Bins, SearchSpace, Space
from nss_jax.steps.estimators import ESTIMATORS

# The two gradients of a convolution cost as much as the convolution each.
_PASSES = 3
# Between them the mean cost of a draw is nearly linear in the coins.
_COINS = np.linspace(0, 1, 21)


def search_work(job: Job, schedule: Schedule) -> np.ndarray:
  """Returns the multiply-adds of each step of a search, for one image,
  `[num_steps]`.

  A masked step pays for the largest network, a sliced one for what it draws:
  after warmup that is counted as the target, which the draws are led to.
  """
  config, space, target = job.config, job.search_space, job.target
  largest = cost.largest_macs(space)
  sliced = config.supernet.engine == "sliced"
  known = ESTIMATORS[config.search.estimator]
  if target is None:  # then by the mean of all archs, for want of better
    target = float(_drawn(space, np.zeros(1))[0])
  train = target if sliced and known.draws != "soft" else largest
  search = target if sliced and known.draws == "archs" else largest
  search *= known.passes(config.search.num_score_archs) / _PASSES
  steps = np.full(schedule.num_steps, float(train + search))
  warmup = schedule.warmup_steps
  coins = 1 - np.arange(warmup) / max(warmup, 1)
  steps[:warmup] = _drawn(space, coins) if sliced else largest
  return _PASSES * steps


def supernet_work(job: Job, schedule: Schedule) -> np.ndarray:
  """Returns those of each step of the stand-alone supernet, likewise."""
  settings, space = job.config.evaluate, job.search_space
  largest = float(cost.largest_macs(space))
  first, coins = (
    epochs * schedule.steps_per_epoch
    for epochs in (settings.largest_epochs, settings.coin_epochs)
  )
  if job.config.supernet.engine == "masked":
    drawn = np.full(schedule.num_steps, largest)
  else:
    steps = np.arange(schedule.num_steps) - first
    drawn = _drawn(space, np.clip(1 - steps / max(coins, 1), 0, 1))
  if settings.sandwich:
    both = largest + cost.macs_range(space)[0]
    work = (settings.archs_per_batch - 2) * drawn + both
  else:
    work = settings.archs_per_batch * drawn
  work[:first] = largest
  return _PASSES * work


def _drawn(space: SearchSpace, coins: np.ndarray) -> np.ndarray:
  """Returns the mean multiply-adds of the draws of warmup, for coins `[N]`."""
  depth_bins, *depths = _apart(space.depth_bins)
  width_bins, *widths = _apart(space.width_bins)
  space = dataclasses.replace(
    space, depth_bins=depth_bins, width_bins=width_bins
  )
  means = [
    cost.mean_macs(
      space,
      Space(
        *(p * whole + (1 - p) * drawn for drawn, whole in (depths, widths))
      ),
    )
    for p in _COINS
  ]
  return np.interp(coins, _COINS, means)


def _apart(bins: Bins) -> tuple[Bins, np.ndarray, np.ndarray]:
  """Takes the largest number of each stage apart, into a bin of its own.

  Returns the bins, and the weights `[S, K]` of a uniform draw from the bins as
  they were, and of the largest number.
  """
  apart, drawn, whole = [], [], []
  for *others, (low, high) in bins:
    rest = [(low, high - 1)] if low < high else []
    apart.append((*others, *rest, (high, high)))
    shares = [1.0] * len(others) + [(high - low) / (high - low + 1)] * len(rest)
    shares.append(1 / (high - low + 1))
    drawn.append(np.asarray(shares) / (len(others) + 1))
    whole.append(np.eye(len(shares))[-1])
  size = max(map(len, drawn))
  pad = [np.pad(row, (0, size - len(row))) for row in (*drawn, *whole)]
  uniform, largest = np.split(np.stack(pad), 2)
  return tuple(apart), uniform, largest
