"""A block of your own: described once, then counted, trained and cut out.

  python tests/examples/custom_block.py

Network, masks, slices and cost all follow from the description, so they agree.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import nss_jax as nss

WIDTH, HALF = nss.Channels("width"), nss.Channels("width", over=2)
NARROW = nss.Block(
  (
    nss.Conv("reduce", 1, HALF),
    nss.Depthwise("look", 3, strided=True),
    nss.SqueezeExcite("attend", nss.Channels("width", over=4)),
    nss.Conv("expand", 1, WIDTH, activation="none"),
  )
)
nss.register_block("narrow", NARROW)  # in every process anew
FIXED = {"strides": (1, 2), "stem_width": 8, "image_shape": (8, 8, 1)}
SPACE = nss.SearchSpace.expanded(
  block="narrow",
  max_depth=2,
  max_width=16,
  num_depth_bins=2,
  num_width_bins=4,
  **FIXED,
)


def loss_fn(params, arch, batch):
  masks = nss.arch_masks(SPACE, arch)  # compiles in less time than slices
  logits = nss.apply_masked(SPACE, params, batch[0], masks)
  return nss.cross_entropy(logits, batch[1])


draw = nss.warmup_sampler(SPACE, lambda step: 0.0)  # uniform single paths
given = {"loss_fn": loss_fn, "sample_fn": draw, "optimizer": optax.adam(0.03)}
step = jax.jit(functools.partial(nss.weight_step, **given))
digits, rng = load_digits(), jax.random.key(0)
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)
state = nss.init_weight_state(nss.init_weights(rng, SPACE), given["optimizer"])
for i in 4 * [*range(0, 1536, 64)]:
  batch = images[i : i + 64], digits.target[i : i + 64]
  state, metrics = step(state, nss.init_logits(SPACE), batch, rng)

arch = nss.parse_arch("d2-1_w7-13")
outputs = nss.apply_sliced(SPACE, state.params, images[:64], arch)
masks = nss.arch_masks(SPACE, arch)
masked = nss.apply_masked(SPACE, state.params, images[:64], masks)
small = nss.extract_subnet(SPACE, state.params, arch)
print(f"{nss.arch_macs(SPACE, arch):,} multiply-adds; {metrics['loss']:.2f}")
