"""Architecture search in ever larger spaces: draws, counts, resumption."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import (
  complexity,
  loop,
  nas,
  pipeline,
  running,
  scoring,
  supernet,
)
from nss_jax.results import larger_spaces, logits_file, scores
from nss_jax.results.larger_spaces import Complexity
from nss_jax.runtime import files

SETTINGS = {
  **runs.TINY,
  "space.strides": (1,),  # every stage takes time to compile
  "objective.target_flops": 6e4,
  "nas.epochs": 1,  # without warmup: one program to compile
  "nas.warmup_epochs": 0,
  "complexity.tolerance": 0.3,
  "complexity.width_shares": (0.5, 1),
  "complexity.depth_shares": (1.0,),
  "complexity.target_flops": 3e4,
  "complexity.num_archs": 12,
  "evaluate.num_archs": 9,
  "evaluate.calibration_images": 60,
}


def _config(**overrides):
  return config_lib.validate(runs.load_config(**{**SETTINGS, **overrides}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A job, its weights for every score, and the result: nine of the elite."""
  workdir = tmp_path_factory.mktemp("complexity") / "run"
  job = runs.make_job(_config(), workdir)
  runs.write_elite(job, [1], [2])
  weights = nss.init_weights(jax.random.key(0), job.search_space)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(supernet, "train_supernet", lambda *_: weights)
    # One program for the test of resumption too.
    score_fn = scoring.make_score_fn(job)
    patch.setattr(scoring, "make_score_fn", lambda *_: score_fn)
    yield job, running.run_phase(complexity.PHASE, job).to_json()


def test_spaces_are_those_of_the_paper():
  space = nss.SearchSpace.expanded(image_shape=(32, 32, 3))
  images = config_lib.base().data.synthetic.to_dict() | {"num_train": 2500}
  job = runs.make_job(
    config_lib.paper("cifar10_600mf"),
    dataset=runs.data.load(
      "synthetic", synthetic=runs.data.Synthetic(**images)
    ),
    search_space=space,
  )
  found = complexity.search_spaces(job)
  assert list(found) == [
    f"w{w}_d{d}" for w in (128, 256, 512) for d in (4, 8, 16)
  ]
  assert found["w512_d16"] == space.refine()
  assert found["w128_d4"].num_archs == (128 * 4) ** 3
  complexity.check(job)


def test_numbers_are_those_of_the_scores(finished):
  job, result = finished
  folder = job.workdir / "complexity"
  assert json.loads((folder / "summary.json").read_text()) == result
  assert (folder / "flops.png").read_bytes().startswith(b"\x89PNG")
  table = scores.read_scores(folder / "scores.csv", job.search_space)
  assert set(table.source) == {"w4_d2", "w8_d2", "elite"}
  for name, width in (("w4_d2", 4), ("w8_d2", 8)):
    group, said = table.group(name), result["spaces"][name]
    assert (group.width <= width).all()
    near = [abs(flops / 3e4 - 1) <= 0.3 for flops in group.flops]
    assert said["count"] == 12
    assert said["near_count"] == sum(near)
    assert said["near_share"] == sum(near) / 12
    assert said["mean_flops"] == pytest.approx(np.mean(group.flops))
    if any(near):
      assert said["near_min_error"] == min(group.error[near])
    largest = nss.parse_arch(f"d2_w{width}")
    expected = nss.arch_macs(job.search_space, largest)
    assert said["largest_flops"] == expected
  elite = table.group("elite")
  assert len(elite) == result["elite"]["count"] == 9
  assert (elite.depth == 2).all()
  assert set(elite.width.ravel()) <= {5, 6}
  assert len(complexity.PHASE.show(Complexity(**result), folder)) > 7


@pytest.fixture
def copied(finished, tmp_path):
  """The job and the result again, on a copy where the phase has not ended."""
  job, result = finished
  workdir = shutil.copytree(job.workdir, tmp_path / "run")
  (workdir / "complexity" / "summary.json").unlink()
  return dataclasses.replace(job, workdir=workdir), result


def test_it_resumes(copied):
  """Searches and scores that are there are not made again."""
  job, result = copied
  folder = job.workdir / "complexity"
  whole = (folder / "scores.csv").read_bytes()
  runs.cut_lines(folder / "scores.csv", 1 / 2)
  # One search has ended without its last file.
  (folder / "w4_d2" / "logits.json").unlink()
  assert running.run_phase(complexity.PHASE, job).to_json() == result
  assert (folder / "scores.csv").read_bytes() == whole


def test_the_search_of_the_nas_phase_is_taken(copied, monkeypatch):
  """Of all archs, for the same target; and nothing else is."""
  job, result = copied
  rate = job.config.complexity.learning_rate
  folder = nas.search_folder(job, "expanded", rate)
  folder.mkdir(parents=True)
  own = job.workdir / "complexity" / "w8_d2"
  (own / "logits.json").rename(folder / "logits.json")
  shutil.rmtree(own)

  def run(*_, **__):
    raise AssertionError("searched again")

  monkeypatch.setattr(loop, "run", run)
  with pytest.raises(AssertionError, match="searched again"):
    complexity.run(job)  # whose target is another than the nas phase's
  target = job.config.complexity.target_flops
  found = complexity.run(job.vary({"objective.target_flops": target}))
  assert found.to_json() == {**result, "elite_target_flops": target}
  assert not own.exists()


def test_scores_of_the_evaluate_phase_are_taken(copied):
  """A torn copy is made whole, and nothing of it is scored."""
  job, _ = copied
  workdir = job.workdir
  path = workdir / "complexity" / "scores.csv"
  elite = scores.read_scores(path, job.search_space).group("elite")
  known = scores.make_scores(
    job.search_space,
    "elite",
    nss.Arch(depth=elite.depth, width=elite.width),
    error=np.linspace(0, 1, len(elite)),
    loss=np.ones(len(elite)),
  )
  (workdir / "evaluate").mkdir()
  files.write_json(workdir / "evaluate" / "summary.json", {})
  scores.append_scores(
    workdir / "evaluate" / "scores.csv", job.search_space, known
  )
  path.unlink()
  scores.append_scores(path, job.search_space, known.select(np.arange(4)))
  result = complexity.run(job)
  assert result.elite.mean_error == pytest.approx(0.5)
  found = scores.read_scores(path, job.search_space).group("elite")
  np.testing.assert_array_equal(found.error, known.error)


def _table(flops):
  """Made up: the costs are all that counts."""
  count = len(flops)
  archs = np.ones((count, 1), np.int64)
  return scores.Scores(
    source=np.full(count, "w4_d2"),
    space=np.full(count, scores.NO_SPACE),
    depth=archs,
    width=archs,
    flops=np.asarray(flops),
    params=archs[:, 0],
    error=np.linspace(0.1, 0.9, count),
    loss=np.ones(count),
  )


def test_edf_ends_at_the_share_that_is_near(tmp_path):
  table = _table([89, 91, 105, 109, 111])
  flops, share = larger_spaces.flops_edf(table, 100, 0.1)
  np.testing.assert_allclose(flops, [90, 91, 105, 109, 110])
  np.testing.assert_allclose(share, [0, 0.2, 0.4, 0.6, 0.6])
  flops, share = larger_spaces.flops_edf(_table([5]), 100, 0.1)
  np.testing.assert_allclose(share, [0, 0])
  picture = larger_spaces.picture(table, 100, 0.1)
  picture.write(tmp_path / "a.svg")  # no Elite Space
  assert "Elite" not in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("name", ["w0_d1", "w4_d2_", "elite", "w04_d2"])
def test_other_sources_are_no_space(name):
  assert larger_spaces.parse_name(name) is None
  assert larger_spaces.parse_name(larger_spaces.space_name(4, 2)) == (4, 2)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (
      {"complexity.width_shares": (0.3, 1.0)},
      r"config.complexity.width_shares: 0.3 is not accepted; expected a share "
      "of 8",
    ),
    (
      {"complexity.depth_shares": (0.25,)},
      r"config.complexity.depth_shares: 0.25 is not .* 1 or more",
    ),
    (
      {"complexity.target_flops": 9e4},
      r"config.complexity.target_flops: 90000 is not accepted; .* of w4_d2",
    ),
  ],
)
def test_what_no_space_has_is_refused(finished, overrides, message):
  job, _ = finished
  config = _config(**overrides)
  with pytest.raises(UserError, match=message):
    pipeline.run(config, job.workdir.parent / "none", ["search", "complexity"])
  assert not (job.workdir.parent / "none").exists()


@pytest.mark.parametrize(
  ("field", "value"),
  [("depth_shares", (1.0, 0.5)), ("width_shares", (0.5, 1.5))],
)
def test_fields(field, value):
  config = runs.load_config(**{f"complexity.{field}": value})
  with pytest.raises(UserError, match=f"config.complexity.{field}"):
    config_lib.validate(config)


def test_logits_are_read_with_suspicion(finished, tmp_path):
  job, _ = finished
  space = complexity.search_spaces(job)["w4_d2"]
  path = tmp_path / "logits.json"
  good = logits_file.read_logits(
    job.workdir / "complexity" / "w4_d2" / "logits.json", space
  )
  assert good.width.shape == (1, 4)
  for width in ([[0.0]], None, [[1e60] * 4], [[0.0, 0.0], [0.0]]):
    content = {"depth": good.depth, "width": width}
    files.write_json(path, content)
    with pytest.raises(UserError, match="width: expected finite"):
      logits_file.read_logits(path, space)
