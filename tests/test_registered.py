"""What a config file registers is found by its search, and no file of ours."""

import json

import pytest
import runs

import nss_jax as nss
from nss_jax.spaces import metrics
from nss_jax.steps import estimators

CONFIG = '''
import importlib.util

import jax
import nss_jax as nss

PICOJOULES = 4.6  # a multiply-add


def blocks(search_space, stage, *widths):
  return PICOJOULES * 9.0 * widths[0] * widths[-1]


def ends(search_space, width):
  return PICOJOULES * search_space.num_classes * width


def one_sided(num_draws):
  """The score function against the mean of all draws, its own among them."""

  def estimate(rng, logits, draw, objective):
    fixed = jax.lax.stop_gradient(logits)
    samples = [draw(key, fixed) for key in jax.random.split(rng, num_draws)]
    found = [objective(sample) for sample in samples]
    mean = sum(value for value, _ in found) / num_draws
    for (value, _), sample in zip(found, samples):
      chances = jax.tree.map(
        lambda x, y: (jax.nn.log_softmax(x) * y).sum(), logits, sample.weights
      )
      log = sum(jax.tree.leaves(chances))
      off = jax.lax.stop_gradient(value - mean)
      mean = mean + off * (log - jax.lax.stop_gradient(log)) / num_draws
    return mean, found[0][1]

  return estimate


for _ in range(2):  # as a file that is read again
  nss.register_metric("energy", nss.Metric(blocks, blocks, ends), "picojoules")
  nss.register_estimator("one_sided", one_sided)


def get_config():
  spec = importlib.util.spec_from_file_location("quickstart", "QUICKSTART")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.objective.cost_weight = 0.0
  config.objective.constraints = ({"metric": "energy", "target": 3e3},)
  config.search.estimator = "one_sided"
  return config
'''


def test_a_config_file_registers_what_its_search_uses(tmp_path):
  path = tmp_path / "own.py"
  path.write_text(CONFIG.replace("QUICKSTART", str(runs.QUICKSTART)))
  fields = {**runs.TINY, "search.num_score_archs": 2, "search.elite": "scored"}
  fields["space.strides"] = (1,)
  del fields["objective.target_flops"]
  flags = [f"--config.{name}={value}" for name, value in fields.items()]
  workdir = tmp_path / "run"
  code, out, err = runs.run(*flags, f"--workdir={workdir}", config=path)
  assert code == 0, err
  assert "picojoules" in out
  elite = json.loads((workdir / "search" / "elite_space.json").read_text())
  (one,) = elite["constraints"]
  assert (one["metric"], one["target"]) == ("energy", 3e3)
  assert one["mean_cost"] / 3e3 - 1 == pytest.approx(one["deviation"])
  assert "picojoules" not in metrics.UNITS.values()  # of that process alone
  wrong = runs.run(
    *flags,
    "--config.search.estimator=other",
    f"--workdir={workdir}",
    config=path,
  )
  assert wrong[0] == 2
  assert "expected one of soft, straight_through, score, one_sided" in wrong[2]


@pytest.mark.parametrize(
  ("register", "error", "message"),
  [
    (
      lambda: nss.register_metric("flops", None, "x"),
      ValueError,
      "'flops' is there already",
    ),
    (
      lambda: nss.register_metric("latency", None, "x"),
      ValueError,
      "'latency' is there already",
    ),
    (
      lambda: nss.register_metric("a b", None, "x"),
      ValueError,
      "must be a word; got 'a b'",
    ),
    (
      lambda: nss.register_metric("energy", 3.0, "x"),
      TypeError,
      "energy: must be a Metric; got 3.0",
    ),
    (
      lambda: nss.register_estimator("soft", nss.score_function),
      ValueError,
      "'soft' is there already",
    ),
    (
      lambda: nss.register_estimator("", nss.score_function),
      ValueError,
      "must be a word; got ''",
    ),
    (
      lambda: nss.register_estimator("x", nss.score_function, draws="all"),
      ValueError,
      "draws must be one of soft, hard, archs; got 'all'",
    ),
  ],
)
def test_what_cannot_be_registered(register, error, message):
  with pytest.raises(error, match=message):
    register()
  assert "x" not in estimators.ESTIMATORS
