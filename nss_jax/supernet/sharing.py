"""How far the archs of a supernet share its weights.

By default they share all: an arch has the front corner of every parameter.
Here the widths of a stage can be parted into groups, each with a deviation of
its own from what all share, for scales and offsets alone or for kernels too. An
engine is given the sum for one arch, so that engines know nothing of groups.
"""

from typing import Any

import jax
import jax.numpy as jnp

from nss_jax.spaces.search_space import Arch, SearchSpace

# The keys of weights with deviations. A supernet of its own has no such parts.
_SHARED, _OWN = "shared", "own"
_NORMS = ("scale", "offset")


def add_groups(weights: Any, *, norms: int = 1, kernels: int = 1) -> Any:
  """Gives widths deviations of their own, which are zero at first.

  `norms` is the number of groups of a stage's widths that have scales and
  offsets of their own, `kernels` that of groups that have all else of the
  stage. With one of each it returns the weights themselves, as `init_weights`
  makes them; else a pytree that `weights_of` reads.

  Sources: scales and offsets for each width, Yu et al. 2019, Slimmable Neural
  Networks, section 3.3; kernels for groups, here as deviations from the shared
  ones, Zhao et al. 2021, Few-Shot NAS.
  """
  own: dict[str, Any] = {}
  for name, stage in weights.items():
    if not name.startswith("stage_"):
      continue

    def deviations(path, leaf):
      count = norms if path[-1].key in _NORMS else kernels
      return jnp.zeros((count if count > 1 else 0, *leaf.shape), leaf.dtype)

    own[name] = jax.tree_util.tree_map_with_path(deviations, stage)
  if norms == kernels == 1:
    return weights
  return {_SHARED: weights, _OWN: own}


def has_groups(weights: Any) -> bool:
  """Says whether weights are of `add_groups`."""
  return set(weights) == {_SHARED, _OWN}


def count_groups(weights: Any) -> dict[str, int]:
  """Returns the arguments of `add_groups` that weights were made with."""
  counts = {"norms": 1, "kernels": 1}
  if isinstance(weights, dict) and has_groups(weights):
    leaves = jax.tree_util.tree_leaves_with_path(weights[_OWN])
    for path, leaf in leaves:
      name = "norms" if path[-1].key in _NORMS else "kernels"
      counts[name] = max(counts[name], len(leaf))
  return counts


def weights_of(search_space: SearchSpace, weights: Any, arch: Arch) -> Any:
  """Returns the weights by which one arch runs, as `init_weights` makes them.

  Those of its groups are added to what is shared. A stage whose largest width
  is W has the width w in the group `(w - 1) G // W` of G. Weights without
  groups are returned as they are.
  """
  if not has_groups(weights):
    return weights
  chosen = dict(weights[_SHARED])
  for stage, largest in enumerate(search_space.max_widths):
    name = f"stage_{stage + 1}"
    width = jnp.asarray(arch.width)[stage]

    def add(shared, own, width=width, largest=largest):
      if not len(own):
        return shared
      return shared + own[(width - 1) * len(own) // largest]

    chosen[name] = jax.tree.map(add, chosen[name], weights[_OWN][name])
  return chosen


def label_kernels(weights: Any) -> Any:
  """Returns a pytree of bool: which leaves are deviations of kernels."""

  def is_kernel(path, leaf):
    return path[0].key == _OWN and path[-1].key not in _NORMS

  return jax.tree_util.tree_map_with_path(is_kernel, weights)
