"""The types of fields, where a bound of pydantic does not say what they accept.

A check raises what is accepted, in words. Where it has none, and where an item
of a field is wrong, the description of the field says it.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from nss_jax.spaces.blocks import block_names
from nss_jax.spaces.metrics import UNITS
from nss_jax.steps.estimators import ESTIMATORS

# Far beyond what is trained, and the plan of every step still fits in memory.
MOST_EPOCHS = 10_000
# So large that no cost comes near, and it is still a float.
LARGEST = 1e300
# What `--phases=all` runs, in order, and a sweep may run: all of one target.
# `phases.registry` adds to them, before the last.
PHASES_OF_A_TARGET = [
  "search",
  "evaluate",
  "rank_check",
  "principles",
  "nas",
  "complexity",
  "train",
  "report",
]


def check_warmup(section: str, warmup_epochs: int, epochs: int) -> None:
  """Raises what is accepted if warmup leaves no epoch."""
  if warmup_epochs >= epochs:
    raise ValueError(
      "warmup_epochs", f"fewer than the {epochs} of config.{section}.epochs"
    )


def _accept(is_right: Callable[[Any], Any], words: str = "") -> AfterValidator:
  """Returns a check of values that have the right type."""

  def check(value: Any) -> Any:
    if not is_right(value):
      raise ValueError(words)
    return value

  return AfterValidator(check)


def _one_of(names: Callable[[], Iterable[str]]) -> BeforeValidator:
  """Returns a check of any value against names that may be registered later."""

  def check(name: Any) -> Any:
    if name not in list(names()):
      raise ValueError(f"one of {', '.join(names())}")
    return name

  return BeforeValidator(check)


def _ascends(values: Sequence[float]) -> bool:
  return all(a < b for a, b in itertools.pairwise((0, *values)))


Seed = Annotated[int, Field(ge=0, lt=2**32, description="0 to 2^32 - 1")]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Channels = Annotated[int, _accept(lambda n: n in (0, 1, 3), "0, 1 or 3")]
Outputs = Annotated[
  int,
  _accept(
    lambda n: n == 0 or 2 <= n <= 2**20,
    "0 for those of the data, or 2 to 2^20",
  ),
]
Metric = Annotated[str, _one_of(lambda: UNITS)]
BlockName = Annotated[str, _one_of(block_names)]
EstimatorName = Annotated[str, _one_of(lambda: ESTIMATORS)]
FolderName = Annotated[
  str,
  _accept(
    lambda name: name.strip() and "/" not in name and name[0] != ".",
    "a plain folder name",
  ),
]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, le=1)]
_ASCENDS = _accept(_ascends)
BucketShares = Annotated[
  tuple[_Share, ...],
  Field(strict=False, description="shares above 0 that ascend to 1"),
  _ASCENDS,
  _accept(lambda shares: not shares or shares[-1] == 1),
]
Shares = Annotated[
  tuple[_Share, ...],
  Field(
    strict=False,
    min_length=1,
    description="ascending shares above 0, at most 1, at least one",
  ),
  _ASCENDS,
]
Decays = Annotated[
  tuple[Annotated[float, Field(gt=0, lt=1)], ...],
  Field(strict=False, description="ascending shares above 0 and below 1"),
  _ASCENDS,
]
Window = Annotated[
  tuple[_Positive, _Positive],
  Field(
    strict=False, description="two ascending shares of the target, above 0"
  ),
  _ASCENDS,
]
Rates = Annotated[
  tuple[_Positive, ...],
  Field(
    strict=False, min_length=1, description="numbers above 0, at least one"
  ),
]
Targets = Annotated[
  tuple[_Positive, ...],
  Field(
    strict=False, description="ascending numbers above 0, in multiply-adds"
  ),
  _ASCENDS,
]
_NETWORKS = (
  *("elite", "elite_uniform", "expanded", "expanded_uniform"),
  *("handmade", "regnet"),
)
Networks = Annotated[
  tuple[str, ...],
  Field(strict=False),
  _accept(
    lambda names: {*names} <= {*_NETWORKS},
    f"names of {', '.join(_NETWORKS)}; none for all",
  ),
]
Phases = Annotated[
  tuple[Annotated[str, _one_of(lambda: PHASES_OF_A_TARGET)], ...],
  Field(
    strict=False, min_length=1, description="at least one phase of one target"
  ),
]
