"""The files of a measured latency table: `summary.json` and `table.csv`."""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from nss_jax.runtime import artifacts
from nss_jax.runtime.artifacts import ArtifactError, Path
from nss_jax.runtime.report import fields
from nss_jax.spaces.latency import LatencyTable, latency_metric
from nss_jax.spaces.metrics import Metric
from nss_jax.spaces.search_space import SearchSpace

FOLDER = "latency_table"
SUMMARY = "summary.json"
TABLE = "table.csv"
# What makes blocks and their images what they are; bins may differ.
_SAME = ("strides", "stem_width", "block", "image_shape", "num_classes")
_GRIDS = [[fields.COUNT]]
_SHAPE = {
  "device": fields.TEXT,
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
  with artifacts.atomic_path(path) as temporary:
    temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def read_metric(folder: Path, search_space: SearchSpace | None) -> Metric:
  """The latency metric of a folder that the latency_table phase has written.

  The same object for the same file, so that what is computed from it is
  computed once.

  Args:
    folder: of the files.
    search_space: that it has to fit; None: any.

  Raises:
    ArtifactError: if there is no table, or it is broken, or of other blocks.
  """
  path = pathlib.Path(folder) / SUMMARY
  try:
    changed = path.stat().st_mtime_ns
  except (OSError, ValueError):
    raise ArtifactError(
      f"{path}: no latency table; expected one that --phases={FOLDER}, by "
      "itself, has written"
    ) from None
  metric, measured = _read(os.fspath(path), changed)
  if search_space is not None:
    _check_fits(path, measured, search_space)
  return metric


@functools.lru_cache(maxsize=16)
def _read(path: str, changed: int) -> tuple[Metric, SearchSpace]:
  del changed  # of the file; another table is read again
  content = artifacts.read_json(path)
  fields.check(path, content, _SHAPE)
  try:
    search_space = SearchSpace.from_dict(content["search_space"])
  except ValueError as error:
    raise ArtifactError(f"{path}: search_space: {error}") from None
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
    raise ArtifactError(
      f"{path}: table: its parts do not fit each other and the search space"
    )
  return latency_metric(table), search_space


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
      raise ArtifactError(
        f"{path}: measured for {name} {one}; expected {other}, that of the "
        "config and the images"
      )
  for stage, bins in enumerate(wanted.width_bins):
    known = measured.width_bins[stage]
    if not known[0][0] <= bins[0][0] <= bins[-1][1] <= known[-1][1]:
      raise ArtifactError(
        f"{path}: measured for widths {known[0][0]} to {known[-1][1]} of stage "
        f"{stage + 1}; expected to hold {bins[0][0]} to {bins[-1][1]}"
      )
