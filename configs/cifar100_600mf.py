"""The paper's mobile target, 600 MF, on CIFAR-100. `cifar.py` has all targets.

  python -m nss_jax.main --config=configs/cifar100_600mf.py

Reproduces: paper 4.2 to 4.5 for one target (Fig. 4, Table 1), 600e6
multiply-adds, with the settings of 6.4.1.
Hardware: a TPU v5e, v6e or v5p, or an H100, A100 or L4, without changes.
README.md has a table, and --dry_run --topology=v5e-1 asks the compiler. The
paper took half a day on four GTX 1080 Ti.
Expected: not run yet.

The archive (169 MB) is downloaded once and checked, or taken from
--config.data.path (the archive, or the folder that holds it).
"""

from nss_jax import config as config_lib


def get_config():
  return config_lib.paper("cifar100_600mf")
