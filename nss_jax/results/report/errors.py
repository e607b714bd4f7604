"""Test errors of several seeds: means, and how far they can be trusted."""

import math
import statistics
from collections.abc import Sequence

from nss_jax.results.tables import NO_VALUE, NOT_RUN, Record


def test_errors(trained: Sequence[Record]) -> list[float]:
  """Of each seed of a network."""
  return [result["test_error"] for result in trained]


def standard_error(values: Sequence[float]) -> float | None:
  """Of the mean; one value has none."""
  if len(values) < 2:
    return None
  return statistics.stdev(values) / math.sqrt(len(values))


def compare(
  errors: Sequence[float], others: Sequence[float]
) -> tuple[float, float | None]:
  """The difference of two means, and its standard error if both have one."""
  difference = statistics.fmean(errors) - statistics.fmean(others)
  both = standard_error(errors), standard_error(others)
  if None in both:
    return difference, None
  return difference, math.hypot(*filter(None, both))


def error(record: Record) -> str:
  """A cell: `12.34 ± 0.56`, in percent."""
  if record["test_error"] == NOT_RUN:
    return NOT_RUN
  return _give_or_take(
    f"{100 * record['test_error']:.2f}", record["test_error_standard_error"]
  )


def difference(record: Record) -> str:
  """A cell: how far above the network found, in points."""
  if record["above_found"] is None:
    return NO_VALUE
  return _give_or_take(
    f"{100 * record['above_found']:+.2f}", record["above_found_standard_error"]
  )


def _give_or_take(text: str, deviation: float | None) -> str:
  return text if deviation is None else f"{text} ± {100 * deviation:.2f}"
