"""From archs to masks, and the samplers that choose archs or mix their masks.

A width mask is a prefix: the first w channels are one, the others zero. A
depth mask holds the weight of every block's output in the stage's output.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from nss_jax.spaces import distribution
from nss_jax.spaces.bins import bin_edges, bin_exists
from nss_jax.spaces.cost import largest_arch, smallest_arch
from nss_jax.spaces.distribution import SpaceLogits
from nss_jax.spaces.sampling import sample_bin_archs
from nss_jax.spaces.search_space import (
  Arch,
  Array,
  SearchSpace,
  check_archs,
)


@struct.dataclass
class Masks:
  """Which part of the supernet runs.

  Attributes:
    depth: `[S, D]` weights over the outputs of a stage's blocks; one-hot when
      hard.
    width: `[S, W]` prefix masks; 0 or 1 when hard, between them when mixed.
  """

  depth: jax.Array
  width: jax.Array


class Sample(NamedTuple):
  """One draw of a sampler.

  Attributes:
    weights: weights of the bins, like the logits: what the cost depends on.
    choice: what the network runs with: an `Arch`, or `Masks` when mixed.
  """

  weights: Any
  choice: Any


SampleFn = Callable[[jax.Array, Any, jax.Array], Sample]


def arch_masks(search_space: SearchSpace, arch: Arch) -> Masks:
  """Makes the hard masks of one arch with fields `[S]`.

  Raises:
    ValueError: if the arch is not of the search space. Inside `jit` its values
      are not seen; the masks of an arch of another space mean nothing.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(
    ...   max_depth=4, max_width=4, num_width_bins=2
    ... )
    >>> masks = arch_masks(search_space, nss.parse_arch("d1-2-4_w1-3-4"))
    >>> masks.width[1].tolist()
    [1.0, 1.0, 1.0, 0.0]
    >>> masks.depth[1].tolist()
    [0.0, 1.0, 0.0, 0.0]
  """
  check_archs(search_space, arch, one=True)
  depth = jnp.asarray(arch.depth)
  return Masks(
    depth=jax.nn.one_hot(depth - 1, search_space.max_depth, dtype=jnp.float32),
    width=_prefix(arch.width, search_space.max_width),
  )


def check_masks(search_space: SearchSpace, masks: Masks) -> None:
  """Refuses masks that are not `[S, D]` and `[S, W]` of a search space."""
  for name, largest in (
    ("depth", search_space.max_depth),
    ("width", search_space.max_width),
  ):
    shape = search_space.num_stages, largest
    if (got := jnp.shape(getattr(masks, name))) != shape:
      raise ValueError(f"{name} mask must have the shape {shape}; got {got}")


def all_masks(search_space: SearchSpace) -> Masks:
  """Returns masks with every channel and block of every stage on."""
  return arch_masks(search_space, largest_arch(search_space))


def mix_masks(
  search_space: SearchSpace, offers: Arch, weights: SpaceLogits
) -> Masks:
  """Sums the masks of one candidate per bin by weights (paper 6.3.1).

  Width mask of a stage: `sum_k g_k prefix(w_k)`; its output:
  `sum_k g_k x_(d_k)`. With one-hot weights they are the masks of one arch.

  Args:
    search_space: the bins.
    offers: a depth and a width from each bin, `[S, Kd]` and `[S, Kw]`.
    weights: weights of the bins, `[S, Kd]` and `[S, Kw]`.

  Raises:
    ValueError: if a candidate is not of the search space. Inside `jit` the
      values are not seen, as those of `arch_masks`.
  """
  check_archs(search_space, jax.tree.map(lambda x: x.T, offers))
  depth = jax.nn.one_hot(
    offers.depth - 1, search_space.max_depth, dtype=jnp.float32
  )
  width = _prefix(offers.width, search_space.max_width)
  return Masks(
    depth=jnp.einsum("sk,skd->sd", weights.depth, depth),
    width=jnp.einsum("sk,skw->sw", weights.width, width),
  )


def gumbel_sampler(
  search_space: SearchSpace,
  temperature_fn: Callable[[jax.Array], jax.Array],
  *,
  hard: bool = False,
) -> SampleFn:
  """Mixes masks by Gumbel-Softmax weights of the bins (Eq. 3).

  Inside the bins draws are uniform. It is differentiable in the logits.

  Args:
    search_space: the bins.
    temperature_fn: temperature from the step.
    hard: straight-through one-hot weights instead of soft ones.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> sample_fn = gumbel_sampler(search_space, lambda step: 5.0)
    >>> logits = nss.init_logits(search_space)
    >>> masks = sample_fn(jax.random.key(0), logits, 0).choice
    >>> [round(float(total), 3) for total in masks.depth.sum(-1)]
    [1.0, 1.0, 1.0]
  """

  def sample(rng, logits, step):
    bins_rng, offers_rng = jax.random.split(rng)
    weights = distribution.gumbel_softmax(
      bins_rng, logits, temperature_fn(step), hard=hard
    )
    offers = _offers(offers_rng, search_space)
    return Sample(weights, mix_masks(search_space, offers, weights))

  return sample


def arch_sampler(search_space: SearchSpace) -> SampleFn:
  """Draws archs: a space from `softmax(logits)`, an arch uniformly inside it.

  For the same key it is the draw of `gumbel_sampler(..., hard=True)`, as an
  `Arch`: whatever the temperature, the largest of logits + Gumbel noise wins.
  """

  def sample(rng, logits, step):
    bins_rng, offers_rng = jax.random.split(rng)
    weights = distribution.gumbel_softmax(bins_rng, logits, 1.0, hard=True)
    offers = _offers(offers_rng, search_space)
    arch = Arch(
      depth=_at_largest(offers.depth, weights.depth),
      width=_at_largest(offers.width, weights.width),
    )
    return Sample(weights, arch)

  return sample


def warmup_sampler(
  search_space: SearchSpace, probability_fn: Callable[[jax.Array], jax.Array]
) -> SampleFn:
  """Draws archs uniformly, with coins that turn whole stages on (paper 6.3.2).

  Each stage has one coin for width and one for depth: with the probability of
  the step all the channels, or all the blocks, replace what was drawn. With
  probability zero it is uniform single-path sampling.

  Args:
    search_space: the bins.
    probability_fn: probability of the coins from the step.

  Example:
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> sample_fn = warmup_sampler(search_space, lambda step: 1.0)
    >>> arch = sample_fn(jax.random.key(0), None, 0).choice
    >>> nss.format_arch(arch)
    'd4-4-4_w64-64-64'
  """
  uniform = arch_sampler(search_space)
  even = distribution.init_logits(search_space)
  return coin_sampler(
    search_space,
    lambda rng, logits, step: uniform(rng, even, step),
    probability_fn,
  )


def coin_sampler(
  search_space: SearchSpace,
  sample_fn: SampleFn,
  probability_fn: Callable[[jax.Array], jax.Array],
) -> SampleFn:
  """Draws archs by `sample_fn`, one or `[A, S]`, with the coins of warmup."""

  def sample(rng, logits, step):
    draw_rng, depth_rng, width_rng = jax.random.split(rng, 3)
    drawn = sample_fn(draw_rng, logits, step)
    whole = largest_arch(search_space)
    # float32, or where jax's default is float64 the draws would be others.
    p = jnp.asarray(probability_fn(step), jnp.float32)

    def toss(rng, largest, drawn):
      return jnp.where(
        jax.random.bernoulli(rng, p, drawn.shape), largest, drawn
      )

    keys = Arch(depth=depth_rng, width=width_rng)
    return Sample(drawn.weights, jax.tree.map(toss, keys, whole, drawn.choice))

  return sample


def fair_sampler(search_space: SearchSpace, num_draws: int) -> SampleFn:
  """Draws archs `[A, S]` that are spread over all depths and widths.

  Each draw is uniform, as those of `arch_sampler` from even logits. But the A
  draws of a step share the distribution out: in every stage, by itself, each
  has another A-th of it. With as many draws as a stage has widths, each width
  is drawn once.

  Source: strict fairness of Chu et al. 2021, FairNAS, section 3.1, here for
  numbers of choices that need not divide the draws.
  """
  kinds = search_space.depth_bins, search_space.width_bins

  def draw(rng, bins):
    low, high = bin_edges(bins)
    count = bin_exists(bins).sum(-1)[None]
    order_rng, place_rng = jax.random.split(rng)
    shape = num_draws, len(bins)
    parts = jnp.broadcast_to(jnp.arange(num_draws)[:, None], shape)
    parts = jax.random.permutation(order_rng, parts, 0, independent=True)
    places = jax.random.uniform(place_rng, shape, jnp.float32)
    # From [0, 1) to a bin, and what is left over to a number inside it.
    places = (parts + places) / num_draws * count
    index = jnp.minimum(places.astype(jnp.int32), count - 1)
    low, high = (
      jnp.take_along_axis(jnp.asarray(x).T, index, 0) for x in (low, high)
    )
    size = high - low + 1
    inside = ((places - index) * size).astype(jnp.int32)
    return low + jnp.clip(inside, 0, size - 1)

  def sample(rng, logits, step):
    keys = jax.random.split(rng)
    depth, width = (draw(*pair) for pair in zip(keys, kinds, strict=True))
    return Sample(None, Arch(depth=depth, width=width))

  return sample


def repeat_sampler(sample_fn: SampleFn, num_draws: int) -> SampleFn:
  """Repeats independent draws: every leaf of the sample is `[A, ...]`."""

  def sample(rng, logits, step):
    keys = jax.random.split(rng, num_draws)
    return jax.vmap(lambda key: sample_fn(key, logits, step))(keys)

  return sample


def sandwich_sampler(
  search_space: SearchSpace, sample_fn: SampleFn
) -> SampleFn:
  """Adds the largest arch and the smallest to the `[A - 2, S]` drawn.

  Source: Yu and Huang 2019, Universally Slimmable Networks, section 3.
  """
  ends = jax.tree.map(
    lambda *x: jnp.stack([jnp.asarray(y) for y in x]),
    largest_arch(search_space),
    smallest_arch(search_space),
  )

  def sample(rng, logits, step):
    drawn = sample_fn(rng, logits, step)
    choice = jax.tree.map(
      lambda end, x: jnp.concatenate([end, x]), ends, drawn.choice
    )
    return Sample(drawn.weights, choice)

  return sample


def largest_sampler(search_space: SearchSpace) -> SampleFn:
  """Takes the largest arch in every step."""
  whole = jax.tree.map(jnp.asarray, largest_arch(search_space))
  return lambda rng, logits, step: Sample(None, whole)


def _offers(rng: jax.Array, search_space: SearchSpace) -> Arch:
  """Draws a depth and a width from each bin, `[S, Kd]` and `[S, Kw]`."""
  offers = sample_bin_archs(rng, search_space, 1)
  return jax.tree.map(lambda x: x[0], offers)


def _at_largest(values: Array, weights: Array) -> jax.Array:
  index = weights.argmax(-1, keepdims=True)
  return jnp.take_along_axis(values, index, axis=-1)[:, 0]


def _prefix(widths: Array, size: int) -> jax.Array:
  channels = jnp.arange(size).reshape((1,) * jnp.ndim(widths) + (size,))
  return (channels < jnp.asarray(widths)[..., None]).astype(jnp.float32)
