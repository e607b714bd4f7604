"""The paper's twelve targets on CIFAR-10 and CIFAR-100; the run by its name.

  python -m nss_jax.main --config=configs/cifar.py:cifar10_1600mf

Reproduces: paper 4.2 to 4.5, with the settings of 6.4.1. A name is `cifar10_`
or `cifar100_`, the target in MF (1e6 multiply-adds), and `mf`. Targets are 200,
400, 600, 1600, 3200, 4000, 6400, 8000, 12000, 16000, 24000, 32000 or any other.
`--phases=sweep` runs all twelve on one evaluator.
Hardware: a TPU v5e, v6e or v5p, or an H100, A100 or L4, without changes.
README.md has a table, and --dry_run --topology=v5e-1 asks the compiler. The
paper took half a day on four GTX 1080 Ti.
Expected: not run yet.

The archive (170 MB) is downloaded once and checked, or taken from
--config.data.path (the archive, or the folder that holds it).
"""

from nss_jax import config as config_lib


def get_config(run: str = "cifar100_600mf"):
  return config_lib.paper(run)
