"""A source of one's own: registered, and then as those that are there."""

import numpy as np
import pytest
from own_files import assert_same, refusal

import nss_jax as nss
from nss_jax import data

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture
def register(monkeypatch):
  """Registers a source for one test."""
  monkeypatch.setattr(data, "SOURCES", dict(data.SOURCES))
  return nss.register_source


def test_two_pairs_of_arrays_are_a_data_set(register):
  register("mine", lambda: ((IMAGES, LABELS), (IMAGES[:3], LABELS[:3])))
  made = data.load("mine")
  np.testing.assert_array_equal(made.train_images, IMAGES)
  assert made.test_labels.tolist() == [0, 1, 2] and made.num_classes == 3
  assert made.name == "mine" and made.train_labels.dtype == np.int32
  streamed = data.load("mine", stream="always")
  assert isinstance(streamed.train_images, data.StreamedImages)
  assert_same(streamed, made)


def test_images_by_index_are_read_when_they_are_used(register):
  class Source(list):
    """Each image by itself."""

    def __getitem__(self, index):
      if broken and index == 5:
        raise KeyError("lost")
      return super().__getitem__(index)

  broken = False
  register("mine", lambda test_fraction: data.Parts((Source(IMAGES), LABELS)))
  fields = {"test_fraction": 0.25, "test_seed": 1}
  whole = data.load("mine", **fields)
  assert isinstance(whole.train_images, np.ndarray)
  made = data.load("mine", **fields, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert len(made.train_images) == 9 and len(made.test_images) == 3
  assert_same(made, whole)
  broken = True
  assert refusal("mine", **fields) == (
    "config.data.source='mine': image 5 cannot be read (KeyError: 'lost')"
  )


def test_fields_that_it_has_no_use_for_are_refused(register):
  def load(*, path):
    raise ValueError(f"holds no {len(path)} tables")

  register("mine", lambda: None)
  register("mine", load, accepted="a data base")  # as a cell is run again
  assert refusal("mine", path="x.db") == (
    "config.data.path='x.db': holds no 4 tables; accepted is a data base"
  )
  message = refusal("mine", path="x.db", channels=3)
  assert "config.data.channels=3 is not accepted" in message
  assert refusal("other").endswith(", mine")


def test_fraction_is_refused_where_there_is_a_test(register):
  parts = data.Parts((IMAGES, LABELS), (IMAGES, LABELS))
  register("mine", lambda test_fraction: parts)
  assert len(data.load("mine").test_images) == 12
  message = refusal("mine", test_fraction=0.5)
  assert "where there is a test part" in message


def test_what_cannot_be_registered(register):
  with pytest.raises(ValueError, match="'digits' is there already"):
    register("digits", lambda: None)
  with pytest.raises(ValueError, match="'size' is no field"):
    register("mine", lambda size: None)


@pytest.mark.parametrize(
  "images, labels, words",
  [
    (IMAGES, LABELS + 8, "train labels lie in 8..10; accepted is 0..9"),
    # It would be label 0 if it were cast to int32 before the check.
    (IMAGES, LABELS + 2**32, "; accepted is 0..9"),
    (IMAGES[0], LABELS[:4], "train images are uint8 of shape (4, 5, 3)"),
    ([*IMAGES[:11], IMAGES[11, 1:]], LABELS, ": image 11 is uint8 of shape (3"),
    ([*IMAGES[:11], IMAGES[11] / 255], LABELS, ": image 11 is float64 of shap"),
  ],
)
def test_what_is_no_data_set_is_refused(images, labels, words, register):
  part = images, labels
  register("mine", lambda: data.Parts(part, part, num_classes=10))
  message = refusal("mine")
  assert message.startswith("config.data.source='mine': ") and words in message
