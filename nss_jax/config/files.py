"""What `--config` and its fields name, and what is near a mistyped name."""

import difflib
import os
import pathlib

from nss_jax.config.schema import base
from nss_jax.errors import UserError

# A link to the checkout's `configs/`; a folder of files once installed.
_SHIPPED = pathlib.Path(__file__).parent.parent / "configs"


def find_file(argument: str) -> str:
  """The config file that is meant, with its argument if there is one.

  Args:
    argument: a path, `quickstart`, or either of them and `:argument`. A file
      that exists comes first; a plain name is a config that comes with
      nss_jax.

  Raises:
    UserError: with the nearest file or name, if it is neither.
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


def unknown_field(path: str) -> str:
  """What is wrong with `config.group.field`; an empty string if nothing is."""
  fields, parent = base().to_dict(), "config"
  for name in path.split(".")[1:]:
    if not isinstance(fields, dict):
      return f"{path}: {parent} has no fields"
    if name not in fields:
      near = _near_fields(name, fields, parent)
      accepted = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"expected {', '.join(fields)}"
      )
      return f"{path}: {parent} has no field {name!r}; {accepted}"
    fields, parent = fields[name], f"{parent}.{name}"
  return ""


def fields_named(name: str) -> list[str]:
  """The paths of all fields of that name: `epochs` is in several groups."""
  return [p for p in _paths(base().to_dict(), "config") if _leaf(p) == name]


def _near_fields(name: str, fields: dict, parent: str) -> list[str]:
  """Those like it in the group, or else anywhere."""
  if near := difflib.get_close_matches(name, fields, 1):
    return [f"{parent}.{near[0]}"]
  names = [_leaf(path) for path in _paths(base().to_dict(), "config")]
  near = difflib.get_close_matches(name, names, 1)
  return fields_named(near[0]) if near else []


def _paths(fields: dict, parent: str) -> list[str]:
  found = []
  for name, value in fields.items():
    found.append(f"{parent}.{name}")
    if isinstance(value, dict):
      found += _paths(value, f"{parent}.{name}")
  return found


def _leaf(path: str) -> str:
  return path.rpartition(".")[2]


def _shipped_names() -> list[str]:
  return sorted(file.stem for file in _SHIPPED.glob("*.py"))


def _files_by_stem(folder: str) -> dict[str, str]:
  """Python files there and in `configs`, then the names that come along."""
  files = [
    os.path.join(place, file.name)
    for place in (folder, "configs")
    for file in sorted(pathlib.Path(place).glob("*.py"))
  ]
  known: dict[str, str] = {}
  for file in (*files, *_shipped_names()):
    known.setdefault(pathlib.PurePath(file).stem, file)
  return known
