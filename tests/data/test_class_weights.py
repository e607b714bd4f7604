"""Classes that count alike, in every loss that is trained on or scored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs

from nss_jax import data
from nss_jax.phases import (
  scoring,
  search,
  supernet,
  train,
)
from nss_jax.spaces.search_space import Arch
from nss_jax.steps import losses, score_step
from nss_jax.supernet import network

WEIGHTS = np.array([0.5, 2.0, 0.0], np.float32)
LABELS = jnp.array([0, 0, 1, 2])
IMAGES = jax.random.normal(jax.random.key(0), (4, 5))
PARAMS = jax.random.normal(jax.random.key(1), (5, 3))


def apply_fn(params, images, choice):
  return choice * images @ params


def plain(choice):
  """Cross-entropy of each image, by its definition."""
  logits = np.asarray(apply_fn(PARAMS, IMAGES, choice), np.float64)
  chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  return -np.log(chances[np.arange(4), LABELS])


def test_loss_is_the_weighted_sum_over_the_number_of_images():
  expected = (plain(1.0) * [0.5, 0.5, 2.0, 0.0]).sum() / 4
  batch = IMAGES, LABELS
  loss, _ = losses.single_loss(apply_fn, WEIGHTS)(PARAMS, 1.0, batch)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  parts = losses.microbatched(losses.single_loss(apply_fn, WEIGHTS), 2)
  np.testing.assert_allclose(parts(PARAMS, 1.0, batch)[0], expected, rtol=1e-5)
  other = (plain(2.0) * [0.5, 0.5, 2.0, 0.0]).sum() / 4
  choices = jnp.array([1.0, 2.0])
  loss, _ = losses.mean_loss(apply_fn, WEIGHTS)(PARAMS, choices, batch)
  np.testing.assert_allclose(loss, (expected + other) / 2, rtol=1e-5)


def test_students_of_the_sandwich_rule_have_the_same_weights():
  logits = [np.asarray(apply_fn(PARAMS, IMAGES, x)) for x in (1.0, 2.0)]
  teacher = jax.nn.softmax(logits[0])
  student = np.asarray(optax.softmax_cross_entropy(logits[1], teacher))
  of_each = np.array([0.5, 0.5, 2.0, 0.0])
  expected = ((plain(1.0) + student) * of_each).mean() / 2
  loss_fn = losses.distilled_loss(apply_fn, WEIGHTS)
  loss, _ = loss_fn(PARAMS, jnp.array([1.0, 2.0]), (IMAGES, LABELS))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_scores_weigh_losses_and_count_images():
  archs = jnp.array([1.0, 2.0])
  batches = IMAGES[None].repeat(2, 0), jnp.stack([LABELS, LABELS.at[0].set(-1)])
  found = score_step.evaluate_archs(
    PARAMS, archs, batches, apply_fn=apply_fn, class_weights=WEIGHTS
  )
  unweighted = score_step.evaluate_archs(
    PARAMS, archs, batches, apply_fn=apply_fn
  )
  for index, choice in enumerate((1.0, 2.0)):
    expected = plain(choice) @ [0.5, 1.0, 4.0, 0.0]
    np.testing.assert_allclose(found.loss[index], expected, rtol=1e-5)
  np.testing.assert_array_equal(found.correct, unweighted.correct)
  assert int(found.total) == 7
  # By the image the same, and nothing of the one that does not count.
  wrong, losses_ = score_step.evaluate_images(
    PARAMS, archs, batches, apply_fn=apply_fn, class_weights=WEIGHTS
  )
  assert wrong.shape == losses_.shape == (8,)
  assert np.flatnonzero(np.isnan(wrong)).tolist() == [4]
  assert np.flatnonzero(np.isnan(losses_)).tolist() == [4]
  np.testing.assert_allclose(
    [np.nansum(wrong), np.nansum(losses_)],
    [7 - found.correct.mean(), found.loss.mean()],
    rtol=1e-5,
  )


SETTINGS = {
  **runs.TINY,
  "space.max_depth": 1,
  "space.num_depth_bins": 1,
  "space.max_width": 4,
  "space.num_width_bins": 2,
  "space.strides": (1,),
  "objective.target_flops": 4e4,
  "evaluate.batch_size": 72,
  "train.batch_size": 72,
}


def _build(kind, **fields):
  job = runs.make_job(runs.load_config(**{**SETTINGS, **fields}))
  build = {
    "search": search.build,
    "evaluator": supernet.build_supernet,
    "alone": functools.partial(supernet.build_alone, epochs=30),
    "train": train.build,
    "scores": scoring.make_score_fn,
  }[kind]
  return job.search_space, build(job)


@pytest.mark.parametrize(
  "kind, fields",
  [
    ("search", {}),
    ("evaluator", {"evaluate.archs_per_batch": 2}),
    pytest.param(
      "evaluator",
      {"evaluate.archs_per_batch": 3, "evaluate.sandwich": True},
      marks=pytest.mark.slow,
    ),
    ("alone", {}),
    ("train", {}),
    ("scores", {}),
  ],
)
def test_every_program_weighs_its_losses(kind, fields, monkeypatch):
  """With weights of zero, which no loss survives."""
  seen = []

  def zeros(mode, labels, num_classes):
    if mode == "none":
      return None
    seen.append((len(labels), num_classes))
    return np.zeros(num_classes, np.float32)

  monkeypatch.setattr(data, "class_weights", zeros)
  _build(kind, **fields)
  assert not seen
  space, program = _build(kind, **fields, **{"data.class_weights": "balanced"})
  assert seen == [(1437, 10)]
  arch = Arch(depth=np.array([1]), width=np.array([4]))
  if kind == "scores":
    params = network.init_weights(jax.random.key(0), space)
    archs = jax.tree.map(lambda x: x[None], arch)
    error, found = program(params, archs, "archs")
    assert error[0] > 0
  else:
    state = program.init(arch) if kind == "alone" else program.init()
    _, found = program.dispatch(state, 0, 0, 1, False)
    found = found if kind == "search" else found[:, 0]
  np.testing.assert_array_equal(found, np.zeros_like(found))
