"""Search the sizes of a model that has nothing to do with ours, in plain jax.

  python tests/examples/any_model.py

A perceptron reads digits, and the search finds how many units its two layers
have. Logits may be any pytree whose last axes are the choices.
"""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

import nss_jax as nss

UNITS, TARGET = jnp.array([4, 8, 16, 32, 64]), 2000.0
MASKS = (jnp.arange(64)[None] < UNITS[:, None]).astype(jnp.float32)  # [5, 64]
SEARCH, TRAIN, KEY = optax.adam(0.1), optax.adam(0.01), jax.random.key(0)


def draw(rng, logits, step):
  weights = nss.gumbel_softmax(rng, logits, temperature=5 * 0.98**step)
  return nss.Sample(weights, weights @ MASKS)


def loss(params, masks, batch):
  x = jnp.tanh(batch[0] / 16 @ params[0]) * masks[:1]
  x = jnp.tanh(x @ params[1]) * masks[1:]
  return nss.cross_entropy(x @ params[2], batch[1])


def cost(weights):  # multiply-adds
  first, second = weights @ UNITS
  return 64 * first + first * second + 10 * second


@jax.jit
def iteration(search, params, opt_state, held_out, batch):
  given = {"loss_fn": loss, "cost_fn": cost, "sample_fn": draw}
  given |= {"optimizer": SEARCH, "target": TARGET, "cost_weight": 1.0}
  given["expected_penalty_fn"] = nss.drawn_penalty(cost, TARGET)
  search, _ = nss.search_step(search, params, held_out, KEY, **given)
  rng = jax.random.fold_in(jax.random.key(1), search.step)
  masks = draw(rng, search.logits, search.step).choice
  gradients, _ = jax.grad(loss, has_aux=True)(params, masks, batch)
  updates, opt_state = TRAIN.update(gradients, opt_state)
  return search, optax.apply_updates(params, updates), opt_state


x, y = load_digits(return_X_y=True)
params = [0.2 * jax.random.normal(KEY, (64, n)) for n in (64, 64, 10)]
search = nss.init_search_state(jnp.zeros((2, 5)), SEARCH)
state = search, params, TRAIN.init(params)
for _ in range(300):
  state = iteration(*state, (x[:600], y[:600]), (x[600:1200], y[600:1200]))
best = state[0].logits.argmax(-1)
_, test = loss(state[1], MASKS[best], (x[1200:], y[1200:]))
macs = cost(nss.probabilities(state[0].logits))
print(f"{UNITS[best]} units, {macs:.0f} MACs, {test['accuracy']:.1%} right")
