"""Whole programs on eight devices: the numbers of one, and what they send."""

import functools
import math
import re

import chex
import jax
import pytest
import runs

from nss_jax import data
from nss_jax.phases import search, supernet, train

DIGITS = data.load("digits")
ONE_BLOCK = {"space.max_depth": 1, "space.num_depth_bins": 1}
FIELDS = {
  **runs.TINY,
  "space.strides": (1,),  # compiles faster than three stages
  "data.crop_padding": 1,
  "data.flip": True,
  "evaluate.batch_size": 72,
  "train.batch_size": 72,
  "train.cutout": 2,
}
LOSS_AND_ACCURACY = 2 * 4


@functools.cache  # nearly all of it is compilation
def _compiled(kind, num_devices, warmup=True, **fields):
  """Two steps of a program, compiled, and the state that they start from."""
  config = runs.load_config(**{**FIELDS, **fields})
  build = {
    "search": search.build,
    "train": train.build,
    "evaluator": supernet.build_supernet,
  }[kind]
  program = build(runs.make_job(config, num_devices=num_devices))
  state = program.init()
  run = jax.jit(lambda state: program.dispatch(state, 0, 0, 2, warmup))
  return run.lower(state).compile(), state


def _two_steps(*args, **fields):
  run, state = _compiled(*args, **fields)
  return jax.device_get(run(state))


@pytest.mark.parametrize("kind", ["train", "evaluator"])
def test_eight_devices_equal_one(kind):
  """As the search does: see `test_devices.py`."""
  together = {"search.sync_batch_norm": True, **ONE_BLOCK}
  one, eight = (_two_steps(kind, count, **together) for count in (1, 8))
  # The largest difference was 7e-7, of numbers up to 5.
  chex.assert_trees_all_close(one, eight, rtol=1e-5, atol=2e-6)
  apart = _two_steps(kind, 8, **ONE_BLOCK)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(one, apart, rtol=1e-2, atol=1e-2)


# `f32[3,3,1,16]{3,2,1,0}`, before the name of what gives it.
_ALL_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"f32": 4, "s32": 4, "bf16": 2}


def _sent(compiled):
  """Bytes that each all-reduce of a compiled program sums, ascending."""
  return sorted(
    sum(
      _BYTES[kind] * math.prod(int(size) for size in shape.split(",") if size)
      for kind, shape in _SHAPE.findall(shapes)
    )
    for shapes in _ALL_REDUCE.findall(compiled.as_text())
  )


def _size(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# XLA finds that the gradients of the offsets of a first block's two branches,
# which are added, are the same, and may sum them once.
def _twice(state):
  return _size(state.weights.params["stage_1"]["block_1"]["project"]["offset"])


def _of_weights(state, averages=0):
  """What a step of the weights may send, exactly."""
  whole = _size(state.weights.params) + averages + LOSS_AND_ACCURACY
  return whole - _twice(state), whole


@pytest.mark.parametrize("kind", ["train", "evaluator"])
def test_training_sends_gradients_once(kind):
  """With the running averages, if there are any, and the metrics."""
  run, state = _compiled(kind, 8, **ONE_BLOCK)
  averages = _size(state.weights.averages) if kind == "train" else 0
  (sent,) = _sent(run)
  assert sent in _of_weights(state, averages)


SLICED = {
  "supernet.engine": "sliced",
  "supernet.bucket_shares": (1.0,),
  "search.estimator": "straight_through",
}


@pytest.mark.parametrize(
  "fields",
  [{}, pytest.param(SLICED, marks=pytest.mark.slow)],
  ids=["masked", "sliced"],
)
def test_search_sends_gradients_once(fields):
  """Gradients and metrics together: a device waits for the others once a step.

  In warmup a pair is one weight step; after it an arch step comes before, with
  the gradient of the logits, and its metrics may travel with those that follow.
  """
  run, state = _compiled("search", 8, **fields)
  (in_warmup,) = _sent(run)
  assert in_warmup in _of_weights(state)
  run, _ = _compiled("search", 8, warmup=False, **fields)
  arch, weight = _sent(run)
  logits, of_arch_step = _size(state.search.logits), 4 * 4
  assert logits <= arch <= logits + of_arch_step
  assert arch + weight - logits - of_arch_step in _of_weights(state)
