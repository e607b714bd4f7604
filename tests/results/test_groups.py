"""The numbers of `summary.json`, computed by hand or by brute force."""

import json
import math

import numpy as np
import pytest
from score_tables import join, table

from nss_jax.results.groups import Evaluation, compare_spaces, summarize
from nss_jax.results.scores import GROUPS, NO_SPACE
from nss_jax.results.statistics import hypervolume

TARGET = 200.0


def compare(*groups, **settings):
  return compare_spaces(*groups, **settings).to_json()


def summary(scores, **settings):
  found = summarize(scores, TARGET, largest_flops=1e4, **settings).to_json()
  assert Evaluation(**json.loads(json.dumps(found, allow_nan=False)))
  return found


def volume(group, largest_flops):
  return hypervolume(group.error, group.flops, (1.0, largest_flops))


def spaces(source, means, *, count=2, noise=0.0, seed=0):
  """Archs of spaces with given mean errors; noise of mean zero or drawn."""
  error = np.repeat(np.asarray(means, float), count)
  error += noise * np.random.default_rng(seed).standard_normal(len(error))
  return table(source, error, space=np.repeat(np.arange(len(means)), count))


def test_group_by_hand():
  group = table(
    "oracle",
    [0.1, 0.4, 0.1, 0.2],
    loss=[1, 2, 3, 6],
    flops=[100, 200, 300, 400],
    space=[3, 3, 5, 9],
  )
  found = summary(join(group, table("elite", [0.05])), num_resamples=10)
  assert found["groups"]["oracle"] == {
    "count": 4,
    "num_spaces": 3,
    "mean_error": pytest.approx(0.2),
    "median_error": pytest.approx(0.15),
    "min_error": 0.1,
    "mean_loss": 3.0,
    "mean_flops": 250.0,
    "deviation": 0.25,
    "pareto_share": 0.0,
    "hypervolume": pytest.approx(volume(group, 1e4)),
  }
  assert "num_spaces" not in found["groups"]["elite"]


def test_hypervolume_by_hand():
  # In (log10 FLOPs, error), against (4, 1): a staircase of three.
  flops = [10, 100, 1000]
  group = table("elite", [0.8, 0.5, 0.4], flops=flops)
  expected = (2 - 1) * 0.2 + (3 - 2) * 0.5 + (4 - 3) * 0.6
  assert volume(group, 10_000) == pytest.approx(expected)
  # A dominated arch adds nothing, nor does one beyond the reference.
  more = table("elite", [0.9, 0.1], flops=[1000, 20_000])
  assert volume(join(group, more), 10_000) == pytest.approx(expected)
  assert volume(table("elite", [1.0]), 10_000) == 0


def test_percentile_and_regret_by_hand():
  """Unequal numbers of archs, mixed rows, gaps; loss and error disagree."""
  others = table(
    "random_spaces",
    [0.5, 0.1, 0.3, 0.2, 0.3, 0.6],
    loss=[1.0, 4.0, 2.0, 3.0, 1.0, 5.0],
    # Errors: space 4 has 0.5, 0.3, 0.3; space 7 has 0.1, 0.2; space 9 has 0.6.
    space=[4, 7, 4, 7, 4, 9],
  )
  elite = table("elite", [0.1, 0.5], loss=[0.5, 0.9])
  found = compare(elite, others, num_resamples=10)
  assert found["num_spaces"] == 3
  error = found["error"]
  assert error["elite"] == pytest.approx(0.3)
  assert error["best"] == pytest.approx(0.15) and error["best_space"] == 7
  assert error["regret"] == pytest.approx(0.15)
  assert error["percentile"] == pytest.approx(100 / 3)
  loss = found["loss"]
  assert loss["elite"] == pytest.approx(0.7)
  assert loss["best"] == pytest.approx(4 / 3) and loss["best_space"] == 4
  assert loss["regret"] == pytest.approx(0.7 - 4 / 3)
  assert loss["percentile"] == 0.0


def test_regret_error_counts_archs_and_images():
  """Archs by hand; images as Monte Carlo would: other images, other regrets."""
  elite = table("elite", [0.2, 0.4], loss=[0.2, 0.6])
  others = table(
    "random_spaces", [0.1, 0.3, 0.9], loss=[0.5, 0.3, 9.0], space=[0, 0, 1]
  )
  # Of two archs a standard error is half of the difference.
  archs = {"loss": math.hypot(0.2, 0.1), "error": math.hypot(0.1, 0.1)}
  found = compare(elite, others, num_resamples=0)
  for name, expected in archs.items():
    assert found[name]["regret_error"] == pytest.approx(expected)
  rng = np.random.default_rng(0)
  common = rng.normal(size=(400, 2))  # what both find hard is no difference
  own = {name: rng.normal(size=(400, 2)) for name in ("elite", "random_spaces")}
  seen = []

  def by_image(rows):
    seen.append(set(rows.space))
    return common + own[rows.source[0]] * [0.5, 2.0]

  found = compare(elite, others, num_resamples=0, by_image=by_image)
  # The variance of the difference of two is twice that of one.
  for name, scale in (("loss", 0.5), ("error", 2.0)):
    images = scale * math.sqrt(2 / 400)
    assert found[name]["regret_error"] == pytest.approx(
      math.hypot(archs[name], images), rel=0.06
    )
    assert found[name]["regret_error"] > archs[name]
  assert {0} in seen and {1} not in seen  # the best of the others


def test_bootstrap_of_spaces_without_noise_is_binomial():
  """Archs of a space all alike: only the spaces are drawn anew."""
  means = [0.1] * 30 + [0.5] * 70
  found = compare(
    table("elite", [0.3] * 4),
    spaces("random_spaces", means),
    num_resamples=4000,
  )["error"]
  low, high = found["bootstrap_interval"]
  spread = 100 * math.sqrt(0.3 * 0.7 / 100)
  assert found["percentile"] == 30.0
  assert low == pytest.approx(30 - 1.96 * spread, abs=1.1)
  assert high == pytest.approx(30 + 1.96 * spread, abs=1.1)
  # Clopper and Pearson, 30 of 100, from a table.
  assert found["exact_interval"] == pytest.approx([21.24, 39.98], abs=0.01)


def test_bootstrap_draws_the_archs_of_every_space():
  """One space, which one in two pairs of its archs puts before the elite."""
  others = table("random_spaces", [0.2, 0.6], space=[0, 0])
  elite = table("elite", [0.3])
  found = compare(elite, others, num_resamples=4000)["error"]
  # Pairs (0.2, 0.2) win, one in four; so 0 and 1 are both likely.
  assert found["percentile"] == 0.0
  assert found["bootstrap_interval"] == [0.0, 100.0]
  # The same for the archs of the elite space.
  found = compare(
    others, table("random_spaces", [0.3], space=[0]), num_resamples=4000
  )["error"]
  assert found["bootstrap_interval"] == [0.0, 100.0]


def test_bootstrap_ignores_the_padding_of_small_spaces():
  """A space of one arch beside one of many: its mean is that arch."""
  sizes = [1, 9]
  others = table(
    "random_spaces",
    np.repeat([0.1, 0.5], sizes),
    space=np.repeat([0, 1], sizes),
  )
  found = compare(table("elite", [0.11]), others, num_resamples=4000)
  low, high = found["error"]["bootstrap_interval"]
  assert (low, high) == (0.0, 100.0) and found["error"]["percentile"] == 50.0
  # 0.1 never becomes more than 0.1, nor less.
  found = compare(table("elite", [0.09]), others, num_resamples=4000)
  assert found["error"]["bootstrap_interval"] == [0.0, 0.0]


def test_bootstrap_interval_holds_the_truth():
  """Means of spaces are N(0.5, 0.05^2); the elite beats a known share."""
  truth, covered, repeats = 15.87, 0, 60
  for seed in range(repeats):
    rng = np.random.default_rng(seed)
    means = 0.5 + 0.05 * rng.standard_normal(48)
    others = spaces("random_spaces", means, count=8, noise=0.03, seed=seed)
    elite = table("elite", 0.45 + 0.05 * rng.standard_normal(200))
    found = compare(elite, others, num_resamples=200, seed=seed)["error"]
    low, high = found["bootstrap_interval"]
    assert low <= found["percentile"] <= high
    covered += low <= truth <= high
  # 95 % of 60 is 57; less than 52 has a chance of one in a hundred.
  assert covered >= 52


def test_intervals_are_not_empty_where_no_space_wins():
  found = compare(
    table("elite", [0.125] * 9),
    spaces("random_spaces", [0.125, *[0.5] * 63]),  # an equal one wins not
    num_resamples=100,
  )["error"]
  assert found["percentile"] == 0.0
  assert found["bootstrap_interval"] == [0.0, 0.0]
  # The rule of three: 1 - (0.025)^(1/64).
  high = 100 * (1 - 0.025 ** (1 / 64))
  assert found["exact_interval"] == pytest.approx([0, high])


def full_table():
  rng = np.random.default_rng(5)
  groups = [
    table(name, rng.random(30).round(1), flops=rng.integers(1, 9, 30))
    for name in ("elite", "expanded", "expanded_near_target")
  ]
  for name, lowest in (
    ("random_spaces", 0.1),
    ("hard_random_spaces", 0.3),
    ("hand_made", 0.4),
    ("oracle", 0.2),
  ):
    groups.append(spaces(name, np.linspace(lowest, 0.9, 8)))
  return join(*groups)


def test_pareto_share_against_all_pairs():
  scores = full_table()
  owners = []
  for i in range(len(scores)):
    a = scores.error[i], scores.flops[i]
    rivals = zip(scores.error, scores.flops, strict=True)
    if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in rivals):
      owners.append(scores.source[i])
  found = summary(scores, num_resamples=10)
  assert found["pareto_front"] == len(owners)
  # Ties between groups are part of the case.
  assert len(set(owners)) > 1
  for name in GROUPS:
    share = owners.count(name) / len(owners)
    assert found["groups"][name]["pareto_share"] == pytest.approx(share)


def test_summary_puts_it_together():
  scores = full_table()
  found = summary(scores, num_resamples=50, seed=3)
  assert found["target_flops"] == TARGET
  assert found["reference_point"] == {"flops": 1e4, "error": 1.0}
  assert found["bootstrap"] == {
    "num_resamples": 50,
    "confidence": 0.95,
    "seed": 3,
  }
  assert list(found["groups"]) == list(GROUPS)
  for name, numbers in found["groups"].items():
    group = scores.group(name)
    assert numbers["count"] == len(group)
    assert numbers["hypervolume"] == volume(group, 1e4)
  elite = scores.group("elite")
  for name in ("random_spaces", "hard_random_spaces"):
    assert found["elite_against"][name] == compare(
      elite, scores.group(name), num_resamples=50, seed=3
    )
  # The oracle's spaces are chosen, not drawn: a regret and no percentile.
  oracle = found["elite_against"]["oracle"]["error"]
  regrets = {"regret", "regret_error"}
  assert set(oracle) == {"elite", "best", "best_space", *regrets}
  assert oracle["regret"] == pytest.approx(elite.error.mean() - 0.2)


@pytest.mark.parametrize(
  "present",
  [
    (),
    ("elite",),
    ("random_spaces", "oracle"),
    ("elite", "hard_random_spaces", "hand_made", "oracle"),
  ],
)
def test_missing_groups_are_left_out(present):
  scores = full_table()
  scores = scores.select(np.isin(scores.source, present))
  # A source of someone else takes part in nothing.
  foreign = table("something_else", [0.0], flops=1)
  found = summary(join(scores, foreign), num_resamples=10)
  assert set(found["groups"]) == set(present)
  spaces_of = {"random_spaces", "hard_random_spaces", "hand_made", "oracle"}
  expected = spaces_of & set(present) if "elite" in present else set()
  assert set(found["elite_against"]) == expected
  shares = [g["pareto_share"] for g in found["groups"].values()]
  assert sum(shares) == pytest.approx(1 if present else 0)


def test_spaces_need_numbers():
  others = table("random_spaces", [0.1, 0.2], space=[0, NO_SPACE])
  with pytest.raises(ValueError, match=r"random_spaces: .*; 1 of 2 have none"):
    compare(table("elite", [0.1]), others, num_resamples=0)
