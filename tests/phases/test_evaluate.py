"""The stand-alone evaluator: the same scores however they are computed."""

import dataclasses
import functools
import json
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.data import batches
from nss_jax.errors import Interrupted, UserError
from nss_jax.phases import (
  evaluate,
  pipeline,
  rank_check,
  running,
  scoring,
  supernet,
)
from nss_jax.phases.ledger import Ledger
from nss_jax.results import scores
from nss_jax.results.groups import Evaluation, compare_spaces
from nss_jax.runtime import checkpoint

DIGITS = data.load("digits")
SETTINGS = {
  **runs.TINY,
  "supernet.engine": "sliced",
  "space.strides": (1, 2),
  "space.num_width_bins": 2,
  "objective.target_flops": 6e4,
  "evaluate.epochs": 2,
  "evaluate.coin_epochs": 1,
  "evaluate.batch_size": 144,
  "evaluate.score_batch_size": 90,
  "evaluate.holdout_fraction": 0.125,
  "evaluate.calibration_images": 60,
  "evaluate.num_archs": 20,
  "evaluate.tolerance": 0.3,
  "evaluate.num_spaces": 2,
  "evaluate.archs_per_space": 3,
  "evaluate.oracle_spaces": 3,
  "evaluate.oracle_archs": 2,
  "evaluate.oracle_finalists": 2,
  "evaluate.oracle_final_archs": 4,
}


MASKED = {"supernet.engine": "masked"}  # compiles sooner


def _config(**overrides):
  return config_lib.validate(runs.load_config(**{**SETTINGS, **overrides}))


SPACE = runs.make_job(_config()).search_space
WEIGHTS = nss.init_weights(jax.random.key(0), SPACE)


def _archs(count):
  rng = np.random.default_rng(0)
  return nss.Arch(
    depth=rng.integers(1, 3, (count, 2)).astype(np.int32),
    width=rng.integers(1, 9, (count, 2)).astype(np.int32),
  )


@functools.cache  # nearly all of it is compilation
def _score(num_devices=1, by="archs", **overrides):
  job = runs.make_job(_config(**overrides), num_devices=num_devices)
  score_fn = scoring.make_score_fn(job)
  return jax.device_get(score_fn(WEIGHTS, _archs(8), by))


@pytest.mark.parametrize(
  ("by", "fields"),
  [
    ("archs", {}),
    ("images", MASKED),  # two batches: six devices have none
    (
      "images",
      {
        **MASKED,
        "evaluate.score_batch_size": 20,  # nine of them, filled up to sixteen
        "evaluate.batch_stats": "batch",
      },
    ),
  ],
)
def test_many_devices_score_as_one(by, fields):
  one, eight = _score(1, **fields), _score(8, by, **fields)
  np.testing.assert_array_equal(one[0], eight[0])
  np.testing.assert_allclose(one[1], eight[1], rtol=1e-6)


def test_devices_share_what_leaves_less_idle():
  """Places of an arch with a batch, of all calls, against those asked for."""
  by = [scoring.choose_split(n, 40, 8) for n in (1, 100, 127, 128, 1000)]
  images, archs = scoring.Split("images", 16), scoring.Split("archs", 128)
  # A fifth of 50,000 images in batches of 250: eight parts, none idle.
  assert by == [images, images, archs, archs, images]
  # 10 batches are 16 for 8 devices: worth it for few archs only.
  assert scoring.choose_split(64, 10, 8) == images
  assert scoring.choose_split(65, 10, 8) == archs
  # Of two batches six devices have none, yet one arch by itself is done sooner.
  assert scoring.choose_split(1, 2, 8) == images
  # With one device nothing is shared, and it is one program.
  assert scoring.choose_split(17, 2, 1) == scoring.Split("archs", 16)


def test_both_engines_score_the_same():
  sliced, masked = _score(), _score(**MASKED)
  np.testing.assert_allclose(sliced[0], masked[0], atol=0.5 / 180)
  np.testing.assert_allclose(sliced[1], masked[1], rtol=1e-4)


def test_bucket_shares_of_scores_are_their_own(monkeypatch):
  seen = []
  make = scoring.engine.make_apply
  monkeypatch.setattr(
    scoring.engine,
    "make_apply",
    lambda *args, **kwargs: (
      seen.append(kwargs["buckets"]) or make(*args, **kwargs)
    ),
  )
  shares = {
    "supernet.bucket_shares": (0.5, 1.0),
    "evaluate.score_bucket_shares": (0.75, 1.0),
  }
  coarse = _score(**shares)
  assert seen == [((6, 8), (6, 8))]
  np.testing.assert_allclose(coarse[1], _score()[1], rtol=1e-4)


def test_held_out_images_are_balanced_if_asked_and_have_their_own_seed():
  def held_out(**fields):
    train, chosen = supernet.split(runs.make_job(_config(**fields)))
    both = np.sort(np.concatenate([train, chosen]))
    np.testing.assert_array_equal(both, np.arange(1437))
    assert len(chosen) == 180
    return chosen

  chosen = held_out(**{"data.balanced_split": True})
  counts = np.bincount(DIGITS.train_labels[chosen], minlength=10)
  shares = np.bincount(DIGITS.train_labels) * 180 / 1437
  assert (abs(counts - shares) < 1).all()
  plain = held_out()
  counts = np.bincount(DIGITS.train_labels[plain], minlength=10)
  assert not (abs(counts - shares) < 1).all()
  same = held_out(**{"data.split_seed": 1})
  np.testing.assert_array_equal(plain, same)
  other = held_out(**{"evaluate.split_seed": 1})
  assert not np.array_equal(plain, other)


def test_scores_are_those_of_a_plain_loop():
  """Statistics of the calibration images, error and loss of the held-out."""
  train, held_out = supernet.split(runs.make_job(_config()))
  assert len(held_out) == 180
  assert not set(train) & set(held_out)
  chosen = np.random.default_rng(0).choice(train, 60, replace=False)

  def normal(rows):
    return batches.normalize(DIGITS.train_images[rows], DIGITS.mean, DIGITS.std)

  both = jnp.concatenate([normal(chosen), normal(held_out)])
  labels = DIGITS.train_labels[held_out]
  errors, losses = _score()
  for i in (0, 5):
    arch = jax.tree.map(lambda x, i=i: x[i], _archs(8))
    logits = nss.apply_masked(
      SPACE, WEIGHTS, both, nss.arch_masks(SPACE, arch), num_calibration=60
    )[60:]
    chance = np.asarray(jax.nn.log_softmax(logits))
    loss = -chance[np.arange(180), labels].mean()
    assert losses[i] == pytest.approx(loss, rel=1e-4)
    assert errors[i] == pytest.approx((logits.argmax(-1) != labels).mean())


def test_calibrated_scores_do_not_depend_on_the_batch():
  small = _score(**MASKED, **{"evaluate.score_batch_size": 45})
  np.testing.assert_allclose(_score(**MASKED)[1], small[1], rtol=1e-5)
  own = {**MASKED, "evaluate.batch_stats": "batch"}
  other = _score(**own, **{"evaluate.score_batch_size": 45})
  assert np.abs(_score(**own)[1] / other[1] - 1).max() > 1e-4


def test_cache_key_is_of_what_the_weights_depend_on():
  def key(**overrides):
    return supernet.cache_key(runs.make_job(_config(**overrides)))

  assert key() == key(**{"objective.target_flops": 5e4, "seed": 3})
  assert key() == key(**{"evaluate.num_archs": 7, "search.epochs": 9})
  for name, value in {
    "evaluate.epochs": 3,
    "evaluate.seed": 1,
    "data.flip": True,
    "weights.learning_rate": 0.1,
    "supernet.activations": "bfloat16",
  }.items():
    assert key() != key(**{name: value})


class _Killed(Exception):
  pass


def _ledger(path, score_fn, requested=False, asked=()):
  def choose(count):
    # Of all, whatever is known: so a resumed run does as the first.
    assert count in asked or not asked
    return scoring.Split("archs", 3)

  return Ledger(
    path,
    SPACE,
    score_fn,
    choose_fn=choose,
    preemption=types.SimpleNamespace(
      requested=lambda: requested, tell=lambda words: None
    ),
    on_progress=lambda done, timed: None,
  )


def test_ledger_repeats_nothing(tmp_path):
  calls = []

  def score_fn(archs, by):
    calls.append(len(archs.depth))
    if len(calls) == 3:
      raise _Killed
    return archs.width.sum(-1) / 100, archs.depth.sum(-1) * 1.0

  archs, path = _archs(10), tmp_path / "scores.csv"
  with pytest.raises(_Killed):
    _ledger(path, score_fn).score("elite", archs)
  error, loss = _ledger(path, score_fn, asked=[10]).score("elite", archs)
  np.testing.assert_allclose(error, archs.width.sum(-1) / 100, rtol=1e-6)
  np.testing.assert_array_equal(loss, archs.depth.sum(-1))
  assert len(calls) == 5  # 2 + the one that died, and the two that were left
  assert len(scores.read_scores(path, SPACE)) == 10
  _ledger(path, score_fn).score("elite", archs)
  assert len(calls) == 5
  # Other archs in their place are refused, and nothing is lost.
  with pytest.raises(UserError, match="not those of this run"):
    _ledger(path, score_fn).score("elite", jax.tree.map(np.flipud, archs))
  # SIGTERM is heard between calls.
  with pytest.raises(Interrupted, match="13 archs"):
    ledger = _ledger(path, score_fn, requested=True)
    ledger.score("elite", archs)
    ledger.score("expanded", archs)
  assert len(scores.read_scores(path, SPACE)) == 13


def test_evaluate_phase(tmp_path, monkeypatch):
  """All its files; killed and started again it ends with the same."""
  config = _config(**MASKED)
  job = runs.make_job(config, tmp_path / "run", num_devices=2)
  runs.write_elite(job, [0, 1], [1, 0])
  # One program each for the phase that goes on too.
  score_fn, image_fn = scoring.make_score_fn(job), scoring.make_image_fn(job)
  monkeypatch.setattr(scoring, "make_score_fn", lambda *_: score_fn)
  monkeypatch.setattr(scoring, "make_image_fn", lambda *_: image_fn)
  result = running.run_phase(evaluate.PHASE, job).to_json()
  folder = job.workdir / "evaluate"
  assert json.loads((folder / "summary.json").read_text()) == result
  table = scores.read_scores(folder / "scores.csv", SPACE)
  assert len(table) == evaluate.num_archs(job)
  assert result["groups"]["elite"]["count"] == 20
  elite = table.group("elite")
  assert (elite.depth == [1, 2]).all()
  assert elite.width.min(0).tolist() == [5, 1]
  near = table.group("expanded_near_target").flops
  assert (np.abs(near / 6e4 - 1) <= 0.3).all()
  assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
  lines = evaluate.PHASE.show(Evaluation(**result), job.workdir / "evaluate")
  assert any("percentile" in line for line in lines)
  params = supernet.train_supernet(job)
  _check_noise_of_images(result, table, functools.partial(image_fn, params))

  whole = (folder / "scores.csv").read_bytes()
  runs.cut_lines(folder / "scores.csv", 2 / 3)
  (folder / "summary.json").unlink()

  def never(*args, **kwargs):
    raise AssertionError("the supernet is in the cache")

  steps = []
  build = supernet.build_supernet
  monkeypatch.setattr(
    supernet,
    "build_supernet",
    lambda *args: (
      steps.append(1) or dataclasses.replace(build(*args), dispatch=never)
    ),
  )
  assert running.run_phase(evaluate.PHASE, job).to_json() == result
  assert steps == [1]
  assert (folder / "scores.csv").read_bytes() == whole


def _check_noise_of_images(result, table, image_fn):
  """The standard error of a regret has that of the images, by the first archs
  of both spaces, whose means by image are those of the scores."""
  spaces = [table.group(name) for name in ("elite", "hand_made")]
  by_image = []
  for rows in spaces:
    archs = nss.Arch(
      *(x[:16].astype(np.int32) for x in (rows.depth, rows.width))
    )
    error, loss = image_fn(archs)
    np.testing.assert_allclose(loss.mean(), rows.loss[:16].mean(), rtol=1e-5)
    np.testing.assert_allclose(error.mean(), rows.error[:16].mean(), rtol=1e-5)
    by_image.append(loss)
  differences = by_image[0] - by_image[1]
  assert len(differences) == 180 and differences.std() > 0
  of_archs = compare_spaces(*spaces, num_resamples=0).loss
  found = result["elite_against"]["hand_made"]["loss"]
  assert found["regret"] == of_archs.regret
  images = differences.std(ddof=1) / np.sqrt(180)
  assert found["regret_error"] == pytest.approx(
    np.hypot(of_archs.regret_error, images), rel=1e-4
  )


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"evaluate.holdout_fraction": 0.99}, "holdout_fraction: 0.99 is not"),
    ({"evaluate.tolerance": 1e-9}, "config.evaluate.tolerance: no space"),
  ],
)
def test_what_cannot_be_evaluated_is_refused(tmp_path, overrides, message):
  config = _config(**overrides)
  with pytest.raises(UserError, match=message):
    pipeline.run(config, tmp_path, ["search", "evaluate"])
  assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
  """A job whose archs are trained alone, with two seeds: `(job, result)`."""
  config = _config(
    **{
      "rank_check.num_archs": 3,
      "rank_check.num_near_archs": 2,
      "rank_check.epochs": 1,
      "evaluate.epochs": 1,
      "evaluate.bootstrap_samples": 20,
      **MASKED,
    }
  )
  job = runs.make_job(config, tmp_path_factory.mktemp("ranked") / "run")
  return job, running.run_phase(rank_check.PHASE, job)


def _truths(job):
  return scores.read_scores(job.workdir / "rank_check" / "truths.csv", SPACE)


def test_rank_check(ranked):
  """Ranks by training alone, each arch with each seed, none twice."""
  job, result = ranked
  groups = rank_check.choose_archs(job)
  assert (np.diff(nss.arch_macs(SPACE, groups["spread"])) > 0).all()
  near = nss.arch_macs(SPACE, groups["near_target"])
  assert (np.abs(near / 6e4 - 1) <= 0.3).all()
  assert [x.count for x in result.groups.values()] == [3, 2]
  assert [x.num_seeds for x in result.groups.values()] == [2, 2]
  folder = job.workdir / "rank_check"
  scored = scores.read_scores(folder / "scores.csv", SPACE)
  assert scored.source.tolist() == ["spread"] * 3 + ["near_target"] * 2
  table = _truths(job)
  assert table.source.tolist() == [
    *(*["spread_0"] * 3, *["near_target_0"] * 2),
    *(*["spread_1"] * 3, *["near_target_1"] * 2),
  ]
  score_fn = scoring.make_score_fn(job)
  for row in range(len(table)):  # each by its own weights
    one = table.select(np.array([row]))
    arch = nss.Arch(one.depth.astype(np.int32), one.width.astype(np.int32))
    text = nss.format_arch(jax.tree.map(lambda x: x[0], arch))
    seed = one.source[0][-1]
    trained = checkpoint.Checkpoints(
      folder / "archs" / text / f"seed_{seed}" / "checkpoints"
    ).read()
    _, loss = score_fn(trained["weights"]["params"], arch, "images")
    np.testing.assert_allclose(one.loss, loss, rtol=1e-5)
  first, second = (table.group(f"spread_{seed}").loss for seed in (0, 1))
  assert (first != second).all()
  lines = rank_check.PHASE.show(result, job.workdir / "rank_check")
  assert any(
    "supernet does not tell more" in x or "Too few" in x for x in lines
  )
  assert any("another" in x or "two seeds" in x for x in lines)
  assert rank_check.run(job) == result  # of what is kept


def test_rank_check_on_truths_that_are_given(ranked, tmp_path, monkeypatch):
  """The same numbers from them, and nothing is trained alone."""
  job, result = ranked
  path = tmp_path / "kept.csv"
  path.write_bytes((job.workdir / "rank_check" / "truths.csv").read_bytes())
  given = job.vary(
    # Archs by themselves would be others.
    {"rank_check.num_archs": 9, "rank_check.truths": str(path)},
    workdir=tmp_path / "run",
    supernets=job.workdir.parent / "supernets",
  )
  rank_check.check(given)

  def refuse(*_, **__):
    raise AssertionError("trains alone")

  monkeypatch.setattr(rank_check.alone, "make_score_alone", refuse)
  assert running.run_phase(rank_check.PHASE, given) == result
  assert _truths(given).error.tolist() == _truths(job).error.tolist()


def test_rank_check_of_archs_near_the_target_alone(ranked):
  """None spread in cost: those near the target are the same."""
  job, _ = ranked
  both = rank_check.choose_archs(job)
  alone = rank_check.choose_archs(job.vary({"rank_check.num_archs": 0}))
  assert list(alone) == ["near_target"]
  chex.assert_trees_all_equal(alone["near_target"], both["near_target"])
  one = {"rank_check.num_archs": 1, "rank_check.num_near_archs": 1}
  with pytest.raises(UserError, match=r"num_archs: 1 .* 2 or more here"):
    _config(**one)


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda lines: lines[:-1], "not all seeds have the 2 archs of near_target"),
    (lambda lines: [lines[0], *lines[9:]], "expected two archs or more"),
    (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "spread_1: exp"),
    (lambda lines: [], "line 1: expected source"),
  ],
)
def test_truths_that_are_none_are_refused(ranked, tmp_path, edit, message):
  job, _ = ranked
  path = tmp_path / "truths.csv"
  kept = (job.workdir / "rank_check" / "truths.csv").read_text().splitlines()
  path.write_text("".join(f"{line}\n" for line in edit(kept)))
  config = job.config.vary({"rank_check.truths": str(path)})
  with pytest.raises(UserError, match=message):
    pipeline.run(config, tmp_path / "run", ["rank_check"])
  assert not (tmp_path / "run").exists()
