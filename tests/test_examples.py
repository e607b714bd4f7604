"""The examples run, and find what they should."""

import runpy
import tempfile

import jax
import numpy as np
import pytest
import runs

import nss_jax as nss

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
  assert found["expected"] == pytest.approx(3, rel=0.05)
  assert elite.cost == pytest.approx(3, rel=0.1)
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


def test_other_spaces():
  found = _run("other_spaces")
  space, elite = found["SPACE"], found["elite"]
  assert space.num_spaces == (2 * 2) * (3 * 3) * (1 * 2) * (2 * 1)
  # Of all spaces none is closer.
  distances = abs(nss.all_space_macs(space) / found["TARGET"] - 1)
  assert abs(elite.cost / found["TARGET"] - 1) == pytest.approx(distances.min())
  each = nss.enumerate_archs(space, elite.space)
  macs = [int(nss.arch_macs(space, arch)) for arch in each]
  assert np.mean(macs) == pytest.approx(elite.cost)
  assert set(nss.arch_macs(space, found["archs"]).tolist()) <= set(macs)
  assert found["masked"].shape == (4, 7)
  assert np.ptp(found["masked"]) > 0.1
  np.testing.assert_allclose(found["sliced"], found["masked"], atol=1e-4)


def test_export(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  found = _run("export")
  assert {path.name for path in found["folder"].iterdir()} == {
    "network",
    "tuned",
  }
  assert found["folder"].parent == tmp_path
  np.testing.assert_allclose(found["theirs"], found["ours"], atol=1e-5)
  assert found["exported"].platforms == ("cpu", "cuda", "tpu")
  assert (found["theirs"].argmax(-1) == found["labels"]).mean() > 0.75
  # Any batch size.
  one = found["again"].call(found["images"][:1])
  np.testing.assert_allclose(
    one, found["predict"](found["images"][:1]), atol=1e-5
  )
