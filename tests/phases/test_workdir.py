"""What may change in a workdir that has begun."""

import json

import pytest
import runs

from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import loop, search, workdir


def _config(**fields):
  return config_lib.validate(runs.load_config(**{**runs.TINY, **fields}))


@pytest.fixture
def begun(tmp_path):
  """Makes files of phases that have begun, of a config."""

  def begin(*files, **fields):
    workdir.claim(_config(**fields), tmp_path)
    for name in files:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).write_text("")
    return tmp_path

  return begin


SEARCH, SCORES = "search/metrics.jsonl", "evaluate/scores.csv"
RESULT = "train/a/seed_0/result.json"
ELITE = "search/elite_space.json"
CONSTANT = {
  "weights.final_learning_rate": 0.025,
  "search.temperature_end": 1.0,
  "search.entropy_start": 0.002,
  "search.penalty_growth": 1.0,
}
FREE = {
  "search.keep_checkpoints": 5,
  "search.checkpoint_every": 2,
  "search.steps_per_dispatch": 9,
  "data.stream": "always",
  "evaluate.cache": "elsewhere",
  "name": "other",
}
# What is there, what is changed, and before, if not the quickstart's.
ACCEPTED = [
  ((SEARCH, ELITE, SCORES, RESULT), FREE, {}),
  # Nothing has begun, whatever a process that was killed has left.
  ((), {"seed": 3, "space.max_width": 16}, {}),
  (("search/.lock", "search/.elite_space.1.tmp.json"), {"seed": 3}, {}),
  # No phase that reads them has begun.
  ((SEARCH, ELITE), {"evaluate.epochs": 3, "nas.epochs": 9}, {}),
  ((SEARCH, ELITE), {"train.epochs": 3, "complexity.num_archs": 9}, {}),
  ((SEARCH, ELITE, SCORES), {"principles.num_archs": 9}, {}),
  ((SEARCH, ELITE, SCORES), {"nas.epochs": 9, "latency_table.repeats": 9}, {}),
  (("latency_table/table.csv",), {"objective.target_flops": 5e4}, {}),
  (("latency_table/table.csv",), {"search.epochs": 3, "seed": 3}, {}),
  # More of what is of its own.
  ((RESULT,), {"train.num_seeds": 5}, {}),
  (("sweep/1mf/config.json",), {"sweep.targets": (1e6, 2e6)}, {}),
  # More epochs, of which the numbers so far are the same.
  ((SEARCH,), {"search.epochs": 9}, CONSTANT),
  (("train/a/seed_0/x",), {"train.epochs": 99}, {"train.decay_at": ()}),
]
REFUSED = [
  ((SEARCH,), {"seed": 3}, {}, "seed: 0 is now 3"),
  (
    (SEARCH,),
    {"seed": 3, "logits.b1": 0.6},
    {},
    "config.logits.b1: 0.5 is now 0.6; config.seed: 0 is now 3)",
  ),
  ((SEARCH,), {"search.epochs": 9}, {}, "but the learning rate depends on it"),
  (
    (SEARCH,),
    {"search.epochs": 9},
    {"weights.final_learning_rate": 0.025},
    "5 is now 9, but the temperature depends on it",
  ),
  ((SEARCH,), {"search.epochs": 4}, CONSTANT, "but has run for more"),
  ((SEARCH, ELITE), {"search.epochs": 9}, CONSTANT, "the search has ended"),
  ((SEARCH, SCORES), {"search.epochs": 9}, CONSTANT, "evaluate has begun"),
  ((SCORES,), {"evaluate.epochs": 3}, {}, "evaluate.epochs: 30 is now 3"),
  (("rank_check/scores.csv",), {"evaluate.seed": 3}, {}, "0 is now 3"),
  (("train/a/seed_0/x",), {"nas.epochs": 9}, {}, "nas.epochs: 4 is now 9"),
  ((RESULT,), {"train.epochs": 99}, {}, "but results of before are there"),
  ((RESULT,), {"train.num_seeds": 1}, {}, "but those that are there stay"),
  (
    ("sweep/1mf/config.json", "sweep/summary.json"),
    {"sweep.targets": (1e6, 2e6)},
    {},
    "but the sweep has ended",
  ),
  (
    ("sweep/1mf/config.json",),
    {"sweep.targets": (2e6,)},
    {},
    "but those that are there stay",
  ),
  # A sweep runs any phase.
  (("sweep/1mf/config.json",), {"train.epochs": 99}, {}, "sweep has begun"),
  (("sweep/1mf/config.json",), {"nas.tolerance": 0.2}, {}, "0.02 is now 0.2"),
  (
    ("latency_table/table.csv",),
    {"latency_table.repeats": 9},
    {},
    "repeats: 30 is now 9",
  ),
  ((SEARCH,), {"seed": 3, "search.keep_checkpoints": 9}, {}, "(config.seed:"),
]
BEFORE = {"sweep.targets": (1e6,)}


@pytest.mark.parametrize(("files", "changes", "before"), ACCEPTED)
def test_what_contradicts_nothing(begun, files, changes, before):
  folder = begun(*files, **{**BEFORE, **before})
  config = _config(**{**BEFORE, **before, **changes})
  workdir.check(config, folder)
  workdir.claim(config, folder)
  kept = json.loads((folder / "config.json").read_text())
  assert kept == config.record()


@pytest.mark.parametrize(("files", "changes", "before", "words"), REFUSED)
def test_what_contradicts_a_result(begun, files, changes, before, words):
  folder = begun(*files, **{**BEFORE, **before})
  with pytest.raises(UserError) as error:
    workdir.check(_config(**{**BEFORE, **before, **changes}), folder)
  line = str(error.value)
  assert words in line and "\n" not in line
  assert "; choose another workdir; in this one may change: config.name" in line
  assert "keep_checkpoints: " not in line  # which is no reason
  for group in ("train", "nas"):
    has = any(x.startswith(("train", "sweep")) for x in files)
    assert (f"config.{group}.*" in line) != has


@pytest.mark.parametrize(
  ("epochs", "accepted"), [(1, True), (2, True), (3, False)]
)
def test_more_epochs_of_training_until_the_rate_falls(begun, epochs, accepted):
  """Of 10 it falls after 3: the fourth epoch may have begun."""
  fields = {"train.epochs": 10, "train.decay_at": (0.3, 0.6)}
  folder = begun(**fields)
  log = folder / "train" / "a" / "seed_0" / "metrics.jsonl"
  log.parent.mkdir(parents=True)
  lines = [json.dumps({"epoch": n + 1}) for n in range(epochs)]
  log.write_text("\n".join([*lines, ""]))
  config = _config(**{**fields, "train.epochs": 20})
  if accepted:
    workdir.check(config, folder)
  else:
    with pytest.raises(UserError, match="10 is now 20, but the learning"):
      workdir.check(config, folder)


@pytest.mark.parametrize("value", ["nine", None, [[]]])
@pytest.mark.parametrize("name", ["search.epochs", "sweep.targets"])
def test_an_edited_record_is_refused(begun, name, value):
  folder = begun(SEARCH, "sweep/1mf/config.json")
  record = json.loads((folder / "config.json").read_text())
  group, field = name.split(".")
  record[group][field] = value
  (folder / "config.json").write_text(json.dumps(record))
  with pytest.raises(UserError, match=f"config.{name}"):
    workdir.check(_config(**BEFORE), folder)


def _lines(folder):
  lines = (folder / "search" / "metrics.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  for line in found:
    del line["images_per_second"]
  return found


@pytest.mark.slow
def test_a_search_that_goes_on_for_longer(tmp_path):
  """As one that was that long from the start, to the last bit."""
  fields = {**CONSTANT, "space.strides": (1,), "search.warmup_epochs": 1}
  short, long = (
    _config(**fields, **{"search.epochs": epochs}) for epochs in (2, 4)
  )
  workdir.claim(short, tmp_path / "w")
  job = runs.make_job(short, tmp_path / "w")
  loop.run(job, search.build(job), tmp_path / "w" / "search")
  workdir.check(long, tmp_path / "w")
  found = search.run(runs.make_job(long, tmp_path / "w"))
  assert found == search.run(runs.make_job(long, tmp_path / "whole"))
  assert _lines(tmp_path / "w") == _lines(tmp_path / "whole")
  assert len(_lines(tmp_path / "w")) == 4
