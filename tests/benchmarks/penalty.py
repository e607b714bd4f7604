"""What the exact expected penalty adds to an arch step.

  python tests/benchmarks/penalty.py

Times the quickstart's arch step (soft masks, batch 32) with the penalty of the
draw (`sample`, the paper's) and with the expectation over all 2^18 spaces
(`expected`), then the expectation by itself, listed and by draws. It prints the
smallest times in milliseconds, and the ratio.
"""

import functools

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from timing import in_turns

import nss_jax as nss
from nss_jax.steps import penalties

SPACE = nss.SearchSpace.expanded(
  max_depth=8, max_width=64, image_shape=(8, 8, 1)
)
TARGET, KEY = 1.917e6, jax.random.key(0)
REPEATS = 30


def loss_fn(weights, masks, batch):
  logits = nss.apply_masked(SPACE, weights, batch[0], masks)
  return nss.cross_entropy(logits, batch[1])


def arch_step(expected):
  return jax.jit(
    functools.partial(
      nss.search_step,
      loss_fn=loss_fn,
      cost_fn=functools.partial(nss.mean_macs, SPACE),
      sample_fn=nss.gumbel_sampler(SPACE, lambda step: 1.0),
      optimizer=optax.adam(0.1),
      target=TARGET,
      cost_weight=1.0,
      expected_penalty_fn=(
        nss.expected_penalty(SPACE, TARGET) if expected else None
      ),
    )
  )


def smallest(calls):
  """Returns the smallest milliseconds of each call."""
  times = in_turns(calls, REPEATS)
  return {name: 1e3 * min(found) for name, found in times.items()}


def main():
  digits = load_digits()
  batch = (
    (digits.images[:32, ..., None] / 16).astype(np.float32),
    digits.target[:32],
  )
  weights = nss.init_weights(KEY, SPACE)
  state = nss.init_search_state(nss.init_logits(SPACE), optax.adam(0.1))
  steps = {
    name: functools.partial(
      arch_step(name == "expected"), state, weights, batch, KEY
    )
    for name in ("sample", "expected")
  }
  found = smallest(steps)
  for name, milliseconds in found.items():
    print(f"arch step, {name:8} {milliseconds:8.2f} ms")
  print(f"ratio {found['expected'] / found['sample']:.3f}")
  listed = nss.expected_penalty(SPACE, TARGET)
  most, penalties.MAX_LISTED = penalties.MAX_LISTED, 1
  drawn = nss.expected_penalty(SPACE, TARGET)
  penalties.MAX_LISTED = most
  alone = smallest(
    {
      name: functools.partial(
        jax.jit(jax.grad(lambda x, fn=fn: fn(KEY, x).sum())), state.logits
      )
      for name, fn in (("listed", listed), ("4,096 draws", drawn))
    }
  )
  for name, milliseconds in alone.items():
    print(f"gradient of the penalty, {name:11} {milliseconds:6.2f} ms")


if __name__ == "__main__":
  main()
