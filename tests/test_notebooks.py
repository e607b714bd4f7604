"""The notebooks of colab/: whole, clean, and run in a few steps."""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import types
import venv

import nbclient
import nbformat
import numpy as np
import pytest
import runs
from IPython.core import inputtransformer2

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
  assert not re.search(r"Warning|WARN|Traceback|\x1b", _text(notebook))


def _fresh(name):
  """A notebook as if it had never run."""
  notebook = _read(runs.ROOT / "colab" / f"{name}.ipynb")
  for cell in _code(notebook):
    cell.outputs, cell.execution_count = [], None
  return notebook


def _execute(notebook, cwd, **environment):
  client = nbclient.NotebookClient(
    notebook,
    timeout=600,
    startup_timeout=600,
    kernel_name="python3",
    resources={"metadata": {"path": str(cwd)}},
  )
  client.execute(env={**os.environ, "JAX_PLATFORMS": "cpu", **environment})
  _check_outputs(notebook)
  return notebook


def _execute_tiny(name, folder, **environment):
  """Runs a notebook in a few steps, beside a link to the configs."""
  (folder / "colab").mkdir()
  (folder / "configs").symlink_to(runs.ROOT / "configs")
  return _execute(
    _fresh(name),
    folder / "colab",
    IPYTHONDIR=str(folder / "ipython"),
    NSS_NOTEBOOK_TINY="1",
    PYTHONPATH=str(runs.ROOT),
    **environment,
  )


class _Shell:
  """Stands for IPython: notes the commands, and how they ended."""

  def __init__(self, exit_code=0):
    self.user_ns, self.commands = {"_exit_code": exit_code}, []

  def system(self, command):
    self.commands.append(command)


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
  """Runs a notebook's first cell in an empty folder, as Colab does."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  monkeypatch.setenv("TTY_COMPATIBLE", "0")
  to_python = inputtransformer2.TransformerManager().transform_cell

  def run(path, shell, owner="you"):
    monkeypatch.chdir(tmp_path)
    source = re.sub(
      r"github\.com/[\w.-]+/",
      f"github.com/{owner}/",
      _code(_read(path))[0].source,
    )
    exec(to_python(source), {"get_ipython": lambda: shell})

  return run


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


def test_first_cells_differ_in_what_they_pin():
  own, quickstart, tpu = (_code(_read(path))[0].source for path in NOTEBOOKS)
  assert tpu.replace('"jax[tpu]==', '"jax==') == quickstart
  assert own.splitlines() == [
    line
    for line in quickstart.splitlines()
    if not line.startswith(("os.environ", "NSS = "))
  ]


def test_every_command_is_checked():
  for path in NOTEBOOKS:
    for cell in _code(_read(path)):
      lines = [line.strip() for line in cell.source.splitlines()] + [""]
      for line, after in itertools.pairwise(lines):
        assert not line.startswith("!") or after == "check()", line


def test_a_notebook_has_a_workdir_of_its_own():
  """The README's command in the same checkout is of another config."""
  for name in ("quickstart", "tpu_search"):
    source = "".join(cell.source for cell in _code(_fresh(name)))
    assert "--workdir={WORKDIR}" in source
    assert not re.search(r"runs/quickstart\b(?!_)", source)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cell_fetches_and_installs(path, first_cell, tmp_path):
  (tmp_path / "checkout").mkdir()
  shell = _Shell()
  first_cell(path, shell)
  (pip,) = shell.commands  # what was fetched before stays
  assert pip.endswith("-e ./checkout")
  assert pathlib.Path.cwd() == tmp_path / "checkout"
  assert sys.path[0] == str(tmp_path / "checkout")


def test_first_cell_says_that_the_owner_is_missing(first_cell):
  shell = _Shell()
  with pytest.raises(Exception, match="GitHub owner for OWNER") as raised:
    first_cell(NOTEBOOKS[0], shell, owner="OWNER")
  (line,) = raised.value._render_traceback_()
  assert len(line) < 80
  assert not shell.commands


def test_first_cell_stops_where_a_command_fails(first_cell, tmp_path):
  shell = _Shell(exit_code=128)
  with pytest.raises(Exception, match=r"failed \(exit code 128\)"):
    first_cell(NOTEBOOKS[0], shell)
  (clone,) = shell.commands
  assert clone.startswith("git clone ")
  assert pathlib.Path.cwd() == tmp_path


def test_first_cell_says_when_to_restart(first_cell, tmp_path, monkeypatch):
  """Colab has loaded a numpy that `pip` then replaces."""
  (tmp_path / "checkout").mkdir()
  stale = types.SimpleNamespace(__version__="2.0.2")
  monkeypatch.setitem(sys.modules, "numpy", stale)
  with pytest.raises(Exception, match="restart, run all again"):
    first_cell(NOTEBOOKS[0], _Shell())
  monkeypatch.setitem(sys.modules, "numpy", np)
  first_cell(NOTEBOOKS[0], _Shell())


def test_one_command_replaces_the_owner(tmp_path):
  shutil.copytree(runs.ROOT / "colab", tmp_path / "colab")
  shutil.copy(runs.ROOT / "README.md", tmp_path)
  (sed,) = re.findall(
    r"^sed .*", (tmp_path / "colab" / "README.md").read_text(), re.MULTILINE
  )
  subprocess.run(sed, shell=True, check=True, cwd=tmp_path)
  for path in [tmp_path / "README.md", *tmp_path.glob("colab/*.ipynb")]:
    assert "OWNER/nss_jax" not in path.read_text()


def _python_beside(folder):
  """An environment that has our packages, but not nss_jax, and its kernel."""
  venv.create(folder / "venv", with_pip=True)
  python = folder / "venv" / "bin" / "python"
  ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
  site = subprocess.check_output([python, "-c", ask], text=True).strip()
  # Packages beside are seen by pip and not touched; no editable one is seen.
  ours = sysconfig.get_path("purelib")
  (pathlib.Path(site) / "beside.pth").write_text(ours)
  kernel = folder / "jupyter" / "kernels" / "python3"
  kernel.mkdir(parents=True)
  arguments = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
  (kernel / "kernel.json").write_text(
    json.dumps({"argv": [str(python), *arguments], "display_name": "beside"})
  )


@pytest.mark.slow
def test_install_as_on_colab(tmp_path, monkeypatch):
  """Clone, `pip install`, import; a clone on disk stands for GitHub."""
  _python_beside(tmp_path)
  monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
  monkeypatch.delenv("PYTHONPATH", raising=False)
  remote = tmp_path / "remote"
  subprocess.run(
    ["git", "clone", "--quiet", "--bare", runs.ROOT, remote], check=True
  )
  notebook = _fresh("quickstart")
  install = _code(notebook)[0]
  address = re.search(r'REPOSITORY = "(.*)"', install.source)[1]
  github = address.replace("/OWNER/", "/you/")
  # What is installed here will do.
  install.source = re.sub(
    r"(?<=\w)==[\d.]+", "", install.source.replace(address, github)
  )
  look = "os.chdir('..'); import nss_jax; print(nss_jax.__file__)"
  notebook.cells = [install, nbformat.v4.new_code_cell(look)]
  _execute(
    notebook,
    tmp_path,
    GIT_CONFIG_COUNT="1",
    GIT_CONFIG_KEY_0=f"url.file://{remote}.insteadOf",
    GIT_CONFIG_VALUE_0=github,
    IPYTHONDIR=str(tmp_path / "ipython"),
    PIP_DISABLE_PIP_VERSION_CHECK="1",
    PIP_NO_BUILD_ISOLATION="0",  # which turns it off
    PIP_NO_DEPS="1",
    PIP_NO_INDEX="1",
  )
  package = tmp_path / "checkout" / "nss_jax" / "__init__.py"
  assert _text(notebook) == f"{package}\n"


@pytest.mark.slow
def test_what_stops_is_shown_in_one_line(tmp_path):
  notebook = _fresh("quickstart")
  install = _code(notebook)[0]
  install.source = re.sub("(?<=github.com/)[^/]+", "OWNER", install.source)
  with pytest.raises(nbclient.exceptions.CellExecutionError):
    _execute(notebook, tmp_path, IPYTHONDIR=str(tmp_path / "ipython"))
  (error,) = _outputs(notebook)  # of the first cell; no other was run
  (line,) = error.traceback
  assert line.startswith("Stopped: line 6: put")


@pytest.mark.slow
def test_quickstart(tmp_path):
  notebook = _execute_tiny("quickstart", tmp_path)
  assert "Elite Space" in _text(notebook)
  assert "of 3 random spaces have a smaller mean error" in _text(notebook)
  assert _num_pictures(notebook) == 3
  for result in ("search/elite_space.json", "evaluate/scores.csv"):
    assert (tmp_path / "runs" / "quickstart_notebook" / result).exists()


@pytest.mark.slow
def test_own_model(tmp_path):
  notebook = _execute_tiny("own_model", tmp_path)
  assert "576 spaces, 36864 networks" in _text(notebook)
  assert _num_pictures(notebook) == 2


@pytest.mark.slow
def test_tpu_search(tmp_path):
  """On eight CPU devices: all but the TPU, the archive and Drive."""
  notebook = _execute_tiny("tpu_search", tmp_path, JAX_NUM_CPU_DEVICES="8")
  assert "devices    8 x cpu" in _text(notebook)
  assert "MF in the mean" in _text(notebook)
  assert (tmp_path / "runs/cifar10_600mf/search/elite_space.json").exists()
