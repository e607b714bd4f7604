"""The files of a measured latency table: `summary.json` and `table.csv`."""

import functools
import os
import pathlib
import platform
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.runtime.report import fields
from nss_jax.spaces.metrics import LatencyTable, Metric, latency_metric
from nss_jax.spaces.search_space import SearchSpace

FOLDER = "latency_table"
SUMMARY = "summary.json"
TABLE = "table.csv"
# What makes blocks and their images what they are; bins may differ.
_SAME = ("strides", "stem_width", "block", "image_shape", "num_classes")
_GRIDS = [[fields.COUNT]]
_SHAPE = {
  "device": fields.TEXT,
  # Not in files of before they were compared.
  "processor?": fields.maybe(fields.TEXT),
  "activations?": fields.TEXT,
  "batch_size": fields.COUNT,
  "search_space": {},
  "table": {
    "before": _GRIDS,
    "widths": _GRIDS,
    "first": [[[fields.NON_NEGATIVE]]],
    "rest": [[fields.NON_NEGATIVE]],
    "ends": [fields.NON_NEGATIVE],
  },
}


class _File(NamedTuple):
  """What a file says.

  Attributes:
    metric: the table.
    search_space: that it was measured for.
    origin: on what, as `origin` tells.
  """

  metric: Metric
  search_space: SearchSpace
  origin: dict[str, str | None]


def origin(activations: str) -> dict[str, str | None]:
  """What times depend on beside the networks: here, with these activations.

  Every CPU is a device of the kind "cpu", so it has its processor too: its name
  and how many cores this process may use.
  """
  is_cpu = jax.default_backend() == "cpu"
  return {
    "device": jax.devices()[0].device_kind,
    "processor": _processor() if is_cpu else None,
    "activations": activations,
  }


def _processor() -> str:
  try:
    text = pathlib.Path("/proc/cpuinfo").read_text("utf-8")
    names = re.findall(r"(?m)^model name\s*:\s*(.+)$", text)
  except (OSError, ValueError):  # not Linux
    names = []
  name = names[0] if names else platform.processor() or platform.machine()
  try:
    cores = len(os.sched_getaffinity(0))
  except AttributeError:
    cores = os.cpu_count() or 1
  return f"{name}, {cores} cores"


def check_origin(folder: Path, activations: str) -> None:
  """Refuses a table that was measured on another device, or another way.

  Raises:
    UserError: naming both, and how to accept it; and as `read_metric`.
  """
  found, here = _open(folder).origin, origin(activations)
  for name, value in found.items():
    if value is not None and here[name] is not None and value != here[name]:
      raise UserError(
        f"{pathlib.Path(folder) / SUMMARY}: measured with {name} {value!r}; "
        f"expected {here[name]!r}, that of this run: measure again, or accept "
        "it by --config.objective.foreign_latency_table=True"
      )


def table_to_json(table: LatencyTable) -> dict[str, Any]:
  """The table as lists."""
  return {
    name: [np.asarray(x).tolist() for x in values]
    for name, values in table._asdict().items()
  }


def write_csv(path: Path, table: LatencyTable) -> None:
  """Every entry in a line: `part,stage,before,width,seconds`."""
  lines = ["part,stage,before,width,seconds"]
  for index, widths in enumerate(table.widths):
    for row, before in zip(
      table.first[index], table.before[index], strict=True
    ):
      for width, value in zip(widths, row, strict=True):
        lines.append(f"first,{index + 1},{before},{width},{value:.6g}")
    for width, value in zip(widths, table.rest[index], strict=True):
      lines.append(f"rest,{index + 1},{width},{width},{value:.6g}")
  for width, value in zip(table.widths[-1], table.ends, strict=True):
    lines.append(f"ends,,,{width},{value:.6g}")
  with files.atomic_path(path) as temporary:
    temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_metric(folder: Path, search_space: SearchSpace | None) -> Metric:
  """The latency metric of a folder that the latency_table phase has written.

  The same object for the same file, so that what is computed from it is
  computed once.

  Args:
    folder: of the files.
    search_space: that it has to fit; None: any.

  Raises:
    UserError: if there is no table, or it is broken, or of other blocks.
  """
  file = _open(folder)
  if search_space is not None:
    path = pathlib.Path(folder) / SUMMARY
    _check_fits(path, file.search_space, search_space)
  return file.metric


def _open(folder: Path) -> _File:
  path = pathlib.Path(folder) / SUMMARY
  try:
    changed = path.stat().st_mtime_ns
  except (OSError, ValueError):
    raise UserError(
      f"{path}: no latency table; expected one that --phases={FOLDER}, by "
      "itself or before all others, has written"
    ) from None
  return _read(os.fspath(path), changed)


@functools.lru_cache(maxsize=16)
def _read(path: str, changed: int) -> _File:
  del changed  # of the file; another table is read again
  content = files.read_json(path)
  fields.check(path, content, _SHAPE)
  try:
    search_space = SearchSpace.from_dict(content["search_space"])
  except ValueError as error:
    raise UserError(f"{path}: search_space: {error}") from None
  tables = {
    name: tuple(map(_array, content["table"][name]))
    for name in LatencyTable._fields[:-1]
  }
  ends = np.asarray(content["table"]["ends"], np.float64)
  table = LatencyTable(**tables, ends=ends)
  sizes = [
    (len(before), len(widths))
    for before, widths in zip(table.before, table.widths, strict=False)
  ]
  good = (
    all(len(x) == search_space.num_stages for x in table[:-1])
    and [x.shape for x in table.first] == sizes
    and [x.shape for x in table.rest] == [(n,) for _, n in sizes]
    and table.ends.shape == table.rest[-1].shape
    and all(np.all(np.diff(x) > 0) for x in (*table.before, *table.widths))
  )
  if not good:
    raise UserError(
      f"{path}: table: its parts do not fit each other and the search space"
    )
  measured = {
    name: content.get(name) for name in ("device", "processor", "activations")
  }
  return _File(latency_metric(table), search_space, measured)


def _array(values: list) -> np.ndarray:
  try:
    return np.asarray(values, np.float64)
  except (ValueError, OverflowError):  # rows of unequal length
    return np.zeros((0, 0))


def _check_fits(
  path: pathlib.Path, measured: SearchSpace, wanted: SearchSpace
) -> None:
  for name in _SAME:
    one, other = getattr(measured, name), getattr(wanted, name)
    if one != other:
      raise UserError(
        f"{path}: measured for {name} {one}; expected {other}, that of the "
        "config and the images"
      )
  for stage, bins in enumerate(wanted.width_bins):
    known = measured.width_bins[stage]
    if not known[0][0] <= bins[0][0] <= bins[-1][1] <= known[-1][1]:
      raise UserError(
        f"{path}: measured for widths {known[0][0]} to {known[-1][1]} of stage "
        f"{stage + 1}; expected to hold {bins[0][0]} to {bins[-1][1]}"
      )
