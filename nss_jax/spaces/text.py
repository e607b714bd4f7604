"""Archs and spaces as text, for file names, flags and people."""

import re

import numpy as np

from nss_jax.spaces.search_space import (
  Arch,
  SearchSpace,
  Space,
  space_from_ranges,
  space_ranges,
)


def format_arch(arch: Arch) -> str:
  """Returns one arch as text: `d3-3-3_w16-32-64`."""
  depth, width = (
    "-".join(str(int(n)) for n in np.asarray(field))
    for field in (arch.depth, arch.width)
  )
  return f"d{depth}_w{width}"


def parse_arch(text: str) -> Arch:
  """Undoes `format_arch`.

  Raises:
    ValueError: if the text is not of that form.

  Example:
    >>> parse_arch("d3-3-3_w16-32-64").width
    array([16, 32, 64], dtype=int32)
    >>> format_arch(parse_arch("d3-3-3_w16-32-64"))
    'd3-3-3_w16-32-64'
  """
  match = re.fullmatch(r"d(\d+(?:-\d+)*)_w(\d+(?:-\d+)*)", text, re.ASCII)
  if match:
    depth, width = ([int(n) for n in g.split("-")] for g in match.groups())
    numbers = (*depth, *width)
    fits = min(numbers) >= 1 and max(numbers) <= np.iinfo(np.int32).max
    if len(depth) == len(width) and fits:
      return Arch(
        depth=np.asarray(depth, np.int32), width=np.asarray(width, np.int32)
      )
  raise ValueError(
    f"not an arch: {text!r}; expected positive depths and widths, one per "
    "stage, like 'd3-3-3_w16-32-64'"
  )


def format_space(search_space: SearchSpace, space: Space) -> str:
  """Returns one space as text: `d1:4-5:8-1:4_w1:32-33:64-65:96`."""
  ranges = space_ranges(search_space, space)
  depth, width = (
    "-".join(f"{low}:{high}" for low, high in ranges[kind])
    for kind in ("depth", "width")
  )
  return f"d{depth}_w{width}"


def parse_space(search_space: SearchSpace, text: str) -> Space:
  """Undoes `format_space`.

  Raises:
    ValueError: if the text is not of that form or names no bin.

  Example:
    >>> search_space = SearchSpace.expanded(max_depth=16, max_width=512)
    >>> space = parse_space(search_space, "d1:4-5:8-1:4_w1:32-33:64-65:96")
    >>> space.width
    array([0, 1, 2], dtype=int32)
    >>> format_space(search_space, space)
    'd1:4-5:8-1:4_w1:32-33:64-65:96'
    >>> describe_space(search_space, space)[1]
    'stage 2: 5-8 blocks, 33-64 channels'
  """
  ranges = r"(\d+:\d+(?:-\d+:\d+)*)"
  match = re.fullmatch(f"d{ranges}_w{ranges}", text, re.ASCII)
  if not match:
    raise ValueError(
      f"not a space: {text!r}; expected ranges like "
      "'d1:4-5:8-1:4_w1:32-33:64-65:96'"
    )
  depth, width = (
    [tuple(map(int, r.split(":"))) for r in g.split("-")]
    for g in match.groups()
  )
  return space_from_ranges(search_space, {"depth": depth, "width": width})


def describe_space(search_space: SearchSpace, space: Space) -> list[str]:
  """Returns a line for each stage: `stage 1: 1-4 blocks, 33-64 channels`."""
  ranges = space_ranges(search_space, space)
  stages = zip(ranges["depth"], ranges["width"], strict=True)
  return [
    f"stage {stage}: {_count(*depth, 'block')}, {_count(*width, 'channel')}"
    for stage, (depth, width) in enumerate(stages, 1)
  ]


def format_macs(number: float) -> str:
  """Returns multiply-adds in MF (1e6) or GF (1e9): `598 MF`, `1.6 GF`."""
  unit, scale = ("GF", 1e9) if number >= 999.5e6 else ("MF", 1e6)
  return f"{number / scale:.3g} {unit}"


def _count(low: int, high: int, noun: str) -> str:
  if low == high:
    return f"{low} {noun}" if low == 1 else f"{low} {noun}s"
  return f"{low}-{high} {noun}s"
