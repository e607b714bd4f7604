"""Every field of a config, its unit, and the values of the paper.

Config files in `configs/` start from `base()` and say what differs. FLOPs are
multiply-adds, everywhere.
"""

import ml_collections

PHASES = (
  "search",
  "evaluate",
  "rank_check",
  "principles",
  "nas",
  "complexity",
  "train",
  "sweep",
  "latency_table",
  "report",
)
# From the search to the report; the sweep runs them for many targets.
PHASES_OF_A_TARGET = tuple(
  name for name in PHASES if name not in ("sweep", "latency_table")
)


class ConfigError(ValueError):
  """A field with a value that is not accepted, in one line."""


def base() -> ml_collections.ConfigDict:
  """The paper's settings where it gives them, DARTS' elsewhere."""
  return ml_collections.ConfigDict(
    {
      "name": "unnamed",  # of the workdir: runs/<name>
      "seed": 0,
      "data": {
        # digits | cifar10_binary | cifar100_binary | cifar10_python
        # | cifar100_python | fashion_mnist | idx | npz | folder | tfds
        # | synthetic, or what nss_jax.register_source has been given
        # What a source has no use for is refused, but for cache_dir.
        "source": "digits",
        "path": "",  # archive, file or folder; empty: cache, fetched once
        "name": "",  # of the data set, for tfds
        "cache_dir": "",  # of a fetched archive; empty: the user's
        # Of folder, tfds and synthetic: pixels of a side, and 1 grey or 3 RGB.
        # 0: as the files, or 32 pixels in RGB.
        "image_size": 0,
        "channels": 0,
        # Of folder and tfds: grey level behind what is transparent; 255 white.
        "background": 255,
        # Of folder: leave out images that cannot be read, and name them. All
        # files are read for it at the start.
        "skip_bad": False,
        # Of folder, npz, idx, fashion_mnist and tfds, where there are no test
        # images: the share of every class that is drawn for it, and the seed.
        # 0: there are.
        "test_fraction": 0.0,
        "test_seed": 0,
        # Of npz: take floats in [0, 1] and booleans for images, rounded to 8
        # bits, and one-hot labels.
        "convert_arrays": False,
        # Training images on the devices, or read for each batch: auto | always
        # | never. auto: read if they take over a quarter of the memory of the
        # host or of a device. The numbers of a run are the same.
        "stream": "auto",
        "synthetic": {  # images that are made up
          "num_classes": 10,
          "num_train": 10_000,
          "num_test": 2_000,
          "seed": 0,
        },
        "validation_fraction": 0.5,  # of the training images, for the logits
        "split_seed": 0,
        "balanced_split": False,  # every class is split in that share
        # none | balanced: an image counts by one over the number of training
        # images of its class, 1 on average, in every loss that is trained on
        # or scored; errors stay shares of images.
        "class_weights": "none",
        "crop_padding": 0,  # pixels on each side; 0: no random crop
        "flip": False,  # left to right
      },
      "space": {
        "max_depth": 16,  # blocks per stage
        "max_width": 512,  # channels per stage
        "num_depth_bins": 4,
        "num_width_bins": 16,
        "strides": (1, 2, 2),  # one per stage
        "stem_width": 16,
        "block": "basic",
        "num_classes": 0,  # outputs; 0: as many as the data have classes
      },
      "supernet": {
        "engine": "sliced",  # sliced | masked; for hard masks
        # Training rounds widths up to these shares of a stage's largest;
        # empty: three to five of them, by what the stage costs.
        "bucket_shares": (),
        "activations": "float32",  # float32 | bfloat16; all else is float32
        # Of soft masks: keep the ends of each block and compute the rest again
        # for the gradient. Less memory for one more forward pass, and the same
        # numbers.
        "remat": False,
        # Equal parts of a device's batch, one after the other: less memory, a
        # third more time; batch statistics are then of a part.
        "microbatches": 1,
        "draws": "shared",  # shared | per_device: each device draws an arch
      },
      "objective": {
        "target_flops": 600e6,  # multiply-adds of one image
        "cost_weight": 1.0,  # lambda of Eq. 5
        # Further budgets, each {"metric": flops | params | activations |
        # latency (seconds), "target": in that unit, "weight": 1.0, "mode":
        # "equal"}; mode is equal | at_most. As a flag, quoted:
        # --config.objective.constraints="({'metric':'params','target':2e5},)"
        # With cost_weight 0 they stand alone, without target_flops.
        "constraints": (),
        # Folder of the table that latency is read from, which
        # --phases=latency_table, before all others, has written; empty: the
        # workdir's.
        "latency_table": "",
        # Search by a table of another device, or of other activations: for
        # where the networks are to run, not where they are searched.
        "foreign_latency_table": False,
        # Of what is drawn, expected: E[penalty] over all spaces, exact where
        # they can be listed; sample: of each draw (the paper's).
        "penalty": "expected",
      },
      "search": {
        "epochs": 50,
        "warmup_epochs": 15,  # logits frozen
        "batch_size": 64,  # of all devices together
        # At 1 a draw is nearly a space. The paper starts at 5, where a draw
        # mixes all bins and costs several times the target: what the logits
        # learn there they learn of no network that can be built.
        "temperature_start": 1.0,
        "temperature_end": 0.001,
        # Weight in nats of the entropy of the distribution, which falls
        # geometrically: it decides when the weights can tell spaces apart, not
        # before. 0: no such term (the paper).
        "entropy_start": 0.3,
        "entropy_end": 0.002,
        # How many times their first weight the penalties have at the end; they
        # grow linearly over the arch steps. 1: constant (the paper).
        "penalty_growth": 3.0,
        "estimator": "soft",  # soft (paper) | straight_through | score
        "num_score_archs": 8,  # drawn per step by the score estimator
        # scored: of the most probable spaces within the tolerance of the target
        # (and at least a third as probable as the mode) the one whose archs the
        # search's supernet scores best | paper: the closest of some draws
        "elite": "scored",
        "elite_tolerance": 0.02,
        "num_candidates": 8,  # at most, that are scored
        "num_choice_archs": 32,  # of each; 0: the most probable is taken
        "num_choice_images": 2000,  # at most, of the validation half
        "num_elite_samples": 5,
        "sync_batch_norm": False,  # over all devices; of all that is trained
        "steps_per_dispatch": 16,  # at most; one call of the device
        "checkpoint_every": 1,  # epochs
        "keep_checkpoints": 3,
      },
      "evaluate": {
        # The stand-alone supernet: of its own, shared by all targets.
        "seed": 0,
        "epochs": 50,
        "coin_epochs": 15,  # whole stages on, by coins that fall to zero
        "batch_size": 64,
        "archs_per_batch": 1,
        "sandwich": False,  # largest, smallest, draws; distilled in place
        # The archs of a batch have other depths and widths in every stage, as
        # far as there are enough.
        "fair": False,
        "largest_epochs": 0,  # first, of the largest network alone
        # Groups of a stage's widths that have scales and offsets, or kernels,
        # of their own, as deviations from the shared ones; 1: none. Kernels in
        # the last epochs; 0: in all.
        "own_norms": 1,
        "own_kernels": 1,
        "own_kernel_epochs": 0,
        "cache": "",  # folder of trained supernets; empty: beside the workdir
        # Scores, on training images that are held out.
        "holdout_fraction": 0.2,
        "split_seed": 0,
        "score_batch_size": 250,
        # As supernet.bucket_shares; scoring compiles in a third of the time.
        "score_bucket_shares": (),
        "batch_stats": "recalibrate",  # on training images | batch
        "calibration_images": 250,
        # What is scored.
        "num_archs": 1000,  # of the elite, the expanded space, near the target
        "num_spaces": 64,  # random ones near the target
        "archs_per_space": 16,
        "tolerance": 0.1,  # of "near the target", relative
        "oracle_spaces": 2000,  # scored by evolution on the evaluator
        "oracle_archs": 4,  # of each
        "oracle_finalists": 8,  # of the best, scored again
        "oracle_final_archs": 64,  # with so many
        "bootstrap_samples": 1000,
      },
      "principles": {
        "num_archs": 1000,  # of each kind, in the window and at any cost
        # Shares of the target. The paper's 360 to 400 MF are (0.947, 1.053)
        # of 380e6; at 600e6, (0.6, 0.667).
        "window": (0.9, 1.1),
      },
      "nas": {
        # One arch of the Elite Space. evaluator: of those that meet every
        # budget within the tolerance, by exact cost, the best by the
        # stand-alone supernet, then by short trainings | gradient: the search
        # again, on bins of size one (paper 4.3).
        "method": "evaluator",
        "tolerance": 0.02,  # relative, of every budget that is to be equal
        "num_scored": 1000,  # archs scored at most; evolution where more meet
        # Held-out images that they are scored on, in whole batches of
        # evaluate.score_batch_size; the finalists are on all.
        "num_images": 2000,
        "num_finalists": 8,  # of the race, whose worse half leaves each round
        "race_epochs": 10,  # of each training alone, a new seed each round
        # From here on for gradient.
        "epochs": 50,
        "warmup_epochs": 15,
        "learning_rates": (3e-4, 1e-2),  # of the logits: DARTS', FBNet's
        "num_samples": 5,  # from the Elite Space; the closest is kept
        # Of uniform draws and, by gradient, from all archs, until one meets
        # the budgets; then how often that is done, to count the draws.
        "max_samples": 10_000,
        "num_sample_seeds": 20,
      },
      "complexity": {
        # The nas phase in ever larger search spaces (paper 4.4), the same
        # epochs: w_i <= 128, 256, 512 by d_i <= 4, 8, 16.
        "width_shares": (0.25, 0.5, 1.0),  # of space.max_width
        "depth_shares": (0.25, 0.5, 1.0),  # of space.max_depth
        "target_flops": 0.0,  # multiply-adds; 0: the objective's
        "learning_rate": 1e-2,  # of the logits
        "num_archs": 1000,  # drawn at the end of each search
        "tolerance": 0.1,  # of "near the target", relative
      },
      "train": {
        # A network alone: the recipe of Cutout (DeVries and Taylor 2017).
        "epochs": 200,
        "batch_size": 128,
        "num_seeds": 3,
        "start": "fresh",  # fresh | supernet: the stand-alone one's weights
        "learning_rate": 0.1,
        "decay_factor": 0.2,
        "decay_at": (0.3, 0.6, 0.8),  # shares of the epochs
        "momentum": 0.9,  # Nesterov's
        "weight_decay": 5e-4,
        "cutout": 0,  # pixels, the side of the square; 0: none
        "test_batch_size": 500,
      },
      "sweep": {
        # All targets of a data set, each in a workdir of its own.
        "targets": (),  # multiply-adds, ascending; takes the objective's place
        "phases": ("search", "evaluate"),  # of each
      },
      "latency_table": {
        # Times of blocks on this device; see objective.latency_table. Every
        # width has one time of a stage's further blocks, the mean of the
        # deepest stage's, so latency is linear in depth.
        "batch_size": 1,  # images of the forward pass that is timed
        "num_widths": 4,  # of each stage, from the smallest to the largest
        "repeats": 30,  # calls of each
        # Of these the one that counts; 0.5 is the median. Less where others use
        # the machine too.
        "quantile": 0.5,
        "num_networks": 16,  # drawn and timed, to check the table
        "seed": 0,
      },
      "rank_check": {
        "num_archs": 24,  # trained alone, spread in cost
        "num_near_archs": 12,  # and within evaluate.tolerance of the target
        "num_seeds": 2,  # of each; they tell how well a truth knows itself
        "epochs": 30,
        # The truths.csv of another run, to train nothing alone; its archs are
        # scored. Empty: the archs are drawn and trained.
        "truths": "",
      },
      "weights": {
        "learning_rate": 0.025,  # cosine to final_learning_rate
        "final_learning_rate": 0.001,
        "momentum": 0.9,
        "weight_decay": 3e-4,
        "clip_norm": 5.0,
      },
      "logits": {
        "learning_rate": 0.02,  # DARTS' 3e-4 hardly moves a 16-way softmax
        "b1": 0.5,
        "b2": 0.999,
        "weight_decay": 1e-3,
      },
    }
  )
