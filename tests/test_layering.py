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


def _drawn() -> list[list[str]]:
  """The rooms of each line of the README's map, the lowest line first."""
  text = (ROOT / "README.md").read_text()
  drawing = re.search(r"below it:\n\n```\n(.*?)```", text, re.DOTALL)
  assert drawing
  # The rooms of a line have two spaces between them; words follow after more.
  names = [
    re.match(r"\S+(  \S+)*", line)[0].split()
    for line in drawing[1].splitlines()
  ]
  return [*reversed(names), ["command"], ["subcommands"], ["main"]]


LEVELS = {room: k for k, rooms in enumerate(_drawn()) for room in rooms}
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
  if room not in LEVELS:
    assert room in ("__init__", "version")
    return
  for name in _imports(path):
    parts = name.split(".")
    if parts[0] != "nss_jax" or parts[1] == "version":
      continue
    is_below = LEVELS[parts[1]] < LEVELS[room]
    assert is_below or parts[1] == room, f"{path}: {name}"
    # What images and results are made of, no step has a part in.
    if room in ("data", "results"):
      assert parts[1] != "steps", f"{path}: {name}"


def test_every_room_is_drawn():
  folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
  files = {"errors", "command", "subcommands", "main"}
  assert folders - {"__pycache__", "configs"} == LEVELS.keys() - files


def test_no_two_files_have_one_name():
  names = [path.stem for path in FILES if path.stem != "__init__"]
  assert len(names) == len(set(names))


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
  assert len(text.splitlines()) <= 350, path
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
  [
    (PACKAGE, ("tensorboard", "onnx", "tflite")),
    (ROOT / "tests" / "examples", ("test",)),
  ],
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
    " 'matplotlib', 'sklearn', 'pooch', 'PIL', 'ml_collections', 'pydantic',"
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
