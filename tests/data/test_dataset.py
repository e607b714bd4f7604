"""What all sources have in common: statistics, memory, and fields of no use."""

import os

import numpy as np
import pytest
from own_files import arrays, assert_same, refusal, save, tree

from nss_jax import data


def load_arrays(folder, images: np.ndarray, **fields) -> data.Dataset:
  labels = np.arange(len(images)) % 2
  path = save(
    folder, x_train=images, y_train=labels, x_test=images, y_test=labels
  )
  return data.load("npz", path=path, **fields)


def test_statistics_are_per_channel_and_std_is_never_zero(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1003, 4, 5, 3), np.uint8)
  images[..., 1] = 7
  made = load_arrays(tmp_path, images)
  scaled = images.astype(np.float64) / 255
  np.testing.assert_allclose(made.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(made.std[0], scaled[..., 0].std(), rtol=1e-12)
  assert made.std[1] == 1.0
  (note,) = made.notes
  assert note.startswith(f"warning: config.data.path={str(tmp_path)!r:.9}")
  assert note.endswith("channel 1 of 3 has one value in all training images")


def test_statistics_of_white_images_do_not_overflow(tmp_path):
  images = np.full((2001, 3, 3, 1), 255, np.uint8)
  images[0] = 254
  made = load_arrays(tmp_path, images)
  share = 1 / 2001
  np.testing.assert_allclose(made.mean, 1 - share / 255, rtol=1e-12)
  expected = np.sqrt(share * (1 - share)) / 255
  np.testing.assert_allclose(made.std, expected, rtol=1e-12)


def test_statistics_of_a_large_set_are_of_the_same_images_however_it_is_held(
  monkeypatch,
):
  made = data.load("digits")
  monkeypatch.setattr("nss_jax.data.dataset.MAX_SAMPLED", 500)
  whole = data.load("digits", stream="never")
  assert_same(data.load("digits", stream="always"), whole)
  assert whole.mean != made.mean
  np.testing.assert_allclose(whole.mean, made.mean, rtol=0.02)
  np.testing.assert_allclose(whole.std, made.std, rtol=0.02)


@pytest.mark.parametrize("limit", ["300", "max", "", None])
def test_memory_is_that_of_the_container(limit, tmp_path, monkeypatch):
  file = tmp_path / "memory.max"
  if limit is not None:
    file.write_text(f"{limit}\n")
  monkeypatch.setattr("nss_jax.data.dataset.CONTAINER_LIMIT", file)
  pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  assert data.host_memory() == (300 if limit == "300" else pages)


@pytest.mark.parametrize(
  "source, num_bytes", [("digits", 1437 * 8 * 8), ("folder", 6 * 4 * 6 * 3)]
)
def test_auto_streams_what_takes_over_a_quarter_of_the_memory(
  source, num_bytes, tmp_path
):
  path = str(tree(tmp_path)) if source == "folder" else ""
  for memory, expected in ((4 * num_bytes, False), (4 * num_bytes - 1, True)):
    made = data.load(source, path=path, memory=memory)
    assert isinstance(made.train_images, data.StreamedImages) == expected
  made = data.load(source, path=path)
  assert isinstance(made.train_images, np.ndarray)


def test_classes_missing_from_test_are_told(tmp_path):
  path = save(tmp_path, **{**arrays(), "y_test": np.arange(6) % 2})
  (note,) = data.load("npz", path=path).notes
  assert note.endswith(
    "test has no image of 1 of the 3 classes (2); test errors say nothing of "
    "them"
  )


def test_unknown_source_names_the_accepted_ones():
  message = refusal("cifar")
  for word in ("config.data.source='cifar'", *data.SOURCES):
    assert word in message


@pytest.mark.parametrize("path", ["", "no_file", "~no_user/x", "a\0b", "."])
@pytest.mark.parametrize("source", ["npz", "folder", "idx", "cifar10_binary"])
def test_path_that_is_nothing_is_refused(source, path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  if source != "cifar10_binary" or path:  # which would be fetched
    assert "config.data.path" in refusal(source, path=path)


OPTIONS = {
  "path": "x",
  "name": "x",
  "image_size": 4,
  "channels": 3,
  "background": 0,
  "skip_bad": True,
  "test_fraction": 0.5,
  "test_seed": 1,
  "convert_arrays": True,
  "synthetic": data.Synthetic(seed=5),
}
SPLIT = "path test_fraction test_seed"
USED = {
  "digits": "",
  "cifar10_binary": "path",
  "cifar100_binary": "path",
  "cifar10_python": "path",
  "cifar100_python": "path",
  "fashion_mnist": SPLIT,
  "idx": SPLIT,
  "npz": f"{SPLIT} convert_arrays",
  "folder": f"{SPLIT} image_size channels background skip_bad",
  "tfds": f"{SPLIT} name image_size channels background",
  "synthetic": "image_size channels synthetic",
}


@pytest.mark.parametrize("source", data.SOURCES)
def test_option_without_effect_is_refused(source):
  for option, value in OPTIONS.items():
    if option in USED[source].split():
      continue
    message = refusal(source, **{option: value})
    assert f"config.data.{option}={value!r} is not accepted" in message
    named = message.rpartition("a source of ")[2].split(", ")
    users = [name for name, used in USED.items() if option in used.split()]
    assert sorted(named) == sorted(users)
