"""Hypothesis strategies for small search spaces, and shared checks."""

import copy
import json
import pathlib

import jax
import numpy as np
from hypothesis import strategies as st
from scipy import stats

from nss_jax.spaces.bins import bin_exists
from nss_jax.spaces.distribution import ABSENT, SpaceLogits
from nss_jax.spaces.search_space import Arch, SearchSpace, Space

GOLDEN = json.loads(
  pathlib.Path(__file__).with_name("golden.json").read_text("utf-8")
)
# Stages that own 3, 1 and 2 depth bins and 2, 4 and 1 width bins, of unequal
# sizes and with gaps; widths overlap the stem's and those of the stage before.
RAGGED = SearchSpace(
  depth_bins=(((1, 1), (2, 4), (6, 7)), ((2, 3),), ((1, 2), (3, 3))),
  width_bins=(
    ((3, 6), (8, 8)),
    ((1, 2), (4, 5), (6, 9), (11, 11)),
    ((5, 10),),
  ),
  strides=(1, 1, 2),
  stem_width=4,
  image_shape=(9, 6, 3),
  num_classes=7,
)


@st.composite
def bins(draw, *, first: int, max_bins: int, max_size: int):
  """The bins of one stage: ascending, sizes and gaps of their own."""
  result, low = [], first
  for _ in range(draw(st.integers(1, max_bins))):
    low += draw(st.integers(0, 2))
    high = low + draw(st.integers(0, max_size - 1))
    result.append((low, high))
    low = high + 1
  return tuple(result)


@st.composite
def search_spaces(draw, *, max_stages: int = 4):
  """Search spaces of at most 256 spaces, each of at most 256 archs.

  One in two is wide: from about 28 channels on a projection can cost more than
  the channel that it saves.
  """
  num_stages = draw(st.integers(1, max_stages))
  most = 3 if num_stages <= 2 else 2
  narrowest = draw(st.sampled_from((1, 30)))
  sizes = {"max_bins": most, "max_size": most}

  def stages(first):
    one = bins(first=first, **sizes)
    return draw(st.tuples(*[one] * num_stages))

  return SearchSpace(
    depth_bins=stages(1),
    width_bins=stages(narrowest),
    strides=draw(st.tuples(*[st.integers(1, 2)] * num_stages)),
    stem_width=draw(st.integers(narrowest, narrowest + 5)),
    stem_stride=draw(st.integers(1, 2)),
    image_shape=draw(
      st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
    ),
    num_classes=draw(st.integers(1, 10)),
  )


@st.composite
def spaces(draw, search_space: SearchSpace):
  """One of the spaces of a search space."""
  depth, width = (
    [draw(st.integers(0, len(stage) - 1)) for stage in bins]
    for bins in search_space.bins.values()
  )
  return Space(
    depth=np.asarray(depth, np.int32), width=np.asarray(width, np.int32)
  )


@st.composite
def search_spaces_and_spaces(draw, *, max_stages: int = 4):
  """A search space and one of its spaces."""
  search_space = draw(search_spaces(max_stages=max_stages))
  return search_space, draw(spaces(search_space))


@st.composite
def search_spaces_and_logits(draw, *, max_stages: int = 4):
  """A search space and logits for it: float64 numpy, absent bins masked."""
  search_space = draw(search_spaces(max_stages=max_stages))
  return search_space, random_logits(search_space, draw(st.integers(0, 999)))


@st.composite
def archs(draw):
  """Archs of 1 to 4 stages, of any size."""
  num_stages = draw(st.integers(1, 4))
  numbers = st.lists(
    st.integers(1, 2**31 - 1), min_size=num_stages, max_size=num_stages
  )
  return Arch(
    depth=np.asarray(draw(numbers), np.int32),
    width=np.asarray(draw(numbers), np.int32),
  )


def random_logits(search_space: SearchSpace, seed: int) -> SpaceLogits:
  """Normal logits, float64 numpy, absent bins masked."""
  rng = np.random.default_rng(seed)
  return SpaceLogits(
    *(
      np.where(exists, rng.normal(size=exists.shape), ABSENT)
      for exists in map(bin_exists, search_space.bins.values())
    )
  )


def committed(search_space: SearchSpace, space: Space, by=100.0) -> SpaceLogits:
  """Logits that are higher for one space, float64 numpy, absent bins masked."""
  return SpaceLogits(
    *(
      np.where(exists, by * np.eye(exists.shape[1])[np.asarray(index)], ABSENT)
      for exists, index in zip(
        map(bin_exists, search_space.bins.values()),
        (space.depth, space.width),
        strict=True,
      )
    )
  )


def softmax(logits: SpaceLogits) -> SpaceLogits:
  """softmax over the bins in float64 numpy."""

  def rows(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)

  return jax.tree.map(rows, logits)


def stack(trees):
  """A list of equal pytrees -> one pytree of numpy arrays."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def assert_same(one, other) -> None:
  """Two pytrees have the same structure and the same numbers."""
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_frequencies(counts, probabilities) -> None:
  """Counts are what the probabilities make likely (chi-square)."""
  counts, probabilities = np.ravel(counts), np.ravel(probabilities)
  possible = probabilities > 0
  assert not counts[~possible].any()
  if possible.sum() == 1:
    return
  expected = probabilities[possible].astype(np.float64)
  expected *= counts.sum() / expected.sum()
  assert expected.min() >= 5, "too few draws for the test"
  assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


# JSON that was edited by hand.


def places(obj, path=()):
  """The path of every value below an object."""
  children = []
  if isinstance(obj, dict):
    children = list(obj.items())
  elif isinstance(obj, list):
    children = list(enumerate(obj))
  return [
    place
    for key, child in children
    for place in ([*path, key], *places(child, (*path, key)))
  ]


def nest(depth):
  value = 1
  for _ in range(depth):
    value = [value]
  return value


ANY_JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.integers(-1, 9)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(max_size=5),
  lambda inner: (
    st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
  ),
  max_leaves=8,
) | st.sampled_from([100, 300, 480, 700, 900]).map(nest)


def change(obj, path, value):
  """An object with the value at a path of keys replaced, or without it."""
  obj = copy.deepcopy(obj)
  parent = obj
  for key in path[:-1]:
    parent = parent[key]
  if value is ...:
    del parent[path[-1]]
  else:
    parent[path[-1]] = value
  return obj
