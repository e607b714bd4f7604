"""Any value in any field of a config: a plan, or one line and exit code 2."""

import contextlib

import ml_collections
import pytest
import runs
from command import assert_answered, call, fuzzed
from hypothesis import event, given
from hypothesis import strategies as st
from strategies import change, places

from nss_jax import config as config_lib

KNOWN = config_lib.to_json(
  runs.load_config(**{**runs.TINY, "sweep.targets": (2e5,)})
)
PHASES = (
  ("search",),
  ("search", "evaluate", "complexity"),
  ("search", "nas", "train", "report"),
  ("search", "sweep"),
  ("rank_check",),
  ("principles",),
)
_NUMBERS = st.integers(-2, 9) | st.sampled_from(
  [64, 10**4, 2**31, 2**32, 2**63, 10**30, -(2**63)]
)
_SCALARS = (
  st.none()
  | st.booleans()
  | _NUMBERS
  | st.floats()
  | st.floats(0, 1)
  | st.text(max_size=8)
)
VALUES = (
  _SCALARS
  | st.lists(_SCALARS, max_size=4).map(tuple)
  | st.lists(_NUMBERS, min_size=1, max_size=4)
  | st.dictionaries(st.sampled_from("ab"), _SCALARS, max_size=2)
)
PLACES = places(KNOWN)


def _typed(path):
  """Returns values of the type that the field has, if it has one of these."""
  value = KNOWN
  for name in path:
    value = value[name]
  kinds = {int: _NUMBERS, float: st.floats() | st.floats(0, 9), bool: None}
  kind = kinds.get(type(value))
  return VALUES if kind is None else kind


@st.composite
def _changes(draw):
  """Draws a place and a value, mostly of the type that is right there."""
  path = draw(st.sampled_from(PLACES))
  typed = draw(st.integers(0, 3))
  return path, draw(_typed(path) if typed else VALUES | st.just(...))


def changed(changes):
  """Replaces values of the config; where there is no place, none."""
  content = KNOWN
  for path, value in changes:
    with contextlib.suppress(LookupError, TypeError):
      content = change(content, path, value)
  return ml_collections.ConfigDict(content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("config")


@fuzzed(runs.CASES)
@given(
  changes=st.lists(_changes(), min_size=1, max_size=2),
  phases=st.sampled_from(PHASES),
)
def test_any_config(folder, changes, phases):
  answer = call(changed(changes), folder / "w", phases, dry_run=True)
  event(f"exit code {answer[0]}")
  assert_answered(answer)
  assert not any(folder.iterdir())
