"""Masks, their mixtures, and the samplers of warmup and search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import strategies

import nss_jax as nss

SPACE = nss.SearchSpace.expanded(
  max_depth=4,
  max_width=8,
  num_depth_bins=2,
  num_width_bins=4,
  image_shape=(8, 8, 1),
)
LOGITS = nss.init_logits(SPACE)
COUNT = 4000


@pytest.mark.parametrize("text", ["d1-2-4_w1-5-8", "d4-4-4_w8-8-8"])
def test_masks_of_an_arch(text):
  arch = nss.parse_arch(text)
  masks = nss.arch_masks(SPACE, arch)
  width, depth = np.asarray(masks.width), np.asarray(masks.depth)
  assert set(np.unique(width)) <= {0.0, 1.0}
  assert (np.diff(width, axis=-1) <= 0).all()  # a prefix
  np.testing.assert_array_equal(width.sum(-1), arch.width)
  np.testing.assert_array_equal(depth.argmax(-1), arch.depth - 1)
  np.testing.assert_array_equal(np.sort(depth)[:, -2:], [[0, 1]] * 3)


def test_mixed_masks_are_the_weighted_sum():
  offers = jax.tree.map(
    lambda x: x[0], nss.sample_bin_archs(jax.random.key(0), SPACE, 1)
  )
  weights = nss.gumbel_softmax(jax.random.key(1), LOGITS, temperature=2.0)
  masks = nss.mix_masks(SPACE, offers, weights)
  for stage in range(3):
    width = sum(
      float(weights.width[stage, k])
      * (np.arange(8) < int(offers.width[stage, k]))
      for k in range(4)
    )
    np.testing.assert_allclose(masks.width[stage], width, rtol=1e-6)
  np.testing.assert_allclose(masks.depth.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("hard", [True, False])
def test_gumbel_sampler(hard):
  sampler = nss.gumbel_sampler(SPACE, lambda step: 1.0, hard=hard)

  def total(logits):
    sample = sampler(jax.random.key(3), logits, 0)
    return sample.choice.width.sum() + sample.choice.depth[:, 0].sum(), sample

  gradient, sample = jax.grad(total, has_aux=True)(LOGITS)
  assert all(float(jnp.abs(g).sum()) > 0 for g in jax.tree.leaves(gradient))
  values = set(np.unique(sample.choice.width))
  assert (values <= {0.0, 1.0}) == hard


def test_arch_sampler_draws_what_straight_through_draws():
  """It does at any temperature, and the weights are the same too."""
  logits = LOGITS.replace(width=LOGITS.width + jnp.arange(4.0)[None])
  archs = nss.arch_sampler(SPACE)
  mixed = nss.gumbel_sampler(SPACE, lambda step: 0.3, hard=True)
  for key in jax.random.split(jax.random.key(7), 20):
    drawn, masked = archs(key, logits, 0), mixed(key, logits, 0)
    archs_masks = nss.arch_masks(SPACE, drawn.choice)
    strategies.assert_same(
      (archs_masks, drawn.weights), (masked.choice, masked.weights)
    )


@jax.jit
def _warmup(p, logits):
  """Draws archs; the step stands for the probability of the coins."""
  sampler = nss.warmup_sampler(SPACE, lambda step: step)
  keys = jax.random.split(jax.random.key(5), COUNT)
  return jax.vmap(lambda key: sampler(key, logits, p).choice)(keys)


def test_warmup_coins():
  """A stage is whole by its coin or by a uniform draw, each by itself."""
  p = 0.3
  archs = _warmup(p, LOGITS)
  width_on = np.asarray(archs.width == 8)  # [N, S]
  depth_on = np.asarray(archs.depth == 4)
  for on, chance in ((width_on, 1 / 8), (depth_on, 1 / 4)):
    expected = p + (1 - p) * chance
    sigma = np.sqrt(expected * (1 - expected) / COUNT)
    np.testing.assert_allclose(on.mean(0), expected, atol=4 * sigma)
  correlation = np.corrcoef(np.concatenate([width_on, depth_on], -1).T)
  off = correlation[~np.eye(6, dtype=bool)]
  assert np.abs(off).max() < 4 / np.sqrt(COUNT)


def test_warmup_ends_uniform_and_begins_whole():
  whole = _warmup(1.0, LOGITS)
  assert int(whole.width.min()) == 8
  assert int(whole.depth.min()) == 4
  widths = np.asarray(_warmup(0.0, LOGITS).width)[:, 0]
  strategies.assert_frequencies(np.bincount(widths)[1:], np.full(8, 1 / 8))


def test_warmup_never_looks_at_the_logits():
  other = LOGITS.replace(width=LOGITS.width.at[:, 0].set(50.0))
  strategies.assert_same(_warmup(0.2, LOGITS), _warmup(0.2, other))
