"""Networks of the design principles and of the trend, scored side by side."""

import json

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax.errors import UserError
from nss_jax.phases import pipeline, principles, running, scoring, supernet
from nss_jax.results import scores
from nss_jax.results.trends import KINDS, OwnOrder, Principles

SETTINGS = {
  **runs.TINY,
  "space.max_width": 16,
  "objective.target_flops": 3e5,
  "principles.num_archs": 10,
  "principles.window": (0.5, 1.5),
  "evaluate.calibration_images": 60,
}


def test_principles(tmp_path, monkeypatch):
  """Every population is what it says, scored once, and summed up rightly.

  A run that was killed between two archs ends with the same.
  """
  job = runs.make_job(runs.load_config(**SETTINGS), tmp_path)
  runs.write_elite(job, [1, 0, 0], [3, 1, 2])  # d2 = d3 <= d1, w2 <= w3 <= w1
  weights = nss.init_weights(jax.random.key(0), job.search_space)
  monkeypatch.setattr(supernet, "train_supernet", lambda *_: weights)
  monkeypatch.setattr(principles, "MAX_DRAWS", 2**14)
  # One program for the run that goes on too.
  score_fn = scoring.make_score_fn(job)
  monkeypatch.setattr(scoring, "make_score_fn", lambda *_: score_fn)
  result = running.run_phase(principles.PHASE, job).to_json()
  path = tmp_path / "principles" / "scores.csv"
  table = scores.read_scores(path, job.search_space)
  found = set(table.source.tolist())
  assert len(table) == 10 * len(found) == 100 - 10 * len(result["missing"])
  assert result["own_order"] == {"stages": [1, 2, 0], "note": ""}
  assert result["window"] == [1.5e5, 4.5e5]
  for kind in KINDS:
    for name in {f"{kind}_in_window", f"{kind}_any_cost"} & found:
      group, said = table.group(name), result["groups"][name]
      assert said["count"] == len(group) == 10
      assert said["mean_error"] == pytest.approx(group.error.mean())
      assert said["median_error"] == pytest.approx(np.median(group.error))
      if name.endswith("window"):
        assert (np.abs(group.flops / 3e5 - 1) <= 0.5).all()
  assert {f"{kind}_in_window" for kind in KINDS[:2]} <= found
  assert {f"{kind}_any_cost" for kind in KINDS} - found <= {"regnet_any_cost"}
  for name in found:
    group = table.group(name)
    if name.startswith("own"):
      assert (group.width[:, 1] <= group.width[:, 2]).all()
      assert (group.width[:, 2] <= group.width[:, 0]).all()
    if name.startswith(("design", "anynet")):
      assert (np.diff(group.width) >= 0).all()
      assert (np.diff(group.depth) >= 0).all()
    if name.startswith("elite"):
      assert (group.width[:, 1] >= group.width[:, 2]).all()
      assert (group.width[:, 2] >= group.width[:, 0]).all()
  folder = tmp_path / "principles"
  assert json.loads((folder / "summary.json").read_text()) == result
  assert (folder / "edf.png").read_bytes().startswith(b"\x89PNG")
  assert len(principles.PHASE.show(Principles(**result), folder)) >= 11
  whole = path.read_bytes()
  runs.cut_lines(path, 1 / 2)
  assert principles.run(job).to_json() == result
  assert path.read_bytes() == whole


@pytest.mark.parametrize(
  ("depth", "width", "expected"),
  [
    ([0, 1, 1], [0, 1, 2], ([0, 1, 2], "the same as design principles")),
    ([0, 0, 0], [0, 3, 1], ([0, 2, 1], "the same as the paper's trend")),
    ([0, 0, 1], [1, 0, 1], ([1, 0, 2], "")),
    (
      [0, 1, 1],
      [1, 0, 0],
      (None, "its depths have another order than its widths"),
    ),
  ],
)
def test_order_of_an_elite_space(depth, width, expected):
  space = nss.SearchSpace.expanded(
    max_depth=4, max_width=32, num_depth_bins=2, num_width_bins=4
  )
  chosen = nss.Space(*(np.array(x, np.int32) for x in (depth, width)))
  found = principles.order_of(space, chosen)
  assert (found.stages, found.note) == expected


def test_one_stage_has_one_order(tmp_path):
  """And no Elite Space is no order."""
  space = nss.SearchSpace.expanded(
    max_depth=4, max_width=32, num_width_bins=4, strides=(1,)
  )
  zero = np.zeros(1, np.int32)
  assert principles.order_of(space, nss.Space(zero, zero)).stages == [0]
  job = runs.make_job(runs.load_config(**SETTINGS), tmp_path)
  assert principles.own_order(job) == OwnOrder(
    stages=None, note="the search has not ended"
  )


def test_what_is_missing_is_said(tmp_path, monkeypatch):
  """A population without archs in the window is no silent gap."""
  job = runs.make_job(runs.load_config(**SETTINGS), tmp_path)
  monkeypatch.setattr(principles, "MAX_DRAWS", 2**14)

  def none(*_, **__):
    raise ValueError("only 0 of 10 archs in 16384 draws")

  monkeypatch.setitem(principles._SAMPLERS, "regnet", none)
  drawn = principles.draw_populations(job)
  assert set(drawn.missing) == {"regnet_in_window", "regnet_any_cost"}
  assert not set(drawn.missing) & set(drawn.archs)


@pytest.mark.parametrize(
  "overrides",
  [{"space.strides": (1, 2)}, {"principles.window": (1e-6, 2e-6)}],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, overrides):
  config = runs.load_config(**{**SETTINGS, **overrides})
  with pytest.raises(UserError, match=r"config.principles: "):
    pipeline.run(config, tmp_path, ["principles"])
  assert not any(tmp_path.iterdir())
