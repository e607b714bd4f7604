"""`latency_table/`: a measured table of block times, and where it is from."""

import functools
import os
import pathlib
import platform
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from nss_jax.errors import UserError
from nss_jax.results import fields
from nss_jax.results.artifact import Artifact
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.spaces.metrics import LatencyTable, Metric, latency_metric
from nss_jax.spaces.search_space import SearchSpace

FOLDER = "latency_table"
SUMMARY = "summary.json"
TABLE = "table.csv"
# What makes blocks and their images what they are; bins may differ.
_SAME = (
  "strides",
  "stem_width",
  "stem_stride",
  "block",
  "image_shape",
  "num_classes",
)


class Origin(Artifact):
  """What times depend on beside the networks.

  Attributes:
    processor: every CPU is a device of the kind "cpu", so its name and how many
      cores this process may use; null of other devices.
    activations: their type.
  """

  device: fields.Text
  processor: fields.MaybeText
  activations: fields.Text

  @classmethod
  def here(cls, activations: str) -> "Origin":
    """Returns that of this process, with these activations."""
    is_cpu = jax.default_backend() == "cpu"
    return cls(
      device=jax.devices()[0].device_kind,
      processor=_processor() if is_cpu else None,
      activations=activations,
    )


class RelativeError(Artifact):
  """`|predicted / measured - 1|` of the networks that check a table."""

  mean: fields.NonNegative
  max: fields.NonNegative


class Taus(Artifact):
  """Kendall's, of the predictions and, beside them, of the multiply-adds."""

  latency: fields.MaybeTau
  flops: fields.MaybeTau


class Timed(Artifact):
  """A network that checks the table, in seconds."""

  arch: fields.Text
  measured: fields.NonNegative
  predicted: fields.NonNegative


class Table(Artifact):
  """A `LatencyTable` as lists."""

  before: list[list[fields.Count]]
  widths: list[list[fields.Count]]
  first: list[list[list[fields.NonNegative]]]
  rest: list[list[fields.NonNegative]]
  ends: list[fields.NonNegative]

  @classmethod
  def of(cls, table: LatencyTable) -> "Table":
    """Returns a table as lists."""
    lists = jax.tree.map(lambda x: np.asarray(x).tolist(), table)
    return cls(**lists._asdict())

  def arrays(self, search_space: SearchSpace) -> LatencyTable:
    """Returns the table; raises ValueError if its parts do not fit."""
    try:
      grids = (
        tuple(np.asarray(values, np.float64) for values in getattr(self, name))
        for name in LatencyTable._fields[:-1]
      )
      table = LatencyTable(*grids, ends=np.asarray(self.ends, np.float64))
      pairs = zip(table.before, table.widths, strict=False)
      sizes = [(len(before), len(widths)) for before, widths in pairs]
      if (
        all(len(x) == search_space.num_stages for x in table[:-1])
        and [x.shape for x in table.first] == sizes
        and [x.shape for x in table.rest] == [(n,) for _, n in sizes]
        and table.ends.shape == table.rest[-1].shape
        and all(np.all(np.diff(x) > 0) for x in (*table.before, *table.widths))
      ):
        return table
    except (ValueError, OverflowError):  # rows of unequal length, huge numbers
      pass
    raise ValueError("its parts do not fit each other and the search space")


class BlockTimes(Origin):
  """`summary.json`.

  Attributes:
    spread: interquartile range of the calls of a network over their median, of
      the median network: where it is large the machine was busy.
    mean_range: seconds of the cheapest and the dearest space.
  """

  backend: fields.Text
  jax: fields.Text
  batch_size: fields.Count
  quantile: fields.Number
  spread: fields.NonNegative
  mean_range: list[fields.Number]
  relative_error: RelativeError
  tau: Taus
  networks: list[Timed]
  search_space: dict[str, Any]
  table: Table
  version: fields.Text


class _Measured(NamedTuple):
  """A file, and the metric and the search space that it holds."""

  times: BlockTimes
  metric: Metric
  search_space: SearchSpace


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
  """Refuses a table that was measured on another device, or another way."""
  measured = _open(folder).times
  for name, own in Origin.here(activations):
    value = getattr(measured, name)
    if value is not None and own is not None and value != own:
      raise UserError(
        f"{pathlib.Path(folder) / SUMMARY}: measured with {name} {value!r}; "
        f"expected {own!r}, that of this run: measure again, or accept "
        "it by --config.objective.foreign_latency_table=True"
      )


def write_csv(path: Path, table: LatencyTable) -> None:
  """Writes every entry in a line: `part,stage,before,width,seconds`."""
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
  """Reads the latency metric that the latency_table phase has written.

  It returns the same object for the same file, so that what is computed from it
  is computed once. UserError if the file is not for blocks of a search space.
  """
  _, metric, measured = _open(folder)
  if search_space is None:
    return metric
  path = pathlib.Path(folder) / SUMMARY
  for name in _SAME:
    one, other = getattr(measured, name), getattr(search_space, name)
    if one != other:
      raise UserError(
        f"{path}: measured for {name} {one}; expected {other}, that of the "
        "config and the images"
      )
  for stage, bins in enumerate(search_space.width_bins):
    known = measured.width_bins[stage]
    if not known[0][0] <= bins[0][0] <= bins[-1][1] <= known[-1][1]:
      raise UserError(
        f"{path}: measured for widths {known[0][0]} to {known[-1][1]} of stage "
        f"{stage + 1}; expected to hold {bins[0][0]} to {bins[-1][1]}"
      )
  return metric


def _open(folder: Path) -> _Measured:
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
def _read(path: str, changed: int) -> _Measured:
  del changed  # of the file; another table is read again
  found, field = BlockTimes.read(path), "search_space"
  try:
    search_space = SearchSpace.from_dict(found.search_space)
    field = "table"
    table = found.table.arrays(search_space)
  except ValueError as error:
    raise UserError(f"{path}: {field}: {error}") from None
  return _Measured(found, latency_metric(table), search_space)


def describe(result: BlockTimes, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the error of the table."""
  error, tau = result.relative_error, result.tau.to_json()
  low, high = (1e3 * x for x in result.mean_range)
  shown = {k: "none" if x is None else f"{x:.2f}" for k, x in tau.items()}
  return [
    "",
    f"Latency on {result.device}, {result.batch_size} images a call",
    f"  spaces of {low:.3g} to {high:.3g} ms mean; calls vary by "
    f"{100 * result.spread:.0f} % (interquartile range)",
    f"  {len(result.networks)} networks: error {100 * error.mean:.0f} % mean, "
    f"{100 * error.max:.0f} % largest; Kendall's tau {shown['latency']}, of "
    f"multiply-adds {shown['flops']}",
    "",
    f"Files in {folder}: {SUMMARY}, {TABLE}",
    "Next: a search with a constraint of latency, here or elsewhere, with",
    f"  --config.objective.latency_table={folder}",
  ]
