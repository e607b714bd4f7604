"""`scores.csv`: every arch that was scored, one line each.

Columns: `source` (the group that the arch was drawn for), `space` (index of its
space within the group, empty in a group of single archs), `depth_1..S`,
`width_1..S`, `flops` (multiply-adds), `params`, `error` (share of images that
are classified wrongly, 0 to 1) and `loss` (cross-entropy, nats). The first line
names them. Files are replaced whole, so that what is read never lacks an end.
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

# Groups, and how tables name them: archs of the Elite Space; uniform archs of
# the Expanded Search Space; the same within a tolerance of the target; archs of
# uniform spaces whose mean cost is within it; of such spaces without the lowest
# width bin in any stage; of the space that one would draw by hand; and of the
# spaces that the oracle ranked best, scored again.
ELITE = "elite"
EXPANDED = "expanded"
EXPANDED_NEAR = "expanded_near_target"
RANDOM_SPACES = "random_spaces"
HARD_RANDOM_SPACES = "hard_random_spaces"
HAND_MADE = "hand_made"
ORACLE = "oracle"
GROUPS = {
  ELITE: "Elite Space",
  EXPANDED: "Expanded Search Space",
  EXPANDED_NEAR: "the same, near the target",
  RANDOM_SPACES: "random spaces",
  HARD_RANDOM_SPACES: "random spaces, no lowest width",
  HAND_MADE: "hand-made space",
  ORACLE: "best spaces of the oracle",
}

# `space` of an arch whose group has no spaces; an empty field in the file.
NO_SPACE = -1

# The last columns, and how numpy holds them.
_NUMBERS = {
  "flops": np.int64,
  "params": np.int64,
  "error": np.float64,
  "loss": np.float64,
}

# What a run can write; means of more overflow.
_LARGEST_LOSS = np.finfo(np.float32).max
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
    """Returns some rows, by a mask `[N]` or by indices."""
    return Scores(**{name: values[rows] for name, values in vars(self).items()})

  def group(self, *sources: str) -> "Scores":
    """Returns the rows of some sources."""
    return self.select(np.isin(self.source, sources))

  def numbers(self) -> dict[str, Any]:
    """Returns what artifacts tell of a group that has rows."""
    return {
      "count": len(self),
      "mean_error": float(self.error.mean()),
      "median_error": float(np.median(self.error)),
      "min_error": float(self.error.min()),
      "mean_loss": float(self.loss.mean()),
      "mean_flops": float(self.flops.mean()),
      "median_flops": float(np.median(self.flops)),
    }


def make_scores(
  search_space: SearchSpace,
  source: str,
  archs: Arch,
  *,
  error: Sequence[float] | np.ndarray,
  loss: Sequence[float] | np.ndarray,
  space: Sequence[int] | np.ndarray | int = NO_SPACE,
) -> Scores:
  """Makes a table of archs that were just scored, and fills in their cost."""
  depth, width = (np.asarray(x, np.int64) for x in (archs.depth, archs.width))
  stages = search_space.num_stages
  given = {
    "depth": depth,
    "width": width,
    "space": np.broadcast_to(np.asarray(space, np.int64), len(depth)),
    "error": np.asarray(error, np.float64),
    "loss": np.asarray(loss, np.float64),
  }
  shapes = dict.fromkeys(given, (len(depth),))
  shapes |= dict.fromkeys(("depth", "width"), (len(depth), stages))
  for name, field in given.items():
    if field.shape != shapes[name]:
      raise ValueError(
        f"{len(depth)} archs of {stages} stages: {name} should have the shape "
        f"{shapes[name]}; got {field.shape}"
      )
  scores = Scores(
    source=np.full(len(depth), source),
    flops=cost.arch_macs(search_space, archs),
    params=cost.arch_params(search_space, archs),
    **given,
  )
  if problem := _find_problem(search_space, scores):
    row, text = problem
    raise ValueError(f"arch {row + 1} of {len(scores)}: {text}")
  return scores


def read_scores(path: Path, search_space: SearchSpace) -> Scores:
  """Reads the file."""
  columns = _columns(search_space.num_stages)
  rows = files.read_lines(
    path, lambda x: _decode(columns, x), _encode([columns])
  )
  scores = _from_rows(rows, search_space.num_stages)
  if problem := _find_problem(search_space, scores):
    row, text = problem
    raise UserError(f"{path}: line {row + 2}: {text}")
  return scores


def find_scores(path: Path, search_space: SearchSpace) -> Scores | None:
  """Reads the file as `read_scores` does, if there is one."""
  return read_scores(path, search_space) if os.path.exists(path) else None


def resume_scores(path: Path, search_space: SearchSpace) -> Scores:
  """Reads the file as `read_scores` does; no file is an empty table."""
  known = find_scores(path, search_space)
  return _from_rows([], search_space.num_stages) if known is None else known


def append_scores(
  path: Path, search_space: SearchSpace, scores: Scores
) -> None:
  """Adds a batch of rows; they are on disk when this returns.

  The file is replaced at once. The numbers come back to the last bit.
  """
  header = _encode([_columns(search_space.num_stages)])
  files.append_bytes(path, _encode(_to_rows(scores)), header)


def pareto_front(scores: Scores) -> np.ndarray:
  """Tells which archs no other one dominates in error and FLOPs: `[N]` bool.

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


def _decode(columns: list[str], line: bytes) -> list[Any]:
  """Returns the values of one line; raises ValueError for anything else."""
  try:
    (fields,) = csv.reader([line.decode("ascii", "replace")], strict=True)
  except csv.Error as error:
    raise ValueError(f"not CSV: {error}") from error
  if len(fields) != len(columns):
    raise ValueError(f"expected {len(columns)} fields; got {len(fields)}")
  return [_decode_field(*pair) for pair in zip(columns, fields, strict=True)]


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


def _from_rows(rows: Sequence[Sequence[Any]], num_stages: int) -> Scores:
  columns = len(_columns(num_stages))
  table = np.asarray(rows, object).reshape(-1, columns)
  archs = table[:, 2 : 2 + 2 * num_stages].astype(np.int64)
  return Scores(
    source=table[:, 0].astype(np.str_),
    space=table[:, 1].astype(np.int64),
    depth=archs[:, :num_stages],
    width=archs[:, num_stages:],
    **{
      name: table[:, column].astype(kind)
      for column, (name, kind) in enumerate(
        _NUMBERS.items(), columns - len(_NUMBERS)
      )
    },
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


def _find_problem(
  search_space: SearchSpace, scores: Scores
) -> tuple[int, str] | None:
  """Finds a row that is not of this search space, and why."""
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
    (scores.loss <= _LARGEST_LOSS, "loss is more than float32 holds"),
  ):
    bad = np.flatnonzero(~np.asarray(good, bool))
    if len(bad):
      row = _encode(_to_rows(scores.select(bad[:1]))).decode().strip()
      return int(bad[0]), f"{problem}: {row}"
  return None
