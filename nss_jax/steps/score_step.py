"""Scores of archs from frozen weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from nss_jax.spaces.search_space import Array
from nss_jax.steps.losses import weigh


@struct.dataclass
class Counts:
  """What N archs got of the same images.

  Attributes:
    correct: `[N]` int32, images classified rightly.
    loss: `[N]` float32, cross-entropy summed over the images, in nats.
    total: int32 scalar, images.
  """

  correct: jax.Array
  loss: jax.Array
  total: jax.Array

  @property
  def error(self) -> jax.Array:
    """The share of the images classified wrongly, `[N]`."""
    # Not one minus the share of the others, nor above one: compilers divide by
    # multiplying with a rounded reciprocal.
    return jnp.minimum((self.total - self.correct) / self.total, 1.0)

  @property
  def mean_loss(self) -> jax.Array:
    """Nats per image, `[N]`."""
    return self.loss / self.total


def evaluate_archs(
  params: Any,
  archs: Any,
  batches: tuple[jax.Array, jax.Array],
  *,
  apply_fn: Callable[[Any, jax.Array, Any], jax.Array],
  class_weights: Array | None = None,
) -> Counts:
  """Runs every arch on every batch (paper 4.2).

  Archs run one after the other, in one program: with the sliced engine each
  costs what it is, where a `vmap` would make all of them cost the largest.

  `archs` is a pytree whose leaves are `[N, ...]`. `batches` are images `[K, B,
  H, W, channels]` and labels `[K, B]`; an image whose label is below zero does
  not count. By `class_weights`, `[C]`, the loss of an image of a class counts;
  what is correct is counted without.
  """
  images, labels = batches

  def one_arch(arch):
    def one_batch(carry, batch):
      correct, loss = carry
      x, y = batch
      right, losses = _by_image(apply_fn(params, x, arch), y, class_weights)
      right = right.sum(dtype=jnp.int32)
      return (correct + right, loss + losses.sum()), None

    start = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
    carry, _ = jax.lax.scan(one_batch, start, (images, labels))
    return carry

  correct, loss = jax.lax.map(one_arch, archs)
  return Counts(correct, loss, (labels >= 0).sum(dtype=jnp.int32))


def evaluate_images(
  params: Any,
  archs: Any,
  batches: tuple[jax.Array, jax.Array],
  *,
  apply_fn: Callable[[Any, jax.Array, Any], jax.Array],
  class_weights: Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns what each image gets in the mean of the archs.

  It is the share of the archs that are wrong and their mean loss in nats, each
  `[K * B]` float32; for an image that does not count both are NaN. Two groups
  of archs see the same images, so how sure their difference is depends on how
  it varies from image to image.
  """
  images, labels = batches

  def one_arch(carry, arch):
    def one_batch(batch):
      x, y = batch
      return _by_image(apply_fn(params, x, arch), y, class_weights)

    right, losses = jax.lax.map(one_batch, (images, labels))
    return (carry[0] + ~right, carry[1] + losses), None

  count = len(jax.tree.leaves(archs)[0])
  start = jnp.zeros(labels.shape), jnp.zeros(labels.shape)
  sums, _ = jax.lax.scan(one_arch, start, archs)
  wrong, losses = (
    jnp.where(labels >= 0, x / count, jnp.nan).ravel() for x in sums
  )
  return wrong, losses


def _by_image(
  logits: jax.Array, labels: jax.Array, class_weights: Array | None
) -> tuple[jax.Array, jax.Array]:
  """Says which images are classified rightly, and their losses: `[B]` each."""
  known = jnp.maximum(labels, 0)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, known)
  losses = jnp.where(labels >= 0, weigh(losses, known, class_weights), 0)
  return logits.argmax(-1) == labels, losses
