"""The fields of the phases that follow a search: see `sections.py`."""

from typing import Literal, Self

import pydantic
from pydantic import Field

from nss_jax.config import bounds
from nss_jax.config.sections import Section


class Evaluate(Section):
  """The stand-alone supernet, which all targets share, and what it scores."""

  # Its training.
  seed: bounds.Seed = 0
  epochs: bounds.Epochs = 50
  # The epochs at the start in which whole stages are switched on at random, by
  # coins whose chance falls to zero.
  coin_epochs: int = Field(15, ge=0, le=bounds.MOST_EPOCHS)
  batch_size: int = Field(64, ge=2)
  archs_per_batch: int = Field(1, ge=1)
  # Whether these are the largest network, the smallest, and draws, which the
  # largest teaches (distillation in place).
  sandwich: bool = False
  # Whether the archs of a batch have different depths and widths in every
  # stage, as far as there are enough.
  fair: bool = False
  # The epochs at the start that train the largest network alone.
  largest_epochs: int = Field(0, ge=0)
  # The groups of a stage's widths that have scales and offsets, or kernels, of
  # their own, as deviations from the shared ones; 1 means none.
  own_norms: int = Field(1, ge=1)
  own_kernels: int = Field(1, ge=1)
  # The epochs at the end in which they have kernels of their own; 0 means all.
  own_kernel_epochs: int = Field(0, ge=0)
  # The folder of trained supernets. Empty means beside the workdir.
  cache: str = ""
  # Its scores: the share of the training images that is held out for them, and
  # the seed of that split.
  holdout_fraction: float = Field(0.2, gt=0, lt=1)
  split_seed: int = Field(0, ge=0)
  score_batch_size: int = Field(250, ge=1)
  # As supernet.bucket_shares, for scoring, which compiles in a third of the
  # time.
  score_bucket_shares: bounds.BucketShares = ()
  # Whether batch statistics are estimated on training images, or taken from the
  # batch that is scored.
  batch_stats: Literal["recalibrate", "batch"] = "recalibrate"
  # The training images that they are estimated on.
  calibration_images: int = Field(250, ge=1)
  # The archs scored of the Elite Space, of the whole search space, and of those
  # near the target.
  num_archs: int = Field(1000, ge=1)
  # The random spaces near the target, and the archs scored of each.
  num_spaces: int = Field(64, ge=1)
  archs_per_space: int = Field(16, ge=1)
  # How far "near the target" is, as a share of it.
  tolerance: float = Field(0.1, gt=0, lt=1)
  # The oracle: the spaces that evolution scores on the evaluator and the archs
  # of each, then the best of these spaces, and the archs that they are scored
  # again with.
  oracle_spaces: int = Field(2000, ge=0)
  oracle_archs: int = Field(4, ge=1)
  oracle_finalists: int = Field(8, ge=1)
  oracle_final_archs: int = Field(64, ge=1)
  # The resamples of each bootstrap interval.
  bootstrap_samples: int = Field(1000, ge=1)

  @pydantic.model_validator(mode="after")
  def _check_recipe(self) -> Self:
    how, least = ("sandwich", 3) if self.sandwich else ("fair", 1 + self.fair)
    if self.archs_per_batch < least:
      raise ValueError(
        "archs_per_batch", f"{least} or more with evaluate.{how}"
      )
    if self.largest_epochs > self.epochs:
      raise ValueError(
        "largest_epochs", f"at most the {self.epochs} of evaluate.epochs"
      )
    late = self.epochs if self.own_kernels > 1 else 0
    if self.own_kernel_epochs > late:
      raise ValueError(
        "own_kernel_epochs",
        f"at most {late}, and 0 where evaluate.own_kernels is 1",
      )
    return self


class Principles(Section):
  """Populations by design principles (paper 4.5)."""

  # The archs of each population, both in the window of cost and at any cost.
  num_archs: int = Field(1000, ge=1)
  # The window, as shares of the target. The paper's 360 to 400 MF are
  # (0.947, 1.053) of 380e6, or (0.6, 0.667) of 600e6.
  window: bounds.Window = (0.9, 1.1)


class Nas(Section):
  """The choice of one network of the Elite Space."""

  # evaluator: of the archs that meet every constraint within the tolerance, by
  # exact cost, the best by the stand-alone supernet, then by short trainings.
  # gradient: the search again, on bins of size one (paper 4.3).
  method: Literal["evaluator", "gradient"] = "evaluator"
  # How far an arch may be from each constraint that is to be equal, as a share
  # of its target.
  tolerance: float = Field(0.02, gt=0, lt=1)
  # The most archs that are scored; where more meet the constraints, evolution
  # chooses which.
  num_scored: int = Field(1000, ge=1)
  # The held-out images that they are scored on, in whole batches of
  # evaluate.score_batch_size. The finalists are scored on all.
  num_images: int = Field(2000, ge=1)
  # The archs that begin the race, whose worse half leaves in each round.
  num_finalists: int = Field(8, ge=1)
  # The epochs of each training of the race, with a new seed in each round.
  race_epochs: bounds.Epochs = 10
  # The next four are for gradient: the epochs of its search, those at the start
  # in which the logits are frozen, the learning rates of the logits that are
  # tried (DARTS' and FBNet's), and the archs drawn from the Elite Space, of
  # which the closest is kept.
  epochs: bounds.Epochs = 50
  warmup_epochs: int = Field(15, ge=0)
  learning_rates: bounds.Rates = (3e-4, 1e-2)
  num_samples: int = Field(5, ge=1)
  # The most uniform draws (with gradient, also draws from all archs) until one
  # meets the constraints.
  max_samples: int = Field(10_000, ge=1)
  # How often that is repeated, to count the draws.
  num_sample_seeds: int = Field(20, ge=1)

  @pydantic.model_validator(mode="after")
  def _check_schedule(self) -> Self:
    bounds.check_warmup("nas", self.warmup_epochs, self.epochs)
    return self


class Complexity(Section):
  """The search for one network in ever larger search spaces (paper 4.4)."""

  # The widths and depths of the spaces, as shares of space.max_width and
  # space.max_depth. The paper has w_i <= 128, 256, 512 by d_i <= 4, 8, 16.
  width_shares: bounds.Shares = (0.25, 0.5, 1.0)
  depth_shares: bounds.Shares = (0.25, 0.5, 1.0)
  # The multiply-adds of one image; 0 means the objective's.
  target_flops: float = Field(0.0, ge=0)
  # The learning rate of the logits. The epochs are those of nas.
  learning_rate: float = Field(1e-2, gt=0)
  # The archs drawn at the end of each search.
  num_archs: int = Field(1000, ge=1)
  # How far "near the target" is, as a share of it.
  tolerance: float = Field(0.1, gt=0, lt=1)


class Train(Section):
  """A network trained alone: the recipe of Cutout (DeVries, Taylor 2017)."""

  epochs: bounds.Epochs = 200
  batch_size: int = Field(128, ge=2)
  # The trainings of each network, which differ in their seed.
  num_seeds: int = Field(3, ge=1)
  # Which networks of the nas phase are trained, by name, such as elite and
  # handmade; none means all.
  networks: bounds.Networks = ()
  # Whether weights start fresh, or as those of the stand-alone supernet.
  start: Literal["fresh", "supernet"] = "fresh"
  learning_rate: float = Field(0.1, gt=0)
  # What the learning rate is multiplied by, at each of these shares of the
  # epochs.
  decay_factor: float = Field(0.2, gt=0, le=1)
  decay_at: bounds.Decays = (0.3, 0.6, 0.8)
  # Nesterov's.
  momentum: float = Field(0.9, ge=0, lt=1)
  weight_decay: float = Field(5e-4, ge=0)
  # The side, in pixels, of the square that is cut out of each image; 0 means
  # none.
  cutout: int = Field(0, ge=0)
  test_batch_size: int = Field(500, ge=1)


class Sweep(Section):
  """All targets of a data set, each in a workdir of its own."""

  # The multiply-adds of one image, ascending, in place of the objective's.
  targets: bounds.Targets = ()
  # The phases that run for each target.
  phases: bounds.Phases = ("search", "evaluate")


class LatencyTable(Section):
  """The times of blocks on this device.

  All further blocks of a stage have one time, the mean of those of the deepest
  stage, so latency is linear in depth. See also `objective.latency_table`.
  """

  # The images of the forward pass that is timed.
  batch_size: int = Field(1, ge=1)
  # The widths that are timed of each stage, from the smallest to the largest.
  num_widths: int = Field(4, ge=2, le=64)
  # How often each is timed.
  repeats: int = Field(30, ge=1, le=10_000)
  # Which of these times counts, where 0.5 is the median. Take less where others
  # use the machine too.
  quantile: float = Field(0.5, ge=0, le=1)
  # The networks that are drawn and timed, to check the table.
  num_networks: int = Field(16, ge=2, le=10_000)
  seed: bounds.Seed = 0


class RankCheck(Section):
  """Whether the supernet ranks archs as their own training does."""

  # The archs trained alone: those that are spread in cost, and those within
  # evaluate.tolerance of the target.
  num_archs: int = Field(24, ge=0, le=10_000)
  num_near_archs: int = Field(12, ge=0, le=10_000)
  # The trainings of each arch, which tell how well a truth knows itself.
  num_seeds: int = Field(2, ge=1, le=1000)
  epochs: bounds.Epochs = 30
  # The truths.csv of another run, whose archs are scored; nothing is then
  # trained alone. Empty means that archs are drawn and trained.
  truths: str = ""

  @pydantic.model_validator(mode="after")
  def _check_groups(self) -> Self:
    if max(self.num_archs, self.num_near_archs) < 2:
      raise ValueError(
        "num_archs",
        "2 or more here or as rank_check.num_near_archs: one has no order",
      )
    return self
