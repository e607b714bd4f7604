"""Every field of a config: its default, its unit and its bounds, once.

FLOPs are multiply-adds, everywhere.
"""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from nss_jax.config import bounds


class Section(pydantic.BaseModel):
  """Holds fields that are checked as they stand: no text is a number."""

  model_config = pydantic.ConfigDict(
    extra="forbid", frozen=True, strict=True, allow_inf_nan=False
  )


class Constraint(Section):
  """One of `objective.constraints`."""

  metric: bounds.Metric
  target: float = Field(gt=0, lt=bounds.LARGEST, description="a number above 0")
  weight: float = Field(
    1.0, ge=0, lt=bounds.LARGEST, description="a number of 0 or more"
  )
  mode: Literal["equal", "at_most"] = "equal"


class Synthetic(Section):
  """Images that are made up."""

  num_classes: int = Field(10, ge=2)
  num_train: int = Field(10_000, ge=1)
  num_test: int = Field(2_000, ge=1)
  seed: int = Field(0, ge=0)


class Data(Section):
  """The images, and how they are split and augmented."""

  # digits | cifar10_binary | cifar100_binary | cifar10_python | cifar100_python
  # | fashion_mnist | idx | npz | folder | tfds | synthetic, or what
  # nss_jax.register_source has been given.
  # What a source has no use for is refused, but for cache_dir.
  source: str = "digits"
  path: str = ""  # archive, file or folder; empty: cache, fetched once
  name: str = ""  # of the data set, for tfds
  cache_dir: str = ""  # of a fetched archive; empty: the user's
  # Of folder, tfds and synthetic: pixels of a side, and 1 grey or 3 RGB.
  # 0: as the files, or 32 pixels in RGB.
  image_size: int = Field(0, ge=0, le=4096)
  channels: bounds.Channels = 0
  # Of folder and tfds: grey level behind what is transparent; 255 white.
  background: int = Field(255, ge=0, le=255)
  # Of folder: leave out images that cannot be read, and name them. All
  # files are read for it at the start.
  skip_bad: bool = False
  # Of folder, npz, idx, fashion_mnist and tfds, where there are no test
  # images: the share of every class that is drawn for it, and the seed.
  # 0: there are.
  test_fraction: float = Field(0.0, ge=0, lt=1)
  test_seed: int = Field(0, ge=0)
  # Of npz: take floats in [0, 1] and booleans for images, rounded to 8
  # bits, and one-hot labels.
  convert_arrays: bool = False
  # Whether training images are read for each batch, or kept on the devices.
  # auto: read if they take over a quarter of the memory of the
  # host or of a device. The numbers of a run are the same.
  stream: Literal["auto", "always", "never"] = "auto"
  synthetic: Synthetic = Synthetic()
  # Of the training images, for the logits.
  validation_fraction: float = Field(0.5, gt=0, lt=1)
  split_seed: int = Field(0, ge=0)
  balanced_split: bool = False  # every class is split in that share
  # balanced: an image counts by one over the number of training
  # images of its class, 1 on average, in every loss that is trained on
  # or scored; errors stay shares of images.
  class_weights: Literal["none", "balanced"] = "none"
  crop_padding: int = Field(0, ge=0)  # pixels on each side; 0: no random crop
  flip: bool = False  # left to right


class Space(Section):
  """The search space: depths and widths of every stage."""

  max_depth: int = Field(16, ge=1, le=1024)  # blocks per stage
  max_width: int = Field(512, ge=1, le=8192)  # channels per stage
  num_depth_bins: int = 4
  num_width_bins: int = 16
  # One per stage.
  strides: Annotated[tuple[Any, ...], Field(strict=False)] = (1, 2, 2)
  stem_width: int = Field(16, ge=1, le=65536)
  block: bounds.BlockName = "basic"
  # Outputs; 0: as many as the data have classes.
  num_classes: bounds.Outputs = 0


class Supernet(Section):
  """How weights that are shared are trained, by all phases."""

  engine: Literal["sliced", "masked"] = "sliced"  # for hard masks
  # Training rounds widths up to these shares of a stage's largest;
  # empty: three to five of them, by what the stage costs.
  bucket_shares: bounds.BucketShares = ()
  activations: Literal["float32", "bfloat16"] = "float32"  # all else is float32
  # Of soft masks: keep the ends of each block and compute the rest again
  # for the gradient. Less memory for one more forward pass, and the same
  # numbers.
  remat: bool = False
  # Equal parts of a device's batch, one after the other: less memory, a
  # third more time; batch statistics are then of a part.
  microbatches: int = Field(1, ge=1)
  # Per_device: each device draws an arch.
  draws: Literal["shared", "per_device"] = "shared"


class Objective(Section):
  """What the search minimises, and its constraints."""

  target_flops: float = Field(600e6, gt=0)  # multiply-adds of one image
  cost_weight: float = Field(1.0, ge=0)  # lambda of Eq. 5
  # Further constraints, each {"metric": flops | params | activations |
  # latency (seconds) | a registered one, "target": in that unit, "weight":
  # 1.0, "mode": "equal"}; mode is equal | at_most. As a flag, quoted:
  # --config.objective.constraints="({'metric':'params','target':2e5},)"
  # With cost_weight 0 they stand alone, without target_flops.
  constraints: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
  # Folder of the table that latency is read from, which
  # --phases=latency_table, before all others, has written; empty: the
  # workdir's.
  latency_table: str = ""
  # Search by a table of another device, or of other activations: for
  # where the networks are to run, not where they are searched.
  foreign_latency_table: bool = False
  # Of what is drawn, expected: E[penalty] over all spaces, exact where
  # they can be listed; sample: of each draw (the paper's).
  penalty: Literal["expected", "sample"] = "expected"


class Search(Section):
  """The search of a space (paper 3)."""

  epochs: bounds.Epochs = 50
  warmup_epochs: int = Field(15, ge=0)  # logits frozen
  batch_size: int = Field(64, ge=2)  # of all devices together
  # At 1 a draw is nearly a space. The paper starts at 5, where a draw
  # mixes all bins and costs several times the target: what the logits
  # learn there they learn of no network that can be built.
  temperature_start: float = Field(1.0, gt=0)
  temperature_end: float = Field(0.001, gt=0)
  # Weight in nats of the entropy of the distribution, which falls
  # geometrically: it decides when the weights can tell spaces apart, not
  # before. 0: no such term (the paper).
  entropy_start: float = Field(0.3, ge=0)
  entropy_end: float = Field(0.002, gt=0)
  # How many times their first weight the penalties have at the end; they
  # grow linearly over the arch steps. 1: constant (the paper).
  penalty_growth: float = Field(3.0, gt=0)
  # soft (the paper) | straight_through | score | a registered one.
  estimator: bounds.EstimatorName = "soft"
  num_score_archs: int = Field(8, ge=2)  # drawn per step by the score estimator
  # scored: of the most probable spaces within the tolerance of the target
  # (and at least a third as probable as the mode) the one whose archs the
  # search's supernet scores best | paper: the closest of some draws
  elite: Literal["scored", "paper"] = "scored"
  elite_tolerance: float = Field(0.02, gt=0, lt=1)
  num_candidates: int = Field(8, ge=1)  # at most, that are scored
  # Of each; 0: the most probable is taken.
  num_choice_archs: int = Field(32, ge=0)
  num_choice_images: int = Field(2000, ge=1)  # at most, of the validation half
  num_elite_samples: int = Field(5, ge=1)
  sync_batch_norm: bool = False  # over all devices; of all that is trained
  steps_per_dispatch: int = Field(16, ge=1)  # at most; one call of the device
  checkpoint_every: int = Field(1, ge=1)  # epochs
  keep_checkpoints: int = Field(3, ge=2)


class Evaluate(Section):
  """The stand-alone supernet, shared by all targets, and what it scores."""

  seed: bounds.Seed = 0
  epochs: bounds.Epochs = 50
  # Whole stages on, by coins that fall to zero.
  coin_epochs: int = Field(15, ge=0, le=bounds.MOST_EPOCHS)
  batch_size: int = Field(64, ge=2)
  archs_per_batch: int = Field(1, ge=1)
  sandwich: bool = False  # largest, smallest, draws; distilled in place
  # The archs of a batch have other depths and widths in every stage, as
  # far as there are enough.
  fair: bool = False
  largest_epochs: int = Field(0, ge=0)  # first, of the largest network alone
  # Groups of a stage's widths that have scales and offsets, or kernels,
  # of their own, as deviations from the shared ones; 1: none. Kernels in
  # the last epochs; 0: in all.
  own_norms: int = Field(1, ge=1)
  own_kernels: int = Field(1, ge=1)
  own_kernel_epochs: int = Field(0, ge=0)
  cache: str = ""  # folder of trained supernets; empty: beside the workdir
  # Scores, on training images that are held out.
  holdout_fraction: float = Field(0.2, gt=0, lt=1)
  split_seed: int = Field(0, ge=0)
  score_batch_size: int = Field(250, ge=1)
  # As supernet.bucket_shares; scoring compiles in a third of the time.
  score_bucket_shares: bounds.BucketShares = ()
  # On training images | batch.
  batch_stats: Literal["recalibrate", "batch"] = "recalibrate"
  calibration_images: int = Field(250, ge=1)
  # What is scored.
  # Of the elite, the expanded space, near the target.
  num_archs: int = Field(1000, ge=1)
  num_spaces: int = Field(64, ge=1)  # random ones near the target
  archs_per_space: int = Field(16, ge=1)
  tolerance: float = Field(0.1, gt=0, lt=1)  # of "near the target", relative
  oracle_spaces: int = Field(2000, ge=0)  # scored by evolution on the evaluator
  oracle_archs: int = Field(4, ge=1)  # of each
  oracle_finalists: int = Field(8, ge=1)  # of the best, scored again
  oracle_final_archs: int = Field(64, ge=1)  # with so many
  bootstrap_samples: int = Field(1000, ge=1)


class Principles(Section):
  """Populations by design principles (paper 4.5)."""

  # Of each kind, in the window and at any cost.
  num_archs: int = Field(1000, ge=1)
  # Shares of the target. The paper's 360 to 400 MF are (0.947, 1.053)
  # of 380e6; at 600e6, (0.6, 0.667).
  window: bounds.Window = (0.9, 1.1)


class Nas(Section):
  """The choice of one network of the Elite Space."""

  # evaluator: of those that meet every constraint within the tolerance, by
  # exact cost, the best by the stand-alone supernet, then by short trainings
  # | gradient: the search again, on bins of size one (paper 4.3).
  method: Literal["evaluator", "gradient"] = "evaluator"
  # Relative, of every constraint that is to be equal.
  tolerance: float = Field(0.02, gt=0, lt=1)
  # Archs scored at most; evolution where more meet.
  num_scored: int = Field(1000, ge=1)
  # Held-out images that they are scored on, in whole batches of
  # evaluate.score_batch_size; the finalists are on all.
  num_images: int = Field(2000, ge=1)
  # Of the race, whose worse half leaves each round.
  num_finalists: int = Field(8, ge=1)
  race_epochs: bounds.Epochs = (
    10  # of each training alone, a new seed each round
  )
  # From here on for gradient.
  epochs: bounds.Epochs = 50
  warmup_epochs: int = Field(15, ge=0)
  learning_rates: bounds.Rates = (3e-4, 1e-2)  # of the logits: DARTS', FBNet's
  num_samples: int = Field(5, ge=1)  # from the Elite Space; the closest is kept
  # Of uniform draws and, by gradient, from all archs, until one meets
  # the constraints; then how often that is done, to count the draws.
  max_samples: int = Field(10_000, ge=1)
  num_sample_seeds: int = Field(20, ge=1)


class Complexity(Section):
  """The nas phase in ever larger search spaces (paper 4.4)."""

  # The same epochs; the paper has w_i <= 128, 256, 512 by d_i <= 4, 8, 16.
  width_shares: bounds.Shares = (0.25, 0.5, 1.0)  # of space.max_width
  depth_shares: bounds.Shares = (0.25, 0.5, 1.0)  # of space.max_depth
  target_flops: float = Field(0.0, ge=0)  # multiply-adds; 0: the objective's
  learning_rate: float = Field(1e-2, gt=0)  # of the logits
  num_archs: int = Field(1000, ge=1)  # drawn at the end of each search
  tolerance: float = Field(0.1, gt=0, lt=1)  # of "near the target", relative


class Train(Section):
  """A network trained alone: the recipe of Cutout (DeVries, Taylor 2017)."""

  epochs: bounds.Epochs = 200
  batch_size: int = Field(128, ge=2)
  num_seeds: int = Field(3, ge=1)
  # Names of those of the nas phase that are trained, such as elite and
  # handmade; empty: all.
  networks: bounds.Networks = ()
  # Supernet: the stand-alone one's weights.
  start: Literal["fresh", "supernet"] = "fresh"
  learning_rate: float = Field(0.1, gt=0)
  decay_factor: float = Field(0.2, gt=0, le=1)
  decay_at: bounds.Decays = (0.3, 0.6, 0.8)  # shares of the epochs
  momentum: float = Field(0.9, ge=0, lt=1)  # Nesterov's
  weight_decay: float = Field(5e-4, ge=0)
  cutout: int = Field(0, ge=0)  # pixels, the side of the square; 0: none
  test_batch_size: int = Field(500, ge=1)


class Sweep(Section):
  """All targets of a data set, each in a workdir of its own."""

  # Multiply-adds, ascending; they take the objective's place.
  targets: bounds.Targets = ()
  phases: bounds.Names = ("search", "evaluate")  # of each


class LatencyTable(Section):
  """The times of blocks on this device."""

  # See objective.latency_table. Every width has one time of a stage's further
  # blocks, the mean of the deepest stage's, so latency is linear in depth.
  batch_size: int = Field(1, ge=1)  # images of the forward pass that is timed
  # Of each stage, from the smallest to the largest.
  num_widths: int = Field(4, ge=2, le=64)
  repeats: int = Field(30, ge=1, le=10_000)  # calls of each
  # Of these the one that counts; 0.5 is the median. Less where others use
  # the machine too.
  quantile: float = Field(0.5, ge=0, le=1)
  # Drawn and timed, to check the table.
  num_networks: int = Field(16, ge=2, le=10_000)
  seed: bounds.Seed = 0


class RankCheck(Section):
  """Whether the supernet ranks archs as their own training does."""

  # Trained alone, spread in cost, and within evaluate.tolerance of the target;
  # seeds of each, which tell how well a truth knows itself.
  num_archs: int = Field(24, ge=0, le=10_000)
  num_near_archs: int = Field(12, ge=0, le=10_000)
  num_seeds: int = Field(2, ge=1, le=1000)
  epochs: bounds.Epochs = 30
  # The truths.csv of another run, to train nothing alone; its archs are
  # scored. Empty: the archs are drawn and trained.
  truths: str = ""


class Weights(Section):
  """The optimizer of supernet weights: SGD."""

  learning_rate: float = Field(0.025, gt=0)  # cosine to final_learning_rate
  final_learning_rate: float = Field(0.001, ge=0)
  momentum: float = Field(0.9, ge=0, lt=1)
  weight_decay: float = Field(3e-4, ge=0)
  clip_norm: float = Field(5.0, gt=0)


class Logits(Section):
  """The optimizer of the logits: Adam."""

  # DARTS' 3e-4 hardly moves a 16-way softmax.
  learning_rate: float = Field(0.02, gt=0)
  b1: float = Field(0.5, ge=0, lt=1)
  b2: float = Field(0.999, ge=0, lt=1)
  weight_decay: float = Field(1e-3, ge=0)
