"""A folder of images, streamed to eight devices: the files of a run in memory.

That its sizes are tiny does not matter: it is streamed because it is asked for.
"""

import json
import os
import pathlib
import signal

import pytest
import runs
from PIL import Image

from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases import pipeline
from nss_jax.runtime import files

FIELDS = {
  **runs.TINY,
  "space.strides": (1,),  # every stage takes time to compile
  "search.epochs": 3,  # without warmup: one program to compile
  "search.warmup_epochs": 0,
  "data.source": "folder",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
  """The digits as PNG files, in folders by class."""
  root, digits = tmp_path_factory.mktemp("images"), data.load("digits")
  for part in ("train", "test"):
    pixels = getattr(digits, f"{part}_images")[..., 0]
    labels = getattr(digits, f"{part}_labels")
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
      folder = root / part / str(label)
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(folder / f"{number:04}.png")
  return root


def _search(images, workdir, stream):
  fields = {**FIELDS, "data.path": str(images), "data.stream": stream}
  return pipeline.run(runs.load_config(**fields), workdir, ["search"])


def _results(workdir):
  folder = pathlib.Path(workdir) / "search"
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  for line in lines:
    line.pop("images_per_second")
  return (folder / "elite_space.json").read_bytes(), lines


def _assert_close(found, expected):
  """The same space, and the same numbers up to the order of sums."""
  spaces = [json.loads(content)["space"] for content, _ in (found, expected)]
  assert spaces[0] == spaces[1]
  for line, other in zip(found[1], expected[1], strict=True):
    assert line["step"] == other["step"]
    for name in ("train_loss", "validation_loss", "expected_cost"):
      assert line[name] == pytest.approx(other[name], rel=1e-4), name


@pytest.fixture
def after_epoch(monkeypatch):
  """`(count, act)`: acts when so many epochs have ended."""

  def install(count, act):
    call, lines = files.append_line, []

    def watched(path, line):
      lines.append(line)
      if len(lines) == count:
        act()
      call(path, line)

    monkeypatch.setattr(files, "append_line", watched)

  return install


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
  """What a run ends with that has all images in memory."""
  workdir = tmp_path_factory.mktemp("memory") / "run"
  assert _search(images, workdir, "never") == 0
  return _results(workdir)


@pytest.mark.slow
def test_sigterm_in_an_epoch_and_on(
  images, expected, after_epoch, tmp_path, capsys
):
  after_epoch(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
  assert _search(images, tmp_path, "always") == 75
  out = capsys.readouterr().out
  assert "1437 training images of 8x8x1, 10 classes, streamed" in out
  assert "saved at step 21 of 27" in out
  assert _search(images, tmp_path, "always") == 0
  assert "resuming at step 21 of 27" in capsys.readouterr().out
  _assert_close(_results(tmp_path), expected)


@pytest.mark.slow
def test_image_that_breaks_during_a_run(
  images, expected, after_epoch, tmp_path, capsys
):
  """One line, and the run goes on where it was once the file is whole."""
  file = next((images / "train" / "3").iterdir())
  content = file.read_bytes()
  after_epoch(1, lambda: file.write_bytes(content[:60]))
  line = f"config.data.path={str(images)!r}: '{'/'.join(file.parts[-3:])}' is "
  try:
    # Again at the start: it is refused before anything is compiled.
    for steps in ("27 in all", "steps"):
      with pytest.raises(UserError) as caught:
        _search(images, tmp_path, "always")
      assert str(caught.value).startswith(f"{line}damaged or no image")
      assert str(caught.value).isprintable()
      assert (steps in capsys.readouterr().out) == (steps == "27 in all")
  finally:
    file.write_bytes(content)
  assert _search(images, tmp_path, "always") == 0
  assert "resuming at step" in capsys.readouterr().out
  _assert_close(_results(tmp_path), expected)


@pytest.mark.slow
def test_same_bytes_as_users_compile(images, tmp_path):
  """XLA's quick flags may sum the two programs in another order."""
  found = {}
  for stream in ("always", "never"):
    fields = {"data.path": images, "data.stream": stream}
    code, _, err = runs.run(
      *(f"--config.{k}={v}" for k, v in {**FIELDS, **fields}.items()),
      f"--workdir={tmp_path / stream}",
      tiny=False,
      xla_flags="",
    )
    assert code == 0, err
    found[stream] = _results(tmp_path / stream)
  assert found["always"] == found["never"]
