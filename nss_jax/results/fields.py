"""Which values the fields of artifacts accept, and that in words.

Values are kept as they are, to the last bit.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
import pydantic

# Beyond it floats are no longer whole numbers, and int64 is soon full.
_LARGEST = 2**53


class Kind(NamedTuple):
  """Which values a field accepts, and that in words."""

  accepts: Callable[[Any], bool]
  words: str

  def or_null(self) -> "Kind":
    """Returns the kind that accepts null as well."""
    return Kind(lambda x: x is None or self.accepts(x), f"{self.words} or null")

  def pair(self) -> "Kind":
    """Returns the kind `[low, high]`, not falling."""
    return Kind(
      lambda x: (
        isinstance(x, (list, tuple))
        and len(x) == 2
        and all(map(self.accepts, x))
        and x[0] <= x[1]
      ),
      f"[low, high], each {self.words}",
    )

  def check(self, value: Any) -> Any:
    """Returns a value that is accepted, as plain Python has it."""
    if isinstance(value, (np.generic, np.ndarray)):
      value = value.tolist()
    if not self.accepts(value):
      raise ValueError(self.words)
    return value

  def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
    """Tells pydantic that the check is all there is to a field."""
    whole = pydantic.PlainValidator(self.check)
    return whole.__get_pydantic_core_schema__(Any, handler)


def one_of(*names: str) -> Kind:
  """Returns the kind that accepts these texts only."""
  return Kind(lambda x: x in names, f"one of {', '.join(names)}")


def _is_number(value: Any) -> bool:
  # True is an int to Python. No picture has room for more than 1e30.
  return type(value) in (int, float) and abs(value) <= 1e30


def _is_whole(value: Any) -> bool:
  return type(value) is int and 0 <= value <= _LARGEST


def _within(low: float, high: float, words: str) -> Kind:
  return Kind(lambda x: _is_number(x) and low <= x <= high, words)


NUMBER = Kind(_is_number, "a number")
NON_NEGATIVE = _within(0, np.inf, "a number, 0 or more")
POSITIVE = Kind(lambda x: _is_number(x) and x > 0, "a number above 0")
SHARE = _within(0, 1, "a number from 0 to 1")
PERCENT = _within(0, 100, "0 to 100")
TAU = _within(-1, 1, "a number from -1 to 1")
WHOLE = Kind(_is_whole, "a whole number")
COUNT = Kind(lambda x: _is_whole(x) and x >= 1, "a whole number above 0")
TEXT = Kind(lambda x: isinstance(x, str), "a text")

Number = Annotated[float, NUMBER]
NonNegative = Annotated[float, NON_NEGATIVE]
Positive = Annotated[float, POSITIVE]
Share = Annotated[float, SHARE]
MaybeTau = Annotated[float | None, TAU.or_null()]
MaybeNumber = Annotated[float | None, NUMBER.or_null()]
MaybeNonNegative = Annotated[float | None, NON_NEGATIVE.or_null()]
MaybePositive = Annotated[float | None, POSITIVE.or_null()]
MaybeShare = Annotated[float | None, SHARE.or_null()]
MaybePercent = Annotated[float | None, PERCENT.or_null()]
Whole = Annotated[int, WHOLE]
Count = Annotated[int, COUNT]
MaybeWhole = Annotated[int | None, WHOLE.or_null()]
MaybeCount = Annotated[int | None, COUNT.or_null()]
Flag = Annotated[bool, Kind(lambda x: isinstance(x, bool), "true or false")]
Text = Annotated[str, TEXT]
MaybeText = Annotated[str | None, TEXT.or_null()]
