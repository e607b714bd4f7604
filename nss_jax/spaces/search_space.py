"""Search spaces, the spaces in them, and the archs in those.

Letters used in every docstring of the package: S stages, D largest depth,
W largest width, Kd and Kw depth and width bins per stage, B batch, C classes,
N archs.

Vocabulary (paper 3.2-3.3) for each stage: a *search space* offers bins of depth
and of width, a *space* takes one of each, and an *arch* a number of each.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct

from nss_jax.spaces.bins import (
  LARGEST,
  Bin,
  Bins,
  check_bins,
  check_held,
  equal_bins,
  singletons,
)
from nss_jax.spaces.blocks import block_digest, find_block

Array = jax.Array | np.ndarray
_DIGEST = "block_digest"


@struct.dataclass
class Space:
  """One depth bin and one width bin per stage, by index.

  Attributes:
    depth: `[..., S]` int32, index of the depth bin of each stage.
    width: `[..., S]` int32, index of the width bin of each stage.
  """

  depth: Array
  width: Array


@struct.dataclass
class Arch:
  """One network body: blocks and channels per stage.

  Attributes:
    depth: `[..., S]` int32, number of blocks of each stage.
    width: `[..., S]` int32, number of channels of each stage.
  """

  depth: Array
  width: Array


@dataclasses.dataclass(frozen=True)
class SearchSpace:
  """The bins on offer and all that is fixed about the networks (hashable).

  Attributes:
    depth_bins: `[S][Kd]` inclusive ranges `(low, high)` of blocks.
    width_bins: `[S][Kw]` inclusive ranges `(low, high)` of channels.
    strides: `[S]` stride of the first block of each stage.
    stem_width: channels of the stem's 3x3 convolution.
    block: name of the block of the body, see `spaces/blocks.py`.
    image_shape: `(height, width, channels)` of an image.
    num_classes: outputs of the network.
    stem_stride: stride of the stem, for images whose full size costs too much.

  Raises:
    ValueError: naming the field, the value and what is accepted.
  """

  depth_bins: Bins
  width_bins: Bins
  strides: tuple[int, ...] = (1, 2, 2)
  stem_width: int = 16
  block: str = "basic"
  image_shape: tuple[int, int, int] = (32, 32, 3)
  num_classes: int = 10
  stem_stride: int = 1

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = _as_tuple(getattr(self, field.name))
      object.__setattr__(self, field.name, value)
    for name in ("depth_bins", "width_bins", "strides", "image_shape"):
      if not isinstance(getattr(self, name), tuple):
        raise ValueError(f"{name} must be a list; got {getattr(self, name)}")
    lengths = (len(self.depth_bins), len(self.width_bins), len(self.strides))
    if len(set(lengths)) != 1 or lengths[0] == 0:
      raise ValueError(
        "depth_bins, width_bins and strides need one entry per stage, at "
        f"least one; got {lengths[0]}, {lengths[1]} and {lengths[2]}"
      )
    for kind, bins in self.bins.items():
      for stage, one in enumerate(bins):
        check_bins(f"{kind}_bins[{stage}]", one)
    find_block(self.block)
    if len(self.image_shape) != 3 or not _positive(self.image_shape):
      raise ValueError(
        "image_shape must be (height, width, channels), integers of at least "
        f"1; got {self.image_shape}"
      )
    if not _positive(self.strides):
      raise ValueError(
        f"strides must be integers of at least 1; got {self.strides}"
      )
    ends = self.stem_width, self.num_classes, self.stem_stride
    if not _positive(ends):
      raise ValueError(
        "stem_width, num_classes and stem_stride must be integers of at least "
        f"1; got {', '.join(map(str, ends))}"
      )

  @classmethod
  def expanded(
    cls,
    *,
    max_depth: int = 16,
    max_width: int = 512,
    num_depth_bins: int = 4,
    num_width_bins: int = 16,
    strides: Sequence[int] = (1, 2, 2),
    **fixed: Any,
  ) -> "SearchSpace":
    """Makes the Expanded Search Space (paper 3.2, 4.1): equal bins in stages.

    Args:
      max_depth: largest number of blocks of a stage.
      max_width: largest number of channels of a stage.
      num_depth_bins: equal depth bins per stage; must divide `max_depth`.
      num_width_bins: equal width bins per stage; must divide `max_width`.
      strides: stride of each stage; its length is the number of stages.
      **fixed: `stem_width`, `stem_stride`, `block`, `image_shape` and
        `num_classes`.

    Raises:
      ValueError: if the bins do not divide the largest depth or width.

    Example:
      >>> SearchSpace.expanded(max_depth=16, max_width=512).num_spaces
      262144
    """
    return cls(
      depth_bins=(equal_bins("depth", max_depth, num_depth_bins),)
      * len(strides),
      width_bins=(equal_bins("width", max_width, num_width_bins),)
      * len(strides),
      strides=tuple(strides),
      **fixed,
    )

  @property
  def bins(self) -> dict[str, Bins]:
    """The bins by what an `Arch` or a `Space` calls them."""
    return {"depth": self.depth_bins, "width": self.width_bins}

  @property
  def num_stages(self) -> int:
    """The number of stages, S."""
    return len(self.strides)

  @property
  def max_depths(self) -> tuple[int, ...]:
    """The largest depth of each stage, `[S]`."""
    return tuple(bins[-1][1] for bins in self.depth_bins)

  @property
  def max_widths(self) -> tuple[int, ...]:
    """The largest width of each stage, `[S]`."""
    return tuple(bins[-1][1] for bins in self.width_bins)

  @property
  def max_depth(self) -> int:
    """The largest depth of all stages, D."""
    return max(self.max_depths)

  @property
  def max_width(self) -> int:
    """The largest width of all stages, W."""
    return max(self.max_widths)

  @property
  def num_depth_bins(self) -> int:
    """The number of depth bins of the stage that has most, Kd."""
    return max(map(len, self.depth_bins))

  @property
  def num_width_bins(self) -> int:
    """The number of width bins of the stage that has most, Kw."""
    return max(map(len, self.width_bins))

  @property
  def num_spaces(self) -> int:
    """The number of spaces on offer: the product of the numbers of bins."""
    return math.prod(map(len, (*self.depth_bins, *self.width_bins)))

  @property
  def num_archs(self) -> int:
    """The number of archs in all the spaces together."""
    return math.prod(
      sum(high - low + 1 for low, high in bins)
      for bins in (*self.depth_bins, *self.width_bins)
    )

  def num_archs_in(self, space: Space) -> int:
    """Counts the archs in one space."""
    ranges = space_ranges(self, space)
    return math.prod(
      high - low + 1 for kind in ranges.values() for low, high in kind
    )

  def refine(self, space: Space | None = None) -> "SearchSpace":
    """Makes the single depths and widths of a space the bins of a new one.

    Search for an architecture in a space is the search of a space in those.
    Without a space, all that is on offer is made so: the baseline of paper 4.3.
    """
    offers: Mapping[str, Any] = self.bins
    if space is not None:
      ranges = space_ranges(self, space).items()
      offers = {kind: [[one] for one in stages] for kind, stages in ranges}
    depth, width = (tuple(map(singletons, x)) for x in offers.values())
    return dataclasses.replace(self, depth_bins=depth, width_bins=width)

  def only(self, arch: Arch) -> "SearchSpace":
    """Returns the search space of one arch `[S]`, of any positive integers."""
    any_number = (((1, LARGEST),),) * self.num_stages
    for name in self.bins:
      check_held(name, getattr(arch, name), any_number, one=True)
    depth, width = (
      tuple(((n, n),) for n in np.asarray(numbers).tolist())
      for numbers in (arch.depth, arch.width)
    )
    return dataclasses.replace(self, depth_bins=depth, width_bins=width)

  def projects(self, stage: int) -> bool:
    """Says whether the first block of a stage owns a projection.

    It does not where the identity always fits: where the stride is 1 and one
    width alone is on offer, before the stage and in it.
    """
    entering = ((self.stem_width, self.stem_width),)
    if stage:
      entering = self.width_bins[stage - 1]
    widths = self.width_bins[stage]
    ends = {entering[0][0], entering[-1][1], widths[0][0], widths[-1][1]}
    return self.strides[stage] != 1 or len(ends) > 1

  def to_dict(self) -> dict[str, Any]:
    """Returns plain lists and numbers, for JSON, with the block's digest."""
    fields = json.loads(json.dumps(dataclasses.asdict(self)))
    return {**fields, _DIGEST: block_digest(self.block)}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> "SearchSpace":
    """Undoes `to_dict`; the digest may be missing.

    Raises:
      ValueError: if a field is missing, unknown or out of range, or its block
        is another one here.
    """
    given = dict(fields)
    digest = given.pop(_DIGEST, None)
    known = {field.name for field in dataclasses.fields(cls)}
    if set(given) != known:
      missing, extra = sorted(known - set(given)), sorted(set(given) - known)
      raise ValueError(
        f"a search space has the fields {sorted(known)}; missing {missing}, "
        f"unknown {extra}"
      )
    try:
      found = cls(**given)  # which makes tuples of lists
    except (TypeError, IndexError) as error:
      raise ValueError(f"not a search space: {error}") from error
    if digest not in (None, here := block_digest(found.block)):
      raise ValueError(
        f"block {found.block} is another one here, of {_DIGEST} {here}; "
        f"expected that of {digest}"
      )
    return found


def space_ranges(
  search_space: SearchSpace, space: Space
) -> dict[str, list[Bin]]:
  """Returns `{"depth": [(low, high), ...], "width": [...]}`, per stage."""
  check_spaces(search_space, space, one=True)
  ranges = {}
  for kind, bins in search_space.bins.items():
    index = np.asarray(getattr(space, kind)).tolist()
    ranges[kind] = [stage[i] for stage, i in zip(bins, index, strict=True)]
  return ranges


def check_archs(
  search_space: SearchSpace, archs: Arch, *, one: bool = False
) -> None:
  """Refuses archs `[..., S]` that are not of a search space."""
  for kind, bins in search_space.bins.items():
    check_held(kind, getattr(archs, kind), bins, one=one)


def check_spaces(
  search_space: SearchSpace, spaces: Space, *, one: bool = False
) -> None:
  """Refuses spaces `[..., S]` that are not of a search space."""
  for kind, bins in search_space.bins.items():
    on_offer = tuple(((0, len(stage) - 1),) for stage in bins)
    check_held(f"{kind} bin", getattr(spaces, kind), on_offer, one=one)


def space_from_ranges(
  search_space: SearchSpace, ranges: Mapping[str, Sequence[Sequence[int]]]
) -> Space:
  """Undoes `space_ranges`; refuses a range that is no bin of its stage."""
  indices = {}
  for kind, bins in search_space.bins.items():
    given = [_as_tuple(r) for r in ranges[kind]]
    if len(given) != len(bins):
      raise ValueError(
        f"{kind}: expected {len(bins)} ranges, one per stage; got {len(given)}"
      )
    for stage, pair in enumerate(given):
      if pair not in bins[stage]:
        raise ValueError(
          f"{kind}: {list(pair)} is not a bin of stage {stage + 1}, which has "
          f"{[list(b) for b in bins[stage]]}"
        )
    indices[kind] = np.asarray(
      [bins[s].index(pair) for s, pair in enumerate(given)], np.int32
    )
  return Space(**indices)


def _positive(numbers: Sequence[int]) -> bool:
  return all(isinstance(n, int) and 1 <= n <= LARGEST for n in numbers)


def _as_tuple(value: Any) -> Any:
  if isinstance(value, (list, tuple)):
    return tuple(_as_tuple(v) for v in value)
  return int(value) if isinstance(value, np.integer) else value
