"""Which images a step has, and how they are augmented and normalised."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from nss_jax.data.dataset import Dataset
from nss_jax.spaces.search_space import Array


def epoch_order(
  rng: jax.Array, epoch: jax.Array | int, num_images: int
) -> jax.Array:
  """Returns the permutation of an epoch, `[num_images]`."""
  return jax.random.permutation(jax.random.fold_in(rng, epoch), num_images)


def epoch_indices(
  rng: jax.Array,
  epoch: jax.Array | int,
  num_images: int,
  first: jax.Array | int,
  shape: tuple[int, int],
) -> jax.Array:
  """Returns the indices of a dispatch, `[length, B]`, in its epoch's order."""
  length, batch_size = shape
  order = epoch_order(rng, epoch, num_images)
  taken = jax.lax.dynamic_slice(
    order, (first * batch_size,), (length * batch_size,)
  )
  return taken.reshape(shape)


def augment(
  rng: jax.Array,
  positions: jax.Array,
  images: jax.Array,
  *,
  crop_padding: int = 0,
  flip: bool = False,
) -> jax.Array:
  """Augments images `[B, H, W, C]` as is usual for CIFAR.

  The key of an image follows from its position in the global batch `[B]`, so
  any number of devices makes the same images. Each is padded with zeros,
  cropped at random to its size, and mirrored with probability one half.
  """

  def one(position, image):
    crop_rng, flip_rng = jax.random.split(jax.random.fold_in(rng, position))
    if crop_padding:
      pad = (crop_padding, crop_padding)
      padded = jnp.pad(image, (pad, pad, (0, 0)))
      row, column = jax.random.randint(
        crop_rng, (2,), 0, 2 * crop_padding + 1, jnp.int32
      )
      image = jax.lax.dynamic_slice(
        padded, (row, column, jnp.int32(0)), image.shape
      )
    if flip:
      image = jnp.where(jax.random.bernoulli(flip_rng), image[:, ::-1], image)
    return image

  return jax.vmap(one)(positions, images)


def cut_out(
  rng: jax.Array, positions: jax.Array, images: jax.Array, size: int
) -> jax.Array:
  """Zeros a square of each normalised image `[B, H, W, C]`.

  Its centre is uniform over the pixels and its parts beyond the border are
  lost, so at most `size` squared pixels take the mean of the data.

  Source: DeVries and Taylor 2017, Improved Regularization of Convolutional
  Neural Networks with Cutout, section 3.2.
  """

  def one(position, image):
    key = jax.random.fold_in(rng, position)
    away = []
    for length, axis_key in zip(
      image.shape[:2], jax.random.split(key), strict=True
    ):
      low = jax.random.randint(axis_key, (), 0, length, jnp.int32) - size // 2
      place = jnp.arange(length)
      away.append((place < low) | (place >= low + size))
    return image * (away[0][:, None, None] | away[1][None, :, None])

  return jax.vmap(one)(positions, images)


def normalize(
  images: Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
  """Returns `(images / 255 - mean) / std` of `[B, H, W, C]` uint8, float32."""
  channels = (None, None, None, slice(None))
  center, scale = (jnp.asarray(x, jnp.float32)[channels] for x in (mean, std))
  return jnp.asarray((images.astype(jnp.float32) / 255 - center) / scale)


def make_batch_fn(
  dataset: Dataset,
  key: jax.Array,
  *,
  crop_padding: int,
  flip: bool,
  dtype: str,
  cutout: int = 0,
) -> Callable:
  """Returns `(half, indices, positions, stream, step) -> (images, labels)`.

  Every stream and step draws its own augmentation from the key. `cutout` is the
  side of the square that is cut out of each image, 0 for none.
  """

  def make_batch(half, indices, positions, stream, step):
    images, labels = half
    rng = jax.random.fold_in(jax.random.fold_in(key, stream), step)
    picked = augment(
      rng, positions, images[indices], crop_padding=crop_padding, flip=flip
    )
    picked = normalize(picked, dataset.mean, dataset.std)
    if cutout:
      # A key that no position of the augmentation before has.
      rng = jax.random.fold_in(rng, 2**32 - 1)
      picked = cut_out(rng, positions, picked, cutout)
    return picked.astype(dtype), labels[indices]

  return make_batch
