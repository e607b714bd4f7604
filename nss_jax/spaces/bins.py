"""Bins: the ranges of depths or widths that the stages of a space offer."""

from collections.abc import Sequence

import numpy as np

Bin = tuple[int, int]
Bins = tuple[tuple[Bin, ...], ...]
LARGEST = 2**31 - 1  # depths and widths are int32


def bin_edges(bins: Bins) -> tuple[np.ndarray, np.ndarray]:
  """Low and high ends, `[S, K]` each; absent bins repeat the stage's last."""
  count = max(map(len, bins))
  padded = [stage + (stage[-1],) * (count - len(stage)) for stage in bins]
  edges = np.asarray(padded, np.int32)
  return edges[..., 0], edges[..., 1]


def bin_exists(bins: Bins) -> np.ndarray:
  """`[S, K]` bool: stages may own different numbers of bins."""
  count = max(map(len, bins))
  return np.asarray([np.arange(count) < len(stage) for stage in bins])


def equal_bins(kind: str, largest: int, count: int) -> tuple[Bin, ...]:
  """Of depths or widths from 1 to the largest.

  Raises:
    ValueError: if the bins do not divide it.
  """
  if count < 1 or largest < 1 or largest % count:
    raise ValueError(
      f"num_{kind}_bins must divide max_{kind}; got {count} bins for {largest}"
    )
  size = largest // count
  return tuple((size * k + 1, size * (k + 1)) for k in range(count))


def singletons(bins: Sequence[Bin]) -> tuple[Bin, ...]:
  """A bin of its own for every number of some bins."""
  return tuple((n, n) for low, high in bins for n in range(low, high + 1))


def check_bins(name: str, bins: tuple[Bin, ...]) -> None:
  """Refuses what are not the bins of a stage.

  Raises:
    ValueError: if they are not ascending ranges of positive integers without
      overlap.
  """
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
