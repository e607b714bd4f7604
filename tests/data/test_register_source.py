"""A source of one's own: registered, and then as those that are there."""

import numpy as np
import pytest

import nss_jax as nss
from nss_jax import data
from nss_jax.errors import UserError

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
  assert (streamed.mean, streamed.std) == (made.mean, made.std)


def test_images_by_index_are_read_when_they_are_used(register):
  class Source:
    """Each image by itself."""

    def __len__(self):
      return len(IMAGES)

    def __getitem__(self, index):
      if broken and index == 5:
        raise KeyError("lost")
      return IMAGES[index]

  broken = False
  register("mine", lambda test_fraction: data.Parts((Source(), LABELS)))
  whole = data.load("mine", test_fraction=0.25, test_seed=1)
  assert isinstance(whole.train_images, np.ndarray)
  made = data.load("mine", test_fraction=0.25, test_seed=1, stream="always")
  assert isinstance(made.train_images, data.StreamedImages)
  assert len(made.train_images) == 9 and len(made.test_images) == 3
  np.testing.assert_array_equal(made.train_images[:], whole.train_images)
  broken = True
  with pytest.raises(UserError) as caught:
    data.load("mine", test_fraction=0.25)
  assert str(caught.value) == (
    "config.data.source='mine': image 5 cannot be read (KeyError: 'lost')"
  )


def test_fields_that_it_has_no_use_for_are_refused(register):
  def load(*, path):
    raise ValueError(f"holds no {len(path)} tables")

  register("mine", lambda: None)
  register("mine", load, accepted="a data base")  # as a cell is run again
  with pytest.raises(UserError) as caught:
    data.load("mine", path="x.db")
  assert str(caught.value) == (
    "config.data.path='x.db': holds no 4 tables; accepted is a data base"
  )
  with pytest.raises(UserError, match=r"data\.channels=3 is not accepted"):
    data.load("mine", path="x.db", channels=3)
  with pytest.raises(UserError, match=r"unknown; accepted are .* mine"):
    data.load("other")


def test_fraction_is_refused_where_there_is_a_test(register):
  parts = data.Parts((IMAGES, LABELS), (IMAGES, LABELS))
  register("mine", lambda test_fraction: parts)
  assert len(data.load("mine").test_images) == 12
  with pytest.raises(UserError, match="where there is a test part"):
    data.load("mine", test_fraction=0.5)


def test_what_cannot_be_registered(register):
  with pytest.raises(ValueError, match="'digits' is there already"):
    register("digits", lambda: None)
  with pytest.raises(ValueError, match="'size' is no field"):
    register("mine", lambda size: None)


def test_what_is_no_data_set_is_refused(register):
  register("mine", lambda: ((IMAGES, LABELS), (IMAGES, LABELS + 1)))
  with pytest.raises(UserError) as caught:
    data.load("mine")
  assert str(caught.value).startswith("config.data.source='mine': test labels ")
