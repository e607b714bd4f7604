"""Images that need no file: the digits, and made-up ones."""

import numpy as np
import pytest
from own_files import assert_same, refusal
from sklearn.datasets import load_digits

from nss_jax import data


def test_digits():
  digits = data.load("digits")
  assert_same(data.load("digits"), digits)
  assert digits.name == "digits" and digits.num_classes == 10
  assert digits.train_images.shape == (1437, 8, 8, 1)
  assert digits.test_images.shape == (360, 8, 8, 1)
  assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
  assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
  # All images, each once, their levels spread over the whole range; as many
  # test images of each class.
  images = np.concatenate([digits.train_images, digits.test_images])
  expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
  as_rows = [np.sort(x.reshape(1797, 64), axis=0) for x in (images, expected)]
  np.testing.assert_array_equal(*as_rows)
  train = np.bincount(digits.train_labels, minlength=10)
  test = np.bincount(digits.test_labels, minlength=10)
  np.testing.assert_allclose(test, (train + test) * 360 / 1797, atol=1)


def nearest_pattern(made: data.Dataset) -> float:
  """Accuracy on test images of the nearest mean of the training images."""

  def rows(images):
    return images.reshape(len(images), -1).astype(np.float64)

  train = rows(made.train_images)
  means = np.stack(
    [train[made.train_labels == c].mean(0) for c in range(made.num_classes)]
  )
  distances = ((rows(made.test_images)[:, None] - means) ** 2).sum(-1)
  return float((distances.argmin(1) == made.test_labels).mean())


@pytest.mark.parametrize("size, channels", [(0, 0), (5, 3), (3, 1)])
def test_synthetic_has_the_form_asked_for_and_can_be_learned(size, channels):
  numbers = data.Synthetic(num_classes=7, num_train=701, num_test=72, seed=3)
  made = data.load(
    "synthetic", image_size=size, channels=channels, synthetic=numbers
  )
  side = size or 32
  assert made.train_images.shape == (701, side, side, channels or 3)
  assert np.bincount(made.train_labels).tolist() == [101] + [100] * 6
  assert sorted(np.bincount(made.test_labels)) == [10] * 5 + [11] * 2
  # Chance is 1 in 7.
  assert nearest_pattern(made) > (0.95 if size != 3 else 0.6)
  # Noise as strong as the patterns: a pixel alone says little.
  spread = made.train_images[made.train_labels == 0].std(0).mean()
  assert abs(spread - np.sqrt((129**2 - 1) / 12)) < 1
  assert not np.array_equal(made.train_labels, np.sort(made.train_labels))


def test_synthetic_repeats_by_its_seed_and_holds_no_image_twice():
  def load(seed):
    numbers = data.Synthetic(num_train=1500, num_test=300, seed=seed)
    return data.load("synthetic", image_size=8, synthetic=numbers)

  first, other = load(0), load(1)
  assert_same(load(0), first)
  assert not np.array_equal(first.train_images, other.train_images)
  both = np.concatenate([first.train_images, first.test_images])
  assert len(np.unique(both.reshape(1800, -1), axis=0)) == 1800


@pytest.mark.parametrize(
  "numbers, words",
  [
    ({"num_classes": 11, "num_train": 10}, "num_train=10 is too few"),
    ({"num_train": 10, "num_test": 9}, "num_test=9 is too few"),
    # 10**12 * 4096**2 * 3 / 2**30
    ({"num_train": 10**12}, "num_train=1000000000000: "),
    ({"num_train": 10**12}, " are 46875000000.0 GiB; accepted is what the "),
  ],
)
def test_too_few_or_too_many_synthetic_images_are_refused(numbers, words):
  made = data.Synthetic(**numbers)
  message = refusal("synthetic", image_size=4096, synthetic=made)
  assert words in message and message.startswith("config.data.synthetic.")
