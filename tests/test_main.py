"""The command line: what is wrong is one line and exit code 2."""

import pytest
import runs

from nss_jax import config as config_lib

CONFIG = runs.ROOT / "configs"
# flags -> words of the line
WRONG = {
  "--config.search.epocs=3": "epochs",
  "--config.seed=abc": "seed",
  "--config.seed=-1": "config.seed: -1",
  "--config.objective.target_flops=-1.0": "config.objective.target_flops: -1",
  "--config.objective.target_flops=0.0": "above 0",
  "--config.objective.target_flops=nan": "above 0",
  "--config.objective.target_flops=1e12": "47441 to",
  "--config.data.validation_fraction=1.5": "above 0 and below 1",
  "--config.data.validation_fraction=0.01": "data.validation_fraction",
  "--config.data.source=nowhere": "digits",
  "--config.space.num_classes=5": "at least the 10 classes",
  "--config.space.num_width_bins=7": "must divide",
  "--config.search.estimator=magic": "straight_through",
  "--config.search.warmup_epochs=99": "fewer than",
  "--phases=dance": "search",
  "stray": "stray",
}


@pytest.mark.parametrize(("flag", "words"), WRONG.items(), ids=str)
def test_wrong_input(flag, words, tmp_path):
  code, _, err = runs.run(f"--workdir={tmp_path}/w", flag, tiny=False)
  assert code == 2
  assert err.startswith("error: ")
  assert err.count("\n") == 1, err
  assert words in err
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("config", "words"),
  [
    (None, "--config is missing"),
    ("nothing.py", "nothing.py"),
    (f"{CONFIG / 'cifar10_600mf.py'}:fast", "'fast' is not a number of MF"),
  ],
)
def test_wrong_config_file(config, words):
  code, _, err = runs.run(config=config)
  assert code == 2
  assert words in err
  assert err.count("\n") == 1


def test_unwritable_workdir(tmp_path):
  (tmp_path / "file").write_text("")
  code, _, err = runs.run(f"--workdir={tmp_path}/file/w")
  assert code == 2
  assert "cannot be written" in err


def test_dry_run(tmp_path):
  code, out, _ = runs.run(f"--workdir={tmp_path}/w", "--dry_run", tiny=False)
  assert code == 0
  for words in ("262144 spaces", "archs", "MF", "steps", "GiB", "devices"):
    assert words in out
  assert not (tmp_path / "w").exists()


def test_help_says_what_flops_are():
  code, out, _ = runs.run("--help")
  assert code == 0
  assert "multiply-adds" in out


@pytest.mark.parametrize(
  "name", sorted(p.stem for p in CONFIG.glob("*.py")), ids=str
)
def test_config_files(name):
  config = runs.load_config(name)
  config_lib.validate(config)
  shape = (8, 8, 1) if config.data.source == "digits" else (32, 32, 3)
  space = config_lib.search_space(config, shape)
  config_lib.validate_target(config, space)
  assert space.num_spaces == 2**18
  text = (CONFIG / f"{name}.py").read_text()
  assert f"--config=configs/{name}.py" in text


def test_differences_name_the_fields():
  old = {"a": 1, "b": {"c": [1, 2]}, "d": 0}
  new = {"a": 1, "b": {"c": [1, 3]}, "e": 0}
  assert config_lib.differences(old, new) == [
    "config.b.c: [1, 2] is now [1, 3]",
    "config.d: 0 is gone",
    "config.e: new, 0",
  ]
