"""Which space a search ends with, and what it says of how sure it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax.phases import elite
from nss_jax.runtime import space_file
from nss_jax.spaces.distribution import one_hot
from nss_jax.spaces.search_space import space_from_ranges
from nss_jax.spaces.table import space_indices, spaces_at

SPACE = nss.SearchSpace.expanded(
  max_depth=4, max_width=64, image_shape=(8, 8, 1)
)
MACS = nss.all_space_macs(SPACE).ravel()
TARGET = 1e6


def job_of(**overrides):
  config = runs.load_config(**{"objective.target_flops": TARGET, **overrides})
  return runs.make_job(config, search_space=SPACE)


def logits_of(*indices, sharpness=3.0):
  """Logits that mean these spaces, the first of them most."""
  logits = nss.init_logits(SPACE)
  for place, index in enumerate(indices):
    hot = one_hot(spaces_at(SPACE, index), logits)
    weight = sharpness * (1 - 0.02 * place)
    logits = jax.tree.map(lambda x, h, w=weight: x + w * h, logits, hot)
  return logits


def wide_space(low, high):
  """A space of a cost between two shares of the target, no stage narrow."""
  found = np.flatnonzero((low * TARGET < MACS) & (high * TARGET > MACS))
  spaces = spaces_at(SPACE, found)
  return int(found[spaces.width.min(-1) > 1][0])


ON_TARGET, BESIDE = wide_space(0.99, 1.01), wide_space(1.25, 1.3)


def no_scores(archs):
  raise AssertionError("there was nothing to choose")


def find(indices, sharpness, score_fn=no_scores, **overrides):
  logits = logits_of(*indices, sharpness=sharpness)
  return elite.find(job_of(**overrides), logits, score_fn)


def index_of(found):
  space = space_from_ranges(SPACE, found["space"])
  return int(space_indices(SPACE, jax.tree.map(np.asarray, space)))


def test_a_sure_search_is_taken_at_its_word():
  found = find([ON_TARGET], 12)
  assert index_of(found) == ON_TARGET
  assert found["warnings"] == []
  assert found["rank"] == 1 and found["probability"] > 0.9
  assert found["argmax_space"]["space"] == found["space"]
  assert found["argmax_space"]["probability"] == found["probability"]
  assert found["deviation"] == MACS[ON_TARGET] / TARGET - 1
  choice = found["choice"]
  assert (choice["rule"], choice["tolerance"]) == ("scored", 0.02)
  assert [one["loss"] for one in choice["scored"]] == [None]
  assert space_file.how_sure(found).endswith("the most probable space")


def test_the_best_score_decides_among_what_is_probable():
  """Not the rank, and not a space that the search has turned down."""
  asked = []

  def score_fn(archs):
    asked.append(archs)
    losses = np.repeat(np.arange(8)[::-1], 4)
    return losses / 100, losses + np.tile([0, 0.1, 0.2, 0.3], 8)

  found = find([], 0, score_fn, **{"search.num_choice_archs": 4})
  scored = found["choice"]["scored"]
  assert len(asked) == 1 and len(scored) == 8
  assert asked[0].depth.shape == (32, 3)
  # Of each candidate its own archs, in the order of the scores.
  for place, one in enumerate(scored):
    for kind in ("depth", "width"):
      drawn = getattr(asked[0], kind)[4 * place : 4 * place + 4]
      low, high = np.asarray(one["space"][kind]).T
      assert ((low <= drawn) & (drawn <= high)).all()
    assert one["loss"] == pytest.approx(7 - place + 0.15)
    assert one["loss_error"] == pytest.approx(0.1118 / 2, rel=1e-3)
    assert one["probability"] >= found["argmax_space"]["probability"] / 3
    assert abs(one["deviation"]) <= 0.02
  assert found["space"] == scored[-1]["space"] != scored[0]["space"]
  assert found["probability"] == scored[-1]["probability"]


def test_zero_archs_take_the_most_probable():
  found = find([ON_TARGET], 1, **{"search.num_choice_archs": 0})
  assert found["space"] == found["choice"]["scored"][0]["space"]


def test_the_tolerance_widens_and_says_so():
  """Rather than take what the search has turned down: of November 2026, a bin
  of probability 0.02 where another had 0.8."""
  found = find([BESIDE], 12)
  assert index_of(found) == BESIDE
  (warning,) = found["warnings"]
  assert "no space within 2 % of what was asked for" in warning
  off = MACS[BESIDE] / TARGET - 1
  assert found["choice"]["tolerance"] == pytest.approx(1.25 * off)


def test_the_papers_rule_warns_of_what_it_takes():
  """The closest of draws, though the search means another."""
  found = find([BESIDE], 3, **{"search.elite": "paper"})
  off = [abs(one["deviation"]) for one in found["candidates"]]
  assert abs(found["deviation"]) == min(off)
  assert found["choice"] == {"rule": "paper", "tolerance": None, "scored": []}
  share = found["probability"] / found["argmax_space"]["probability"]
  assert share < 1 / 3
  text = " ".join(found["warnings"])
  assert "does not stand behind this choice" in text
  assert f"{100 * (MACS[BESIDE] / TARGET - 1):+.1f} % from the target" in text
  assert "number " in space_file.how_sure(found)


def test_a_narrow_stage_is_told():
  spaces = spaces_at(SPACE, np.arange(SPACE.num_spaces))
  narrow = (spaces.width[:, 1] == 0) & (spaces.width[:, [0, 2]].min(-1) > 0)
  index = int(np.flatnonzero(narrow & (abs(MACS / TARGET - 1) < 0.02))[0])
  found = find([index], 12)
  (warning,) = found["warnings"]
  assert warning.startswith("stage 2 (1 to 4) may have only 2 channels")


def test_at_most_uses_its_constraint_or_warns():
  limit = {"metric": "flops", "target": TARGET, "mode": "at_most"}
  fields = {"objective.cost_weight": 0.0, "objective.constraints": (limit,)}
  below = wide_space(0.985, 0.999)
  found = find([below], 12, **fields)
  assert index_of(found) == below and found["warnings"] == []
  # The search means a space of half the target: it is taken, with two lines.
  little = wide_space(0.5, 0.55)
  found = find([little], 12, **fields)
  assert index_of(found) == little
  first, second = found["warnings"]
  assert "no space within 2 %" in first
  assert second.startswith(
    f"the space uses {100 * MACS[little] / TARGET:.0f} %"
  )
  # One above it is not: that would be no answer.
  found = find([BESIDE], 12, runs.no_scores, **fields)
  assert 0.98 <= found["mean_flops"] / TARGET <= 1
  assert "does not stand behind" in found["warnings"][0]


def test_numbers_are_json_and_agree_with_the_library():
  job = job_of(**{"search.num_choice_archs": 2})
  logits = jax.tree.map(jnp.asarray, logits_of(ON_TARGET, sharpness=1))
  found = elite.find(job, logits, runs.no_scores)
  chances = jax.tree.map(np.asarray, nss.probabilities(logits))
  space = space_from_ranges(SPACE, found["space"])
  stages = np.arange(3)
  expected = chances.depth[stages, space.depth].prod()
  expected *= chances.width[stages, space.width].prod()
  assert found["probability"] == pytest.approx(float(expected), rel=1e-5)
  assert type(found["rank"]) is int
