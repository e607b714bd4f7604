"""The examples run, and find what they should."""

import os
import runpy
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax.phases import loop, running, search
from nss_jax.spaces.search_space import space_ranges

EXAMPLES = runs.ROOT / "tests" / "examples"


def _run(name):
  """The names that a script ends with."""
  return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize(
  "path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem
)
def test_an_example_is_short_and_says_how_to_run_it(path):
  text = path.read_text()
  assert len(text.splitlines()) < 60
  assert f"\n  python tests/examples/{path.name}\n" in text


def test_any_model():
  found = _run("any_model")
  assert found["macs"] == pytest.approx(2000, rel=0.1)
  start = found["cost"](np.full((2, 5), 0.2))
  assert start == pytest.approx(2450.24)  # the search had to move it
  assert found["test"]["accuracy"] > 0.85  # of 597 digits that no step has seen


def test_custom_cost():
  found = _run("custom_cost")
  space, elite = found["SPACE"], found["elite"]
  # It commits to one space, of which few are so near.
  assert found["expected"] == pytest.approx(3, rel=0.07)
  assert elite.cost == pytest.approx(float(found["expected"]), rel=0.03)
  # The closed form is the mean over all networks of the space.
  each = [
    found["energy"](nss.arch_macs(space, arch), arch.depth, arch.width)
    for arch in nss.enumerate_archs(space, elite.space)
  ]
  assert np.ptp(each) > 1
  assert elite.cost == pytest.approx(np.mean(each), rel=1e-5)


def test_custom_block():
  found = _run("custom_block")
  space, arch = found["SPACE"], found["arch"]
  # Stem; stages 1 and 2, whose first blocks project; head: by hand.
  stem = 64 * 9 * 8
  first = 64 * (8 * 4 + 9 * 4 + 4 * 7 + 8 * 7) + (4 + 1) * 2 + (2 + 1) * 4
  second = 64 * (7 * 4 + 9 * 4 + 4 * 7) + (4 + 1) * 2 + (2 + 1) * 4
  last = 64 * 7 * 7 + 16 * (9 * 7 + 7 * 13 + 7 * 13)
  last += (7 + 1) * 4 + (4 + 1) * 7
  head = (13 + 1) * 10
  assert nss.arch_macs(space, arch) == stem + first + second + last + head
  sizes = [x.size for x in jax.tree.leaves(found["small"])]
  assert nss.arch_params(space, arch) == sum(sizes)
  assert found["metrics"]["loss"] < 2.1  # of log(10) = 2.3 at the start
  np.testing.assert_allclose(
    found["outputs"], found["masked"], rtol=1e-3, atol=1e-3
  )


@pytest.mark.slow
def test_other_spaces():
  found = _run("other_spaces")
  space, elite = found["SPACE"], found["elite"]
  assert space.num_spaces == (2 * 2) * (3 * 3) * (1 * 2) * (2 * 1)
  # Of all spaces none is closer.
  distances = abs(nss.all_space_macs(space) / found["TARGET"] - 1)
  cost = found["found"].costs[0, 0]
  assert abs(cost / found["TARGET"] - 1) == pytest.approx(distances.min())
  each = nss.enumerate_archs(space, elite)
  macs = [int(nss.arch_macs(space, arch)) for arch in each]
  assert np.mean(macs) == pytest.approx(cost)
  assert set(nss.arch_macs(space, found["archs"]).tolist()) <= set(macs)
  assert found["masked"].shape == (4, 7)
  assert np.ptp(found["masked"]) > 0.1
  np.testing.assert_allclose(found["sliced"], found["masked"], atol=1e-4)


FRESH = """
import sys, jax, numpy as np
from jax import export
network = export.deserialize(open(sys.argv[1], "rb").read())
for name in sys.argv[2:]:
  np.save(name + "_out", network.call(np.load(name + ".npy")))
assert "nss_jax" not in sys.modules
"""


def test_export(tmp_path, monkeypatch):
  """Of a real search; the file is read by a process without this library."""
  fields = {"search.epochs": 2, "search.warmup_epochs": 0}  # one program
  fields |= {"space.strides": (1,), "objective.target_flops": 4e5}
  fields |= {"space.max_width": 16}
  config = runs.load_config(**{**runs.TINY, **fields})
  job = runs.make_job(config, tmp_path / "run")
  running.run_phase(search.PHASE, job)
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(sys, "argv", ["export.py", str(tmp_path / "run")])
  found = _run("export")
  folder, arch = found["folder"], found["arch"]
  assert {path.name for path in folder.iterdir()} == {"network", "tuned"}
  assert folder.parent == tmp_path
  # The arch is of the space that was found, the weights of that search.
  for kind, ranges in space_ranges(*nss.load_space(tmp_path / "run")).items():
    ((low, high),) = ranges
    assert low <= int(getattr(arch, kind)[0]) <= high
  state = loop.Checkpoints(job.workdir / "search" / "checkpoints").read()
  width = int(arch.width[0])
  np.testing.assert_array_equal(
    found["params"]["head"]["kernel"],
    state["weights"]["params"]["head"]["kernel"][:width],
  )
  # orbax gives back what was tuned, and that is not what it began with.
  jax.tree.map(
    np.testing.assert_array_equal, found["tuned"], found["state"][:2]
  )
  assert abs(found["tuned"][0]["head"]["bias"]).max() > 1e-3
  assert (found["logits"].argmax(-1) == found["test_y"]).mean() > 0.75
  assert found["exported"].platforms == ("cpu", "cuda", "tpu")
  # Any batch size.
  names = [str(tmp_path / name) for name in ("all", "one")]
  for name, count in zip(names, (360, 1), strict=True):
    np.save(name, found["test_x"][:count])
  network = str(folder / "network")
  process = subprocess.run(
    [sys.executable, "-c", FRESH, network, *names],
    cwd=tmp_path,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert process.returncode == 0, process.stderr
  for name, count in zip(names, (360, 1), strict=True):
    theirs = np.load(f"{name}_out.npy")
    np.testing.assert_allclose(theirs, found["logits"][:count], atol=1e-5)
