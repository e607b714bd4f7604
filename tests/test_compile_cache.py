"""Compiled programs are kept where nobody else can put any, or not at all."""

import os
import stat

import jax
import jax.numpy as jnp
import jaxlib
import pytest
from jax.experimental.compilation_cache import compilation_cache

from nss_jax.runtime import backend


@pytest.fixture(autouse=True)
def _restored():
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
  )
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@pytest.fixture
def accelerator(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def _used():
  return jax.config.jax_compilation_cache_dir


def test_programs_are_kept_in_a_private_folder_of_the_version(
  accelerator, tmp_path
):
  assert backend.set_up_cache(str(tmp_path / "a" / "b")) == ""
  (folder,) = (tmp_path / "a" / "b").iterdir()
  assert folder.name == f"jaxlib-{jaxlib.__version__}-gpu"
  assert _used() == str(folder)
  for made in (folder, folder.parent):
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
  # Something was compiled before, as in a notebook.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  jax.jit(lambda x: jnp.sin(x) * 3.25)(1.5)
  assert any(folder.iterdir())
  assert backend.set_up_cache(str(tmp_path / "a" / "b")) == ""  # the next run


def _open_to(mode, name=""):
  def make(folder):
    path = folder / name if name else folder
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)

  return make


OWN = f"jaxlib-{jaxlib.__version__}-gpu"
REFUSED = {
  "world": (_open_to(0o777), "others can write it"),
  "sticky": (_open_to(0o1777), "others can write it"),
  "group": (_open_to(0o770), "others can write it"),
  "world below": (_open_to(0o702, OWN), "others can write it"),
  "a file": (lambda folder: folder.write_text(""), "File exists"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_others_can_write_is_refused(kind, accelerator, tmp_path):
  make, reason = REFUSED[kind]
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "before"))
  make(tmp_path / "x")
  line = backend.set_up_cache(str(tmp_path / "x"))
  assert line.startswith("warning: --compile_cache: ") and "\n" not in line
  assert reason in line and str(tmp_path / "x") in line
  assert _used() is None


def test_a_folder_of_another_user_is_refused(
  accelerator, tmp_path, monkeypatch
):
  monkeypatch.setattr(os, "getuid", lambda: 4242)
  found = os.stat(tmp_path)
  if found.st_uid == 0:  # trusted, so it must be somebody else's
    os.chown(tmp_path, 4243, -1)
  line = backend.set_up_cache(str(tmp_path))
  assert "it is another user's" in line and _used() is None


def test_it_is_off_on_cpu(tmp_path):
  line = backend.set_up_cache(str(tmp_path / "x"))
  assert "off on CPU" in line and "\n" not in line
  assert _used() is None
  assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("mode", [0o700, 0o775, 0o777, None])
def test_the_folder_of_the_environment(mode, tmp_path):
  """The world may not write to it; what is private is left alone."""
  folder = tmp_path / "x"
  if mode is not None:
    folder.mkdir()
    folder.chmod(mode)
  jax.config.update("jax_compilation_cache_dir", str(folder))
  line = backend.set_up_cache("")
  if mode == 0o777:
    assert line.startswith("warning: JAX_COMPILATION_CACHE_DIR: ")
    assert "\n" not in line and _used() is None
  else:
    assert line == "" and _used() == str(folder)


def test_a_bucket_and_none_are_left_alone():
  for given in ("gs://bucket/folder", None):
    jax.config.update("jax_compilation_cache_dir", given)
    assert backend.set_up_cache("") == ""
    assert _used() == given


def test_a_cache_in_use_is_left_for_the_new_one(accelerator, tmp_path):
  """jax opens a cache once; in a notebook that may have been before."""
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "old"))
  compilation_cache.reset_cache()
  jax.jit(lambda x: jnp.sin(x) * 2.75)(1.5)
  kept = sorted((tmp_path / "old").iterdir())
  assert kept
  assert backend.set_up_cache(str(tmp_path / "new")) == ""
  jax.jit(lambda x: jnp.sin(x) * 4.75)(1.5)
  assert sorted((tmp_path / "old").iterdir()) == kept
  (folder,) = (tmp_path / "new").iterdir()
  assert any(folder.iterdir())
