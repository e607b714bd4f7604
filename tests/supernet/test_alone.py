"""A network of its own: cut out of a supernet, and with running averages."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import arguments

import nss_jax as nss
from nss_jax.data import batches
from nss_jax.steps import optimizers, train_step
from nss_jax.supernet import conv

SPACE = nss.SearchSpace.expanded(
  max_depth=2,
  max_width=6,
  num_depth_bins=2,
  num_width_bins=3,
  stem_width=4,
  strides=(1, 2),
  image_shape=(8, 8, 2),
  num_classes=3,
)


def test_the_identity_needs_no_projection():
  """With stride 1 and the stem's width, in both engines."""
  arch = nss.parse_arch("d2-1_w4-4")
  only = SPACE.only(arch)
  assert [only.projects(stage) for stage in range(2)] == [False, True]
  weights, images, _ = arguments(only, 5)
  assert "project" not in weights["stage_1"]["block_1"]
  sliced, masked = (
    jax.jit(nss.make_apply(only, engine))(weights, images, arch)
    for engine in ("sliced", "masked")
  )
  np.testing.assert_allclose(sliced, masked, rtol=1e-4, atol=1e-4)
  assert nss.default_buckets(only) == ((4,), (4,))


def test_a_network_alone_computes_what_its_masks_do():
  """Its running averages move, and keep their shapes."""
  arch = nss.parse_arch("d2-1_w3-5")
  only = SPACE.only(arch)
  with jax.enable_x64(True):
    weights, images, _ = arguments(SPACE, 5, jnp.float64)
    small = nss.extract_subnet(SPACE, weights, arch)
    averages = nss.init_averages(only)
    logits, moved = jax.jit(
      lambda w, a: nss.apply_alone(only, w, a, images, train=True)
    )(small, averages)
    expected = jax.jit(nss.make_apply(SPACE, "masked"))(weights, images, arch)
    np.testing.assert_allclose(logits, expected, rtol=1e-8, atol=1e-8)
  chex.assert_trees_all_equal_shapes(averages, moved)
  sizes = [x.size for x in jax.tree.leaves(small)]
  assert sum(sizes) == nss.arch_params(SPACE, arch)


def test_running_averages():
  """They take one part in ten of each batch; at test time they stay."""
  only = SPACE.only(nss.parse_arch("d2-1_w4-3"))
  only = dataclasses.replace(only, block="inverted_residual")
  weights, images, _ = arguments(only, 5)
  averages = nss.init_averages(only)
  train, use = (
    jax.jit(
      lambda averages, images, train=train: nss.apply_alone(
        only, weights, averages, images, train=train
      )
    )
    for train in (True, False)
  )
  for _ in range(2):
    _, averages = train(averages, images)
  stem = conv.conv2d(images, weights["stem"]["kernel"], 1)
  mean, variance = stem.mean((0, 1, 2)), stem.var((0, 1, 2))
  np.testing.assert_allclose(
    averages["stem"]["moments"],
    [0.19 * mean, 0.81 + 0.19 * variance],
    rtol=1e-4,
    atol=1e-6,
  )
  moments = averages["stage_1"]["blocks_rest"]["depthwise"]["moments"]
  assert moments.shape == (1, 2, 24)
  # With averages that are the moments of the batch, both modes agree.
  for _ in range(150):
    expected, averages = train(averages, images)
  found, same = use(averages, images)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
  chex.assert_trees_all_equal(same, averages)
  # What an image gets does not depend on the others.
  one, _ = use(averages, jnp.tile(images[:1], (5, 1, 1, 1)))
  np.testing.assert_allclose(one[0], found[0], rtol=1e-4, atol=1e-5)


def test_train_step_by_hand():
  """It has Nesterov's momentum, and decay of the rate and of the weights."""
  optimizer = optimizers.train_optimizer(
    learning_rate=0.1,
    decay_factor=0.2,
    decay_steps=[1],
    momentum=0.9,
    weight_decay=0.01,
  )

  def loss_fn(params, averages, batch):
    return 0.5 * (params - batch) ** 2, (averages + 1, {"seen": batch})

  state = train_step.init_train_state(jnp.float32(2), jnp.float32(0), optimizer)
  weight, trace = 2.0, 0.0
  for rate, batch in ((0.1, 1.0), (0.02, -1.0), (0.02, 3.0)):
    gradient = weight - batch + 0.01 * weight
    trace = 0.9 * trace + gradient
    weight -= rate * (gradient + 0.9 * trace)
    state, metrics = train_step.train_step(
      state, jnp.float32(batch), loss_fn=loss_fn, optimizer=optimizer
    )
    assert float(state.params) == pytest.approx(weight, rel=1e-5)
    assert metrics["seen"] == batch
  assert state.averages == 3
  assert state.step == 3


def test_cut_out():
  """It leaves a square of zeros around a uniform pixel, cut at the border."""
  images = jnp.ones((4000, 6, 5, 2))
  out = np.asarray(
    batches.cut_out(jax.random.key(0), jnp.arange(4000), images, 3)
  )
  assert (out[..., 0] == out[..., 1]).all()
  holes = out[..., 0] == 0
  rows, columns = holes.any(2), holes.any(1)
  np.testing.assert_array_equal(holes, rows[:, :, None] & columns[:, None])
  # Three where it fits, two with the centre in a corner's row or column.
  assert set(rows.sum(1)) == {2, 3}
  assert set(columns.sum(1)) == {2, 3}
  np.testing.assert_allclose((rows.sum(1) == 2).mean(), 2 / 6, atol=0.03)
  np.testing.assert_allclose((columns.sum(1) == 2).mean(), 2 / 5, atol=0.03)
  # Every pixel is hit as often as centres near it are drawn.
  expected = np.outer([2, 3, 3, 3, 3, 2], [2, 3, 3, 3, 2]) / 30
  np.testing.assert_allclose(holes.mean(0), expected, atol=0.03)
