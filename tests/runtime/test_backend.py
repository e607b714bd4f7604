"""The start-up check of the backend, and where it keeps what it compiles."""

import os
import re
import stat

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from nss_jax.errors import UserError
from nss_jax.runtime import backend
from nss_jax.supernet import conv


def test_this_backend_is_sound():
  backend.check_numbers(conv.conv2d)
  assert backend.last_square() == 2.0**30


def test_a_wrong_sum_is_refused(monkeypatch):
  # What jaxlib 0.10.2 answers, by jax issue 39103.
  monkeypatch.setattr(backend, "last_square", lambda: 1071645696.0)
  with pytest.raises(UserError, match=r"1071645696.*1073741824"):
    backend.check_numbers(conv.conv2d)


@pytest.mark.parametrize(
  ("index", "name", "number"),
  [
    (0, "convolution", np.nan),
    (1, "image gradient", 2.0**-16),
    (2, "kernel gradient", 2.0**-16),
  ],
)
def test_a_wrong_convolution_is_refused(index, name, number):
  said = re.escape(f"(the {name} of stride 2 is off by {number:.3g})")
  with pytest.raises(UserError, match=said):
    backend.check_numbers(_off_by(number, index))


@pytest.fixture
def accelerator(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def test_accelerators_may_round(accelerator):
  backend.check_numbers(_off_by(0.01, 2))
  with pytest.raises(UserError, match="is off by 10"):
    backend.check_numbers(_off_by(10.0, 2))


def _off_by(number, index):
  """Makes a convolution wrong in stride 2, in its result or a gradient."""

  def add(x, to):
    return x.at[(0,) * x.ndim].add(number) if to == index else x

  @jax.custom_vjp
  def strided(images, kernel):
    return conv.conv2d(images, kernel, 2)

  def forward(images, kernel):
    outputs, vjp = jax.vjp(lambda *x: conv.conv2d(*x, 2), images, kernel)
    return add(outputs, 0), vjp

  def backward(vjp, upstream):
    images, kernel = vjp(upstream)
    return add(images, 1), add(kernel, 2)

  strided.defvjp(forward, backward)

  def convolve(images, kernel, stride):
    if stride == 2:
      return strided(images, kernel)
    return conv.conv2d(images, kernel, stride)

  return convolve


# The compile cache: where nobody else can put any program, or none.

CACHE, LEAST_SECONDS, LEAST_BYTES = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
  "jax_persistent_cache_min_entry_size_bytes",
)
OWN = f"jaxlib-{jaxlib.__version__}-gpu"


@pytest.fixture
def cache():
  """Keeps all that is compiled, until the test ends."""
  names = CACHE, LEAST_SECONDS, LEAST_BYTES
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update(LEAST_SECONDS, 0)
  jax.config.update(LEAST_BYTES, -1)
  yield lambda: jax.config.jax_compilation_cache_dir
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


def test_programs_are_kept_in_a_private_folder_of_the_version(
  accelerator, cache, tmp_path
):
  """That holds where jax has opened another before, as in a notebook."""
  jax.config.update(CACHE, str(tmp_path / "old"))
  compilation_cache.reset_cache()
  jax.jit(lambda x: jnp.sin(x) * 2.75)(1.5)
  kept = sorted((tmp_path / "old").iterdir())
  assert kept
  folder = tmp_path / "a" / "b" / OWN
  for _ in range(2):  # and in the next run
    assert backend.set_up_cache(str(folder.parent)) == ""
    assert cache() == str(folder)
    for made in (folder, folder.parent):
      assert stat.S_IMODE(made.stat().st_mode) == 0o700
  jax.jit(lambda x: jnp.sin(x) * 3.25)(1.5)
  assert any(folder.iterdir())
  assert sorted((tmp_path / "old").iterdir()) == kept


def _open_to(mode, name=""):
  def make(folder):
    path = folder / name if name else folder
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)

  return make


def _of_another_user(folder):
  folder.mkdir(mode=0o700)
  if folder.stat().st_uid == 0:  # trusted, so it must be somebody else's
    os.chown(folder, 4243, -1)


@pytest.mark.parametrize(
  ("make", "reason"),
  [
    (_open_to(0o777), "others can write it"),
    (_open_to(0o1777), "others can write it"),
    (_open_to(0o770), "others can write it"),
    (_open_to(0o702, OWN), "others can write it"),
    (lambda folder: folder.write_text(""), "File exists"),
    (_of_another_user, "it is another user's"),
  ],
)
def test_what_others_can_write_is_refused(
  make, reason, accelerator, cache, tmp_path, monkeypatch
):
  jax.config.update(CACHE, str(tmp_path / "before"))
  make(tmp_path / "x")
  if make is _of_another_user:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
  line = backend.set_up_cache(str(tmp_path / "x"))
  assert line.startswith("warning: --compile_cache: ") and "\n" not in line
  assert reason in line and str(tmp_path / "x") in line
  assert cache() is None


def test_it_is_off_on_cpu(cache, tmp_path):
  line = backend.set_up_cache(str(tmp_path / "x"))
  assert "off on CPU" in line and "\n" not in line
  assert cache() is None
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("mode", [0o700, 0o775, 0o777, None])
def test_the_folder_of_the_environment(mode, cache, tmp_path):
  """The world may not write to it; what is private is left alone."""
  if mode is not None:
    _open_to(mode)(tmp_path / "x")
  for given in (str(tmp_path / "x"), "gs://bucket/folder", None):
    jax.config.update(CACHE, given)
    line = backend.set_up_cache("")
    if mode == 0o777 and given == str(tmp_path / "x"):
      assert line.startswith("warning: JAX_COMPILATION_CACHE_DIR: ")
      assert "\n" not in line and cache() is None
    else:
      assert line == "" and cache() == given
