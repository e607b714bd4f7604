"""Search a flax linen model that has batch statistics and dropout.

The steps hand its state, and a key, to the loss, and keep the state.
  python tests/examples/linen_state.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import nss_jax as nss

UNITS, ADAM, KEY = jnp.arange(8, 40, 8), optax.adam(0.03), jax.random.key(0)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, mask):
    x = nn.BatchNorm(use_running_average=False)(nn.Dense(32)(x))
    x = nn.Dropout(0.1, deterministic=False)(nn.relu(x) * mask)
    return nn.Dense(10)(x)


def loss(params, mask, batch, stats, rng):
  given = {"params": params, "batch_stats": stats}
  how = {"rngs": {"dropout": rng}, "mutable": ["batch_stats"]}
  logits, moved = Net().apply(given, batch[0], mask, **how)
  value, metrics = nss.cross_entropy(logits, batch[1])
  return value, (moved["batch_stats"], metrics)


made = Net().init(KEY, jnp.zeros((1, 64)), jnp.ones(32))
PARAMS, STATE = made["params"], made["batch_stats"]


def draw(rng, logits, step):
  weights = nss.gumbel_softmax(rng, logits, temperature=0.99**step)
  return nss.Sample(weights, weights @ (jnp.arange(32) < UNITS[:, None]))


@jax.jit
def iteration(search, weights, held_out, batch):
  how = {"loss_fn": loss, "sample_fn": draw, "optimizer": ADAM}
  search, _ = nss.search_step(
    search, weights.params, held_out, KEY, model_state=weights.model_state,
    cost_fn=UNITS.dot, target=16.0, cost_weight=1.0, **how
  )  # fmt: skip
  return search, *nss.weight_step(weights, search.logits, batch, KEY, **how)


x, y = map(jnp.int32, load_digits(return_X_y=True))
halves = [(x[i::2] / 16, y[i::2]) for i in range(2)]
search = nss.init_search_state(jnp.zeros(4), ADAM)
weights = nss.init_weight_state(PARAMS, ADAM, STATE)
for _ in range(300):
  search, weights, metrics = iteration(search, weights, *halves)
print(UNITS[search.logits.argmax()], "units, accuracy", metrics["accuracy"])
