"""Whole runs with blocks other than the basic one, and what they leave."""

import json
import shutil

import jax
import numpy as np
import pytest
import runs
from orbax.checkpoint import v1 as ocp

import nss_jax as nss
from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases import pipeline
from nss_jax.runtime import files, sharding
from nss_jax.spaces import blocks

TINY = {
  **runs.TINY,
  "space.strides": (1,),
  "search.epochs": 2,
  "search.warmup_epochs": 0,
  "train.epochs": 1,
  "train.num_seeds": 1,
}
ALL = {
  **TINY,
  **runs.SHORT_PHASES,
  "nas.num_finalists": 2,
  "nas.race_epochs": 1,
  "latency_table.num_networks": 4,
}
# Orders of stages need three of them.
THREE_STAGES = {
  "space.strides": (1, 1, 1),
  "principles.num_archs": 6,
  "principles.window": (0.3, 3.0),
}
# Multiply-adds, of one stage and of three.
TARGETS = {
  "bottleneck": (1.8e4, 2.7e4),
  "inverted_residual": (2e5, 3e5),
  "mobilenet_v2": (2e5, 3e5),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Searched and trained, in this process."""
  folder = tmp_path_factory.mktemp("blocks") / "run"
  block = "bottleneck"
  fields = {"objective.target_flops": TARGETS[block][0], "space.block": block}
  config = runs.load_config(**{**TINY, **fields})
  mesh = sharding.make_mesh(1)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline.sharding, "make_mesh", lambda: mesh)
    phases = ["search", "train"]
    assert pipeline.run(config, folder, phases, archs=("d2_w5",)) == 0
  return folder


def test_a_search_of_another_block(workdir):
  """Its costs are of this block: the basic one's begin where these end."""
  space, elite = nss.load_space(workdir)
  assert space.block == "bottleneck"
  found = files.read_json(workdir / "search" / "elite_space.json")
  assert found["mean_flops"] == nss.space_macs(space, elite)
  low, high = nss.macs_range(space)
  assert 1.2e4 < low <= found["mean_flops"] <= high < 2.7e4


def test_a_trained_network_is_loaded(workdir):
  """The test error of the run again, to the image."""
  network = nss.load_network(workdir)
  folder = workdir / "train" / "d2_w5" / "seed_0"
  result = files.read_json(folder / "result.json")
  images = data.load("digits")
  wrong = network.logits(images.test_images).argmax(-1) != images.test_labels
  assert float(wrong.mean()) == pytest.approx(result["test_error"])
  space, arch = network.search_space, nss.parse_arch("d2_w5")
  assert space == nss.load_space(workdir)[0].only(arch)
  sizes = [x.size for x in jax.tree.leaves(network.params)]
  assert result["params"] == nss.arch_params(space, arch) == sum(sizes)
  again = nss.load_network(folder)
  jax.tree.map(np.testing.assert_array_equal, again.params, network.params)


def test_a_supernet_is_loaded(workdir):
  """The newest weights, in the structure that a program needs."""
  space, _ = nss.load_space(workdir)
  loaded = nss.load_supernet(workdir / "search", space)
  fresh = jax.eval_shape(lambda: nss.init_weights(jax.random.key(0), space))
  assert jax.tree.structure(loaded) == jax.tree.structure(fresh)
  newest = max((workdir / "search" / "checkpoints").glob("*[0-9]"))
  assert int(newest.name) == 2 * 9  # two epochs
  state = ocp.load(newest)
  jax.tree.map(
    np.testing.assert_array_equal, loaded, state["weights"]["params"]
  )


def test_what_can_not_be_loaded_is_named(workdir, tmp_path, monkeypatch):
  with pytest.raises(UserError, match="it holds none"):
    nss.load_network(tmp_path)
  copy = tmp_path / "copy"
  shutil.copytree(workdir / "train" / "d2_w5" / "seed_0", copy)
  content = json.loads((copy / "result.json").read_text())
  for change, message in (
    ({"search_space": None}, "result.json: search_space: expected an object"),
    ({"mean": [0.5, 0.5]}, "result.json: mean: expected 1 channels, got 2"),
    ({"std": [0]}, r"result.json: std\[0\]: expected a number above 0"),
  ):
    files.write_json(copy / "result.json", {**content, **change})
    with pytest.raises(UserError, match=message):
      nss.load_network(copy)
  space, _ = nss.load_space(workdir)
  wide = space.only(nss.parse_arch("d2_w6")).to_dict()
  files.write_json(copy / "result.json", {**content, "search_space": wide})
  with pytest.raises(
    UserError,
    match=r"of another network: averages.*\[2, 5\].* and .*\[2, 6\]",
  ):
    nss.load_network(copy)
  with pytest.raises(UserError, match="another network: para"):
    nss.load_supernet(workdir / "search", space.only(nss.parse_arch("d2_w6")))
  files.write_json(copy / "result.json", content)
  edited = blocks.find_block(space.block)._replace(activation="silu")
  with monkeypatch.context() as patch:
    patch.setitem(blocks.BLOCKS, space.block, edited)
    with pytest.raises(UserError, match="is another one here"):
      nss.load_network(copy)
  for path in (copy / "checkpoints").rglob("*"):
    if path.is_file() and "sha256" not in path.name:
      path.write_bytes(path.read_bytes() + b"x")
  with pytest.raises(UserError, match="every checkpoint is"):
    nss.load_network(copy)
  shutil.rmtree(copy / "checkpoints")
  with pytest.raises(UserError, match="copy: no weights in"):
    nss.load_network(copy)


@pytest.mark.slow
@pytest.mark.parametrize("block", TARGETS)
def test_every_phase(block, tmp_path):
  """By the command; what they write is read by the next, and by the report."""

  def run(phases, folder, target, arch=None, more=()):
    fields = {**ALL, **dict(more), "objective.target_flops": target}
    code, out, err = runs.run(
      *(f"--config.{path}={value}" for path, value in fields.items()),
      f"--config.space.block={block}",
      f"--phases={','.join(phases)}",
      f"--workdir={tmp_path / folder}",
      *([f"--arch={arch}"] if arch else []),
    )
    assert code == 0, err
    return out

  one, three = TARGETS[block]
  run(["latency_table"], "latency", one)
  phases = ["search", "evaluate", "rank_check", "nas", "complexity", "train"]
  run([*phases, "report"], "one", one)
  more = ["search", "principles", "report"]
  run(more, "three", three, more=THREE_STAGES.items())
  for folder, names in (("one", phases), ("three", more[:-1])):
    for name in names:
      assert any((tmp_path / folder / name).iterdir()), name
    assert (tmp_path / folder / "report" / "index.html").exists()
  summary = files.read_json(tmp_path / "latency/latency_table/summary.json")
  assert summary["search_space"]["block"] == block
  assert len(summary["networks"]) == 4
