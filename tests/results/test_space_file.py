"""`load_space` trusts nothing that it reads in `elite_space.json`."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import ANY_JSON, change, places

from nss_jax.errors import UserError
from nss_jax.results.load import load_space
from nss_jax.runtime import files
from nss_jax.spaces.search_space import SearchSpace, Space, space_ranges

SEARCH_SPACE = SearchSpace.expanded(
  max_depth=4, max_width=8, num_depth_bins=2, num_width_bins=2
)
SPACE = Space(
  depth=np.asarray([0, 1, 0], np.int32), width=np.asarray([1, 1, 0], np.int32)
)
ELITE = {
  "space": {
    kind: [list(pair) for pair in pairs]
    for kind, pairs in space_ranges(SEARCH_SPACE, SPACE).items()
  },
  "search_space": SEARCH_SPACE.to_dict(),
  "cost": 1.5,
}


def check_one_line(error, path):
  text = str(error)
  assert text.startswith(f"{path}: ")
  assert text.isprintable()


def check_elite(found):
  search_space, space = found
  assert search_space == SEARCH_SPACE
  assert space_ranges(search_space, space) == space_ranges(SEARCH_SPACE, SPACE)


def test_load_space_from_file_search_folder_and_workdir(tmp_path):
  folder = tmp_path / "search"
  folder.mkdir()
  files.write_json(folder / "elite_space.json", ELITE)
  for path in (tmp_path, folder, folder / "elite_space.json", str(tmp_path)):
    check_elite(load_space(path))


@pytest.mark.parametrize(
  ("path", "value", "field"),
  [
    (["space"], ..., "space: this field is missing"),
    (["search_space"], [], "search_space: expected a JSON object, got list"),
    (["search_space", "block"], ..., r"search_space: .*missing \['block'\]"),
    (["search_space", "block"], {}, "search_space: block: "),
    (["search_space", "strides"], None, "search_space: strides must be a list"),
    (["search_space", "stem_width"], True, "search_space: stem_width: "),
    (["search_space", "depth_bins", 1, 0, 0], True, "search_space: depth_bins"),
    (["search_space", "width_bins", 2, 1], "a\nb", "search_space: width_bins"),
    (["search_space", "extra"], 1, r"search_space: .*unknown \['extra'\]"),
    (["space", "depth", 0], [1, 3], r"space: depth: \[1, 3\] is not a bin"),
    (["space", "depth", 0], [1.0, 2], "space: depth: expected a list"),
    (["space", "width", 2], ..., "space: width: expected 3 ranges"),
  ],
)
def test_load_space_names_file_and_field(tmp_path, path, value, field):
  file = tmp_path / "elite_space.json"
  files.write_json(file, change(ELITE, path, value))
  with pytest.raises(UserError, match=field) as error:
    load_space(file)
  check_one_line(error.value, file)


@settings(
  max_examples=300,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  where=st.sampled_from(places(ELITE)),
  value=ANY_JSON | st.just(...),
  whole=st.none() | ANY_JSON,
)
def test_load_space_fuzzed(tmp_path, where, value, whole):
  path = tmp_path / "elite_space.json"
  obj = change(ELITE, where, value) if whole is None else whole
  path.write_text(json.dumps(obj), encoding="utf-8")
  try:
    search_space, space = load_space(path)
  except UserError as error:
    check_one_line(error, path)
    return
  # What passes must be of use.
  hash(search_space)
  assert search_space.num_archs_in(space) >= 1
  assert SearchSpace.from_dict(search_space.to_dict()) == search_space
