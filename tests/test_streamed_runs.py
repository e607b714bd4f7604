"""A folder of images, streamed, by the command: the files of a run in memory.

That its sizes are tiny does not matter: it is streamed because it is asked for.
"""

import json
import pathlib

import pytest
import runs
from PIL import Image

from nss_jax.runtime import data

# Three stages take three times as long to compile; one shows the same.
_FLAGS = ("--config.space.strides=(1,)", "--config.data.source=folder")
# An epoch of 9 steps has ended: what happens to the process or its images.
_AFTER_EPOCHS = """
import os, pathlib, signal
from nss_jax import main
from nss_jax.runtime import artifacts

def watched(path, *args):
  global left
  left -= path.name == "metrics.jsonl"
  if left == 0:
    {what}
  call(path, *args)

left, call = {count}, artifacts.append_line
artifacts.append_line = watched
main.run()
"""


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


def _flags(images, workdir, stream):
  return (
    *_FLAGS,
    f"--config.data.path={images}",
    f"--config.data.stream={stream}",
    f"--workdir={workdir}",
  )


def _results(workdir):
  folder = pathlib.Path(workdir) / "search"
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  lines = [json.loads(line) for line in lines]
  for line in lines:
    line.pop("images_per_second")
  return (folder / "elite_space.json").read_bytes(), lines


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
  """What a run ends with that has all images in memory."""
  workdir = tmp_path_factory.mktemp("memory") / "run"
  code, out, err = runs.run(*_flags(images, workdir, "never"))
  assert code == 0, err
  assert "streamed" not in out
  return _results(workdir)


def test_streamed_run_ends_with_the_same_bytes(images, expected, tmp_path):
  code, out, err = runs.run(*_flags(images, tmp_path, "always"))
  assert code == 0, err
  assert "1437 training images of 8x8x1, 10 classes, streamed" in out
  assert _results(tmp_path) == expected


def test_sigterm_in_an_epoch_and_on(images, expected, tmp_path):
  flags = _flags(images, tmp_path, "always")
  script = _AFTER_EPOCHS.format(
    what="os.kill(os.getpid(), signal.SIGTERM)", count=3
  )
  process = runs.start(*flags, script=script)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 75, err
  assert "saved at step 30 of 45" in out
  code, out, err = runs.run(*flags)
  assert code == 0, err
  assert "resuming at step 30 of 45" in out
  assert _results(tmp_path) == expected


def test_image_that_breaks_during_a_run(images, expected, tmp_path):
  """One line, and the run goes on where it was once the file is whole."""
  flags = _flags(images, tmp_path, "always")
  file = next((images / "train" / "3").iterdir())
  content = file.read_bytes()
  script = _AFTER_EPOCHS.format(
    what=f"pathlib.Path({str(file)!r}).write_bytes({content[:60]!r})", count=2
  )
  process = runs.start(*flags, script=script)
  try:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1
    name = "/".join(file.parts[-3:])
    assert f"config.data.path={str(images)!r}: {name!r} is damaged" in err
    # At the start of a run it is refused before anything is compiled.
    code, out, again = runs.run(*flags)
    assert (code, again) == (2, err) and "epoch" not in out
  finally:
    file.write_bytes(content)
  code, out, err = runs.run(*flags)
  assert code == 0, err
  assert "resuming at step" in out
  assert _results(tmp_path) == expected
