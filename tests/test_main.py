"""The command line: what is wrong is one line and exit code 2."""

import os
import re
import socket
import sys
import tomllib
from importlib import metadata

import numpy as np
import pytest
import runs
from absl import flags

import nss_jax
from nss_jax import command, main, version
from nss_jax.phases import registry

CONFIGS = runs.ROOT / "configs"
FIELD = "--config."
# flag -> words of the line: the field, the value and what is accepted
WRONG = {
  f"{FIELD}search.epocs=3": (
    "config.search.epocs: config.search has no field 'epocs'",
    "did you mean config.search.epochs?",
  ),
  f"{FIELD}serach.epochs=3": ("'serach'", "did you mean config.search?"),
  f"{FIELD}tolerance=0.1": (
    "config.tolerance: config has no field 'tolerance'",
    "did you mean config.complexity.tolerance or config.evaluate.tolerance or "
    "config.nas.tolerance?",
  ),
  f"{FIELD}xyz=3": ("config has no field 'xyz'; expected ", ", space, "),
  f"{FIELD}seed.foo=3": ("config.seed.foo: config.seed has no fields",),
  f"{FIELD}seed=abc": ("config.seed: 'abc'", "expected int"),
  f"{FIELD}search.epochs=2.5": ("config.search.epochs: '2.5'", "int"),
  f"{FIELD}data.flip=maybe": ("config.data.flip: 'maybe'", "expected bool"),
  f"{FIELD}space=3": ("config.space: '3'", "one of its fields"),
  f"{FIELD}seed=-1": ("config.seed: -1", "0 to 2^32 - 1"),
  f"{FIELD}objective.target_flops=few": ("target_flops: 'few'", "float"),
  f"{FIELD}objective.target_flops=1e12": (
    "config.objective.target_flops: 1e+12",
    "47441 to 4.27881e+07 multiply-adds",
  ),
  f"{FIELD}objective.constraints=({{'metric':'latency','target':1}},)": (
    "w/latency_table/summary.json: no latency table",
    "--phases=latency_table",
  ),
  f"{FIELD}search.elite_tolerance=1e-9": (
    "config.search.elite_tolerance: no space",
    "the nearest has",
  ),
  f"{FIELD}data.validation_fraction=0.01": (
    "config.data.validation_fraction=0.01",
    "1423 and 14",
    "one batch of 32",
  ),
  f"{FIELD}data.source=nowhere": (
    "config.data.source='nowhere'",
    "digits, cifar10",
  ),
  f"{FIELD}data.source=folder": ("config.data.path=''", "train/<class>"),
  f"{FIELD}data.crop_padding=8": (
    "config.data.crop_padding: 8 is not accepted",
    "less than the 8 pixels",
  ),
  f"{FIELD}space.num_width_bins=7": ("7 bins for 64", "must divide"),
  "--phases=search,dance": ("--phases: 'dance'", "list of search"),
  "--phases=": ("--phases: ''", "list of search"),
  "--sweep_index=few": ("--sweep_index: 'few'", "expected int"),
  "--sweep_index=0": (
    "--sweep_index: 0 is not accepted with --phases=search",
    "expected --phases=sweep",
  ),
  "--dry_run=maybe": ("--dry_run: 'maybe'", "expected bool"),
  "--workdri=x": ("--workdri: no such flag", "did you mean --workdir?"),
  "--max_width=8": ("--max_width: no such", "mean --config.space.max_width?"),
  "--xyz": ("--xyz: no such flag; see --help",),
  "--log_every=-1": ("--log_every: '-1'", "expected"),
  "--coordinator=here:1": ("--coordinator: here:1 alone", "--num_processes"),
  "--process_id=0": ("--process_id: 0 alone", "--coordinator"),
  "--distributed": ("did not come together", "--coordinator"),
  "stray": ("'stray'", "--help"),
}


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
  """The command in this process, much faster: `(exit code, out, err)`."""
  monkeypatch.chdir(tmp_path)

  def call(*flags, **kwargs):
    argv = ["nss_jax", *runs.command(*flags, **kwargs)[3:]]
    # ml_collections looks for fields there, and loads the file into one
    # module that would keep the names of the file before.
    monkeypatch.setattr(sys, "argv", argv)
    sys.modules.pop("config_config", None)
    with runs.saved_flags():
      try:
        code = main.main(command.parse_flags(argv))
      except SystemExit as exited:
        code = exited.code
    return code, *capsys.readouterr()

  return call


# Python deprecates how ml_collections loads a file.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*")


def _assert_refused(result, *words):
  """One line on standard error that holds the words, and exit code 2."""
  code, _, err = result
  assert code == 2, err
  assert err.startswith("error: ")
  assert err.count("\n") == 1, err
  assert err.endswith("\n")
  for word in words:
    assert word in err


def _everything(folder):
  return sorted(p for p in folder.rglob("*") if "__pycache__" not in p.parts)


@pytest.mark.parametrize(("flag", "words"), WRONG.items(), ids=str)
def test_wrong_input(flag, words, call, tmp_path):
  _assert_refused(call("--workdir=w", flag, tiny=False), *words)
  assert not _everything(tmp_path)


def test_cutout_of_whole_images_is_refused(call, tmp_path):
  flags = "--phases=train", "--arch=d1-1-1_w4-4-4", f"{FIELD}train.cutout=8"
  _assert_refused(
    call("--workdir=w", *flags),
    "config.train.cutout: 8 is not accepted",
    "less than the 8 pixels",
  )
  assert call("--workdir=w", "--dry_run", *flags[:2])[0] == 0
  assert not _everything(tmp_path)


def test_all_bad_images_are_printed(call, tmp_path):
  for part in ("train", "test"):
    for name in ("a", "b"):
      folder = tmp_path / part / name
      folder.mkdir(parents=True)
      (folder / "x.png").write_bytes(b"<html>")
  before = _everything(tmp_path)
  flags = f"{FIELD}data.source=folder", f"{FIELD}data.path={tmp_path}"
  result = call("--workdir=w", *flags, tiny=False)
  _assert_refused(result, "'train/a/x.png' is damaged", "and 3 more of the 4")
  told = [x.split()[0] for x in result[1].splitlines() if "is damaged" in x]
  assert told == [
    f"'{part}/{name}/x.png'" for part in ("train", "test") for name in "ab"
  ]
  assert _everything(tmp_path) == before


def _small_set(folder):
  """Two classes of 8x8 images, one of which test lacks."""
  images = np.random.default_rng(0).integers(0, 256, (400, 8, 8), np.uint8)
  np.savez(
    folder / "set.npz",
    x_train=images,
    y_train=np.arange(400) % 2,
    x_test=images[:8],
    y_test=np.zeros(8, int),
  )
  return f"{FIELD}data.source=npz", f"{FIELD}data.path={folder / 'set.npz'}"


def test_outputs_are_those_of_the_data_unless_set(call, tmp_path):
  flags = "--workdir=w", "--dry_run", *_small_set(tmp_path)
  code, out, _ = call(*flags, tiny=False)  # the quickstart says 10
  assert code == 0
  assert "warning: config.space.num_classes=10: the data have 2 classes" in out
  assert "test has no image of 1 of the 2 classes (1)" in out
  for count in (0, 2):
    given = f"{FIELD}space.num_classes={count}"
    code, out, _ = call(*flags, given, tiny=False)
    assert code == 0 and "num_classes" not in out


@pytest.mark.parametrize(
  ("place", "words"),
  [
    (("here", 2, 0), ("--coordinator: 'here'", "host:port")),
    (("here:1", 0, 0), ("--num_processes: 0", "1 or more")),
    (("here:1", 2, 2), ("--process_id: 2", "0 to 1")),
    (("here:1", 2, -1), ("--process_id: -1", "0 to 1")),
  ],
)
def test_wrong_place_among_processes(place, words, call, tmp_path):
  names = ("coordinator", "num_processes", "process_id")
  flags = [f"--{n}={v}" for n, v in zip(names, place, strict=True)]
  _assert_refused(call("--workdir=w", *flags), *words)
  assert not _everything(tmp_path)


@pytest.mark.parametrize(
  ("text", "words"),
  [
    (None, ("'config.py': no such file", "one that comes", "quickstart")),
    ("def get_config(:", ("SyntaxError", "config.py, line 1")),
    ("x = 1", ("get_config",)),
    ("import nothing_like_it", ("nothing_like_it", "config.py, line 1")),
    ("def get_config(): return 1 / 0", ("division by zero", "config.py")),
    ("def get_config(): raise ValueError('a\\nb')", ("config.py", "b")),
    ("import sys; sys.exit(1)", ("config.py calls SystemExit(1)",)),
    ("def get_config(): return {'seed': 0}", ("dict", "ConfigDict")),
    ("def get_config(): pass", ("NoneType", "ConfigDict")),
    (
      "from nss_jax import config\n"
      "def get_config():\n"
      "  fields = config.base()\n"
      "  fields.search.epocs = 3\n"
      "  return fields\n",
      ("config.search has no field 'epocs'", "mean config.search.epochs?"),
    ),
    (
      "from nss_jax import config\n"
      "def get_config():\n"
      "  fields = config.base()\n"
      "  del fields.seed\n"
      "  return fields\n",
      ("config: the field 'seed' is missing",),
    ),
  ],
)
def test_wrong_config_file(text, words, call, tmp_path):
  if text is not None:
    (tmp_path / "config.py").write_text(text)
  before = _everything(tmp_path)
  _assert_refused(call("--workdir=w", config="config.py"), "config", *words)
  assert _everything(tmp_path) == before


@pytest.mark.parametrize(
  ("config", "meant"),
  [
    ("cifar100_600.py", "configs/cifar100_600mf.py"),
    ("config/mine.yaml", "configs/mine.py"),
    ("configs/cifr.py:cifar10_200mf", "cifar:cifar10_200mf"),
    ("quikstart", "quickstart"),
    ("configs/quickstart.py", "quickstart"),
    ("near/ours.py", "near/our.py"),
  ],
)
def test_mistyped_config_file(config, meant, call, tmp_path):
  for name in ("configs/cifar100_600mf.py", "configs/mine.py", "near/our.py"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
  result = call("--workdir=w", config=config)
  file = config.partition(":")[0]
  _assert_refused(result, f"{file!r}: no such file; did you mean {meant}?")


def test_config_by_name(call, tmp_path):
  """What comes along is found anywhere, unless a file has that name."""
  code, out, _ = call("--dry_run", config="quickstart", tiny=False)
  assert code == 0
  assert "262144 spaces" in out
  (tmp_path / "quickstart").write_text("def get_config(): return 1 / 0")
  _assert_refused(call("--dry_run", config="quickstart"), "division by zero")


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("fast", "'fast' is not accepted; expected a data set and a target"),
    ("cifar10_nanmf", "like cifar10_600mf or cifar100_600mf"),
    ("cifar100_-5mf", "the paper's targets are 200, 400, 600, 1600, 3200"),
    ("cifar100_0mf", "'cifar100_0mf' is not accepted"),
  ],
)
def test_wrong_argument_of_a_config_file(argument, words, call):
  config = f"{CONFIGS / 'cifar.py'}:{argument}"
  _assert_refused(call("--workdir=w", config=config), words)


def test_compile_cache_is_said_to_be_off_on_cpu(call, tmp_path):
  result = call("--workdir=w", "--compile_cache=c", "--phases=train")
  assert "--compile_cache: off on CPU" in result[1]
  _assert_refused(result, "needs a finished nas")
  assert not _everything(tmp_path)
  _, out, _ = call("--workdir=w", "--phases=train")
  assert "cache" not in out


def test_missing_config(call):
  _assert_refused(call(f"{FIELD}seed=1", config=None), "--config is missing")


@pytest.mark.parametrize(
  ("workdir", "words"),
  [
    ("file", "file is not a folder"),
    ("file/w", "file is not a folder"),
    ("taken", "search is not a folder"),
    ("x" * 300, "File name too long"),
    ("broken", "config.json: not JSON"),
    ("w\udcf6rk", "as it is not UTF-8; expected a name that is, and a locale"),
  ],
)
def test_unusable_workdir(workdir, words, call, tmp_path):
  (tmp_path / "file").write_text("")
  (tmp_path / "taken").mkdir()
  (tmp_path / "taken" / "search").write_text("")
  (tmp_path / "broken").mkdir()
  (tmp_path / "broken" / "config.json").write_text('{"seed": ')
  before = _everything(tmp_path)
  _assert_refused(call(f"--workdir={workdir}"), words)
  assert _everything(tmp_path) == before


@pytest.mark.parametrize("workdir", ["locked", "locked/a/w"])
def test_workdir_without_permission(workdir, call, tmp_path, monkeypatch):
  folder = tmp_path / "locked"
  folder.mkdir()
  # Permission bits do not bind root, who runs the tests in many containers.
  allowed = os.access
  monkeypatch.setattr(
    os, "access", lambda p, m: os.fspath(p) != "locked" and allowed(p, m)
  )
  result = call(f"--workdir={workdir}")
  _assert_refused(result, "no permission to write to locked")
  assert not _everything(folder)


def test_wrong_input_of_the_true_command(tmp_path):
  _assert_refused(runs.run(f"--workdir={tmp_path}/w", "stray"))
  assert not (tmp_path / "w").exists()


def test_dry_run_of_all_phases(call, tmp_path):
  code, out, err = call("--workdir=w", "--dry_run", "--phases=all", tiny=False)
  assert (code, err) == (0, "")
  for words in (
    "1437 training images of 8x8x1, 10 classes",
    "262144 spaces, 1.34e+08 archs",
    "0.0474 MF to 42.8 MF",
    "30 epochs (8 of warmup) of 22 steps, 660 in all",
    "multiply-adds in all",
    "GiB per device",
    "devices    8 x cpu",
  ):
    assert words in out
  planned = [line.split()[0] for line in out.splitlines()]
  expected = [
    n for n in registry.of_a_target() if n not in ("search", "report")
  ]
  assert [n for n in planned if n in expected] == expected
  assert not _everything(tmp_path)


@pytest.mark.parametrize(
  ("source", "classes"), [("cifar10_binary", 10), ("cifar100_binary", 100)]
)
def test_dry_run_fetches_nothing(source, classes, call, tmp_path, monkeypatch):
  def refuse(*_, **__):
    raise AssertionError("there is no network here")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  code, out, err = call(
    "--workdir=w",
    "--dry_run",
    f"{FIELD}data.source={source}",
    f"{FIELD}data.cache_dir=cache",
    f"{FIELD}data.balanced_split=True",
    f"{FIELD}space.num_classes={classes}",
    f"{FIELD}search.batch_size=64",
    f"{FIELD}objective.target_flops=1e6",
  )
  assert (code, err) == (0, "")
  assert f"{source}: 50000 training images of 32x32x3, {classes} classes" in out
  assert "of 390 steps" in out
  assert not _everything(tmp_path)


def test_dry_run_counts_the_passes_of_the_search(call):
  """Once for warmup, twice after; forward and twice back; largest network."""
  masked = "--config.supernet.engine=masked"
  _, out, _ = call("--workdir=w", "--dry_run", masked, tiny=False)
  (line,) = [line for line in out.splitlines() if line.startswith("compute")]
  images = 22 * 32 * (8 + 2 * 22)
  (cost,) = [line for line in out.splitlines() if line.startswith("cost")]
  largest = float(cost.split("largest network ")[1].split(" MF")[0]) * 1e6
  assert float(line.split()[1]) == pytest.approx(images * 3 * largest, rel=1e-2)


def test_entry_point(capsys, monkeypatch):
  """`nss` is the same command, its help included."""
  project = tomllib.loads((runs.ROOT / "pyproject.toml").read_text())["project"]
  entry = metadata.EntryPoint("nss", project["scripts"]["nss"], "")
  monkeypatch.setattr(sys, "argv", ["nss", "stray"])
  monkeypatch.setattr(sys.modules["__main__"], "__doc__", "pytest")
  with runs.saved_flags(), pytest.raises(SystemExit) as exited:
    entry.load()()
  assert exited.value.code == 2
  assert capsys.readouterr().err.startswith("error: --config is missing")
  assert "multiply-adds" in sys.modules["__main__"].__doc__
  assert "--[no]dry_run" in flags.FLAGS.main_module_help()


def test_help_says_what_flops_are():
  code, out, err = runs.run("--help", config=None)
  assert code == 0
  assert not err
  for words in ("multiply-adds", "--workdir", "--phases", "--[no]dry_run"):
    assert words in out


def test_version():
  assert re.fullmatch(r"\d+\.\d+\.\d+\S*", nss_jax.__version__)
  assert nss_jax.__version__ == version.__version__
