"""Weights that widths of a stage have of their own, and fair draws."""

import collections

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from networks import arguments, normal

import nss_jax as nss
from nss_jax.phases import scoring, supernet, work
from nss_jax.runtime import checkpoint
from nss_jax.supernet import masks, sharing

SPACE = nss.SearchSpace.expanded(
  strides=(1, 2), max_depth=2, max_width=8, num_depth_bins=2, num_width_bins=4
)
ARCHS = [nss.parse_arch(x) for x in ("d1-2_w2-8", "d2-1_w5-3", "d2-2_w8-8")]


def _weights(**groups):
  """Makes weights with deviations that differ from group to group."""
  weights, *_ = arguments(SPACE, 1)
  found = sharing.add_groups(weights, **groups)
  own = jax.tree.map(lambda x: 0.1 * x, normal(2, found["own"]))
  return {**found, "own": own}


def test_groups_begin_as_what_all_share():
  weights, *_ = arguments(SPACE, 1)
  assert sharing.add_groups(weights) is weights
  grouped = sharing.add_groups(weights, norms=8, kernels=2)
  choose = jax.jit(sharing.weights_of, static_argnums=0)
  for arch in ARCHS:
    assert sharing.weights_of(SPACE, weights, arch) is weights
    chex.assert_trees_all_equal(choose(SPACE, grouped, arch), weights)
  assert sharing.count_groups(weights) == {"norms": 1, "kernels": 1}
  assert sharing.count_groups(grouped) == {"norms": 8, "kernels": 2}


def test_a_width_has_the_weights_of_its_group():
  weights = _weights(norms=8, kernels=2)
  # Widths 2 and 8 of 8: the second and the last of eight groups, and of two the
  # first and the second.
  chosen = sharing.weights_of(SPACE, weights, ARCHS[0])
  for stage, norm, kernel in (("stage_1", 1, 0), ("stage_2", 7, 1)):
    shared, own = (weights[x][stage] for x in ("shared", "own"))
    first = chosen[stage]["block_1"]["first"]
    for name, group in (("scale", norm), ("offset", norm), ("kernel", kernel)):
      parts = (x["block_1"]["first"][name] for x in (shared, own))
      whole, deviations = parts
      np.testing.assert_array_equal(first[name], whole + deviations[group])
  chex.assert_trees_all_equal(chosen["head"], weights["shared"]["head"])


def test_gradients_reach_what_all_share_and_one_group():
  weights = _weights(norms=4, kernels=2)
  apply = nss.make_apply(SPACE, "masked")
  images = jax.random.normal(jax.random.key(2), (4, *SPACE.image_shape))

  @jax.jit
  @jax.grad
  def gradient(weights):
    chosen = sharing.weights_of(SPACE, weights, ARCHS[1])
    return jnp.square(apply(chosen, images, ARCHS[1])).sum()

  found = gradient(weights)
  assert not jax.tree.leaves(found["own"]["stage_1"])[0][0].any()
  # Width 5 of 8 is in the third of four groups, 3 in the second.
  for stage, group in (("stage_1", 2), ("stage_2", 1)):
    own = found["own"][stage]["block_1"]["second"]["scale"]
    shared = found["shared"][stage]["block_1"]["second"]["scale"]
    np.testing.assert_array_equal(own[group], shared)
    assert np.any(shared)
    assert not np.delete(own, group, 0).any()


def test_fair_draws_take_every_width_once_a_step():
  sample = jax.jit(masks.fair_sampler(SPACE, 8))
  for step in range(20):
    archs = sample(jax.random.key(step), None, step).choice
    assert np.sort(archs.width, 0).T.tolist() == [list(range(1, 9))] * 2
    assert np.sort(archs.depth, 0).T.tolist() == [[1] * 4 + [2] * 4] * 2
  # And the stages are drawn by themselves: pairs of widths come in any order.
  assert len(np.unique(archs.width[:, 0] - archs.width[:, 1])) > 2


@pytest.mark.parametrize("num_draws", [1, 3])
def test_fair_draws_are_uniform(num_draws):
  """Their number need not divide the widths, nor stages be alike."""
  space = nss.SearchSpace(
    depth_bins=(((1, 1), (2, 3)), ((1, 2),)),
    width_bins=(((3, 4), (5, 5), (6, 8)), ((2, 6),)),
    strides=(1, 2),
    stem_width=4,
    num_classes=3,
    image_shape=(8, 8, 1),
  )
  sample = jax.jit(
    jax.vmap(masks.fair_sampler(space, num_draws), (0, None, None))
  )
  keys = jax.random.split(jax.random.key(0), 6000 // num_draws)
  archs = sample(keys, None, 0).choice
  expected = {
    ("depth", 0): {1: 1 / 2, 2: 1 / 4, 3: 1 / 4},
    ("depth", 1): {1: 1 / 2, 2: 1 / 2},
    ("width", 0): {3: 1 / 6, 4: 1 / 6, 5: 1 / 3, 6: 1 / 9, 7: 1 / 9, 8: 1 / 9},
    ("width", 1): dict.fromkeys(range(2, 7), 1 / 5),
  }
  for (kind, stage), shares in expected.items():
    drawn = np.asarray(getattr(archs, kind))[..., stage].ravel()
    counts = collections.Counter(drawn.tolist())
    assert set(counts) == set(shares)
    for value, share in shares.items():
      # Four standard errors; strata make it less.
      assert abs(counts[value] / 6000 - share) < 4 * (share / 6000) ** 0.5


# The evaluator.

FIELDS = {
  **runs.TINY,
  "evaluate.epochs": 2,
  "evaluate.coin_epochs": 0,
  "evaluate.batch_size": 256,
  "search.steps_per_dispatch": 1,
}


def _program(**fields):
  """Returns an evaluator's job and its program."""
  space = nss.SearchSpace.expanded(
    strides=(1,), max_depth=2, max_width=8, num_depth_bins=1,
    num_width_bins=4, image_shape=(8, 8, 1), stem_width=4,
  )  # fmt: skip
  config = runs.load_config(**{**FIELDS, **fields})
  job = runs.make_job(config, search_space=space)
  return job, supernet.build_supernet(job)


def _train(program, steps):
  """Returns the weights after each of so many steps."""
  state, schedule, found = program.init(), program.schedule, []
  for step in range(steps):
    epoch, first = divmod(step, schedule.steps_per_epoch)
    state, _ = program.dispatch(state, epoch, first, 1, True)
    found.append(jax.device_get(state.weights.params))
  return found


def test_kernels_of_their_own_begin_late(tmp_path):
  job, program = _program(
    # Both groups in every step.
    **{
      "evaluate.archs_per_batch": 2,
      "evaluate.fair": True,
      "evaluate.own_norms": 2,
      "evaluate.own_kernels": 2,
      "evaluate.own_kernel_epochs": 1,
    }
  )
  epoch = program.schedule.steps_per_epoch
  *_, early, late = _train(program, epoch + 1)

  def moved(weights, name):
    leaf = weights["own"]["stage_1"]["block_1"]["first"][name]
    return np.abs(leaf).max((*range(1, leaf.ndim),)) > 0

  assert moved(early, "scale").all()
  assert not moved(early, "kernel").any()
  assert moved(late, "kernel").all()
  # Scores are of the weights of each arch.
  archs = nss.parse_arch("d2_w3"), nss.parse_arch("d2_w8")
  score = scoring.make_score_fn(job)
  for arch in archs:
    stacked = jax.tree.map(lambda x: np.asarray(x)[None], arch)
    plain = sharing.weights_of(program.search_space, late, arch)
    found, expected = (score(x, stacked, "archs") for x in (late, plain))
    shared = score(late["shared"], stacked, "archs")
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    assert abs(found[1] - shared[1]) > 1e-3
  # And another program reads them from their checkpoint.
  checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
  checkpoints.save(1, {"weights": {"params": late}}, block=True)
  loaded = nss.load_supernet(tmp_path, program.search_space)
  chex.assert_trees_all_equal(loaded, late)


@pytest.mark.slow
def test_the_largest_network_is_trained_first():
  """It moves as by single draws whose coins all come up."""
  fields = {"evaluate.archs_per_batch": 3, "evaluate.fair": True}
  found = [
    _train(_program(**fields)[1], 2)[-1]
    for fields in (
      {"evaluate.coin_epochs": 10_000},
      {**fields, "evaluate.largest_epochs": 1},
    )
  ]
  chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


def test_work_counts_the_largest_network_once():
  job, program = _program(
    **{"evaluate.archs_per_batch": 3, "evaluate.largest_epochs": 1}
  )
  space, schedule = program.search_space, program.schedule
  largest = float(nss.arch_macs(space, nss.parse_arch("d2_w8")))
  # One in the first epoch, forward and back, then three at a time: draws, on
  # whose work the masked engine has no say.
  steps = work.supernet_work(job, schedule)
  first, rest = np.split(steps, [schedule.steps_per_epoch])
  assert set(first) == {3 * largest}
  assert set(rest) == {9 * largest}
