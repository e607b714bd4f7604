"""How long a computation takes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_WARMUP = 3  # calls that compile and fill caches


def call_seconds(call: Callable[[], Any], repeats: int) -> np.ndarray:
  """Times calls `[repeats]`, each until its arrays are there, in seconds."""
  for _ in range(_WARMUP):
    jax.block_until_ready(call())
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - began)
  return np.asarray(seconds)
