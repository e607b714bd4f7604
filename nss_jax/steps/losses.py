"""Losses and the contract of loss functions."""

from collections.abc import Callable
from typing import Any

import jax
import optax

Metrics = dict[str, jax.Array]
# (weights, choice, batch) -> (scalar loss, metrics). `choice` is whatever the
# sampler of the same loop returns as such: an arch, or mixed masks.
LossFn = Callable[[Any, Any, Any], tuple[jax.Array, Metrics]]


def cross_entropy(
  logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Metrics]:
  """Mean softmax cross-entropy of `[B, C]` logits and `[B]` labels, in nats.

  Returns:
    The loss, and `{"accuracy": share of correct predictions}`.
  """
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  accuracy = (logits.argmax(-1) == labels).mean()
  return loss, {"accuracy": accuracy}


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
  """`pmean` over a device axis; the tree itself when there is none."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def vary_over_devices(tree: Any, axis_name: str | None) -> Any:
  """Marks replicated values as different per device, for a local gradient.

  Inside a `shard_map` that checks replication, the gradient of a replicated
  value is already summed over the devices; a `pmean` after it would be too
  large by their number. Marked so, the gradient stays local and `pmean` is the
  mean, checked or not.
  """
  if axis_name is None:
    return tree

  def vary(x):
    if axis_name in getattr(jax.typeof(x), "vma", ()):
      return x
    return jax.lax.pcast(x, axis_name, to="varying")

  return jax.tree.map(vary, tree)
