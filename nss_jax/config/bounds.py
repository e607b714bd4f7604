"""What fields accept that a bound of pydantic does not say.

Each check raises what is accepted, in words; a description says it where a
value breaks the check of one of its items.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from nss_jax.spaces.blocks import block_names
from nss_jax.spaces.metrics import UNITS
from nss_jax.steps.estimators import ESTIMATORS

# From the search to the report; the sweep runs them for many targets.
PhaseOfATarget = Literal[
  "search",
  "evaluate",
  "rank_check",
  "principles",
  "nas",
  "complexity",
  "train",
  "report",
]
PHASES_OF_A_TARGET: tuple[str, ...] = get_args(PhaseOfATarget)
PHASES = (*PHASES_OF_A_TARGET[:-1], "sweep", "latency_table", "report")
# Far beyond what is trained, and the plan of every step still fits in memory.
MOST_EPOCHS = 10_000
# So large that no cost comes near, and it is still a float.
LARGEST = 1e300


def _ascend(values: Sequence[float]) -> Sequence[float]:
  if not all(a < b for a, b in itertools.pairwise((0, *values))):
    raise ValueError("not ascending")
  return values


def _end_at_one(values: Sequence[float]) -> Sequence[float]:
  if values and values[-1] != 1:
    raise ValueError("another end")
  return values


def _registered(names_fn: Callable[[], Iterable[str]]) -> AfterValidator:
  """Checks for a name that is registered at the time of the check."""

  def check(name: str) -> str:
    names = [*names_fn()]
    if name not in names:
      raise ValueError(f"one of {', '.join(names)}")
    return name

  return AfterValidator(check)


def _is_channels(number: int) -> int:
  if number not in (0, 1, 3):
    raise ValueError("0, 1 or 3")
  return number


def _is_outputs(number: int) -> int:
  if number and not 2 <= number <= 2**20:
    raise ValueError("0 for those of the data, or 2 to 2^20")
  return number


def _is_folder_name(name: str) -> str:
  if not name.strip() or "/" in name or name.startswith("."):
    raise ValueError("a plain folder name")
  return name


# What is accepted, in words, where the bounds of a field do not say it.
Seed = Annotated[int, Field(ge=0, lt=2**32, description="0 to 2^32 - 1")]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Channels = Annotated[int, AfterValidator(_is_channels)]
Outputs = Annotated[int, AfterValidator(_is_outputs)]
Metric = Annotated[str, _registered(lambda: UNITS)]
BlockName = Annotated[str, _registered(block_names)]
EstimatorName = Annotated[str, _registered(lambda: ESTIMATORS)]
FolderName = Annotated[str, AfterValidator(_is_folder_name)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(gt=0, le=1)]
BucketShares = Annotated[
  tuple[_Share, ...],
  Field(strict=False, description="shares above 0 that ascend to 1"),
  AfterValidator(_ascend),
  AfterValidator(_end_at_one),
]
Shares = Annotated[
  tuple[_Share, ...],
  Field(
    strict=False,
    min_length=1,
    description="ascending shares above 0, at most 1, at least one",
  ),
  AfterValidator(_ascend),
]
Decays = Annotated[
  tuple[Annotated[float, Field(gt=0, lt=1)], ...],
  Field(strict=False, description="ascending shares above 0 and below 1"),
  AfterValidator(_ascend),
]
Window = Annotated[
  tuple[_Positive, _Positive],
  Field(
    strict=False, description="two ascending shares of the target, above 0"
  ),
  AfterValidator(_ascend),
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
  AfterValidator(_ascend),
]
PhaseNames = Annotated[
  tuple[PhaseOfATarget, ...],
  Field(
    strict=False,
    min_length=1,
    description=f"at least one of {', '.join(PHASES_OF_A_TARGET)}",
  ),
]
