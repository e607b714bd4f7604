"""`evaluate/scores.csv`: every arch that was scored, one line each.

Columns: `source` (the group that the arch was drawn for), `space` (index of its
space within the group, empty in a group of single archs), `depth_1..S`,
`width_1..S`, `flops` (multiply-adds), `params`, `error` (share of images that
are classified wrongly, 0 to 1) and `loss` (cross-entropy, nats). The first line
names them.
"""

import csv
import dataclasses
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

import moocore
import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.spaces import cost
from nss_jax.spaces.bins import held
from nss_jax.spaces.search_space import Arch, SearchSpace

# Groups: archs of the Elite Space; uniform archs of the Expanded Search Space;
# the same within a tolerance of the target; archs of uniform spaces whose mean
# cost is within it; of such spaces without the lowest width bin in any stage;
# of the space that one would draw by hand; and of the spaces that the oracle
# ranked best, scored again.
ELITE = "elite"
EXPANDED = "expanded"
EXPANDED_NEAR = "expanded_near_target"
RANDOM_SPACES = "random_spaces"
HARD_RANDOM_SPACES = "hard_random_spaces"
HAND_MADE = "hand_made"
ORACLE = "oracle"
GROUPS = (
  ELITE,
  EXPANDED,
  EXPANDED_NEAR,
  RANDOM_SPACES,
  HARD_RANDOM_SPACES,
  HAND_MADE,
  ORACLE,
)

# `space` of an arch whose group has no spaces; an empty field in the file.
NO_SPACE = -1

# The last columns, and how numpy holds them.
_NUMBERS = {
  "flops": np.int64,
  "params": np.int64,
  "error": np.float64,
  "loss": np.float64,
}

# One digit less than what int64 may not hold.
_MOST_DIGITS = 18


@dataclasses.dataclass(frozen=True)
class Scores:
  """A table of N scored archs; see the file's docstring for the units.

  Attributes:
    source: `[N]` str.
    space: `[N]` int64, `NO_SPACE` in a group of single archs.
    depth: `[N, S]` int64.
    width: `[N, S]` int64.
    flops: `[N]` int64.
    params: `[N]` int64.
    error: `[N]` float64.
    loss: `[N]` float64.
  """

  source: np.ndarray
  space: np.ndarray
  depth: np.ndarray
  width: np.ndarray
  flops: np.ndarray
  params: np.ndarray
  error: np.ndarray
  loss: np.ndarray

  def __len__(self) -> int:
    return len(self.source)

  def select(self, rows: np.ndarray) -> "Scores":
    """Some rows, by a mask `[N]` or by indices."""
    fields = (f.name for f in dataclasses.fields(self))
    return Scores(**{name: getattr(self, name)[rows] for name in fields})

  def group(self, source: str) -> "Scores":
    """The rows of one source."""
    return self.select(self.source == source)


def make_scores(
  search_space: SearchSpace,
  source: str,
  archs: Arch,
  *,
  error: Sequence[float] | np.ndarray,
  loss: Sequence[float] | np.ndarray,
  space: Sequence[int] | np.ndarray | int = NO_SPACE,
) -> Scores:
  """A table of archs that were just scored; their cost is filled in.

  Args:
    search_space: where the archs are from.
    source: one name for all of them, such as `ELITE`.
    archs: fields `[N, S]`.
    error: `[N]`, shares of images, 0 to 1.
    loss: `[N]`, nats.
    space: `[N]` or one index for all, at least 0, or `NO_SPACE`.

  Raises:
    ValueError: if the lengths differ, an arch is not in the search space, or a
      number is not finite or out of range; with the numbers.
  """
  depth, width = (np.asarray(x, np.int64) for x in (archs.depth, archs.width))
  given = {
    "depth": depth,
    "width": width,
    "space": np.broadcast_to(np.asarray(space, np.int64), len(depth)),
    "error": np.asarray(error, np.float64),
    "loss": np.asarray(loss, np.float64),
  }
  _check_shapes(search_space, given)
  scores = Scores(
    source=np.full(len(depth), source),
    flops=cost.arch_macs(search_space, archs),
    params=cost.arch_params(search_space, archs),
    **given,
  )
  _check(search_space, scores)
  return scores


def read_scores(path: Path, search_space: SearchSpace) -> Scores:
  """Reads the file.

  Raises:
    UserError: one line, if the file is missing or is not the scores of
      archs of this search space; names the line of the file.
  """
  columns = _columns(search_space.num_stages)
  rows = files.read_lines(
    path, lambda line: _decode_row(line, columns), header=_encode([columns])
  )
  scores = _from_rows(rows, search_space.num_stages)
  if problem := _find_problem(search_space, scores):
    row, text = problem
    raise UserError(f"{path}: line {row + 2}: {text}")
  return scores


def resume_scores(path: Path, search_space: SearchSpace) -> Scores:
  """Reads the file; where there is none, an empty table.

  Raises:
    UserError: as `read_scores`.
  """
  if not os.path.exists(path):
    return _from_rows([], search_space.num_stages)
  return read_scores(path, search_space)


def append_scores(
  path: Path, search_space: SearchSpace, scores: Scores
) -> None:
  """Appends a batch of rows; they are on disk when this returns.

  The numbers come back as they are, to the last bit.

  Raises:
    ValueError: as `make_scores`; nothing is written.
    OSError: if the rows can not be written; the file is as it was.
  """
  _check_shapes(search_space, vars(scores))
  _check(search_space, scores)
  header = _encode([_columns(search_space.num_stages)])
  files.append_bytes(path, _encode(_to_rows(scores)), header)


def pareto_front(scores: Scores) -> np.ndarray:
  """Which archs no other one dominates in error and FLOPs: `[N]` bool.

  To dominate is to be no worse in both and better in one. Archs that are equal
  in both are on the front together, so that no group loses its share of it to
  the order of the rows.
  """
  points = np.stack([scores.error, scores.flops], axis=-1)
  return moocore.is_nondominated(points, keep_weakly=True)


def _columns(num_stages: int) -> list[str]:
  depth, width = (
    [f"{kind}_{stage + 1}" for stage in range(num_stages)]
    for kind in ("depth", "width")
  )
  return ["source", "space", *depth, *width, *_NUMBERS]


def _encode(rows: Iterable[Sequence[Any]]) -> bytes:
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue().encode()


def _decode_row(line: bytes, columns: list[str]) -> tuple:
  """The values of one line; ValueError, if it is anything else."""
  try:
    (fields,) = csv.reader([line.decode("ascii", "replace")], strict=True)
  except csv.Error as error:
    raise ValueError(f"not CSV: {error}") from error
  if len(fields) != len(columns):
    raise ValueError(f"expected {len(columns)} fields; got {len(fields)}")
  return tuple(map(_decode_field, columns, fields))


def _decode_field(column: str, text: str) -> str | int | float:
  if column == "source":
    return text
  if column == "space" and not text:
    return NO_SPACE
  if _NUMBERS.get(column) is np.float64:
    try:
      return float(text)
    except ValueError:
      raise ValueError(f"{column}: expected a number; got {text!r}") from None
  # Not int(): it takes signs, spaces and underscores.
  if not (text.isdecimal() and text.isascii() and len(text) <= _MOST_DIGITS):
    raise ValueError(f"{column}: expected a whole number; got {text!r}")
  return int(text)


def _from_rows(rows: Sequence[tuple], num_stages: int) -> Scores:
  names = _columns(num_stages)
  columns = list(zip(*rows, strict=True)) or [()] * len(names)
  numbers = {
    name: np.asarray(column, kind)
    for (name, kind), column in zip(
      _NUMBERS.items(), columns[-len(_NUMBERS) :], strict=True
    )
  }
  archs = np.asarray(columns[2 : -len(_NUMBERS)], np.int64)
  return Scores(
    source=np.asarray(columns[0], np.str_),
    space=np.asarray(columns[1], np.int64),
    depth=archs[:num_stages].T,
    width=archs[num_stages:].T,
    **numbers,
  )


def _to_rows(scores: Scores) -> Iterable[tuple]:
  # csv writes the shortest text that is read back as the same float.
  return zip(
    scores.source.tolist(),
    ["" if index == NO_SPACE else index for index in scores.space.tolist()],
    *scores.depth.T.tolist(),
    *scores.width.T.tolist(),
    *(getattr(scores, name).tolist() for name in _NUMBERS),
    strict=True,
  )


def _check_shapes(search_space: SearchSpace, fields: dict) -> None:
  """Raises ValueError unless the fields are those of as many archs."""
  count, stages = len(fields["depth"]), search_space.num_stages
  for name, field in fields.items():
    shape = (count, stages) if name in ("depth", "width") else (count,)
    if field.shape != shape:
      raise ValueError(
        f"{count} archs of {stages} stages: {name} should have the shape "
        f"{shape}; got {field.shape}"
      )


def _check(search_space: SearchSpace, scores: Scores) -> None:
  """Raises ValueError at the first row that is not of this search space."""
  if problem := _find_problem(search_space, scores):
    row, text = problem
    raise ValueError(f"arch {row + 1} of {len(scores)}: {text}")


def _find_problem(
  search_space: SearchSpace, scores: Scores
) -> tuple[int, str] | None:
  """A row that is not of this search space, and why."""
  named = [name.isascii() and name.isidentifier() for name in scores.source]
  both = (
    held(scores.depth, search_space.depth_bins),
    held(scores.width, search_space.width_bins),
  )
  inside = np.asarray(np.all(both, axis=(0, -1)))
  # Those outside have no cost.
  largest = cost.largest_arch(search_space)
  archs = Arch(
    depth=np.where(inside[:, None], scores.depth, largest.depth[None]),
    width=np.where(inside[:, None], scores.width, largest.width[None]),
  )
  # The same arch costs otherwise where images, strides or the stem differ.
  same_flops = scores.flops == cost.arch_macs(search_space, archs)
  same_params = scores.params == cost.arch_params(search_space, archs)
  for good, problem in (
    (named, "source is not a plain name"),
    (scores.space >= NO_SPACE, "space is negative"),
    (inside, "this arch is not in the search space"),
    (same_flops, "not the flops of this arch in this search space"),
    (same_params, "not the params of this arch in this search space"),
    ((scores.error >= 0) & (scores.error <= 1), "error is not in 0 to 1"),
    ((scores.loss >= 0) & (scores.loss < np.inf), "loss is not in 0 to inf"),
  ):
    bad = np.flatnonzero(~np.asarray(good, bool))
    if len(bad):
      row = _encode(_to_rows(scores.select(bad[:1]))).decode().strip()
      return int(bad[0]), f"{problem}: {row}"
  return None
