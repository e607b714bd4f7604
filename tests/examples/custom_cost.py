"""Search under a constraint on energy instead of multiply-adds.

  python tests/examples/custom_cost.py

A cost takes the weights of the bins: one-hot for a space, probabilities for a
distribution. Bins are drawn independently, so means of products are exact.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import nss_jax as nss

FIXED = {"strides": (1, 2), "stem_width": 8, "image_shape": (8, 8, 1)}
SPACE = nss.SearchSpace.expanded(
  max_depth=4, max_width=16, num_depth_bins=2, num_width_bins=4, **FIXED
)
LIMIT, rng = {"target": 3.0, "cost_weight": 1.0}, jax.random.key(0)
BINS = SPACE.depth_bins, SPACE.width_bins
DEPTHS, WIDTHS = (np.mean(bins, axis=-1) for bins in BINS)  # of each bin


def energy(macs, depth, width):
  """Returns microjoules: 4.6 pJ a MAC, 640 pJ a number written and read again
  (45 nm; Han et al. 2015, Learning both Weights and Connections)."""
  numbers = 2 * 2 * (np.array([64, 16]) * depth * width).sum(-1)
  return 4.6e-6 * macs + 640e-6 * numbers


def mean_energy(weights):
  means = (weights.depth * DEPTHS).sum(-1), (weights.width * WIDTHS).sum(-1)
  return energy(nss.mean_macs(SPACE, weights), *means)


def loss(params, masks, batch):
  logits = nss.apply_masked(SPACE, params, batch[0], masks)
  return nss.cross_entropy(logits, batch[1])


draw = nss.gumbel_sampler(SPACE, lambda step: 1.0)
given = {"loss_fn": loss, "cost_fn": mean_energy, "sample_fn": draw, **LIMIT}
given["expected_penalty_fn"] = nss.drawn_penalty(mean_energy, 3.0)
given["optimizer"], digits = optax.adam(0.1), load_digits()
step = jax.jit(functools.partial(nss.search_step, **given))
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)
params = nss.init_weights(rng, SPACE)  # weight_step trains yours
search = nss.init_search_state(nss.init_logits(SPACE), given["optimizer"])
for i in range(0, 960, 16):
  batch = images[i : i + 16], digits.target[i : i + 16]
  search, metrics = step(search, params, batch, rng)
elite = nss.elite_space(rng, search.logits, cost_fn=mean_energy, target=3.0)
expected = 3.0 * metrics["expected_cost"]
print(*nss.describe_space(SPACE, elite.space), sep="\n")
print(f"{elite.cost:.2f} microjoules; of the distribution {expected:.2f}")
