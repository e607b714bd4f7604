"""The whole pipeline on Fashion-MNIST, on two CPU cores.

  python -m nss_jax.main --config=configs/fashion_mnist.py --phases=all

The data are 70,000 images of 28x28 in IDX files, from Debian's package
dataset-fashion-mnist or from any folder given by --config.data.path. The target
is 4 % of the largest network.
Hardware: two CPU cores. The previous search took 6 minutes, 14 with the
evaluation, and 43 with all phases (Python 3.12, beside light work).
Expected: within 2 % of the target, at the 0th percentile of random spaces of
that cost, and as good as the hand-made space (seed 0, Python 3.12). Networks
found are trained for one epoch, to errors of about 20 %; more epochs
(train.epochs) take 9 minutes each.
"""

from nss_jax import config as config_lib


def get_config():
  config = config_lib.base()
  config.name = "fashion_mnist"
  config.data.source = "fashion_mnist"
  config.data.crop_padding = 2
  config.data.flip = True
  config.space.num_classes = 10
  config.space.max_depth = 8
  config.space.max_width = 32
  config.space.strides = (2, 2, 2)
  config.objective.target_flops = 1.5e6
  config.search.batch_size = 64
  config.search.epochs = 3
  config.search.warmup_epochs = 1
  config.logits.learning_rate = 0.05
  config.evaluate.epochs = 3
  config.evaluate.coin_epochs = 1
  config.evaluate.holdout_fraction = 0.02
  config.evaluate.num_archs = 100
  config.evaluate.num_spaces = 32
  config.evaluate.archs_per_space = 8
  config.evaluate.oracle_spaces = 100
  config.evaluate.oracle_archs = 2
  config.evaluate.oracle_finalists = 4
  config.evaluate.oracle_final_archs = 16
  # The 1,200 held-out images in one batch, so all share one calibration.
  config.evaluate.score_batch_size = 1200
  config.principles.num_archs = 40
  config.nas.num_finalists = 4
  config.nas.race_epochs = 1
  config.nas.epochs = 2
  config.nas.warmup_epochs = 1
  config.nas.learning_rates = (1e-2,)
  config.complexity.width_shares = (0.5, 1.0)
  config.complexity.depth_shares = (1.0,)
  config.complexity.num_archs = 50
  config.train.epochs = 1
  config.train.cutout = 8
  config.rank_check.num_archs = 4
  config.rank_check.num_near_archs = 3
  config.rank_check.epochs = 1
  return config
