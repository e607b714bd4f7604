"""Losses and the contract of loss functions."""

from collections.abc import Callable
from typing import Any

import jax
import optax

Metrics = dict[str, jax.Array]
# (weights, choice, batch) -> (scalar loss, metrics). `choice` is whatever the
# sampler of the same loop returns as such: an arch, or mixed masks.
LossFn = Callable[[Any, Any, Any], tuple[jax.Array, Metrics]]
# (weights, images, choice) -> logits [B, C]
ApplyFn = Callable[[Any, jax.Array, Any], jax.Array]


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


def single_loss(apply_fn: ApplyFn) -> LossFn:
  """Cross-entropy of one choice on a batch of `(images, labels)`."""

  def loss_fn(weights, choice, batch):
    images, labels = batch
    return cross_entropy(apply_fn(weights, images, choice), labels)

  return loss_fn


def mean_loss(apply_fn: ApplyFn) -> LossFn:
  """The mean over choices, a pytree of `[A, ...]`, on the same batch.

  One after the other; each is computed again for its gradient, so the memory
  is that of one.
  """

  def loss_fn(weights, choices, batch):
    one = jax.checkpoint(
      lambda weights, choice: single_loss(apply_fn)(weights, choice, batch)
    )
    found = jax.lax.map(lambda choice: one(weights, choice), choices)
    return jax.tree.map(lambda x: x.mean(0), found)

  return loss_fn


def distilled_loss(apply_fn: ApplyFn) -> LossFn:
  """The sandwich rule: the first choice learns the labels, and all the others
  learn its predictions (in-place distillation).

  Source: Yu and Huang 2019, Universally Slimmable Networks, section 3.
  """

  def loss_fn(weights, choices, batch):
    images, labels = batch
    first = jax.tree.map(lambda x: x[0], choices)
    others = jax.tree.map(lambda x: x[1:], choices)
    logits = apply_fn(weights, images, first)
    loss, metrics = cross_entropy(logits, labels)
    teacher = jax.lax.stop_gradient(jax.nn.softmax(logits))

    @jax.checkpoint
    def student(weights, choice):
      logits = apply_fn(weights, images, choice)
      return optax.softmax_cross_entropy(logits, teacher).mean()

    rest = jax.lax.map(lambda choice: student(weights, choice), others)
    return (loss + rest.sum()) / (1 + rest.shape[0]), metrics

  return loss_fn


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
