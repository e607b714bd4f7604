"""Does a paper-size search take the memory that `--dry_run` promises?

Run `python tests/benchmarks/paper_memory.py`. It compiles an arch step and a
weight step of the paper's soft search (W 512, D 16, 32x32x3, batch 64) and
prints the estimate, what the compiler asks for, and the one over the other.
Nothing is run, so a small machine will do.
"""

import argparse
import time

import jax

from nss_jax import config as config_lib
from nss_jax.phases import memory, search_program
from nss_jax.runtime import data, sharding

# Few images: the estimate does not count them either.
IMAGES = data.Synthetic(num_classes=100, num_train=256, num_test=100)


def compiled_bytes(config, dataset):
  """Of arguments, results and temporaries, and the search space."""
  program = search_program.build(config, dataset, sharding.make_mesh(1))
  state = jax.eval_shape(program.init)
  run = jax.jit(lambda state: program.dispatch(state, 0, 0, 2, False))
  found = run.lower(state).compile().memory_analysis()
  needed = (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
    - found.alias_size_in_bytes
  )
  return needed, program.search_space


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--activations", default="bfloat16")
  parser.add_argument("--no_remat", action="store_true")
  parser.add_argument("--batch_size", type=int, default=64)
  parser.add_argument("--estimator", default="soft")  # the others are sliced
  flags = parser.parse_args()
  config = config_lib.paper("cifar100_600mf")
  config.data.source = "synthetic"
  config.supernet.activations = flags.activations
  config.supernet.remat = not flags.no_remat
  config.search.batch_size = flags.batch_size
  config.search.estimator = flags.estimator
  config.supernet.engine = "masked" if flags.estimator == "soft" else "sliced"
  dataset = data.load("synthetic", image_size=32, channels=3, synthetic=IMAGES)
  began = time.perf_counter()
  needed, space = compiled_bytes(config, dataset)
  took = time.perf_counter() - began
  estimate = memory.estimate(config, space)
  print(
    f"jax {jax.__version__}, {jax.default_backend()}, batch "
    f"{flags.batch_size}, {flags.estimator}, {flags.activations}, remat "
    f"{config.supernet.remat}: estimate {estimate / 1e9:.2f} GB, compiled "
    f"{needed / 1e9:.2f} GB (in {took:.0f} s), ratio {estimate / needed:.2f}"
  )


if __name__ == "__main__":
  main()
