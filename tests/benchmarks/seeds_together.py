"""Should the seeds of one network train in one program? `vmap` against turns.

Run `python tests/benchmarks/seeds_together.py`; it takes some minutes, most of
them to compile. A step is that of the phase train (forward, backward, running
averages and the update of SGD with momentum), with batches of 64 images of
16x16x3. Four of them run in one `scan`.

* together: `vmap` of the step over three seeds;
* in turns: the same program for one seed, three times.

The ratio, together over in turns, is above one where turns are faster. One run
on a core (AMD EPYC) beside other jobs, Python 3.12, jax 0.12.0.1, printed 2.53,
2.54 and 2.12. Under `vmap` the convolutions become grouped ones, which XLA runs
slowly on CPU, so the phase train takes turns.
"""

import argparse
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from timing import in_turns

import nss_jax as nss
from nss_jax.steps import losses, optimizers, train_step
from nss_jax.supernet import network

ARCHS = ("d2-3-3_w20-33-25", "d3-3-3_w16-32-64", "d4-4-4_w8-8-8")
SEEDS, STEPS, BATCH, REPEATS = 3, 4, 64, 5


def make_run(search_space):
  """Returns the steps, `(state, images [T, B, ...], labels [T, B]) -> state`,
  and the function that makes the first state from a seed."""
  optimizer = optimizers.train_optimizer(
    learning_rate=0.1,
    decay_factor=0.2,
    decay_steps=[],
    momentum=0.9,
    weight_decay=5e-4,
  )

  def loss_fn(params, averages, batch):
    logits, averages = network.apply_alone(
      search_space, params, averages, batch[0], train=True
    )
    loss, metrics = losses.cross_entropy(logits, batch[1])
    return loss, (averages, metrics)

  def step(state, batch):
    return train_step.train_step(
      state, batch, loss_fn=loss_fn, optimizer=optimizer
    )

  def start(seed):
    params = network.init_weights(jax.random.key(seed), search_space)
    averages = network.init_averages(search_space)
    return train_step.init_train_state(params, averages, optimizer)

  def run(state, images, labels):
    return jax.lax.scan(step, state, (images, labels))[0]

  return run, start


def measure(text):
  """Returns median milliseconds of a step of all seeds: together, in turns."""
  space = nss.SearchSpace.expanded(
    max_depth=4, max_width=64, image_shape=(16, 16, 3), num_classes=10
  ).only(nss.parse_arch(text))
  run, start = make_run(space)
  rng = np.random.default_rng(0)
  shape = (SEEDS, STEPS, BATCH)
  images = rng.normal(size=(*shape, 16, 16, 3)).astype(np.float32)
  labels = rng.integers(0, 10, shape)
  states = jax.vmap(start)(jnp.arange(SEEDS))
  together = jax.jit(jax.vmap(run)).lower(states, images, labels).compile()
  one = [jax.tree.map(lambda x, k=k: x[k], states) for k in range(SEEDS)]
  alone = jax.jit(run).lower(one[0], images[0], labels[0]).compile()
  calls = {
    "together": lambda: together(states, images, labels),
    "turns": lambda: [
      jax.block_until_ready(alone(*seed))
      for seed in zip(one, images, labels, strict=True)
    ],
  }
  times = in_turns(calls, REPEATS)
  return [1e3 / STEPS * statistics.median(found) for found in times.values()]


def main():
  argparse.ArgumentParser(description=__doc__).parse_args()
  print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
  print(f"{'arch':20} {'together ms':>12} {'in turns ms':>12} {'ratio':>6}")
  for text in ARCHS:
    together, turns = measure(text)
    ratio = together / turns
    print(f"{text:20} {together:12.1f} {turns:12.1f} {ratio:6.2f}", flush=True)


if __name__ == "__main__":
  main()
