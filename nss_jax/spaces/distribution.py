"""Distributions over spaces: logits, Gumbel-Softmax, the Elite Space.

The logits are the paper's Theta. Depth and width of each stage have their own
categorical distribution, and all of them are independent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from nss_jax.spaces.bins import bin_exists
from nss_jax.spaces.constraints import flops_penalty
from nss_jax.spaces.search_space import Array, SearchSpace, Space

# The logit of a bin that a stage does not own: finite, so that weight decay
# and Adam's ratio of moments stay finite too, and far below any real logit.
ABSENT = -1e9


@struct.dataclass
class SpaceLogits:
  """A distribution over spaces, or the weights of its bins.

  Attributes:
    depth: `[S, Kd]` float32.
    width: `[S, Kw]` float32.
  """

  depth: jax.Array
  width: jax.Array


class EliteSpace(NamedTuple):
  """What `elite_space` found.

  Attributes:
    space: the candidate closest to the target, fields `[S]`.
    cost: its cost, in the units of the target, `[]` or `[C]`.
    candidates: all the spaces drawn, fields `[n, S]`.
    costs: their costs, `[n]` or `[n, C]`.
    index: which candidate it is.
  """

  space: Space
  cost: Array
  candidates: Space
  costs: Array
  index: jax.Array


def init_logits(search_space: SearchSpace) -> SpaceLogits:
  """Returns zero logits: every space is equally likely."""
  exist = map(bin_exists, search_space.bins.values())
  return SpaceLogits(
    *(jnp.where(x, 0.0, ABSENT).astype(jnp.float32) for x in exist)
  )


def probabilities(logits: Any) -> Any:
  """Returns softmax over the last axis of every array of a pytree.

  Example:
    >>> from nss_jax import SearchSpace
    >>> logits = init_logits(SearchSpace.expanded())
    >>> float(probabilities(logits).depth[0, 0])
    0.25
  """
  return jax.tree.map(jax.nn.softmax, logits)


def entropy(logits: Any) -> Any:
  """Returns entropies in nats over the last axis of the arrays of a pytree.

  Example:
    >>> from nss_jax import SearchSpace
    >>> logits = init_logits(SearchSpace.expanded())  # 16 width bins
    >>> round(float(entropy(logits).width[0]), 4)  # log 16
    2.7726
  """
  return jax.tree.map(
    lambda x: -(jax.nn.softmax(x) * jax.nn.log_softmax(x)).sum(-1), logits
  )


def gumbel_softmax(
  rng: jax.Array,
  logits: Any,
  temperature: jax.Array | float,
  *,
  hard: bool = False,
) -> Any:
  """Draws relaxed one-hot weights: `softmax((logits + gumbel) / temperature)`.

  Args:
    rng: random key, consumed.
    logits: pytree of arrays; the last axis holds the choices.
    temperature: near 0 the weights are one-hot, with probability
      `softmax(logits)`; large, they are uniform.
    hard: straight-through: the value is exactly one-hot, the gradient is that
      of the relaxed weights.

  Returns:
    A pytree like `logits`; every last axis sums to one.

  Source: Jang et al., Categorical Reparameterization with Gumbel-Softmax;
  paper 3.3 and 6.4.1.

  Example:
    >>> logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]] * 5000))
    >>> weights = gumbel_softmax(jax.random.key(0), logits, 0.5, hard=True)
    >>> [round(float(share), 1) for share in weights.mean(0)]
    [0.7, 0.2, 0.1]
  """
  leaves, tree = jax.tree.flatten(logits)
  keys = jax.random.split(rng, len(leaves))
  weights = []
  for key, leaf in zip(keys, leaves, strict=True):
    noise = jax.random.gumbel(key, leaf.shape, leaf.dtype)
    soft = jax.nn.softmax((leaf + noise) / temperature)
    if hard:
      first = jax.nn.one_hot(soft.argmax(-1), soft.shape[-1], dtype=soft.dtype)
      # Zero in value, so the weights are exactly one-hot; the gradient stays.
      soft = first + (soft - jax.lax.stop_gradient(soft))
    weights.append(soft)
  return tree.unflatten(weights)


def sample_space(
  rng: jax.Array, logits: SpaceLogits, shape: tuple[int, ...] = ()
) -> Space:
  """Draws spaces from `softmax(logits)`: indices `[*shape, S]`.

  Example:
    >>> from nss_jax import SearchSpace
    >>> logits = init_logits(SearchSpace.expanded())
    >>> logits = logits.replace(depth=logits.depth.at[:, 2].set(50.0))
    >>> sample_space(jax.random.key(0), logits, (4,)).depth[0].tolist()
    [2, 2, 2]
  """
  keys = jax.random.split(rng)
  depth, width = (
    jax.random.categorical(key, x, shape=(*shape, x.shape[0]))
    for key, x in zip(keys, (logits.depth, logits.width), strict=True)
  )
  return Space(depth=depth.astype(jnp.int32), width=width.astype(jnp.int32))


def most_probable_space(logits: SpaceLogits) -> Space:
  """Returns the space of the largest probability.

  Example:
    >>> from nss_jax import SearchSpace
    >>> logits = init_logits(SearchSpace.expanded())
    >>> logits = logits.replace(width=logits.width.at[:, 5].set(0.1))
    >>> most_probable_space(logits).width.tolist()
    [5, 5, 5]
  """
  return Space(
    depth=logits.depth.argmax(-1).astype(jnp.int32),
    width=logits.width.argmax(-1).astype(jnp.int32),
  )


def one_hot(space: Space, logits: SpaceLogits) -> SpaceLogits:
  """Returns the weights of one space, shaped as `logits`."""
  return SpaceLogits(
    *(
      jax.nn.one_hot(index, x.shape[-1], dtype=x.dtype)
      for index, x in ((space.depth, logits.depth), (space.width, logits.width))
    )
  )


def elite_space(
  rng: jax.Array,
  logits: SpaceLogits,
  *,
  cost_fn: Callable[[SpaceLogits], Any],
  target: Any,
  num_samples: int = 5,
  penalty_fn: Callable[[Any, Any], Any] = flops_penalty,
) -> EliteSpace:
  """Draws n spaces and keeps the one closest to the target (paper 3.4, 4.1).

  Of several costs C the one that is farthest from its target counts.

  Args:
    rng: random key, consumed.
    logits: the searched distribution.
    cost_fn: mean cost of a space from the weights of its bins, or costs `[C]`.
    target: the cost to be met, in the units of `cost_fn`, or `[C]`.
    num_samples: n; the paper draws 5.
    penalty_fn: `(costs, target)` -> how far each is from being met.

  Example:
    >>> import functools
    >>> import nss_jax as nss
    >>> search_space = nss.SearchSpace.expanded(max_depth=4, max_width=64)
    >>> elite = elite_space(
    ...   jax.random.key(0),
    ...   nss.init_logits(search_space),
    ...   cost_fn=functools.partial(nss.mean_macs, search_space),
    ...   target=100e6,
    ... )
    >>> [round(float(cost) / 1e6) for cost in elite.costs]
    [54, 170, 158, 20, 128]
    >>> round(float(elite.cost) / 1e6)
    128
  """
  candidates = sample_space(rng, logits, (num_samples,))
  costs = jax.vmap(lambda space: cost_fn(one_hot(space, logits)))(candidates)
  distances = penalty_fn(costs, target).reshape(num_samples, -1).max(-1)
  index = distances.argmin().astype(jnp.int32)
  space = jax.tree.map(lambda x: x[index], candidates)
  return EliteSpace(space, costs[index], candidates, costs, index)
