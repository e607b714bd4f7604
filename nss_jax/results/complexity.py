"""Groups of `complexity/scores.csv` (paper 4.4): a source per search space.

`w128_d4` has widths to 128 and depths to 4; `elite` are archs of the Elite
Space.
"""

import re

import numpy as np

from nss_jax.results import scores
from nss_jax.results.scores import Scores

Curve = tuple[np.ndarray, np.ndarray]


def space_name(max_width: int, max_depth: int) -> str:
  """The source of a search space."""
  return f"w{max_width}_d{max_depth}"


def parse_name(name: str) -> tuple[int, int] | None:
  """`(max_width, max_depth)` of a search space; None of another source."""
  match = re.fullmatch(r"w([1-9]\d{0,5})_d([1-9]\d{0,5})", name, re.ASCII)
  return (int(match[1]), int(match[2])) if match else None


def levels(table: Scores) -> dict[int, dict[int, Scores]]:
  """Archs of the search spaces, `{max_width: {max_depth: rows}}`, ascending."""
  names = map(parse_name, np.unique(table.source).tolist())
  found: dict[int, dict[int, Scores]] = {}
  for width, depth in sorted(filter(None, names)):
    group = table.group(space_name(width, depth))
    found.setdefault(width, {})[depth] = group
  return found


def elite(table: Scores) -> Scores:
  """Archs of the Elite Space; there may be none."""
  return table.group(scores.ELITE)


def is_near(group: Scores, target: float, tolerance: float) -> np.ndarray:
  """`[N]` bool: which archs are within the tolerance of the target."""
  return np.abs(group.flops / target - 1) <= tolerance


def flops_edf(group: Scores, target: float, tolerance: float) -> Curve:
  """The EDF of multiply-adds inside the tolerance (Fig. 5d).

  Of all the archs of the group, so that it ends with the share that is near the
  target, and a group that seldom meets it is seen to.

  Returns:
    `(flops, share)`, float64 `[K + 2]`, from one end of the tolerance to the
    other; K archs are inside.
  """
  inside = np.sort(group.flops[is_near(group, target, tolerance)])
  ends = target * (1 - tolerance), target * (1 + tolerance)
  share = np.arange(len(inside) + 1) / max(len(group), 1)
  return (
    np.concatenate([ends[:1], inside, ends[1:]]),
    np.append(share, share[-1]),
  )
