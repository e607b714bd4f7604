"""Finds what `--config` and its fields name, and what a wrong name is near."""

import difflib
import os
import pathlib

from nss_jax.errors import UserError

# A link to the checkout's `configs/`; a folder of files once installed.
_SHIPPED = pathlib.Path(__file__).parent.parent / "configs"


def find_file(argument: str) -> str:
  """Returns the config file that is meant, with its `:argument`, if any.

  A file that exists comes first; a plain name is a config that comes with
  nss_jax. If it is neither, the error names what is nearest.
  """
  path, colon, rest = argument.partition(":")
  if os.path.isfile(path):
    return argument
  shipped = _SHIPPED / f"{path}.py"
  if os.path.basename(path) == path and os.path.isfile(shipped):
    return f"{shipped}{colon}{rest}"
  what = "is a folder" if os.path.isdir(path) else "no such file"
  known = _files_by_stem(os.path.dirname(path))
  stem = pathlib.PurePath(path).stem
  near = difflib.get_close_matches(stem, known, 1)
  if near:
    accepted = f"did you mean {known[near[0]]}{colon}{rest}?"
  else:
    accepted = (
      "expected a Python file, or one that comes with nss_jax: "
      f"{', '.join(_shipped_names())}"
    )
  raise UserError(f"--config: {path!r}: {what}; {accepted}")


def missing_field(fields: dict, path: str) -> str:
  """Says what is wrong with `config.group.field`; nothing if it is there."""
  group, parent = fields, "config"
  for name in path.split(".")[1:]:
    if not isinstance(group, dict):
      return f"{path}: {parent} has no fields"
    if name not in group:
      near = [
        f"{parent}.{x}" for x in difflib.get_close_matches(name, group, 1)
      ]
      known = {path.rpartition(".")[2] for path in _paths(fields, "config")}
      for other in difflib.get_close_matches(name, known, 1)[: not near]:
        near = fields_named(fields, other)
      accepted = f"expected {', '.join(group)}"
      if near:
        accepted = f"did you mean {' or '.join(near)}?"
      return f"{path}: {parent} has no field {name!r}; {accepted}"
    group, parent = group[name], f"{parent}.{name}"
  return ""


def fields_named(fields: dict, name: str) -> list[str]:
  """Lists the paths of all fields of one name, as many groups have `epochs`."""
  paths = _paths(fields, "config")
  return [path for path in paths if path.rpartition(".")[2] == name]


def _paths(fields: dict, parent: str) -> list[str]:
  found = []
  for name, value in fields.items():
    found.append(f"{parent}.{name}")
    if isinstance(value, dict):
      found += _paths(value, f"{parent}.{name}")
  return found


def _shipped_names() -> list[str]:
  return sorted(file.stem for file in _SHIPPED.glob("*.py"))


def _files_by_stem(folder: str) -> dict[str, str]:
  """Finds the files of a folder and of `configs`, then what is shipped."""
  files = [
    os.path.join(place, file.name)
    for place in (folder, "configs")
    for file in sorted(pathlib.Path(place).glob("*.py"))
  ]
  known: dict[str, str] = {}
  for file in (*files, *_shipped_names()):
    known.setdefault(pathlib.PurePath(file).stem, file)
  return known
