"""Halves of the training images, drawn evenly or class by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nss_jax import data
from nss_jax.errors import UserError


@settings(deadline=None, max_examples=50)
@given(
  num_images=st.integers(2, 2000),
  fraction=st.floats(0.01, 0.99),
  seed=st.integers(0, 2**32),
)
def test_halves_are_disjoint_cover_all_and_repeat(num_images, fraction, seed):
  expected = round(num_images * fraction)
  if not 0 < expected < num_images:
    with pytest.raises(UserError):
      data.split_halves(num_images, fraction, seed, 1)
    return
  train, validation = data.split_halves(num_images, fraction, seed, 1)
  assert len(validation) == expected
  both = np.concatenate([train, validation])
  np.testing.assert_array_equal(np.sort(both), np.arange(num_images))
  again = data.split_halves(num_images, fraction, seed, 1)
  np.testing.assert_array_equal(np.concatenate(again), both)


def test_halves_are_shuffled_by_the_seed():
  train, validation = data.split_halves(1000, 0.5, 0, 64)
  other, _ = data.split_halves(1000, 0.5, 1, 64)
  assert not np.array_equal(train, other)
  for indices in (train, validation):
    assert not np.array_equal(indices, np.sort(indices))
    # An unshuffled split would put the means at 250 and 750.
    assert abs(indices.mean() - 499.5) < 50


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_fraction_out_of_range_is_refused(fraction):
  with pytest.raises(UserError, match=r"config\.data\.validation_fraction="):
    data.split_halves(100, fraction, 0, 1)


@pytest.mark.parametrize("accepted, refused", [(0.1, 0.09), (0.9, 0.91)])
def test_each_part_holds_a_batch(accepted, refused):
  assert min(map(len, data.split_halves(640, accepted, 0, 64))) == 64
  with pytest.raises(UserError, match=r"640 images into .*58.* batch of 64"):
    data.split_halves(640, refused, 0, 64)


@settings(deadline=None)
@given(
  labels=st.lists(st.integers(0, 40), min_size=2, max_size=300).map(np.array),
  fraction=st.floats(0.05, 0.95),
  seed=st.integers(0, 2**32),
)
def test_balanced_halves_hold_the_same_share_of_every_class(
  labels, fraction, seed
):
  count = round(len(labels) * fraction)
  labels = np.unique(labels, return_inverse=True)[1] * 3 + 1
  sizes = np.bincount(labels)
  shares = sizes * count / len(labels)
  try:
    train, validation = data.split_halves(
      len(labels), fraction, seed, 1, labels=labels
    )
  except UserError as error:
    if not 0 < count < len(labels):
      assert "validation_fraction" in str(error)
      return
    # Only where a class may be too small: rounding takes less than one image.
    small = (sizes > 0) & ((shares <= 1) | (sizes - shares <= 1))
    assert small.any() and "config.data.balanced_split" in str(error)
    return
  both = np.concatenate([train, validation])
  np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
  assert len(validation) == count
  found = np.bincount(labels[validation], minlength=len(sizes))
  assert (abs(found - shares) < 1).all()
  assert ((found > 0) == (sizes > 0)).all()
  assert ((sizes - found > 0) == (sizes > 0)).all()
  again = data.split_halves(len(labels), fraction, seed, 1, labels=labels)
  np.testing.assert_array_equal(np.concatenate(again), both)


def test_balanced_halves_of_an_unbalanced_set_are_exact():
  labels = np.repeat([0, 1, 2], [600, 300, 100])
  train, validation = data.split_halves(1000, 0.2, 0, 64, labels=labels)
  assert np.bincount(labels[train]).tolist() == [480, 240, 80]
  assert np.bincount(labels[validation]).tolist() == [120, 60, 20]
  other, _ = data.split_halves(1000, 0.2, 1, 64, labels=labels)
  assert set(train) != set(other)
  # In no order: neither by class, nor by place within a class.
  for indices in (train, validation):
    firsts = indices[labels[indices] == 0]
    assert abs(firsts.mean() - 299.5) < 50
    assert abs(np.corrcoef(np.arange(len(indices)), indices)[0, 1]) < 0.2


def test_balanced_split_needs_two_images_of_a_class():
  labels = np.repeat([0, 1], [99, 1])
  with pytest.raises(UserError, match=r"class 1 with \d and \d of its 1"):
    data.split_halves(100, 0.5, 0, 1, labels=labels)


def test_balanced_weights_make_classes_count_alike():
  labels = np.repeat([0, 1, 3], [60, 30, 10])
  assert data.class_weights("none", labels, 5) is None
  weights = data.class_weights("balanced", labels, 5)
  np.testing.assert_allclose(weights, [100 / 180, 100 / 90, 0, 100 / 30, 0])
  assert abs(weights[labels].mean() - 1) < 1e-6
  sums = np.bincount(labels, weights[labels])
  np.testing.assert_allclose(sums[[0, 1, 3]], 100 / 3, rtol=1e-6)
