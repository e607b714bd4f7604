"""How well scores rank archs: known answers on invented data."""

import numpy as np
import pytest
from scipy import stats
from score_tables import join
from score_tables import table as scored_table

from nss_jax.errors import UserError
from nss_jax.results import predictors
from nss_jax.results.predictors import NAMES, SUPERNET, TRIVIAL
from nss_jax.results.rank_agreement import (
  RankCheck,
  describe,
  rank_group,
  summarize,
)
from nss_jax.results.statistics import kendall
from nss_jax.results.truths import by_seed, seed_source

# Of two variables of a normal distribution, tau = 2 / pi * arcsin(r).
TAU = 0.5
CORRELATION = np.sin(np.pi / 2 * TAU)


def table(source, rng, count, **columns):
  """Archs of random sizes and scores."""
  error = columns.pop("error", rng.uniform(size=count))
  return scored_table(source, error, rng=rng, **columns)


def truths(scored, group, errors):
  """Of the archs of a table, `[N, R]` errors."""
  return join(
    *(
      type(scored)(
        **{
          **vars(scored),
          "source": np.full(len(scored), seed_source(group, seed)),
          "error": column,
        }
      )
      for seed, column in enumerate(errors.T)
    )
  )


def correlated(rng, count, columns, correlation):
  """`[count, columns]` of variance 1, each pair with that correlation."""
  common = rng.standard_normal((count, 1))
  own = rng.standard_normal((count, columns))
  return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_that_of_scipy(ties):
  rng = np.random.default_rng(0)
  x, y = correlated(rng, 40, 2, 0.6).T
  if ties:
    x, y = x.round(), y.round()
  counts = rng.multinomial(40, np.full(40, 1 / 40), 20)
  found = kendall(x, y, np.concatenate([np.ones((1, 40)), counts]))
  rows = [np.arange(40), *(np.repeat(np.arange(40), c) for c in counts)]
  expected = [stats.kendalltau(x[r], y[r]).statistic for r in rows]
  np.testing.assert_allclose(found, expected, atol=1e-12)
  assert np.isnan(kendall(np.ones(40), y, np.ones((1, 40))))


def test_known_ceiling_and_tau_are_found():
  rng = np.random.default_rng(1)
  # Two seeds and the supernet's two scores, all equally near to each other.
  drawn = correlated(rng, 1000, 4, CORRELATION)
  said = {
    **{"error": drawn[:, 2], "loss": drawn[:, 3]},
    **dict.fromkeys(TRIVIAL, rng.uniform(size=1000)),
  }
  found = rank_group("spread", said, drawn[:, :2], num_resamples=20)
  assert found.ceiling.tau == pytest.approx(TAU, abs=0.04)
  # The mean of two seeds is less noisy: its correlation with a third is
  # r / sqrt((1 + r) / 2).
  with_mean = CORRELATION / np.sqrt((1 + CORRELATION) / 2)
  expected = 2 / np.pi * np.arcsin(with_mean)
  for name in ("error", "loss"):
    entry = found.predictors[name]
    assert entry.tau == pytest.approx(expected, abs=0.04)
    assert entry.share == entry.tau / found.ceiling.tau
  # Three standard deviations at this number.
  assert found.predictors["params"].tau == pytest.approx(0, abs=0.065)
  assert found.against_trivial.tells_more


def test_intervals_hold_the_true_tau_as_often_as_they_say():
  inside = []
  for seed in range(120):
    rng = np.random.default_rng(seed)
    errors = correlated(rng, 40, 2, CORRELATION)
    said = dict.fromkeys((*SUPERNET, *TRIVIAL), rng.uniform(size=40))
    found = rank_group("spread", said, errors, num_resamples=200, seed=seed)
    low, high = found.ceiling.interval
    inside.append(low <= TAU <= high)
  assert 0.89 <= np.mean(inside) <= 0.99


@pytest.mark.parametrize(
  ("loss", "params", "more"), [(0.9, 0.2, True), (0.7, 0.7, False)]
)
def test_verdict_is_about_the_best_trivial_predictor(loss, params, more):
  rng = np.random.default_rng(3)
  truth = rng.standard_normal(60)

  def near(correlation):
    noise = rng.standard_normal(60)
    return correlation * truth + np.sqrt(1 - correlation**2) * noise

  said = {
    "error": near(0.5),
    "loss": near(loss),
    "flops": near(0),
    "params": near(params),
    "log_sizes": near(0),
  }
  found = rank_group("near_target", said, truth[:, None], num_resamples=300)
  against = found.against_trivial
  assert against.best == "params"
  taus = {k: x.tau for k, x in found.predictors.items()}
  assert against.difference == pytest.approx(taus["loss"] - taus["params"])
  # Of independent taus at n = 60 each about 0.06 (0.09 without a relation).
  assert 0.04 < against.deviation < 0.14
  assert against.tells_more is more
  assert found.ceiling.tau is None and found.ceiling.interval is None
  assert found.predictors["loss"].share is None
  words = found.verdict
  assert ("does not tell more" in words) is not more
  assert "than parameters near the target" in words


def test_ridge_finds_what_sizes_tell_and_no_more():
  rng = np.random.default_rng(4)
  sizes = rng.standard_normal((40, 4))
  slope = np.array([1.0, -2.0, 0.5, 0.0])
  said = predictors.left_one_out(sizes, sizes @ slope)
  assert stats.kendalltau(said, sizes @ slope).statistic > 0.97
  # Nothing to learn: no order, and not the wrong one, which the mean of the
  # others has.
  taus = []
  for truth in rng.standard_normal((12, 25)):
    said = predictors.left_one_out(rng.standard_normal((25, 4)), truth)
    taus.append(stats.kendalltau(said, truth).statistic)
  assert abs(np.mean(taus)) < 0.12


def test_ridge_has_not_seen_the_arch_it_tells_of():
  rng = np.random.default_rng(5)
  sizes, truth = rng.standard_normal((2, 12, 3))
  truth = truth[:, 0]
  before = predictors.left_one_out(sizes, truth)
  truth[7] += 100
  assert predictors.left_one_out(sizes, truth)[7] == before[7]


def test_summary_of_both_groups(tmp_path):
  rng = np.random.default_rng(6)
  groups, kept = [], []
  for name, count in (("spread", 20), ("near_target", 12)):
    errors = correlated(rng, count, 3, 0.8)
    scored = table(name, rng, count, loss=errors[:, 2])
    groups.append(scored)
    kept.append(truths(scored, name, errors[:, :2]))
  scored, known = join(*groups), join(*kept)
  found = summarize(scored, known, num_resamples=50, seed=1)
  path = tmp_path / "summary.json"
  found.write(path)
  assert RankCheck.read(path) == found
  assert [x.count for x in found.groups.values()] == [20, 12]
  words = "\n".join(describe(found, tmp_path))
  for name, entry in found.groups.items():
    assert f"{entry.predictors['loss'].tau:+.2f}" in words
    assert entry.verdict in words
    assert entry.num_seeds == 2
    assert set(entry.predictors) == {*NAMES}
    rows = scored.group(name)
    mean = by_seed(known, name, rows).mean(1)
    expected = stats.kendalltau(-rows.params, mean).statistic
    assert entry.predictors["params"].tau == pytest.approx(expected)
    logs = np.log(rows.depth).sum(1) + np.log(rows.width).sum(1)
    expected = stats.kendalltau(-logs, mean).statistic
    assert entry.predictors["log_sizes"].tau == pytest.approx(expected)
    low, high = entry.predictors["loss"].interval
    assert low < entry.predictors["loss"].tau < high
  again = summarize(scored, known, num_resamples=50, seed=1)
  assert again == found
  # One group alone, whatever the truths have beside it.
  one = summarize(groups[1], known, num_resamples=50, seed=1)
  assert one.to_json().keys() == {"near_target"}


def test_few_archs_of_one_error_have_no_numbers():
  rng = np.random.default_rng(7)
  scored = table("spread", rng, 3)
  found = summarize(
    scored, truths(scored, "spread", np.full((3, 2), 0.5)), num_resamples=9
  )
  entry = found.spread
  assert entry.predictors.keys() == {*SUPERNET, *TRIVIAL}
  for found in (entry.ceiling, *entry.predictors.values()):
    assert not {*found.to_json().values()} - {None}
  assert not entry.against_trivial.tells_more
  assert entry.verdict.startswith("Too few archs over all costs")


def test_truths_of_other_archs_are_refused():
  rng = np.random.default_rng(8)
  scored = table("spread", rng, 5)
  other = table("spread", rng, 5)
  errors = rng.uniform(size=(5, 2))
  with pytest.raises(UserError, match="spread_0: expected the 5 archs"):
    summarize(scored, truths(other, "spread", errors))
  whole = truths(scored, "spread", errors)
  mixed = join(
    whole.group("spread_0"), truths(other, "spread", errors).group("spread_1")
  )
  with pytest.raises(UserError, match="spread_1: expected the 5 archs"):
    summarize(scored, mixed)
  part = whole.select(np.arange(8))
  assert np.isnan(by_seed(part, "spread", scored)).sum() == 2
  for few in (part, truths(scored, "near_target", errors)):
    with pytest.raises(UserError, match="spread: not all of its 5 archs"):
      summarize(scored, few)


def test_what_ridge_learns_orders_archs_that_it_has_not_seen():
  """Errors that fall with the second width, which the supernet's loss does not
  see: what is learnt orders new archs as that width does."""
  rng = np.random.default_rng(0)
  spread = table("spread", rng, 40)
  near = table("near_target", rng, 20)
  scored = join(spread, near)
  known = []
  for name, archs in (("spread", spread), ("near_target", near)):
    error = -np.log(archs.width[:, 1])
    noisy = error + 0.01 * rng.normal(size=len(archs))
    known.append(truths(archs, name, np.stack([error, noisy], -1)))
  learnt = predictors.learn(scored, join(*known))
  new = table("any", rng, 50)
  tau = stats.kendalltau(learnt(new, new.loss), -np.log(new.width[:, 1]))
  assert tau.statistic > 0.95


def test_ridge_is_left_out_where_it_tells_no_more():
  rng = np.random.default_rng(0)
  scored = table("spread", rng, 40)
  noise = rng.normal(size=(40, 2))
  # The supernet's loss is the truth itself.
  best = truths(scored, "spread", scored.loss[:, None] + 1e-9 * noise)
  assert predictors.learn(scored, best) is None
  few = scored.select(np.arange(4))
  assert predictors.learn(few, truths(few, "spread", noise[:4])) is None
  assert predictors.learn(scored, truths(few, "other", noise[:4])) is None


def test_ridge_has_to_help_near_the_target():
  """It orders archs of all costs far better than the loss does, and those near
  the target no better: there the supernet's loss is the truth."""
  rng = np.random.default_rng(0)
  spread, near = table("spread", rng, 60), table("near_target", rng, 20)
  scored = join(spread, near)
  both = join(
    truths(spread, "spread", 1e3 / spread.width[:, :1] + 0.0),
    truths(near, "near_target", near.loss[:, None] + 0.0),
  )
  assert predictors.learn(scored, both) is None
  # Too few of these to say so: all are asked.
  few = join(spread, near.select(np.arange(3)))
  known = both.select(np.arange(63))
  assert predictors.learn(few, known) is not None
