"""How the benchmarks time things that are to be compared."""

import time

import jax


def in_turns(calls, rounds):
  """Returns the seconds of each call in each round.

  They take turns, so that all share the load of the machine. A first round,
  which compiles them, does not count.
  """
  times = {name: [] for name in calls}
  for _ in range(1 + rounds):
    for name, call in calls.items():
      began = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - began)
  return {name: found[1:] for name, found in times.items()}
