"""`scores.csv`: rows to the last bit, files of someone else."""

import dataclasses

import matplotlib.image
import numpy as np
import pytest
from score_tables import join
from strategies import RAGGED

from nss_jax.errors import UserError
from nss_jax.results import plots
from nss_jax.results.scores import (
  append_scores,
  make_scores,
  pareto_front,
  read_scores,
  resume_scores,
)
from nss_jax.spaces import cost
from nss_jax.spaces.search_space import Arch, SearchSpace

SEARCH_SPACE = SearchSpace.expanded(
  max_depth=4, max_width=8, num_depth_bins=2, num_width_bins=2
)
HEADER = (
  "source,space,depth_1,depth_2,depth_3,width_1,width_2,width_3,"
  "flops,params,error,loss\n"
)


def table(source, count, *, seed=0, search_space=SEARCH_SPACE, **fields):
  """Random archs with random scores."""
  rng = np.random.default_rng(seed)
  shape = (count, search_space.num_stages)
  archs = Arch(
    depth=rng.integers(1, 5, shape).astype(np.int32),
    width=rng.integers(1, 9, shape).astype(np.int32),
  )
  measured = {
    "error": rng.random(count),
    "loss": rng.random(count).astype(np.float32),
  }
  return make_scores(search_space, source, archs, **{**measured, **fields})


def check_equal(found, expected):
  for name, values in vars(expected).items():
    np.testing.assert_array_equal(vars(found)[name], values, strict=True)


SINGLE = table("expanded", 5)
SPACES = table("random_spaces", 4, seed=1, space=[0, 0, 1, 12])


def test_file_is_as_documented(tmp_path):
  path = tmp_path / "scores.csv"
  archs = Arch(depth=np.asarray([[1, 2, 3]]), width=np.asarray([[4, 5, 6]]))
  flops = cost.arch_macs(SEARCH_SPACE, archs)[0]
  params = cost.arch_params(SEARCH_SPACE, archs)[0]
  for source, space in (("elite", -1), ("oracle", 7)):
    fields = {"error": [0.25], "loss": [1.5], "space": space}
    scores = make_scores(SEARCH_SPACE, source, archs, **fields)
    append_scores(path, SEARCH_SPACE, scores)
  assert path.read_text() == (
    f"{HEADER}elite,,1,2,3,4,5,6,{flops},{params},0.25,1.5\n"
    f"oracle,7,1,2,3,4,5,6,{flops},{params},0.25,1.5\n"
  )


def test_batches_come_back_to_the_last_bit(tmp_path):
  path = tmp_path / "scores.csv"
  assert len(resume_scores(path, SEARCH_SPACE)) == 0
  assert not path.exists()
  append_scores(path, SEARCH_SPACE, SINGLE)
  append_scores(path, SEARCH_SPACE, SPACES)
  data = path.read_bytes()
  both = join(SINGLE, SPACES)
  check_equal(resume_scores(path, SEARCH_SPACE), both)
  check_equal(read_scores(path, SEARCH_SPACE), both)
  check_equal(both.group("random_spaces"), SPACES)
  assert len(both.group("elite")) == 0
  assert path.read_bytes() == data


def test_stages_of_the_columns_follow_the_search_space(tmp_path):
  path = tmp_path / "scores.csv"
  archs = Arch(depth=np.asarray([[6, 3, 1]]), width=np.asarray([[8, 11, 5]]))
  scores = make_scores(RAGGED, "elite", archs, error=[0], loss=[0])
  append_scores(path, RAGGED, scores)
  check_equal(read_scores(path, RAGGED), scores)
  two = SearchSpace.expanded(
    max_depth=4, max_width=8, num_width_bins=2, strides=(1, 2)
  )
  path.unlink()
  append_scores(path, two, table("elite", 1, search_space=two))
  header = "source,space,depth_1,depth_2,width_1,width_2,flops,"
  assert path.read_text().startswith(header)


@pytest.mark.parametrize("garbage", [b"\xff\0\n", b"a,b\n", b'"\n', b"\n"])
def test_garbage_is_refused_wherever_it_is(tmp_path, garbage):
  path = tmp_path / "scores.csv"
  append_scores(path, SEARCH_SPACE, SINGLE)
  data = path.read_bytes()
  lines = data.splitlines(keepends=True)
  path.write_bytes(b"".join([*lines[:3], garbage, *lines[3:]]))
  check_refused(path, "line 4: ")
  path.write_bytes(data + garbage)
  check_refused(path, "line 7: ")
  path.write_bytes(data[:-1])
  check_refused(path, "line 6: the line has no end")


def check_refused(path, match):
  """One line that names the file, which stays as it is."""
  before = path.read_bytes()
  for read in (read_scores, resume_scores):
    with pytest.raises(UserError, match=match) as error:
      read(path, SEARCH_SPACE)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and text.isprintable()
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  ("column", "value", "match"),
  [
    ("source", "", "line 3: source is not a plain name"),
    ("space", "-1", "line 3: space: expected a whole number; got '-1'"),
    ("depth_3", "5", "line 3: this arch is not in the search space"),
    ("width_2", "1_0", "line 3: width_2: expected a whole number"),
    ("width_2", "9" * 30, "line 3: width_2: expected a whole number"),
    ("flops", "1", "line 3: not the flops of this arch"),
    ("params", "1", "line 3: not the params of this arch"),
    ("error", "1.01", "line 3: error is not in 0 to 1"),
    ("error", "x", "line 3: error: expected a number; got 'x'"),
    ("loss", "nan", "line 3: loss is not in 0 to inf"),
    # A mean of two such losses overflows, and a picture of it cannot be drawn.
    ("loss", "1e308", "line 3: loss is more than float32 holds"),
  ],
)
def test_foreign_value_is_named(tmp_path, column, value, match):
  path = tmp_path / "scores.csv"
  append_scores(path, SEARCH_SPACE, SINGLE)
  lines = path.read_text().splitlines()
  fields = lines[2].split(",")
  fields[lines[0].split(",").index(column)] = value
  lines[2] = ",".join(fields)
  path.write_text("".join(f"{line}\n" for line in lines))
  check_refused(path, match)


def test_foreign_file_is_refused(tmp_path):
  path = tmp_path / "scores.csv"
  for text in ("x", "source,loss\n", f"{HEADER[:-1]},more\n", "\n"):
    path.write_text(text)
    check_refused(path, "line 1: expected source,space,depth_1")
  # Another search space of as many stages: the archs cost otherwise.
  path.unlink()
  other = dataclasses.replace(SEARCH_SPACE, image_shape=(8, 8, 1))
  append_scores(path, other, table("elite", 3, search_space=other))
  check_refused(path, "line 2: not the flops of this arch in this search")
  with pytest.raises(UserError, match="no such file"):
    read_scores(tmp_path / "none", SEARCH_SPACE)


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"error": [0.5, 2.0, 0.5]}, "arch 2 of 3: error is not in 0 to 1"),
    ({"loss": [0.5, 1.0, np.nan]}, "arch 3 of 3: loss is not in 0 to inf"),
    ({"loss": [0.5]}, r"3 archs of 3 stages: loss should .*\(3,\); got \(1,\)"),
    ({"space": -2}, "arch 1 of 3: space is negative"),
    ({"source": "a,b"}, "arch 1 of 3: source is not a plain name"),
  ],
)
def test_bad_scores_are_refused(fields, match):
  with pytest.raises(ValueError, match=match):
    table(**{"source": "elite", "count": 3, **fields})


def test_archs_of_another_search_space_are_refused():
  with pytest.raises(ValueError, match="of stage 1 must be 1 to 4 or 6 to 7"):
    # Between two bins of its first stage.
    archs = Arch(depth=np.asarray([[5, 2, 1]]), width=np.asarray([[3, 1, 5]]))
    make_scores(RAGGED, "elite", archs, error=[0], loss=[0])
  with pytest.raises(
    ValueError, match=r"depth should .*\(1, 3\); got \(1, 2\)"
  ):
    archs = Arch(depth=np.ones((1, 2), int), width=np.ones((1, 2), int))
    make_scores(RAGGED, "elite", archs, error=[0], loss=[0])


# The Pareto front.


def points(source, error, flops):
  """A table of which only errors and FLOPs are of interest."""
  blank = table(source, len(error))
  return dataclasses.replace(
    blank, error=np.asarray(error, float), flops=np.asarray(flops)
  )


def test_pareto_front_by_hand():
  scores = points(
    "elite", [0.5, 0.3, 0.3, 0.4, 0.3, 0.1], [10, 20, 20, 20, 30, 99]
  )
  # Equal archs stay together; no better at more FLOPs, worse at as many: out.
  expected = [True, True, True, False, False, True]
  assert pareto_front(scores).tolist() == expected
  assert pareto_front(scores.select(np.arange(0))).tolist() == []


def count_colors(path):
  """Pixels more blue than red, and more red than blue."""
  image = matplotlib.image.imread(path)
  warmth = image[..., 0] - image[..., 2]
  return (warmth < -0.2).sum(), (warmth > 0.2).sum()


@pytest.mark.parametrize("spread", [0.01, 4])
def test_pareto_figure(tmp_path, spread):
  """Every range of FLOPs, without a warning; a color for each group."""
  rng = np.random.default_rng(0)

  def draw(*sources):
    tables = []
    for source in sources:
      error, decades = rng.random((2, 200))
      flops = (1e8 * 10 ** (spread * decades)).astype(np.int64)
      tables.append(points(source, error, flops))
    scores = join(*tables)
    picture = plots.pareto(scores, 1.5e8)
    if picture is None:
      return None
    picture.write(tmp_path / "pareto.png")
    return count_colors(tmp_path / "pareto.png")

  blue, orange = draw("expanded", "elite", "oracle")
  assert blue > 500 and orange > 500
  blue, orange = draw("expanded", "random_spaces")
  assert blue > 500 and orange == 0
  assert draw("oracle") is None  # no front
