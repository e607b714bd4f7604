"""Search a flax NNX model that has batch statistics and dropout.

The steps hand its state, and a key, to the loss, and keep the state.
  python tests/examples/nnx_state.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from sklearn.datasets import load_digits

import nss_jax as nss

UNITS, ADAM, KEY = jnp.arange(8, 40, 8), optax.adam(0.03), jax.random.key(0)


class Net(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(64, 32, rngs=rngs)
    self.norm = nnx.BatchNorm(32, rngs=rngs)
    self.head = nnx.Linear(32, 10, rngs=rngs)

  def __call__(self, x, mask, rng):
    x = nnx.relu(self.norm(self.hidden(x))) * mask
    return self.head(nnx.Dropout(0.1)(x, rngs=nnx.Rngs(rng)))


def loss(params, mask, batch, stats, rng):
  net = nnx.merge(NET, params, stats, copy=True)
  value, metrics = nss.cross_entropy(net(batch[0], mask, rng), batch[1])
  return value, (nnx.state(net, nnx.BatchStat), metrics)


NET, PARAMS, STATE = nnx.split(Net(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


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
