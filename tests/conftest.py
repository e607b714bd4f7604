"""Eight CPU devices and strict shapes, for every test."""

import os

# Nearly all the time of tests is LLVM's, on programs that run once. What tests
# start as a user would, in `runs.py`, is compiled as a user's is.
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
