"""Programs that were compiled before, kept in a folder that nobody else writes.

Who can write the folder can run code in this process: jax loads from it what it
then executes. It is of use where compiling takes minutes, on accelerators; on
CPU what was kept is often refused, and has crashed after a new jaxlib.
"""

import os
import pathlib
import stat

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

_ENVIRONMENT = "JAX_COMPILATION_CACHE_DIR"
_FLAG = "--compile_cache"


def set_up(folder: str) -> str:
  """Sets where compiled programs are kept; before anything is compiled.

  Args:
    folder: a folder of its own below it is used, for this jaxlib and platform;
      empty: as the environment has it.

  Returns:
    What to tell the user, in one line; empty if all is as was asked for.
  """
  if folder:
    return _set_up_flag(pathlib.Path(folder))
  given = jax.config.values["jax_compilation_cache_dir"]
  if not given:
    return ""
  # The group of a folder that was not named to us is the user's own matter.
  reason = _reason(pathlib.Path(given), stat.S_IWOTH)
  return _off(_ENVIRONMENT, given, reason) if reason else ""


def _set_up_flag(folder: pathlib.Path) -> str:
  platform = jax.default_backend()
  if platform == "cpu":
    _use(None)
    return f"{_FLAG}: off on CPU, where what was kept is not reliable"
  own = folder.absolute() / f"jaxlib-{jaxlib.__version__}-{platform}"
  try:
    for made in (folder, own):
      made.mkdir(mode=0o700, parents=True, exist_ok=True)
  except OSError as error:
    return _off(_FLAG, str(folder), str(error.strerror))
  for used in (folder, own):
    if reason := _reason(used, stat.S_IWGRP | stat.S_IWOTH):
      return _off(_FLAG, str(used), reason)
  _use(str(own))
  return ""


def _reason(folder: pathlib.Path, writers: int) -> str:
  """Why others could put programs into a folder; empty if they cannot."""
  try:
    found = folder.stat()
  except FileNotFoundError:
    return ""  # jax makes it
  except OSError as error:
    return str(error.strerror)
  if found.st_mode & writers:
    return "others can write it"
  if found.st_uid not in (os.getuid(), 0):
    return "it is another user's"
  return ""


def _off(name: str, folder: str, reason: str) -> str:
  _use(None)
  return (
    f"warning: {name}: {folder} is not used ({reason}); expected a folder that "
    "only you can write; nothing compiled is kept"
  )


def _use(folder: str | None) -> None:
  jax.config.update("jax_compilation_cache_dir", folder)
  # jax looks once, at its first compilation; in notebooks that was before.
  compilation_cache.reset_cache()
