"""From uint8 images on the device to the batch a step takes."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from nss_jax.spaces.search_space import Array

# (key of one image, image [H, W, C]) -> image [H, W, C]
AugmentFn = Callable[[jax.Array, jax.Array], jax.Array]


def make_augment(*, crop_padding: int = 0, flip: bool = False) -> AugmentFn:
  """The usual CIFAR augmentation of one image, by parts.

  Args:
    crop_padding: pixels of zeros added on each side before a random crop of
      the original size; 0 for no crop.
    flip: mirror left to right with probability one half.
  """

  def augment(rng, image):
    crop_rng, flip_rng = jax.random.split(rng)
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

  return augment


def augment_batch(
  rng: jax.Array, positions: jax.Array, images: jax.Array, augment: AugmentFn
) -> jax.Array:
  """Augments `[B, H, W, C]`, each image by the key of its position.

  A position in the global batch `[B]`, not on the device, gives the key: any
  number of devices makes the same images.
  """
  keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(positions)
  return jax.vmap(augment)(keys, images)


def cut_out(
  rng: jax.Array, positions: jax.Array, images: jax.Array, size: int
) -> jax.Array:
  """Zeros a square of each normalised image `[B, H, W, C]`.

  Its centre is uniform over the pixels and its parts beyond the border are
  lost, so the mean of the data fills at most `size` squared pixels.

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
  """`(images / 255 - mean) / std` of `[B, H, W, C]` uint8, float32."""
  channels = (None, None, None, slice(None))
  center, scale = (jnp.asarray(x, jnp.float32)[channels] for x in (mean, std))
  return jnp.asarray((images.astype(jnp.float32) / 255 - center) / scale)
