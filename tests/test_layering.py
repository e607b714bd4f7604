"""Imports go down the rooms only, and the importable surface stays light."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

import nss_jax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "nss_jax"
ROOMS = (
  *("errors", "spaces", "supernet", "steps", "runtime"),
  *("data", "config", "phases", "command", "main"),
)
FILES = sorted(PACKAGE.rglob("*.py"))


def _room(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_imports_go_down(path):
  room = _room(path)
  if room not in ROOMS:
    assert room in ("__init__", "version")
    return
  for name in _imports(path):
    parts = name.split(".")
    if parts[0] != "nss_jax" or parts[1] == "version":
      continue
    assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path}: {name}"
    # Steps know nothing of the outside world, nor the outside of the steps.
    if room == "runtime":
      assert parts[1] in ("errors", "spaces", "runtime"), f"{path}: {name}"
    if room == "data":
      below = "errors", "spaces", "runtime", "data"
      assert parts[1] in below, f"{path}: {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_each_room_imports_its_own_libraries(path):
  names = _imports(path)
  linen = any(n.startswith(("flax.linen", "flax.nnx")) for n in names)
  assert not linen or _room(path) == "supernet", path
  if _room(path) in ("spaces", "supernet", "steps"):
    outside = ("absl", "ml_collections", "orbax", "rich", "matplotlib", "time")
    assert not any(n.split(".")[0] in outside for n in names), path
  if _room(path) == "spaces":
    assert not any(n.split(".")[0] == "optax" for n in names), path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_stay_small_and_safe(path):
  text = path.read_text()
  assert len(text.splitlines()) <= 380, path
  # What we read is data, never code.
  forbidden = r"\bpickle\b|yaml\.load|\beval\(|\bexec\(|extractall|shell=True"
  assert not re.search(forbidden, text), path
  assert "allow_pickle=True" not in text, path


def _declared(*extras: str) -> set[str]:
  """Distributions that `pip install -e .` brings, with extras."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  wanted = [*project["dependencies"]]
  for extra in extras:
    wanted += project["optional-dependencies"][extra]
  names = {re.match(r"[\w-]+", line)[0] for line in wanted}
  return {name.replace("_", "-").lower() for name in names}


@pytest.mark.parametrize(
  ("folder", "extras"),
  [(PACKAGE, ("tensorboard",)), (ROOT / "tests" / "examples", ())],
)
def test_what_is_imported_is_declared(folder, extras):
  """Not only what happens to come with something else."""
  distributions = metadata.packages_distributions()
  own = {*sys.stdlib_module_names, "nss_jax"}
  for path in folder.rglob("*.py"):
    modules = {name.split(".")[0] for name in _imports(path)} - own
    for module in modules:
      found = {x.replace("_", "-").lower() for x in distributions[module]}
      assert found & _declared(*extras), f"{path}: {module}"


@pytest.mark.parametrize(
  ("library", "needs"),
  [("jax.export", "flatbuffers"), ("pooch", "tqdm"), ("tfds", "array_record")],
)
def test_what_libraries_import_late_is_declared(library, needs):
  """When something is exported, fetched with a bar, or read as prepared."""
  declared = _declared()
  if needs.replace("_", "-") not in declared:
    required = metadata.requires("tensorflow-datasets")
    assert any(line.startswith(needs) for line in required), library


def _functions(body: list[ast.stmt]) -> list[tuple[ast.FunctionDef, bool]]:
  """Functions of a module and methods of its classes; whether a method.

  Not what is inside of functions, where pyrefly infers what it can.
  """
  found = []
  for node in body:
    if isinstance(node, ast.FunctionDef):
      found.append((node, False))
    elif isinstance(node, ast.ClassDef):
      found += [(m, True) for m in node.body if isinstance(m, ast.FunctionDef)]
  return found


def _missing_hints(function: ast.FunctionDef, is_method: bool) -> list[str]:
  given = function.args
  stars = [star for star in (given.vararg, given.kwarg) if star]
  names = [*given.posonlyargs, *given.args, *given.kwonlyargs, *stars]
  static = any(
    isinstance(d, ast.Name) and d.id == "staticmethod"
    for d in function.decorator_list
  )
  names = names[1:] if is_method and not static else names
  missing = [name.arg for name in names if name.annotation is None]
  returns = function.returns or function.name in ("__init__", "__post_init__")
  return missing if returns else [*missing, "return"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_functions_and_methods_have_all_their_hints(path):
  for function, is_method in _functions(ast.parse(path.read_text()).body):
    missing = _missing_hints(function, is_method)
    assert not missing, f"{path}:{function.lineno}: {missing}"


def test_type_checkers_find_the_hints():
  assert (PACKAGE / "py.typed").exists()
  project = (ROOT / "pyproject.toml").read_text()
  assert 'nss_jax = ["py.typed"]' in project


def test_top_level_holds_the_agreed_names():
  tracked = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
  )
  if tracked.returncode:
    pytest.skip("not a git checkout")
  names = {line.split("/")[0] for line in tracked.stdout.splitlines()}
  assert {n for n in names if not n.startswith(".")} <= {
    "pyproject.toml",
    "README.md",
    "nss_jax",
    "configs",
    "launch",
    "tests",
    "colab",
  }


def test_import_is_light():
  code = (
    "import sys, nss_jax; "
    "print([m for m in ('tensorflow', 'tensorflow_datasets', 'orbax', 'rich',"
    " 'matplotlib', 'sklearn', 'pooch', 'ml_collections', 'pydantic',"
    " 'absl.flags')"
    " if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  loaded = set(ast.literal_eval(done.stdout))
  # flax and chex load these two themselves; none of the rest may come in.
  assert loaded <= {"absl.flags", "rich"}


def test_public_names_exist_and_are_sorted():
  assert list(nss_jax.__all__) == sorted(nss_jax.__all__)
  for name in nss_jax.__all__:
    assert hasattr(nss_jax, name)
    thing = getattr(nss_jax, name)
    assert name == "__version__" or thing.__doc__, name
