"""Networks of the design principles and of the trend, scored side by side."""

import json

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.phases import pipeline, principles
from nss_jax.runtime import scores

SETTINGS = {
  **runs.TINY,
  "space.max_depth": 4,
  "space.max_width": 32,
  "objective.target_flops": 1e6,
  "principles.num_archs": 6,
  "principles.window": (0.5, 1.5),
  "evaluate.calibration_images": 20,
  "evaluate.score_batch_size": 30,
  "evaluate.holdout_fraction": 0.02,
}
KINDS = ("design_principles", "elite_trend", "regnet", "anynet")


def test_principles(tmp_path, monkeypatch):
  """Every population is what it says, scored once, and summed up rightly."""
  config = runs.load_config(**SETTINGS)
  config_lib.validate(config)
  job = runs.make_job(config, tmp_path)
  weights = nss.init_weights(jax.random.key(0), job.search_space)
  monkeypatch.setattr(principles.evaluate, "train_supernet", lambda *_: weights)
  monkeypatch.setattr(principles, "_MAX_DRAWS", 2**14)
  result = principles.run(job)
  path = tmp_path / "principles" / "scores.csv"
  table = scores.read_scores(path, job.search_space)
  found = set(table.source.tolist())
  assert len(table) == 6 * len(found) == 48 - 6 * len(result["too_few"])
  for kind in KINDS:
    for name in {f"{kind}_in_window", f"{kind}_any_cost"} & found:
      group, said = table.group(name), result["groups"][name]
      assert said["count"] == len(group) == 6
      assert said["mean_error"] == pytest.approx(group.error.mean())
      assert said["median_error"] == pytest.approx(np.median(group.error))
      if name.endswith("window"):
        assert (np.abs(group.flops / 1e6 - 1) <= 0.5).all()
  assert {f"{kind}_in_window" for kind in KINDS[:2]} <= found
  for name in found:
    group = table.group(name)
    if name.startswith("design"):
      assert (np.diff(group.width) >= 0).all()
      assert (np.diff(group.depth) >= 0).all()
    if name.startswith("elite"):
      assert (group.width[:, 1] >= group.width[:, 2]).all()
      assert (group.width[:, 2] >= group.width[:, 0]).all()
  folder = tmp_path / "principles"
  assert json.loads((folder / "summary.json").read_text()) == result
  assert (folder / "edf.png").read_bytes().startswith(b"\x89PNG")
  assert len(principles.report(result, job)) >= 11
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  assert principles.run(job) == result
  assert path.read_bytes() == whole


def test_matched_pairs_are_compared():
  """Two cheap networks that agree in cost, and one that does not."""
  source = ["design_principles_any_cost"] * 3 + ["elite_trend_any_cost"] * 3
  error = np.array([0.5, 0.4, 0.1, 0.3, 0.2, 0.0])
  empty = np.zeros((6, 3), np.int64)
  table = scores.Scores(
    source=np.array(source),
    space=np.full(6, scores.NO_SPACE),
    depth=empty,
    width=empty,
    flops=np.array([100, 200, 900, 101, 199, 400]),
    params=empty[:, 0],
    error=error,
    loss=error,
  )
  result, curves = principles.summarize(table)
  assert result["matched"]["pairs"] == 2
  assert result["matched"]["design_principles"]["mean_error"] == 0.45
  assert result["matched"]["elite_trend"]["mean_error"] == 0.25
  errors, shares = curves["matched"]["elite_trend"]
  assert errors.tolist() == [0.2, 0.3]
  assert shares.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
  "overrides",
  [{"space.strides": (1, 2)}, {"principles.window": (1e-6, 2e-6)}],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, overrides):
  config = runs.load_config(**{**SETTINGS, **overrides})
  with pytest.raises(config_lib.ConfigError, match=r"config.principles: "):
    pipeline.run(config, tmp_path, ["principles"])
  assert not any(tmp_path.iterdir())
