"""Search the paper's Expanded Search Space on CIFAR-100 for 600 MF.

  python -m nss_jax.main --config=configs/cifar100_600mf.py

Reproduces: the search of paper 4.2 (Fig. 4, Table 1), settings of 6.4.1; 600e6
multiply-adds. A target in MF can follow the file: cifar100_600mf.py:1600.
Hardware: an accelerator with room for a paper-size masked step; --dry_run
prints the estimate. The paper took half a day on four GTX 1080 Ti.
Expected: not run yet.

The archive is fetched once (169 MB) and checked, or taken from
--config.data.path (the archive, or the folder it is in).
"""

from nss_jax import config as config_lib


def get_config(target_mf: str = "600"):
  config = config_lib.paper(target_mf)
  config.name = f"cifar100_{target_mf}mf"
  config.data.source = "cifar100_binary"
  config.space.num_classes = 100
  config.train.cutout = 8
  return config
