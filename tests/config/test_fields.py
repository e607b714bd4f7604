"""A config is held against its fields, and each refusal is one line."""

import pytest
import runs

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.errors import UserError

CIFAR = data.load("cifar10_binary", fetch=False)
CONFIGS = sorted(path.stem for path in (runs.ROOT / "configs").glob("*.py"))
ESTIMATORS = "one of soft, straight_through, score"
PHASES = "one of search, evaluate, rank_check, principles, nas, complexity"


def _changed(fields):
  """The default config with fields that may be of any type."""
  config = config_lib.base()
  for path, value in fields.items():
    *groups, name = path.split(".")
    group = config
    for one in groups:
      group = group[one]
    with config.ignore_type():
      group[name] = value
  return config


@pytest.mark.parametrize(
  ("path", "value", "accepted"),
  [
    ("seed", -1, "0 to 2^32 - 1"),
    ("name", "a/b", "a plain folder name"),
    ("objective.target_flops", 0.0, "above 0"),
    ("objective.target_flops", float("nan"), "above 0"),
    ("weights.clip_norm", float("inf"), "above 0"),
    ("data.validation_fraction", 1.0, "above 0 and below 1"),
    ("data.test_fraction", -0.5, "0 or more and below 1"),
    ("train.decay_factor", 1.5, "above 0 and at most 1"),
    ("train.decay_at", (0.6, 0.3), "ascending shares above 0 and below 1"),
    ("evaluate.score_bucket_shares", (0.5,), "shares above 0 that ascend to 1"),
    ("data.background", 256, "0 to 255"),
    ("data.channels", 2, "0, 1 or 3"),
    ("data.synthetic.num_test", 0, "1 or more"),
    ("data.stream", "maybe", "one of auto, always, never"),
    ("data.stream", 3, "one of auto, always, never"),
    ("rank_check.num_archs", 10_001, "0 to 10,000"),
    ("space.num_classes", 1, "0 for those of the data, or 2 to 2^20"),
    ("search.estimator", "magic", ESTIMATORS),
    ("search.estimator", 3, ESTIMATORS),
    ("search.estimator", None, ESTIMATORS),
    ("sweep.phases", ("search", "fly"), PHASES),
    ("sweep.phases", ("sweep",), PHASES),
    ("sweep.phases", (3,), PHASES),
    ("sweep.phases", (), "at least one phase of one target"),
    # Fields together.
    ("search.warmup_epochs", 99, "fewer than the 50 of config.search.epochs"),
    ("nas.warmup_epochs", 50, "fewer than the 50 of config.nas.epochs"),
    ("search.temperature_end", 9.0, "at most search.temperature_start, 1.0"),
    ("search.entropy_end", 0.4, "at most search.entropy_start, 0.3"),
    ("evaluate.largest_epochs", 99, "at most the 50 of evaluate.epochs"),
    ("evaluate.own_kernel_epochs", 2, "at most 0, and 0 where evaluate.own_"),
  ],
)
def test_what_a_field_accepts(path, value, accepted):
  with pytest.raises(UserError) as refused:
    config_lib.validate(_changed({path: value}))
  line = str(refused.value)
  expected = f"config.{path}: {value!r} is not accepted; expected {accepted}"
  assert line.startswith(expected), line


@pytest.mark.parametrize(
  ("fields", "line"),
  [
    (
      {"search.epochs": 2.5},
      "config.search.epochs: 2.5 has the type float; expected int",
    ),
    ({"data.flip": 1}, "config.data.flip: 1 has the type int; expected bool"),
    (
      {"sweep.targets": 3},
      "config.sweep.targets: 3 has the type int; expected tuple",
    ),
    ({"search": 3}, "config.search: 3 is not a group of fields"),
    (
      {"evaluate.fair": True},
      "config.evaluate.archs_per_batch: 1 is not accepted; expected 2 or more",
    ),
    (
      {"evaluate.own_kernels": 2, "evaluate.own_kernel_epochs": 99},
      "config.evaluate.own_kernel_epochs: 99 is not accepted; expected at most",
    ),
    (
      {"rank_check.num_archs": 1, "rank_check.num_near_archs": 1},
      "config.rank_check.num_archs: 1 is not accepted; expected 2 or more here",
    ),
    (
      {"supernet.draws": "per_device", "search.sync_batch_norm": True},
      "config.supernet.draws: 'per_device' is not accepted; expected shared",
    ),
  ],
)
def test_types_and_fields_together(fields, line):
  with pytest.raises(UserError) as refused:
    config_lib.validate(_changed(fields))
  assert str(refused.value).startswith(line)


def test_a_term_of_entropy_that_is_off_has_no_end():
  found = config_lib.validate(_changed({"search.entropy_start": 0.0}))
  assert found.search.entropy_end > found.search.entropy_start


@pytest.mark.parametrize("name", CONFIGS)
def test_config_files(name):
  config = runs.load_config(name)
  is_small = config.data.source == "digits"
  job = runs.make_job(config, dataset=runs.DIGITS if is_small else CIFAR)
  assert job.search_space.num_spaces == 2**18
  expected = {"cifar": 100, "cifar100_600mf": 100}
  assert config.space.num_classes == expected.get(name, 10)
  text = (runs.ROOT / "configs" / f"{name}.py").read_text()
  assert f"--config=configs/{name}.py" in text


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("target", config_lib.PAPER_TARGETS_MF)
def test_runs_of_the_paper(dataset, target):
  config = config_lib.paper(f"{dataset}_{target}mf")
  runs.make_job(config, dataset=CIFAR)
  assert config.objective.target_flops == target * 1e6
  assert len(config.sweep.targets) == 12
  window = [share * target * 1e6 for share in config.principles.window]
  assert window == pytest.approx([360e6, 400e6])
  assert config.name == f"{dataset}_{target}mf"
  assert config.space.num_classes == int(dataset.removeprefix("cifar"))


def test_number_of_outputs():
  shape, config = (8, 8, 1), config_lib.base()
  config.objective.target_flops = 2e6
  assert config.space.num_classes == 0
  assert config_lib.search_space(config, shape, 7).num_classes == 7
  for given, data_has in ((9, 7), (7, 7), (7, 0)):
    config.space.num_classes = given
    space = config_lib.search_space(config, shape, data_has)
    assert space.num_classes == given
  with pytest.raises(UserError, match="at least the 8 classes"):
    config_lib.search_space(config, shape, 8)


def test_differences_name_the_fields():
  old = {"a": 1, "b": {"c": [1, 2]}, "d": 0}
  new = {"a": 1, "b": {"c": [1, 3]}, "e": 0}
  assert config_lib.differences(old, new) == [
    "config.b.c: [1, 2] is now [1, 3]",
    "config.d: 0 is gone",
    "config.e: new, 0",
  ]
  assert config_lib.differences(old, old) == []
  assert config_lib.differences({"a": {"b": 1}}, {"a": 2}) == [
    "config.a: {'b': 1} is now 2"
  ]
