"""One call from images to a network: what it chooses, finds and refuses."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases import find_settings
from nss_jax.spaces.cost import arch_macs, arch_params

TINY = {
  "space.max_depth": 2,
  "space.num_depth_bins": 2,
  "space.max_width": 8,
  "space.num_width_bins": 4,
  "space.stem_width": 4,
  "space.strides": (1, 2),
  "supernet.engine": "masked",
  "search.epochs": 4,
  "search.warmup_epochs": 2,
  "search.elite_tolerance": 0.3,
  "evaluate.epochs": 2,
  "evaluate.coin_epochs": 1,
  "nas.tolerance": 0.5,
  "nas.num_scored": 4,
  "nas.num_finalists": 1,
  "nas.race_epochs": 1,
  "train.epochs": 30,
  "train.learning_rate": 0.1,
}
NAMES = np.array(["cat", "dog", "owl"])


def photos(count=96, seed=0):
  """Makes 8x8 pictures of which each class is bright in another corner."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % 3
  images = rng.integers(0, 100, (count, 8, 8, 1))
  for corner, (row, column) in enumerate(((0, 0), (0, 4), (4, 0))):
    images[labels == corner, row : row + 4, column : column + 4] += 120
  return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("find") / "run"
  images, labels = photos()
  call = {"flops": 2e4, "params": 1500, "workdir": workdir, "settings": TINY}
  return nss.find(images, NAMES[labels], **call), call


def test_the_network_keeps_every_limit(found):
  result, _ = found
  space = result.search_space
  assert int(arch_macs(space, result.arch)) <= 2e4
  assert int(arch_params(space, result.arch)) <= 1500
  text = str(result)
  assert nss.format_arch(result.arch) in text
  assert "95 % interval" in text and "hand-made" in text


def test_it_predicts_by_name_what_it_was_trained_on(found):
  result, _ = found
  images, labels = photos(60, seed=1)
  told = result.network.predict(images)
  right = [
    one.name == NAMES[label] for one, label in zip(told, labels, strict=True)
  ]
  assert np.mean(right) > 0.8
  assert sum(told[0].probabilities.values()) == pytest.approx(1, abs=1e-6)
  assert told[0].probability == max(told[0].probabilities.values())


def test_the_best_folder_is_the_network(found):
  result, call = found
  kept = nss.load_network(call["workdir"])
  images, _ = photos(6, seed=2)
  np.testing.assert_array_equal(
    kept.logits(images), result.network.logits(images)
  )
  about = kept.about
  assert about["num_seeds"] == 2 and "handmade" in about["controls"]
  assert about["test_images"] == 19  # a fifth of every class


def test_called_again_it_reads_what_it_has_found(found, capsys):
  result, call = found
  images, labels = photos()
  again = nss.find(images, NAMES[labels], **call)
  assert str(again) == str(result)
  assert "already done" in capsys.readouterr().out
  images[0, 0, 0, 0] ^= 1
  with pytest.raises(UserError, match=r"images\.npz holds other images"):
    nss.find(images, NAMES[labels], **call)


def test_what_a_refused_call_has_left_is_replaced(found, tmp_path):
  images, labels = photos(30)
  with pytest.raises(UserError, match="float64"):
    nss.find(images / 255, labels, flops=2e4, workdir=tmp_path)
  source = find_settings.find_source(images, labels, tmp_path, None, "quick")
  np.testing.assert_array_equal(np.load(source["path"])["x_train"], images)
  named = np.array([str(NAMES[x]) for x in labels], object)
  source = find_settings.find_source(images, named, tmp_path, None, "quick")
  assert data.load(**source).class_names == tuple(NAMES)
  with pytest.raises(UserError, match="arrays of Python objects"):
    nss.find(images, [None] * 30, flops=2e4, workdir=tmp_path)


def test_the_best_folder_is_mended_and_never_that_of_another_run(found):
  _, call = found
  file = call["workdir"] / "best" / "network.json"
  good = file.read_bytes()
  file.write_bytes(good.replace(b'"num_seeds": 2', b'"num_seeds": 3'))
  images, labels = photos()
  nss.find(images, NAMES[labels], **call)
  assert file.read_bytes() == good


def test_settings_follow_images_and_limits(tmp_path):
  for part, count in (("a", 12), ("b", 9)):
    (tmp_path / part).mkdir()
    for number in range(count):
      Image.new("RGB", (50, 40), (10 * number, 0, 9)).save(
        tmp_path / part / f"{number}.png"
      )
  source = find_settings.find_source(tmp_path, None, tmp_path, None, "quick")
  assert source["image_size"] == 32 and source["test_fraction"] == 0.2
  config = find_settings.make_config(source, {"flops": 5e6}, effort="normal")
  checked = config_lib.validate(config)
  assert checked.data.crop_padding == 4 and checked.data.flip
  assert checked.objective.cost_weight == 0
  (limit,) = checked.objective.constraints
  assert (limit.metric, limit.target, limit.mode) == ("flops", 5e6, "at_most")
  # One that costs ten times as much needs a wider space.
  more = find_settings.make_config(source, {"flops": 5e7})
  assert more.space.max_width > config.space.max_width
  assert checked.search.batch_size % jax.device_count() == 0
  quick, longer = (
    find_settings.make_config({"source": "digits"}, {"flops": 2e6}, effort=x)
    for x in ("quick", "normal")
  )
  assert longer.train.epochs == pytest.approx(3 * quick.train.epochs, abs=3)
  assert not quick.data.flip  # a mirrored digit is no digit


def test_a_data_set_and_a_folder_with_tests_are_taken_as_they_are(tmp_path):
  images, labels = photos(30)
  dataset = data.load("digits")
  dataset = dataclasses.replace(
    dataset,
    train_images=images,
    train_labels=labels,
    test_images=images[:9],
    test_labels=labels[:9],
    num_classes=3,
    class_names=("x", "y", "z"),
  )
  source = find_settings.find_source(dataset, None, tmp_path, None, "quick")
  again = data.load(**source)
  assert again.class_names == ("x", "y", "z")
  np.testing.assert_array_equal(again.test_images, images[:9])
  for part in ("train", "test"):
    for name in ("a", "b"):
      folder = tmp_path / "photos" / part / name
      folder.mkdir(parents=True)
      for shade in (10, 90):
        Image.new("L", (8, 8), shade).save(folder / f"{shade}.png")
  given = tmp_path / "photos"
  source = find_settings.find_source(given, None, tmp_path, 8, "quick")
  assert "test_fraction" not in source
  shutil.rmtree(given / "test")
  source = find_settings.find_source(given, None, tmp_path, 8, "quick")
  assert source["test_fraction"] == 0.2


@pytest.mark.parametrize(
  ("call", "words"),
  [
    ({}, r"what may the network cost\? expected flops="),
    ({"flops": 0}, "flops=0 is not accepted; expected a number above 0"),
    ({"flops": "5e6"}, "flops='5e6' is not accepted"),
    ({"params": float("nan")}, "params=nan is not accepted"),
    ({"flops": 1e4, "effort": "max"}, "effort='max' .* one of quick, normal"),
    (
      {"flops": 1e4, "images": "nowhere", "labels": None},
      "'nowhere': no such file or folder",
    ),
    ({"flops": 1e4, "labels": None}, "arrays of images need labels"),
    ({"flops": 1e4, "images": "digits"}, "labels are for arrays of images"),
    (
      {"flops": 1e4, "settings": {"data.flipp": True}},
      "config.data.flipp: .* did you mean config.data.flip",
    ),
    (
      {"params": 9e9, "flops": 1.0},
      r"find: flops=1 is not accepted; expected .* mean costs that a space",
    ),
  ],
)
def test_bad_input_is_one_line(tmp_path, call, words):
  images, labels = photos(30)
  given = {"images": images, "labels": labels, "workdir": tmp_path / "run"}
  with pytest.raises(UserError, match=words) as error:
    nss.find(**given | call)
  assert "\n" not in str(error.value)
