"""Small networks as if they were trained: no number is a special one."""

import jax
import jax.numpy as jnp
import networks
import numpy as np

import nss_jax as nss
from nss_jax.supernet.network import init_averages

# Kernels of 5, silu, the excitation before the strided layer, a width halved.
OWN_BLOCK = nss.Block(
  (
    nss.Conv("widen", 1, nss.Channels("before", times=3), activation="silu"),
    nss.SqueezeExcite("attend", nss.Channels("width", over=2)),
    nss.Depthwise("look", 5, strided=True, activation="relu6"),
    nss.Conv("narrow", 3, nss.Channels("width"), activation="none"),
  ),
  activation="silu",
)


def make(
  block="basic",
  image_shape=(8, 8, 3),
  arch="d2-1_w3-5",
  strides=(1, 2),
  stem_width=3,
  num_classes=5,
  **fields,
):
  """A network of an arch with random weights and averages."""
  chosen = nss.parse_arch(arch)
  depths, widths = (
    tuple(((int(n), int(n)),) for n in numbers)
    for numbers in (chosen.depth, chosen.width)
  )
  fixed = strides, stem_width, block, image_shape, num_classes
  space = nss.SearchSpace(depths, widths, *fixed)

  def noisy(path, x):
    if path[-1].key != "kernel":
      return 0.2 * x + (path[-1].key == "scale")
    # Of stacked blocks of a convolution, too.
    inputs = x.shape[-4:-1] if x.ndim > 3 else x.shape[-2:-1]
    return 1.5 * x / np.prod(inputs) ** 0.5

  params = networks.normal(1, networks.shapes_of(space))
  params = jax.tree_util.tree_map_with_path(noisy, params)
  averages = networks.normal(2, jax.eval_shape(lambda: init_averages(space)))
  averages = jax.tree.map(
    lambda x: jnp.stack(
      [0.3 * x[..., 0, :], jnp.exp(0.5 * x[..., 1, :])], axis=-2
    ),
    averages,
  )
  channels = image_shape[-1]
  statistics = {
    "mean": tuple(np.linspace(0.41, 0.53, channels).tolist()),
    "std": tuple(np.linspace(0.22, 0.29, channels).tolist()),
  }
  return nss.TrainedNetwork(space, params, averages, **(statistics | fields))


def images_of(network, count=100, seed=0):
  """Images of a network's form, each with a brightness of its own."""
  rng = np.random.default_rng(seed)
  noise = rng.integers(0, 256, (count, *network.search_space.image_shape))
  return (noise * rng.random((count, 1, 1, 1))).astype(np.uint8)


def _with_all_classes(network):
  """The network with outputs of mean zero: each class is that of some image."""
  head = network.params["head"]
  head["bias"] -= network.logits(images_of(network)).mean(0)
  return network


def make_all():
  """One network of each block, and of an own one, all odd in some way."""
  nss.register_block("own_of_exports", OWN_BLOCK)
  made = {
    "basic": make("basic", (13, 22, 1), "d2-1-3_w5-9-12", (1, 2, 2), 5),
    "bottleneck": make("bottleneck", (16, 12, 3), "d2-2_w7-13", (2, 3), 7),
    "inverted_residual": make(
      "inverted_residual", (9, 14, 3), "d2-1-2_w5-6-9", (1, 2, 1), 5
    ),
    "mobilenet_v2": make("mobilenet_v2", (6, 17, 1), "d1-3_w9-11", (2, 2), 5),
    "own_of_exports": make(
      "own_of_exports", (11, 8, 4), "d2-2_w5-4", (1, 2), 3, num_classes=3
    ),
  }
  return {name: _with_all_classes(network) for name, network in made.items()}
