"""`nss find`, `nss predict` and `nss export`, as they are typed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import trained_networks
from PIL import Image

import nss_jax as nss
from nss_jax import main, subcommands
from nss_jax.errors import Diverged, Interrupted, UserError
from nss_jax.phases import find as find_lib

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A saved network, and two images."""
  made = tmp_path_factory.mktemp("words")
  names = ("cat", "dog", "owl", "fox", "ant")
  network = trained_networks.make(class_names=names)
  network.save(made / "net")
  for k, image in enumerate(trained_networks.images_of(network, 2)):
    Image.fromarray(image).save(made / f"{k}.png")
  (made / "text.png").write_text("no picture")
  return made


@pytest.fixture
def run(folder, monkeypatch, capsys):
  """Runs a command there; returns exit code, lines and lines of errors."""

  def run(*argv):
    monkeypatch.chdir(folder)
    try:
      code = main.main_of_words(list(argv))
    except SystemExit as stop:
      code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()

  return run


def test_predict_tells_the_best_three(run, folder):
  code, lines, errors = run("predict", "net", "0.png", "1.png")
  assert (code, errors) == (0, [])
  network = nss.load_network(folder / "net")
  for line, k in zip(lines, range(2), strict=True):
    found = network.predict(folder / f"{k}.png").probabilities
    best = [f"{name} {x:.1%}" for name, x in list(found.items())[:3]]
    assert line == f"{k}.png: {', '.join(best)}"


def test_predict_as_json(run, folder):
  code, lines, _ = run("predict", "--json", "net", "1.png", "0.png")
  assert code == 0
  network = nss.load_network(folder / "net")
  for line, name in zip(lines, ("1.png", "0.png"), strict=True):
    found = json.loads(line)
    expected = network.predict(folder / name)
    assert found.pop("image") == name
    assert found["name"] == expected.name
    assert found["probability"] == pytest.approx(expected.probability)
    assert list(found["probabilities"]) == list(expected.probabilities)


def test_images_that_cannot_be_read_do_not_hide_the_others(run):
  code, lines, errors = run("predict", "net", "gone.png", "0.png", "text.png")
  assert code == 2
  assert len(lines) == 1 and lines[0].startswith("0.png: ")
  assert errors[0] == "error: gone.png: No such file or directory"
  assert errors[1].startswith("error: text.png: is damaged or no image")
  assert len(errors) == 2


def test_export_writes_and_measures(run, folder):
  code, lines, errors = run("export", "net", "--format=npz")
  assert (code, lines, errors) == (0, ["net/network.npz"], [])
  code, lines, errors = run(
    *("export", "net", "--format=onnx,stablehlo,npz"),
    *("--output=new/out", "--measure"),
  )
  assert code == 0
  for line, name in zip(lines, ("onnx", "stablehlo", "npz"), strict=True):
    path = folder / "new" / "out" / f"network.{name}"
    assert line.startswith(f"{name} ")
    assert line.endswith(f"new/out/network.{name}")
    assert f"{path.stat().st_size:,} bytes" in line
    timed = re.search(r"\d+\.\d{3} ms an image, \w+ \d+\.\d+", line)
    assert bool(timed) == (name != "npz")


def test_find_asks_for_what_was_typed(run, monkeypatch):
  calls = []

  def find(images, **fields):
    calls.append((images, fields))
    return "Elite Space: found"

  monkeypatch.setattr(find_lib, "find", find)
  code, lines, errors = run(
    *("find", "photos/", "--flops=5e6", "--params", "60e3"),
    *("--effort=quick", "--workdir=there", "--seed=3"),
  )
  assert (code, lines, errors) == (0, ["Elite Space: found"], [])
  nothing = dict.fromkeys(("activations", "latency", "image_size"))
  given = {"flops": 5e6, "params": 60e3, "effort": "quick", "seed": 3}
  assert calls == [("photos/", {**nothing, **given, "workdir": "there"})]


@pytest.mark.parametrize(
  ("error", "code"),
  [
    (UserError("what\nis wrong"), 2),
    (Diverged("a loss"), 1),
    (Interrupted("stopped"), 75),
    (OSError(28, "No space left on device", "file"), 74),
    (KeyboardInterrupt(), 130),
  ],
)
def test_codes_are_those_of_the_command(run, monkeypatch, error, code):
  def find(*_, **__):
    raise error

  monkeypatch.setattr(find_lib, "find", find)
  found, lines, errors = run("find", "photos", "--flops=1")
  assert (found, lines, len(errors)) == (code, [], 1)


def test_details_come_before_the_line(run, monkeypatch):
  def find(*_, **__):
    raise UserError("two images are bad", ["a.png: is cut", "b.png: is cut"])

  monkeypatch.setattr(find_lib, "find", find)
  _, _, errors = run("find", "photos", "--flops=1")
  wrong = ["a.png: is cut", "b.png: is cut", "error: two images are bad"]
  assert errors == wrong


@pytest.mark.parametrize(
  ("words", "expected"),
  [
    ("predict", "arguments are required"),
    ("predict net", "arguments are required: images"),
    ("predict nowhere 0.png", "nowhere"),
    ("predict 0.png 0.png", "0.png"),
    ("predict net 0.png --top=3", "unrecognized arguments: --top=3"),
    ("predict net 0.png --js", "unrecognized arguments"),
    ("export net", "required: --format"),
    ("export net --format=coreml", "expected one of stablehlo, onnx"),
    ("export net --format=npz,", "'' is not accepted"),
    ("export net --format=", "'' is not accepted"),
    ("find", "required: images"),
    ("find photos", "what may the network cost?"),
    ("find photos --flops=much", "--flops: invalid float value: 'much'"),
    ("find photos --flops=-1", "expected a number above 0"),
    ("find photos --flops=nan", "expected a number above 0"),
    ("find nowhere --flops=1e6", "no such file or folder"),
    ("find photos --flops=1e6 --effort=some", "expected one of quick"),
  ],
)
def test_wrong_words_are_one_line(run, words, expected):
  code, lines, errors = run(*words.split())
  assert (code, lines) == (2, [])
  (line,) = errors
  assert line.startswith("error: ")
  assert expected in line


def test_an_output_that_is_a_file_is_not_written(run, folder):
  before = (folder / "0.png").read_bytes()
  code, lines, errors = run("export", "net", "--format=npz", "--output=0.png")
  assert (code, lines, len(errors)) == (74, [], 1)
  assert (folder / "0.png").read_bytes() == before


@pytest.mark.parametrize("word", subcommands.WORDS)
def test_help_is_plain(run, word):
  code, lines, errors = run(word, "--help")
  assert (code, errors) == (0, [])
  text = "\n".join(lines)
  assert f"usage: nss {word}" in text
  assert f"example: nss {word} " in text
  assert max(map(len, lines)) <= 100


def test_the_command_knows_the_words(folder):
  """And `--help` without one tells of them; a closed pipe is no traceback."""
  environment = os.environ | {"PYTHONPATH": str(ROOT)}

  def run(*argv, **more):
    return subprocess.run(
      [sys.executable, "-m", "nss_jax.main", *argv],
      cwd=folder,
      env=environment,
      text=True,
      check=False,
      **more,
    )

  done = run("predict", "net", "0.png", "gone.png", capture_output=True)
  assert done.returncode == 2
  assert done.stdout.startswith("0.png: ")
  assert done.stderr == "error: gone.png: No such file or directory\n"
  reader, writer = os.pipe()
  os.close(reader)
  many = ["0.png"] * 3
  done = run("predict", "net", *many, stdout=writer, stderr=subprocess.PIPE)
  os.close(writer)
  assert done.returncode == 141
  assert done.stderr == ""
  for word in subcommands.WORDS:
    assert f"nss {word} " in main.__doc__


def test_probabilities_are_those_of_the_pixels(run, folder):
  """Not of a resized copy: the images have the network's own size."""
  _, lines, _ = run("predict", "net", "0.png", "--json")
  network = nss.load_network(folder / "net")
  image = np.asarray(Image.open(folder / "0.png"))
  found = json.loads(lines[0])["probabilities"]
  assert found == pytest.approx(network.predict(image).probabilities, abs=1e-5)
