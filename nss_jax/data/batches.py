"""The images of a step: which ones, augmented and normalised."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from nss_jax import data
from nss_jax.data import augment


def epoch_order(
  rng: jax.Array, epoch: jax.Array | int, num_images: int
) -> jax.Array:
  """The permutation of an epoch, `[num_images]`."""
  return jax.random.permutation(jax.random.fold_in(rng, epoch), num_images)


def epoch_indices(
  rng: jax.Array,
  epoch: jax.Array | int,
  num_images: int,
  first: jax.Array | int,
  shape: tuple[int, int],
) -> jax.Array:
  """`[length, B]` of a dispatch, from the permutation of its epoch."""
  length, batch_size = shape
  order = epoch_order(rng, epoch, num_images)
  taken = jax.lax.dynamic_slice(
    order, (first * batch_size,), (length * batch_size,)
  )
  return taken.reshape(shape)


def class_weights(
  config: ml_collections.ConfigDict, dataset: data.Dataset, num_outputs: int
) -> np.ndarray | None:
  """`[num_outputs]`, by which losses count; None: all the same."""
  if config.data.class_weights == "none":
    return None
  return data.balanced_weights(dataset.train_labels, num_outputs)


def make_batch_fn(
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  key: jax.Array,
  *,
  cutout: int = 0,
) -> Callable:
  """`(half, indices, positions, stream, step) -> (images, labels)`.

  Args:
    config: `config.data` and the type of the activations.
    dataset: for its mean and standard deviation.
    key: of augmentation; every stream and step draws its own.
    cutout: side of the square that is cut out of each image; 0 for none.
  """
  augment_fn = augment.make_augment(
    crop_padding=config.data.crop_padding, flip=config.data.flip
  )
  dtype = jnp.dtype(config.supernet.activations)

  def make_batch(half, indices, positions, stream, step):
    images, labels = half
    rng = jax.random.fold_in(jax.random.fold_in(key, stream), step)
    picked = augment.augment_batch(rng, positions, images[indices], augment_fn)
    picked = augment.normalize(picked, dataset.mean, dataset.std)
    if cutout:
      # A key that no position of the augmentation before has.
      rng = jax.random.fold_in(rng, 2**32 - 1)
      picked = augment.cut_out(rng, positions, picked, cutout)
    return picked.astype(dtype), labels[indices]

  return make_batch
