import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
  GOLDEN,
  RAGGED,
  archs,
  assert_frequencies,
  assert_same,
  search_spaces,
  search_spaces_and_spaces,
  stack,
)

from nss_jax.spaces.bins import bin_edges, bin_exists
from nss_jax.spaces.cost import space_macs
from nss_jax.spaces.sampling import (
  enumerate_archs,
  enumerate_spaces,
  sample_archs,
  sample_bin_archs,
)
from nss_jax.spaces.search_space import (
  Arch,
  SearchSpace,
  Space,
  space_from_ranges,
  space_ranges,
)
from nss_jax.spaces.text import (
  describe_space,
  format_arch,
  format_space,
  parse_arch,
  parse_space,
)

quick = settings(deadline=None, max_examples=40)


def make_space(depth, width):
  return Space(
    depth=np.asarray(depth, np.int32), width=np.asarray(width, np.int32)
  )


# Counting


def test_the_expanded_space():
  search_space = SearchSpace.expanded()
  golden = GOLDEN["expanded_search_space"]
  assert search_space.num_spaces == golden["num_spaces"] == 2**18
  assert search_space.num_archs == golden["num_archs"] == 549755813888
  assert search_space.depth_bins[0] == ((1, 4), (5, 8), (9, 12), (13, 16))
  assert search_space.width_bins[2][:2] == ((1, 32), (33, 64))
  assert search_space.width_bins[0][-1] == (481, 512)
  assert search_space.num_stages == 3


def test_ragged_counts():
  assert RAGGED.num_spaces == (3 * 1 * 2) * (2 * 4 * 1)
  assert RAGGED.num_archs == (6 * 2 * 3) * (5 * 9 * 6)
  assert RAGGED.max_depths == (7, 3, 3)
  assert RAGGED.max_widths == (8, 11, 10)
  assert (RAGGED.max_depth, RAGGED.max_width) == (7, 11)
  assert (RAGGED.num_depth_bins, RAGGED.num_width_bins) == (3, 4)


@quick
@given(search_spaces(max_stages=2))
def test_enumeration_matches_the_formulas(search_space):
  spaces = list(enumerate_spaces(search_space))
  texts = {format_space(search_space, space) for space in spaces}
  assert len(texts) == len(spaces) == search_space.num_spaces
  sizes = [search_space.num_archs_in(space) for space in spaces]
  assert sum(sizes) == search_space.num_archs


@quick
@given(search_spaces_and_spaces())
def test_enumerated_archs_fill_the_space(case):
  search_space, space = case
  every_arch = list(enumerate_archs(search_space, space))
  texts = {format_arch(arch) for arch in every_arch}
  assert len(texts) == len(every_arch) == search_space.num_archs_in(space)
  ranges = space_ranges(search_space, space)
  for kind, numbers in vars(stack(every_arch)).items():
    low, high = np.asarray(ranges[kind]).T
    assert (numbers >= low).all() and (numbers <= high).all()


def test_enumeration_runs_through_the_last_width_fastest():
  first, second, *_ = enumerate_spaces(
    SearchSpace.expanded(num_depth_bins=2, num_width_bins=2)
  )
  assert_same(first, make_space([0, 0, 0], [0, 0, 0]))
  assert_same(second, make_space([0, 0, 0], [0, 0, 1]))


def test_bin_edges_and_existence():
  low, high = bin_edges(RAGGED.depth_bins)
  np.testing.assert_array_equal(low, [[1, 2, 6], [2, 2, 2], [1, 3, 3]])
  np.testing.assert_array_equal(high, [[1, 4, 7], [3, 3, 3], [2, 3, 3]])
  np.testing.assert_array_equal(
    bin_exists(RAGGED.depth_bins), [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
  )


# Refinement


@quick
@given(search_spaces_and_spaces())
def test_refine_makes_bins_of_size_one(case):
  search_space, space = case
  refined = search_space.refine(space)
  assert refined.num_spaces == search_space.num_archs_in(space)
  assert refined.num_archs == refined.num_spaces
  ranges = space_ranges(search_space, space)
  for kind, all_bins in refined.bins.items():
    for (low, high), stage in zip(ranges[kind], all_bins, strict=True):
      assert stage == tuple((n, n) for n in range(low, high + 1))
  assert refined == dataclasses.replace(
    search_space, depth_bins=refined.depth_bins, width_bins=refined.width_bins
  )


# Values


def test_search_space_is_a_value():
  lists = SearchSpace(
    depth_bins=[[[1, 2], [3, 4]]],
    width_bins=[[[np.int64(1), np.int32(8)]]],
    strides=[np.int64(1)],
    stem_width=np.int64(16),
    image_shape=[8, 8, 3],
    num_classes=np.int32(10),
  )
  tuples = SearchSpace(
    depth_bins=(((1, 2), (3, 4)),),
    width_bins=(((1, 8),),),
    strides=(1,),
    image_shape=(8, 8, 3),
  )
  assert lists == tuples
  assert hash(lists) == hash(tuples)
  assert len({lists, tuples, RAGGED}) == 2
  json.dumps(lists.to_dict())
  with pytest.raises(dataclasses.FrozenInstanceError):
    tuples.stem_width = 8


# Mistakes


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"strides": (1, 2)}, "got 1, 1 and 2"),
    ({"depth_bins": (), "width_bins": (), "strides": ()}, "got 0, 0 and 0"),
    ({"depth_bins": ((),)}, r"depth_bins\[0\] is empty"),
    ({"strides": 2}, "strides must be a list; got 2"),
    ({"depth_bins": ((1, 4),)}, r"depth_bins\[0\]: \(1, 4\) is not a list"),
    ({"depth_bins": (((0, 4),),)}, r"depth_bins\[0\].*got \(\(0, 4\),\)"),
    ({"width_bins": (((1, 4), (4, 8)),)}, r"overlap; got .*\(4, 8\)"),
    ({"width_bins": (((5, 8), (1, 4)),)}, r"ascending.*\(1, 4\)"),
    ({"width_bins": (((1, 2.5),),)}, r"\(1, 2.5\) is not a pair of integers"),
    ({"image_shape": (32, 0, 3)}, r"got \(32, 0, 3\)"),
    ({"strides": (0,)}, r"strides .*got \(0,\)"),
    ({"stem_width": 16.0}, "integers of at least 1; got 16.0, 10, 1"),
    ({"stem_stride": 0}, "got 16, 10, 0"),
    ({"num_classes": -3}, "got 16, -3, 1"),
  ],
)
def test_search_space_mistakes(fields, message):
  right = {
    "depth_bins": (((1, 4),),),
    "width_bins": (((1, 8),),),
    "strides": (1,),
  }
  SearchSpace(**right)
  with pytest.raises(ValueError, match=message):
    SearchSpace(**(right | fields))


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"num_depth_bins": 5}, "num_depth_bins .*got 5 bins for 16"),
    ({"num_width_bins": 0}, "num_width_bins .*got 0 bins for 512"),
    ({"max_depth": 0}, "got 4 bins for 0"),
  ],
)
def test_expanded_mistakes(fields, message):
  with pytest.raises(ValueError, match=message):
    SearchSpace.expanded(**fields)


@pytest.mark.parametrize(
  ("depth", "width", "message"),
  [
    ([3, 0, 0], [0, 0, 0], "depth bin of stage 1 must be 0 to 2; got 3"),
    # Stage 2 owns one depth bin and stage 3 one width bin; the others are
    # padding.
    ([0, 1, 0], [0, 0, 0], "depth bin of stage 2 must be 0; got 1"),
    ([0, 0, 0], [0, -1, 0], "width bin of stage 2 must be 0 to 3; got -1"),
    (
      [0, 0],
      [0, 0, 0],
      r"depth bin must have .* for 3 stages; got \[2\]",
    ),
  ],
)
def test_space_mistakes(depth, width, message):
  space = make_space(depth, width)
  for call in (
    lambda: space_ranges(RAGGED, space),
    lambda: RAGGED.refine(space),
    lambda: RAGGED.num_archs_in(space),
    lambda: format_space(RAGGED, space),
    lambda: next(enumerate_archs(RAGGED, space)),
    lambda: space_macs(RAGGED, space),
  ):
    with pytest.raises(ValueError, match=message):
      call()


# Text and dictionaries


@quick
@given(archs())
def test_arch_text_round_trip(arch):
  text = format_arch(arch)
  assert_same(parse_arch(text), arch)
  assert format_arch(parse_arch(text)) == text


@quick
@given(search_spaces_and_spaces())
def test_space_text_and_ranges_round_trip(case):
  search_space, space = case
  text = format_space(search_space, space)
  assert_same(parse_space(search_space, text), space)
  written = json.loads(json.dumps(space_ranges(search_space, space)))
  assert_same(space_from_ranges(search_space, written), space)


def test_text_of_known_values():
  arch = Arch(depth=jnp.asarray([3, 3]), width=jnp.asarray([16, 32]))
  assert format_arch(arch) == "d3-3_w16-32"
  search_space = SearchSpace.expanded()
  space = make_space([0, 1, 0], [0, 1, 2])
  text = "d1:4-5:8-1:4_w1:32-33:64-65:96"
  assert format_space(search_space, space) == text
  assert_same(parse_space(search_space, text), space)
  assert describe_space(search_space, space)[1] == (
    "stage 2: 5-8 blocks, 33-64 channels"
  )
  refined = search_space.refine(space)
  first = next(enumerate_spaces(refined))
  assert describe_space(refined, first)[:2] == [
    "stage 1: 1 block, 1 channel",
    "stage 2: 5 blocks, 33 channels",
  ]


@pytest.mark.parametrize(
  "text",
  [
    "",
    "d1-2_w3",
    "d0_w1",
    "d1_w-1",
    "d1_w1\n",
    "D1_W1",
    "d1_w1.5",
    "d1_w\N{ARABIC-INDIC DIGIT ONE}",
    f"d1_w{2**31}",
    f"d{'9' * 5000}_w1",
    "d1:4_w1:32",
  ],
)
def test_bad_arch_texts(text):
  with pytest.raises(ValueError):
    parse_arch(text)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "d1-1-1_w32-32-32",
    "d1:4-1:4-1:4_w1:32-1:32",
    "d4:1-1:4-1:4_w1:32-1:32-1:32",
    "d1:4-1:4-1:4_w1:32-1:32-1:32\n",
    f"d1:4-1:4-1:4_w1:32-1:32-1:{2**70}",
  ],
)
def test_bad_space_texts(text):
  with pytest.raises(ValueError):
    parse_space(SearchSpace.expanded(), text)


@quick
@given(st.text(alphabet="dw_-:123", max_size=20))
def test_any_text_is_an_arch_or_a_value_error(text):
  try:
    arch = parse_arch(text)
  except ValueError:
    return
  assert format_arch(arch) == text


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"depth": [[1, 1], [2, 3], [1, 3]]}, r"\[1, 3\] is not a bin of stage 3"),
    ({"width": [[3, 6], [3, 6], [5, 10]]}, r"\[3, 6\] is not a bin of stage 2"),
    ({"width": [[3, 6], [1, 2]]}, "expected 3 ranges, one per stage; got 2"),
  ],
)
def test_ranges_mistakes(change, message):
  ranges = {
    "depth": [[1, 1], [2, 3], [1, 2]],
    "width": [[3, 6], [1, 2], [5, 10]],
  }
  space_from_ranges(RAGGED, ranges)
  with pytest.raises(ValueError, match=message):
    space_from_ranges(RAGGED, ranges | change)


@quick
@given(search_spaces())
def test_dictionary_round_trip(search_space):
  fields = json.loads(json.dumps(search_space.to_dict()))
  again = SearchSpace.from_dict(fields)
  assert again == search_space
  assert hash(again) == hash(search_space)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"strides": None}, "strides must be a list; got None"),
    ({"depth_bins": [[1, 4]] * 3}, "not a list of pairs"),
    ({"num_classes": "10"}, "got 4, 10, 1"),
    ({"speed": 1}, r"unknown \['speed'\]"),
  ],
)
def test_dictionary_mistakes(change, message):
  with pytest.raises(ValueError, match=message):
    SearchSpace.from_dict(RAGGED.to_dict() | change)


def test_dictionary_lacks_a_field():
  fields = RAGGED.to_dict()
  del fields["stem_width"]
  with pytest.raises(ValueError, match=r"missing \['stem_width'\]"):
    SearchSpace.from_dict(fields)


# Sampling


def draw_archs(seed, space, count):
  """`sample_archs` in RAGGED, compiled."""
  draw = jax.jit(sample_archs, static_argnums=(1, 3))
  return jax.tree.map(
    np.asarray, draw(jax.random.key(seed), RAGGED, space, count)
  )


def test_sampled_archs_are_uniform_in_the_space():
  space = make_space([2, 0, 1], [0, 2, 0])
  size = RAGGED.num_archs_in(space)
  arch = draw_archs(1, space, 40 * size)
  assert arch.depth.shape == arch.width.shape == (40 * size, 3)
  assert arch.depth.dtype == arch.width.dtype == np.int32
  ranges = space_ranges(RAGGED, space)
  low, high = np.asarray([*ranges["depth"], *ranges["width"]]).T
  numbers = np.concatenate([arch.depth, arch.width], axis=-1) - low
  index = np.ravel_multi_index(tuple(numbers.T), tuple(high - low + 1))
  assert_frequencies(
    np.bincount(index, minlength=size), np.full(size, 1 / size)
  )


def test_bin_archs_are_uniform_in_each_bin():
  archs = sample_bin_archs(jax.random.key(4), RAGGED, 2000)
  for kind, all_bins in RAGGED.bins.items():
    numbers = np.asarray(getattr(archs, kind))
    low, high = bin_edges(all_bins)
    assert numbers.shape == (2000, *low.shape)
    for place in np.ndindex(low.shape):  # bins that are repeated, too
      size = high[place] - low[place] + 1
      counts = np.bincount(numbers[:, *place] - low[place], minlength=size)
      assert_frequencies(counts, np.full(size, 1 / size))


def test_sampling_is_a_function_of_the_key():
  space = make_space([1, 0, 1], [0, 2, 0])
  once, other = (draw_archs(seed, space, 50) for seed in (4, 5))
  eager = sample_archs(jax.random.key(4), RAGGED, space, 50)
  assert_same(once, jax.tree.map(np.asarray, eager))
  assert (once.width != other.width).any()
