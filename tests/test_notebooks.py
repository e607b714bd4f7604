"""The notebooks of colab/: whole, clean, and run in a few steps."""

import os
import pathlib
import re
import sys

import nbclient
import nbformat
import pytest
import runs

NOTEBOOKS = sorted((runs.ROOT / "colab").glob("*.ipynb"))
# What has never run shows nothing, and says so.
NOT_RUN = {"tpu_search"}
# Of this machine or that of whoever ran a notebook last.
PATHS = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|Users|opt)\b")


def _read(path):
  return nbformat.read(path, as_version=4)


def _code(notebook):
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _outputs(notebook):
  return [output for cell in _code(notebook) for output in cell.outputs]


def _text(notebook):
  """All that the cells have printed."""
  return "".join(output.get("text", "") for output in _outputs(notebook))


def _num_pictures(notebook):
  return sum("image/png" in o.get("data", {}) for o in _outputs(notebook))


def _check_outputs(notebook):
  for output in _outputs(notebook):
    assert output.output_type != "error", output
    assert output.get("name") != "stderr", output
  assert not re.search(r"warning|Traceback|\x1b", _text(notebook), re.I)


def _execute(name, folder):
  """Runs a notebook in a few steps, beside a link to the configs."""
  (folder / "colab").mkdir()
  (folder / "configs").symlink_to(runs.ROOT / "configs")
  environment = {
    **os.environ,
    "IPYTHONDIR": str(folder / "ipython"),
    "JAX_PLATFORMS": "cpu",
    "NSS_NOTEBOOK_TINY": "1",
    # `!python` is that of the tests, whatever is first elsewhere.
    "PATH": os.pathsep.join(
      [str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]
    ),
    "PYTHONPATH": str(runs.ROOT),
  }
  notebook = _read(runs.ROOT / "colab" / f"{name}.ipynb")
  for cell in _code(notebook):
    cell.outputs, cell.execution_count = [], None
  client = nbclient.NotebookClient(
    notebook,
    timeout=600,
    startup_timeout=600,
    kernel_name="python3",
    resources={"metadata": {"path": str(folder / "colab")}},
  )
  client.execute(env=environment)
  _check_outputs(notebook)
  return notebook


def test_there_are_three():
  assert [path.stem for path in NOTEBOOKS] == [
    "own_model",
    "quickstart",
    "tpu_search",
  ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_whole(path):
  notebook = _read(path)
  nbformat.validate(notebook)
  assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
  ids = [cell.id for cell in notebook.cells]
  assert len(set(ids)) == len(ids)
  first, install = notebook.cells[0].source, _code(notebook)[0].source
  assert f"/colab/{path.name})" in first  # its own badge
  assert "| runs on |" in first
  pins = re.findall(r"([\w-]+(?:\[\w+\])?)==([\d.]+)", install)
  assert len(pins) == 4
  for name, version in pins:
    assert f"{name} {version}" in first
  assert not PATHS.search(path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_run(path):
  notebook = _read(path)
  counts = [cell.execution_count for cell in _code(notebook)]
  if path.stem in NOT_RUN:
    assert "has not been run" in notebook.cells[0].source
    assert not _outputs(notebook)
    assert set(counts) == {None}
    return
  assert counts == list(range(1, len(counts) + 1))
  assert _num_pictures(notebook) >= 2
  _check_outputs(notebook)


@pytest.mark.slow
def test_quickstart(tmp_path):
  notebook = _execute("quickstart", tmp_path)
  assert "Elite Space" in _text(notebook)
  assert "of 3 random spaces have a smaller mean error" in _text(notebook)
  assert _num_pictures(notebook) == 3
  for result in ("search/elite_space.json", "evaluate/scores.csv"):
    assert (tmp_path / "runs" / "quickstart" / result).exists()


@pytest.mark.slow
def test_own_model(tmp_path):
  notebook = _execute("own_model", tmp_path)
  assert "576 spaces, 36864 networks" in _text(notebook)
  assert _num_pictures(notebook) == 2


@pytest.mark.slow
def test_tpu_search(tmp_path):
  """On the CPU: all but the TPU, the archive and Drive."""
  notebook = _execute("tpu_search", tmp_path)
  assert "MF in the mean" in _text(notebook)
  assert (tmp_path / "runs/cifar10_600mf/search/elite_space.json").exists()
