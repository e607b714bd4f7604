"""Bins: the ranges of depths or widths that the stages of a space offer."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Bin = tuple[int, int]
Bins = tuple[tuple[Bin, ...], ...]
LARGEST = 2**31 - 1  # depths and widths are int32


def bin_edges(bins: Bins) -> tuple[np.ndarray, np.ndarray]:
  """Returns low and high ends, `[S, K]` each.

  Where a stage has fewer bins than others, its last one is repeated.
  """
  count = max(map(len, bins))
  padded = [stage + (stage[-1],) * (count - len(stage)) for stage in bins]
  edges = np.asarray(padded, np.int32)
  return edges[..., 0], edges[..., 1]


def edges_at(bins: Bins, index: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns low and high ends of one bin of each stage, `[..., S]` each."""
  stages, index = np.arange(len(bins)), np.asarray(index)
  low, high = bin_edges(bins)
  return low[stages, index], high[stages, index]


def bin_exists(bins: Bins) -> np.ndarray:
  """Says which of K bins each stage owns, `[S, K]` bool."""
  count = max(map(len, bins))
  return np.asarray([np.arange(count) < len(stage) for stage in bins])


def stage_offers(bins: Sequence[Bin]) -> np.ndarray:
  """Returns the numbers in the bins of one stage, ascending, int64."""
  return np.concatenate(
    [np.arange(low, high + 1, dtype=np.int64) for low, high in bins]
  )


def equal_bins(kind: str, largest: int, count: int) -> tuple[Bin, ...]:
  """Divides depths or widths from 1 to the largest into bins of one size."""
  if count < 1 or largest < 1 or largest % count:
    raise ValueError(
      f"num_{kind}_bins must divide max_{kind}; got {count} bins for {largest}"
    )
  size = largest // count
  return tuple((size * k + 1, size * (k + 1)) for k in range(count))


def singletons(bins: Sequence[Bin]) -> tuple[Bin, ...]:
  """Makes a bin of its own of every number of some bins."""
  return tuple((n, n) for n in stage_offers(bins).tolist())


def check_bins(name: str, bins: tuple[Bin, ...]) -> None:
  """Refuses bins of a stage that are not ascending ranges without overlap."""
  if not isinstance(bins, tuple) or not all(isinstance(b, tuple) for b in bins):
    raise ValueError(f"{name}: {bins} is not a list of pairs (low, high)")
  if not bins:
    raise ValueError(f"{name} is empty; every stage needs a bin")
  previous = 0
  for pair in bins:
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
      raise ValueError(f"{name}: {pair} is not a pair of integers (low, high)")
    low, high = pair
    if not previous < low <= high <= LARGEST:
      raise ValueError(
        f"{name}: bins must be ascending, from 1 to 2^31 - 1 and without "
        f"overlap; got {bins}"
      )
    previous = high


def held(numbers: Any, bins: Bins) -> np.ndarray:
  """Says of numbers `[..., S]` whether the bins of their stages hold them."""
  columns = []
  for stage, column in zip(bins, np.moveaxis(numbers, -1, 0), strict=True):
    low, high = np.asarray(stage).T
    place = np.searchsorted(low, column, "right") - 1
    columns.append((place >= 0) & (column <= high[place]) & (column % 1 == 0))
  return np.stack(columns, -1)


def check_held(name: str, numbers: Any, bins: Bins, *, one: bool) -> None:
  """Refuses numbers `[..., S]`, or `[S]` of `one`, that stages do not offer.

  It is the one check of archs and spaces. Values are seen wherever they are
  concrete; inside `jit` those of its arguments are not, and only shape and type
  are checked.
  """
  traced = isinstance(numbers, jax.core.Tracer)
  seen = numbers if traced else np.asarray(numbers)
  if seen.shape[-1:] != (len(bins),) or (one and len(seen.shape) > 1):
    raise ValueError(
      f"{name} must have the shape [{'' if one else '..., '}{len(bins)}], for "
      f"{len(bins)} stages; got {list(seen.shape)}"
    )
  if isinstance(seen, np.ndarray) and not (inside := held(seen, bins)).all():
    place = tuple(np.argwhere(~inside)[0])
    raise ValueError(
      f"{name} of stage {place[-1] + 1} must be {_in_words(bins[place[-1]])}; "
      f"got {seen[place]}"
    )
  if not np.issubdtype(seen.dtype, np.integer):
    raise ValueError(f"{name} must be integers; got {seen.dtype}")


def _in_words(bins: tuple[Bin, ...]) -> str:
  """Says `1 to 4 or 6 to 7`; bins that follow each other are one."""
  merged = [bins[0]]
  for low, high in bins[1:]:
    if low == merged[-1][1] + 1:
      merged[-1] = merged[-1][0], high
    else:
      merged.append((low, high))
  return " or ".join(
    str(low) if low == high else f"{low} to {high}" for low, high in merged
  )
