"""Search an equinox model that has batch statistics and dropout.

The steps hand its state, and a key, to the loss, and keep the state.
  python tests/examples/equinox_state.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import nss_jax as nss

UNITS, ADAM, KEY = jnp.arange(8, 40, 8), optax.adam(0.03), jax.random.key(0)


def make():
  norm = eqx.nn.BatchNorm(32, "batch", mode="batch")
  body = eqx.nn.Linear(64, 32, key=KEY), norm, eqx.nn.Lambda(jax.nn.relu)
  dropout, head = eqx.nn.Dropout(0.1), eqx.nn.Linear(32, 10, key=KEY)
  return eqx.nn.Sequential([*body, dropout]), head


def loss(params, mask, batch, state, rng):
  body, head = eqx.combine(params, STATIC)
  keys = jax.random.split(rng, len(batch[0]))
  body = jax.vmap(body, (0, None), (0, None), "batch")
  x, state = body(batch[0], state, key=keys)
  value, metrics = nss.cross_entropy(jax.vmap(head)(x * mask), batch[1])
  return value, (state, metrics)


NETS, STATE = eqx.nn.make_with_state(make)()
PARAMS, STATIC = eqx.partition(NETS, eqx.is_inexact_array)


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
