"""Cost of an arch, mean cost of a space, and the FLOPs loss.

FLOPs are multiply-adds (MACs): convolutions and the fully connected layer with
its bias; nothing for batch normalisation, ReLU, additions and pooling. That is
the convention of the paper and of RegNet, and it gives the published counts
(ResNet-20: 40,813,194).

Every metric is one polynomial in the *moments* of the stages' depths and
widths. Given the integers of an arch it is exact integer arithmetic; given the
means over a space's bins it is the mean cost of that space, because depth and
widths are independent; given differentiable bin weights it is differentiable.
So the three cannot drift apart.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.search_space import (
  Arch,
  Array,
  SearchSpace,
  Space,
  bin_edges,
  space_ranges,
)


class Moments(NamedTuple):
  """What the cost of a network body depends on; every field is `[..., S]`.

  Attributes:
    depth: d, or its mean.
    width: w, or its mean.
    width_sq: w * w, or its mean.
    same: 1 where the stage needs no projection (stride 1 and as wide as the
      stage before it, or the stem), or the probability of that.
    same_width: `same * w`, or its mean.
    same_width_sq: `same * w * w`, or its mean.
  """

  depth: Array
  width: Array
  width_sq: Array
  same: Array
  same_width: Array
  same_width_sq: Array


def arch_moments(search_space: SearchSpace, arch: Arch) -> Moments:
  """The moments of archs, exact int64 on the host."""
  depth = np.asarray(arch.depth, np.int64)
  width = np.asarray(arch.width, np.int64)
  stem = np.full((*width.shape[:-1], 1), search_space.stem_width)
  before = np.concatenate([stem, width[..., :-1]], axis=-1)
  stride_one = np.asarray(search_space.strides) == 1
  same = ((width == before) & stride_one).astype(np.int64)
  return Moments(depth, width, width**2, same, same * width, same * width**2)


def mean_moments(search_space: SearchSpace, weights: Any) -> Moments:
  """The mean moments of a space whose bins are weighted.

  Args:
    search_space: the bins.
    weights: `.depth` `[S, Kd]` and `.width` `[S, Kw]`, rows that sum to one:
      one-hot for a space, probabilities for a distribution over spaces,
      Gumbel-Softmax weights in between. numpy in, numpy out (float64).

  Returns:
    Moments with fields `[S]`. Exact for one-hot rows and for independent
    probabilities.
  """
  backend = np if isinstance(weights.width, np.ndarray) else jnp
  depth, _ = _bin_powers(search_space.depth_bins)
  width, width_sq = _bin_powers(search_space.width_bins)
  same = [
    _same_moments(search_space, weights.width, stage)
    for stage in range(search_space.num_stages)
  ]
  return Moments(
    (weights.depth * depth).sum(-1),
    (weights.width * width).sum(-1),
    (weights.width * width_sq).sum(-1),
    *(backend.stack(field) for field in zip(*same, strict=True)),
  )


def macs(search_space: SearchSpace, m: Moments) -> Array:
  """Multiply-adds of one image: `[...]`."""
  height, width, channels = search_space.image_shape
  total: Any = height * width * 9 * channels * search_space.stem_width
  before = search_space.stem_width
  for stage, (height, width) in enumerate(stage_shapes(search_space)):
    w, sq = m.width[..., stage], m.width_sq[..., stage]
    depth, same_sq = m.depth[..., stage], m.same_width_sq[..., stage]
    pixel = _pixel_macs(before, depth, w, sq, same_sq)
    total = total + height * width * pixel
    before = w
  return total + before * search_space.num_classes + search_space.num_classes


def params(search_space: SearchSpace, m: Moments) -> Array:
  """Trainable numbers, scale and offset of the normalisations included."""
  channels, stem = search_space.image_shape[-1], search_space.stem_width
  total: Any = 9 * channels * stem + 2 * stem
  before = stem
  for stage in range(search_space.num_stages):
    w, sq = m.width[..., stage], m.width_sq[..., stage]
    project = before * w - m.same_width_sq[..., stage]
    project = project + 2 * (w - m.same_width[..., stage])
    first = 9 * before * w + 9 * sq + 4 * w + project
    rest = (m.depth[..., stage] - 1) * (18 * sq + 4 * w)
    total = total + first + rest
    before = w
  return total + before * search_space.num_classes + search_space.num_classes


def activations(search_space: SearchSpace, m: Moments) -> Array:
  """Numbers that the convolutions and the head put out for one image."""
  height, width, _ = search_space.image_shape
  total: Any = height * width * search_space.stem_width
  for stage, (height, width) in enumerate(stage_shapes(search_space)):
    w = m.width[..., stage]
    outputs = 2 * m.depth[..., stage] * w + w - m.same_width[..., stage]
    total = total + height * width * outputs
  return total + search_space.num_classes


def arch_macs(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Exact multiply-adds of archs `[..., S]` -> `[...]` int64, on the host.

  Example:
    >>> import nss_jax as nss
    >>> resnet_20 = nss.parse_arch("d3-3-3_w16-32-64")
    >>> int(nss.arch_macs(nss.SearchSpace.expanded(), resnet_20))
    40813194
  """
  return np.asarray(macs(search_space, arch_moments(search_space, arch)))


def arch_params(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Exact parameters of archs `[..., S]` -> `[...]` int64, on the host.

  Example:
    >>> import nss_jax as nss
    >>> resnet_20 = nss.parse_arch("d3-3-3_w16-32-64")
    >>> int(nss.arch_params(nss.SearchSpace.expanded(), resnet_20))
    272474
  """
  return np.asarray(params(search_space, arch_moments(search_space, arch)))


def arch_activations(search_space: SearchSpace, arch: Arch) -> np.ndarray:
  """Exact activations of archs `[..., S]` -> `[...]` int64, on the host."""
  moments = arch_moments(search_space, arch)
  return np.asarray(activations(search_space, moments))


def mean_macs(search_space: SearchSpace, weights: Any) -> Array:
  """Mean multiply-adds of a weighted space, in closed form (see Moments).

  Differentiable in the weights. float32 under jax: relative error about 1e-6,
  not exact integers.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=32)
    >>> logits = nss.init_logits(search_space)  # all spaces equally likely
    >>> mean = mean_macs(search_space, nss.probabilities(logits))
    >>> round(float(mean) / 1e6, 2)
    21.31
    >>> round(float(nss.all_space_macs(search_space).mean()) / 1e6, 2)
    21.31
  """
  return macs(search_space, mean_moments(search_space, weights))


def space_macs(search_space: SearchSpace, space: Space) -> float:
  """Mean multiply-adds over the archs of one space, float64, on the host.

  Raises:
    ValueError: if the space names a bin that its stage does not have.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(
    ...   max_depth=2, max_width=4, num_depth_bins=2, num_width_bins=2
    ... )
    >>> space = nss.parse_space(search_space, "d1:1-2:2-1:1_w1:2-1:2-3:4")
    >>> space_macs(search_space, space)
    744813.0
    >>> archs = nss.enumerate_archs(search_space, space)
    >>> float(np.mean([arch_macs(search_space, arch) for arch in archs]))
    744813.0
  """
  space_ranges(search_space, space)  # Raises if a stage lacks the bin.
  one_hot = Space(
    depth=np.eye(search_space.num_depth_bins)[np.asarray(space.depth)],
    width=np.eye(search_space.num_width_bins)[np.asarray(space.width)],
  )
  return float(mean_macs(search_space, one_hot))


def stage_macs(search_space: SearchSpace, stage: int) -> np.ndarray:
  """Mean multiply-adds of one stage: `[Kd, K', Kw]` float64, on the host.

  One entry for each depth bin of the stage, each width bin of the stage before
  (one, the stem, for the first stage) and each width bin of the stage; no entry
  for bins that the stages do not have. A space costs the sum of one entry per
  stage and one of `ends_macs`.
  """
  height, width = stage_shapes(search_space)[stage]
  depth, _ = _bin_powers(search_space.depth_bins[stage : stage + 1])
  w, sq = _bin_powers(search_space.width_bins[stage : stage + 1])
  before = np.full((1, 1), float(search_space.stem_width))
  if stage > 0:
    before, _ = _bin_powers(search_space.width_bins[stage - 1 : stage])
  same_sq = _same_tables(search_space, stage)[2]
  pixel = _pixel_macs(before.T, depth.reshape(-1, 1, 1), w, sq, same_sq)
  return np.asarray(height * width * pixel)


def ends_macs(search_space: SearchSpace) -> np.ndarray:
  """Mean multiply-adds of stem and head: `[Kw]`, by the last stage's width."""
  height, width, channels = search_space.image_shape
  stem = height * width * 9.0 * channels * search_space.stem_width
  last, _ = _bin_powers(search_space.width_bins[-1:])
  return stem + (last[0] + 1) * search_space.num_classes


def macs_range(search_space: SearchSpace) -> tuple[float, float]:
  """Smallest and largest mean multiply-adds that a space can have.

  Not simply the first and the last bins: one channel less can cost more,
  because it takes a projection. So walk the stages, and keep for each width
  bin the cheapest and the dearest way to get there.
  """
  lowest = highest = np.zeros(1)
  for stage in range(search_space.num_stages):
    table = stage_macs(search_space, stage)
    lowest = (lowest[:, None] + table[0]).min(0)
    highest = (highest[:, None] + table[-1]).max(0)
  ends = ends_macs(search_space)
  return float((lowest + ends).min()), float((highest + ends).max())


def largest_macs(search_space: SearchSpace) -> int:
  """Multiply-adds of the largest network: what a masked step always pays."""
  return int(arch_macs(search_space, largest_arch(search_space)))


def largest_arch(search_space: SearchSpace) -> Arch:
  """The arch with every block and channel."""
  return Arch(
    depth=np.asarray(search_space.max_depths, np.int32),
    width=np.asarray(search_space.max_widths, np.int32),
  )


def smallest_arch(search_space: SearchSpace) -> Arch:
  """The arch of the smallest depths and widths on offer."""
  depth, width = (
    np.asarray([stage[0][0] for stage in bins], np.int32)
    for bins in (search_space.depth_bins, search_space.width_bins)
  )
  return Arch(depth=depth, width=width)


def stage_shapes(search_space: SearchSpace) -> list[tuple[int, int]]:
  """Height and width of the images inside each stage."""
  height, width, _ = search_space.image_shape
  shapes = []
  for stride in search_space.strides:
    height, width = -(-height // stride), -(-width // stride)
    shapes.append((height, width))
  return shapes


def flops_penalty(cost: Array, target: float) -> Array:
  """The FLOPs loss, `|cost / target - 1|` (Eq. 4, paper 3.4).

  Example:
    >>> round(flops_penalty(540e6, 600e6), 6)
    0.1
  """
  # jax takes a Python integer for int32, and 3.2 GF are more than that holds.
  return abs(cost / (1.0 * target) - 1)


def _pixel_macs(before, depth, width, width_sq, same_width_sq) -> Array:
  """Multiply-adds of a stage for each of its pixels."""
  project = before * width - same_width_sq
  first = 9 * before * width + 9 * width_sq + project
  return first + (depth - 1) * 18 * width_sq


def _bin_powers(bins) -> tuple[np.ndarray, np.ndarray]:
  """Mean of n and of n * n over each bin, `[S, K]`, exact."""
  low, high = (edge.astype(np.float64) for edge in bin_edges(bins))
  count = high - low + 1
  mean = (low + high) / 2
  # The variance of `count` consecutive integers is (count^2 - 1) / 12.
  return mean, mean**2 + (count**2 - 1) / 12


def _same_moments(search_space: SearchSpace, width: Array, stage: int) -> tuple:
  """P, E[w], E[w^2] of "same width as before, stride 1" for one stage."""
  tables = _same_tables(search_space, stage)
  _, num_before, num_here = tables.shape
  here = width[stage, None, :num_here]
  if stage == 0:
    return tuple((table * here).sum() for table in tables)
  before = width[stage - 1, :num_before, None]
  return tuple((before * table * here).sum() for table in tables)


def _same_tables(search_space: SearchSpace, stage: int) -> np.ndarray:
  """`[3, K', K]`: those moments for each bin before (or the stem) and here."""
  if search_space.strides[stage] != 1:
    return np.zeros((3, 1, 1))  # Never the same: one zero for all the bins.
  stem = search_space.stem_width
  all_bins = (((stem, stem),), *search_space.width_bins)
  before, here = (np.asarray(all_bins[s], np.int64) for s in (stage, stage + 1))
  before, here = before[:, None], here[None, :]
  low = np.maximum(before[..., 0], here[..., 0])
  high = np.minimum(before[..., 1], here[..., 1])
  pairs = np.ptp(before, -1) + 1, np.ptp(here, -1) + 1
  # Sums of 1, n and n^2 over the widths that both bins have.
  sums = [
    np.where(low <= high, upto(high) - upto(low - 1), 0)
    for upto in (
      lambda n: n,
      lambda n: n * (n + 1) // 2,
      lambda n: n * (n + 1) * (2 * n + 1) // 6,
    )
  ]
  return np.stack(sums) / (pairs[0] * pairs[1])
