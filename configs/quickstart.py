"""Search a network space on real digits, on a laptop, in minutes.

  python -m nss_jax.main --config=configs/quickstart.py

The data are scikit-learn's 1,797 digits of 8x8, which come with the package, so
nothing is downloaded. There are 262,144 spaces, and the target is 4 % of the
largest network.
Hardware: two CPU cores; about two minutes for the search, five with the
evaluation.
Expected: within 2 % of the target, at the 0th percentile of random spaces of
that cost (seed 0, Python 3.12). RESULTS.md has other targets, and the noise.
"""

from nss_jax import config as config_lib


def get_config():
  config = config_lib.base()
  config.name = "quickstart"
  config.data.source = "digits"
  config.space.num_classes = 10
  config.space.max_depth = 8
  config.space.max_width = 64
  # On 8x8 images widths cost little to run, but each takes time to compile.
  # With two for each stage, every phase compiles in half the time.
  config.supernet.bucket_shares = (0.5, 1.0)
  config.objective.target_flops = 1.917e6
  config.search.batch_size = 32
  config.search.epochs = 30
  config.search.warmup_epochs = 8
  config.search.steps_per_dispatch = 22
  config.logits.learning_rate = 0.1
  config.evaluate.epochs = 30
  config.evaluate.coin_epochs = 8
  config.evaluate.num_archs = 200
  config.evaluate.num_spaces = 32
  config.evaluate.oracle_spaces = 100
  config.evaluate.oracle_archs = 2
  config.evaluate.oracle_finalists = 4
  config.principles.num_archs = 40
  config.nas.num_finalists = 4
  config.nas.race_epochs = 6
  # For complexity and nas.method=gradient: FBNet's rate alone, since DARTS'
  # moves nothing in so few steps.
  config.nas.epochs = 4
  config.nas.warmup_epochs = 1
  config.nas.learning_rates = (1e-2,)
  config.complexity.width_shares = (0.5, 1.0)
  config.complexity.depth_shares = (0.25,)
  config.complexity.num_archs = 100
  config.train.epochs = 8
  config.train.batch_size = 64
  config.rank_check.num_archs = 5
  config.rank_check.num_near_archs = 3
  config.rank_check.epochs = 6
  return config
