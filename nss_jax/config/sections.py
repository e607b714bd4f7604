"""The fields of a config: what they mean, their defaults, units and bounds.

The sections of the data, the search space and the search are here; those of the
other phases are in `phase_sections.py`. FLOPs are multiply-adds, everywhere.
"""

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from nss_jax.config import bounds


class Section(pydantic.BaseModel):
  """Holds fields whose types are checked strictly: a text is never a number."""

  model_config = pydantic.ConfigDict(
    extra="forbid", frozen=True, strict=True, allow_inf_nan=False
  )


class Constraint(Section):
  """One of `objective.constraints`."""

  # flops (multiply-adds), params, activations, latency (seconds), or a metric
  # that was registered by nss_jax.register_metric.
  metric: bounds.Metric
  # The cost to reach, or not to exceed, in the unit of the metric.
  target: float = Field(gt=0, lt=bounds.LARGEST, description="a number above 0")
  # The weight of its penalty in the objective.
  weight: float = Field(
    1.0, ge=0, lt=bounds.LARGEST, description="a number of 0 or more"
  )
  mode: Literal["equal", "at_most"] = "equal"


class Synthetic(Section):
  """The images that the source `synthetic` makes up."""

  num_classes: int = Field(10, ge=2)
  num_train: int = Field(10_000, ge=1)  # the number of training images
  num_test: int = Field(2_000, ge=1)  # the number of test images
  seed: int = Field(0, ge=0)


class Data(Section):
  """The images, and how they are split and augmented."""

  # digits, cifar10_binary, cifar100_binary, cifar10_python, cifar100_python,
  # fashion_mnist, idx, npz, folder, tfds, synthetic, or a source that was
  # registered by nss_jax.register_source. Fields that a source has no use for
  # are refused, except cache_dir.
  source: str = "digits"
  # The archive, file or folder to read. If it is empty, the archive is
  # downloaded once and kept in the cache.
  path: str = ""
  # The name of the data set, for tfds.
  name: str = ""
  # Where downloaded archives are kept. Empty means the user's cache.
  cache_dir: str = ""
  # For folder, tfds and synthetic: the pixels of each side, and the channels, 1
  # for grey or 3 for RGB. 0 means as in the files, or 32 pixels in RGB.
  image_size: int = Field(0, ge=0, le=4096)
  channels: bounds.Channels = 0
  # For folder and tfds: the grey level behind transparent pixels; 255 is white.
  background: int = Field(255, ge=0, le=255)
  # For folder: whether to leave out images that cannot be read, and name them.
  # To find them, all files are read at the start.
  skip_bad: bool = False
  # For folder, npz, idx, fashion_mnist and tfds without test images: the share
  # of every class that is drawn for test, and the seed of that draw. 0 means
  # that there are test images.
  test_fraction: float = Field(0.0, ge=0, lt=1)
  test_seed: int = Field(0, ge=0)
  # For npz: whether to accept floats in [0, 1] and booleans as images, which
  # are rounded to 8 bits, and one-hot labels.
  convert_arrays: bool = False
  # Whether training images are read for each batch (always), or kept on the
  # devices (never). auto reads them if they take more than a quarter of the
  # memory of the host or of a device. The numbers of a run are the same.
  stream: Literal["auto", "always", "never"] = "auto"
  synthetic: Synthetic = Synthetic()
  # The share of the training images that the logits are trained on.
  validation_fraction: float = Field(0.5, gt=0, lt=1)
  split_seed: int = Field(0, ge=0)
  # Whether every class is split in that share.
  balanced_split: bool = False
  # With balanced, an image counts by one over the number of training images of
  # its class, scaled to 1 on average, in every loss that is trained on or
  # scored. Errors stay shares of images.
  class_weights: Literal["none", "balanced"] = "none"
  # The pixels added on each side before a random crop; 0 means no crop.
  crop_padding: int = Field(0, ge=0)
  # Whether training images are flipped left to right at random.
  flip: bool = False


class Space(Section):
  """The search space: the depths and widths of every stage."""

  # The largest depth (blocks) and width (channels) of a stage.
  max_depth: int = Field(16, ge=1, le=1024)
  max_width: int = Field(512, ge=1, le=8192)
  # The bins that these are cut into, for each stage.
  num_depth_bins: int = 4
  num_width_bins: int = 16
  # The stride of each stage; their number is the number of stages.
  strides: Annotated[tuple[Any, ...], Field(strict=False)] = (1, 2, 2)
  # The channels of the first convolution.
  stem_width: int = Field(16, ge=1, le=65536)
  # The stride of the first convolution; 2 for images of 64 pixels and more.
  stem_stride: int = Field(1, ge=1, le=64)
  # basic, bottleneck, inverted_residual, mobilenet_v2, or a block that was
  # registered by nss_jax.register_block.
  block: bounds.BlockName = "basic"
  # The outputs of the network; 0 means as many as the data have classes.
  num_classes: bounds.Outputs = 0


class Supernet(Section):
  """How shared weights are trained, in all phases."""

  # How hard masks are computed: on slices of the weights, at the cost of the
  # arch, or by masks on the largest network. The numbers are the same.
  engine: Literal["sliced", "masked"] = "sliced"
  # In training the sliced engine rounds widths up to these shares of a stage's
  # largest width. Empty means three to five shares, by the cost of the stage.
  bucket_shares: bounds.BucketShares = ()
  # The type of activations; everything else is float32.
  activations: Literal["float32", "bfloat16"] = "float32"
  # Whether soft masks only keep the ends of each block, and compute the rest
  # again for the gradient: less memory and the same numbers, for one more
  # forward pass.
  remat: bool = False
  # The equal parts that a device's batch is cut into, one after the other: less
  # memory, for a third more time. Batch statistics are then those of a part.
  microbatches: int = Field(1, ge=1)
  # Whether all devices train the same arch in a step, or each draws its own.
  draws: Literal["shared", "per_device"] = "shared"


class Objective(Section):
  """What the search minimises, and its constraints."""

  # The multiply-adds of one image.
  target_flops: float = Field(600e6, gt=0)
  # The weight of the penalty, which is lambda in Eq. 5. With 0 the constraints
  # below stand alone, without target_flops.
  cost_weight: float = Field(1.0, ge=0)
  # More constraints, each with the fields of `Constraint`; in a flag, quoted:
  # --config.objective.constraints="({'metric':'params','target':2e5},)"
  constraints: Annotated[tuple[Constraint, ...], Field(strict=False)] = ()
  # The folder of the table that latencies are read from, which
  # --phases=latency_table has written. Empty means that of the workdir.
  latency_table: str = ""
  # Whether to accept the table of another device, or of other activations,
  # because the networks are to run there.
  foreign_latency_table: bool = False
  # expected: the expectation of the penalty over all spaces, which is exact
  # where they can be listed. sample: the penalty of each draw (the paper's).
  penalty: Literal["expected", "sample"] = "expected"

  @pydantic.model_validator(mode="after")
  def _check_metrics(self) -> Self:
    names = [one.metric for one in self.constraints]
    names += ["flops"] * bool(self.cost_weight)
    if len(names) != len(set(names)):
      raise ValueError(
        "constraints",
        "each metric once, and flops only where config.objective.cost_weight "
        "is 0, in place of target_flops",
      )
    return self


class Search(Section):
  """The search of a space (paper 3)."""

  epochs: bounds.Epochs = 50
  # The epochs at the start in which the logits are frozen.
  warmup_epochs: int = Field(15, ge=0)
  # The images of a batch, on all devices together.
  batch_size: int = Field(64, ge=2)
  # The temperature of the Gumbel-Softmax. At 1 a draw is nearly a space. The
  # paper starts at 5, where a draw mixes all bins and costs several times the
  # target, so what the logits learn there is not about networks that can be
  # built.
  temperature_start: float = Field(1.0, gt=0)
  temperature_end: float = Field(0.001, gt=0)
  # The weight, in nats, of the entropy of the distribution, which falls
  # geometrically. It makes the distribution decide when the weights can tell
  # spaces apart, and not before. A start of 0 means no such term (the paper).
  entropy_start: float = Field(0.3, ge=0)
  entropy_end: float = Field(0.002, gt=0)
  # The weight of the penalties at the end, as a multiple of their first weight.
  # They grow linearly over the arch steps. 1 keeps them constant (the paper).
  penalty_growth: float = Field(3.0, gt=0)
  # How gradients of the logits are estimated: soft (the paper),
  # straight_through, score, or one registered by nss_jax.register_estimator.
  estimator: bounds.EstimatorName = "soft"
  # The archs that the score estimator draws in each step.
  num_score_archs: int = Field(8, ge=2)
  # How the Elite Space is chosen. scored: of the most probable spaces within
  # the tolerance of the target (and at least a third as probable as the mode),
  # the one whose archs the search's supernet scores best. paper: the closest of
  # num_elite_samples draws.
  elite: Literal["scored", "paper"] = "scored"
  # How far from the target a space may be, as a share of it.
  elite_tolerance: float = Field(0.02, gt=0, lt=1)
  # The most spaces that are scored.
  num_candidates: int = Field(8, ge=1)
  # The archs scored of each space; 0 takes the most probable space instead.
  num_choice_archs: int = Field(32, ge=0)
  # The most images that they are scored on, from the validation half.
  num_choice_images: int = Field(2000, ge=1)
  num_elite_samples: int = Field(5, ge=1)
  # Whether batch statistics are those of all devices, in all that is trained.
  sync_batch_norm: bool = False
  # The most steps in one call of the device.
  steps_per_dispatch: int = Field(16, ge=1)
  # The epochs between two checkpoints, and how many checkpoints are kept.
  checkpoint_every: int = Field(1, ge=1)
  keep_checkpoints: int = Field(3, ge=2)

  @pydantic.model_validator(mode="after")
  def _check_schedules(self) -> Self:
    bounds.check_warmup("search", self.warmup_epochs, self.epochs)
    for name, start, end in (
      ("temperature", self.temperature_start, self.temperature_end),
      ("entropy", self.entropy_start, self.entropy_end),
    ):
      if 0 < start < end:
        raise ValueError(f"{name}_end", f"at most search.{name}_start, {start}")
    return self


class Weights(Section):
  """The optimizer of supernet weights: SGD."""

  # The learning rate falls by a cosine to final_learning_rate.
  learning_rate: float = Field(0.025, gt=0)
  final_learning_rate: float = Field(0.001, ge=0)
  momentum: float = Field(0.9, ge=0, lt=1)
  weight_decay: float = Field(3e-4, ge=0)
  # The largest norm of the gradient; a larger one is scaled down to it.
  clip_norm: float = Field(5.0, gt=0)


class Logits(Section):
  """The optimizer of the logits: Adam."""

  # DARTS' 3e-4 hardly moves a 16-way softmax.
  learning_rate: float = Field(0.02, gt=0)
  b1: float = Field(0.5, ge=0, lt=1)
  b2: float = Field(0.999, ge=0, lt=1)
  weight_decay: float = Field(1e-3, ge=0)
