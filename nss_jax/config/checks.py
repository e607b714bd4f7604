"""What a config accepts, and what else is asked of it."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import ml_collections

from nss_jax.config.constraints import check_constraints
from nss_jax.config.fields import PHASES_OF_A_TARGET, ConfigError, base
from nss_jax.config.names import unknown_field
from nss_jax.spaces.blocks import block_digest, block_names
from nss_jax.spaces.search_space import SearchSpace


def search_space(
  config: ml_collections.ConfigDict,
  image_shape: tuple[int, int, int],
  num_classes: int = 0,
) -> SearchSpace:
  """The search space of `config.space` for images of that shape.

  Args:
    config: of the run.
    image_shape: height, width and channels.
    num_classes: of the data; `config.space` may say more, or 0 for as many. 0
      if they are not known, and `config.space` says how many.

  Raises:
    ConfigError: if the fields do not make one.
  """
  fields = dict(config.space)
  given = fields["num_classes"] = config.space.num_classes or num_classes
  if given < num_classes:
    raise ConfigError(
      _message(
        "space.num_classes",
        given,
        f"at least the {num_classes} classes of the data, or 0 for as many",
      )
    )
  try:
    return SearchSpace.expanded(
      **fields, image_shape=tuple(int(n) for n in image_shape)
    )
  except ValueError as error:
    raise ConfigError(f"config.space: {error}") from error


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks every field that can be checked without the data.

  Raises:
    ConfigError: naming the field, the value and what is accepted.
  """
  _check_fields(config.to_dict(), base().to_dict(), "config")
  choices_of = {**_CHOICES, "space.block": block_names()}
  for path, choices in choices_of.items():
    value = _get(config, path)
    if value not in choices:
      raise ConfigError(_message(path, value, f"one of {', '.join(choices)}"))
  for path, (accepts, words) in _RANGES.items():
    value = _get(config, path)
    if isinstance(value, float) and not math.isfinite(value):
      raise ConfigError(_message(path, value, words))
    if not accepts(value):
      raise ConfigError(_message(path, value, words))
  check_constraints(config)
  search = config.search
  for group in ("search", "nas"):
    warmup, epochs = config[group].warmup_epochs, config[group].epochs
    if warmup >= epochs:
      raise ConfigError(
        _message(
          f"{group}.warmup_epochs",
          warmup,
          f"fewer than the {epochs} of config.{group}.epochs",
        )
      )
  if search.temperature_end > search.temperature_start:
    raise ConfigError(
      _message(
        "search.temperature_end",
        search.temperature_end,
        f"at most search.temperature_start, {search.temperature_start}",
      )
    )
  if 0 < search.entropy_start < search.entropy_end:
    raise ConfigError(
      _message(
        "search.entropy_end",
        search.entropy_end,
        f"at most search.entropy_start, {search.entropy_start}",
      )
    )
  if config.supernet.draws == "per_device" and search.sync_batch_norm:
    raise ConfigError(
      _message(
        "supernet.draws",
        "per_device",
        "shared with config.search.sync_batch_norm: other archs have no "
        "statistics in common",
      )
    )
  _check_recipe(config.evaluate)
  name = config.name
  if not name.strip() or "/" in name or name.startswith("."):
    raise ConfigError(_message("name", name, "a plain folder name"))


def _check_recipe(recipe: ml_collections.ConfigDict) -> None:
  """Refuses ways of training the evaluator that contradict each other."""
  how, least = ("sandwich", 3) if recipe.sandwich else ("fair", 1 + recipe.fair)
  most, late = recipe.epochs, recipe.epochs * (recipe.own_kernels > 1)
  of_late = f"at most {late}, and 0 where evaluate.own_kernels is 1"
  for field, low, high, words in (
    (
      "archs_per_batch",
      least,
      math.inf,
      f"{least} or more with evaluate.{how}",
    ),
    ("largest_epochs", 0, most, f"at most the {most} of evaluate.epochs"),
    ("own_kernel_epochs", 0, late, of_late),
  ):
    if not low <= recipe[field] <= high:
      raise ConfigError(_message(f"evaluate.{field}", recipe[field], words))


def differences(old: Any, new: Any, path: str = "config") -> list[str]:
  """Fields in which two nested dicts differ: `config.seed: 0 is now 1`."""
  if isinstance(old, dict) and isinstance(new, dict):
    found = []
    for key in [*old, *(k for k in new if k not in old)]:
      if key not in old:
        found.append(f"{path}.{key}: new, {new[key]!r}")
      elif key not in new:
        found.append(f"{path}.{key}: {old[key]!r} is gone")
      else:
        found += differences(old[key], new[key], f"{path}.{key}")
    return found
  return [] if old == new else [f"{path}: {old!r} is now {new!r}"]


def to_json(value: Any) -> Any:
  """A config as plain JSON values."""
  if isinstance(value, ml_collections.ConfigDict):
    value = value.to_dict()
  if isinstance(value, dict):
    return {k: to_json(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [to_json(v) for v in value]
  return value


def record(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """What a run keeps of its config: with a digest of the block it names."""
  fields = to_json(config)
  fields["space"]["block_digest"] = block_digest(config.space.block)
  return fields


def _positive(value: float) -> bool:
  return value > 0


def _ascending_to_one(values: Sequence[Any]) -> bool:
  return not values or (_ascending(values) and values[-1] == 1)


def _ascending(values: Sequence[Any]) -> bool:
  """Numbers above 0 that ascend, at least one."""
  if not values or not all(map(_is_number, values)):
    return False
  return all(a < b for a, b in itertools.pairwise((0, *values)))


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(value: int) -> bool:
  return value >= 1


_CHOICES = {
  "data.stream": ("auto", "always", "never"),
  "data.class_weights": ("none", "balanced"),
  "objective.penalty": ("expected", "sample"),
  "search.elite": ("scored", "paper"),
  "search.estimator": ("soft", "straight_through", "score"),
  "supernet.engine": ("sliced", "masked"),
  "nas.method": ("evaluator", "gradient"),
  "evaluate.batch_stats": ("recalibrate", "batch"),
  "train.start": ("fresh", "supernet"),
  "supernet.activations": ("float32", "bfloat16"),
  "supernet.draws": ("shared", "per_device"),
}
_NOT_NEGATIVE = (lambda v: v >= 0, "0 or more")
# Far beyond what is trained, and the plan of every step still fits in memory.
_MOST_EPOCHS = 10_000
_EPOCHS = (lambda v: 1 <= v <= _MOST_EPOCHS, "1 to 10,000")
_SHARES = (
  lambda v: _ascending(v) and v[-1] <= 1,
  "ascending shares above 0, at most 1, at least one",
)
_RANGES = {
  "seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
  "data.image_size": (lambda v: 0 <= v <= 4096, "0 to 4096"),
  "data.channels": (lambda v: v in (0, 1, 3), "0, 1 or 3"),
  "data.background": (lambda v: 0 <= v <= 255, "0 to 255"),
  "data.test_fraction": (lambda v: 0 <= v < 1, "0, or below 1"),
  "data.test_seed": _NOT_NEGATIVE,
  "data.synthetic.num_classes": (lambda v: v >= 2, "2 or more"),
  "data.synthetic.num_train": (_count, "1 or more"),
  "data.synthetic.num_test": (_count, "1 or more"),
  "data.synthetic.seed": _NOT_NEGATIVE,
  "data.validation_fraction": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "data.split_seed": _NOT_NEGATIVE,
  "data.crop_padding": _NOT_NEGATIVE,
  # Far beyond what can be trained, and costs are still told at once.
  "space.max_depth": (lambda v: 1 <= v <= 1024, "1 to 1024"),
  "space.max_width": (lambda v: 1 <= v <= 2**13, "1 to 8192"),
  "space.stem_width": (lambda v: 1 <= v <= 2**16, "1 to 65536"),
  "space.num_classes": (
    lambda v: v == 0 or 2 <= v <= 2**20,
    "0 for those of the data, or 2 to 2^20",
  ),
  "objective.target_flops": (_positive, "above 0, in multiply-adds"),
  "objective.cost_weight": _NOT_NEGATIVE,
  "search.epochs": _EPOCHS,
  "search.warmup_epochs": _NOT_NEGATIVE,
  "search.batch_size": (lambda v: v >= 2, "2 or more"),
  "search.temperature_start": (_positive, "above 0"),
  "search.temperature_end": (_positive, "above 0"),
  "search.entropy_start": _NOT_NEGATIVE,
  "search.entropy_end": (_positive, "above 0"),
  "search.penalty_growth": (_positive, "above 0"),
  "search.elite_tolerance": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "search.num_score_archs": (lambda v: v >= 2, "2 or more"),
  "supernet.microbatches": (_count, "1 or more"),
  "supernet.bucket_shares": (
    _ascending_to_one,
    "shares above 0 that ascend to 1",
  ),
  "search.num_elite_samples": (_count, "1 or more"),
  "search.num_candidates": (_count, "1 or more"),
  "search.num_choice_archs": _NOT_NEGATIVE,
  "search.num_choice_images": (_count, "1 or more"),
  "search.steps_per_dispatch": (_count, "1 or more"),
  "search.checkpoint_every": (_count, "1 or more"),
  "search.keep_checkpoints": (lambda v: v >= 2, "2 or more"),
  "evaluate.seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
  "evaluate.split_seed": _NOT_NEGATIVE,
  "evaluate.coin_epochs": (lambda v: 0 <= v <= _MOST_EPOCHS, "0 to 10,000"),
  "evaluate.batch_size": (lambda v: v >= 2, "2 or more"),
  "evaluate.holdout_fraction": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "evaluate.tolerance": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "evaluate.oracle_spaces": _NOT_NEGATIVE,
  "evaluate.epochs": _EPOCHS,
  "evaluate.score_batch_size": (_count, "1 or more"),
  "evaluate.score_bucket_shares": (
    _ascending_to_one,
    "shares above 0 that ascend to 1",
  ),
  "evaluate.calibration_images": (_count, "1 or more"),
  "evaluate.num_archs": (_count, "1 or more"),
  "evaluate.num_spaces": (_count, "1 or more"),
  "evaluate.archs_per_space": (_count, "1 or more"),
  "evaluate.archs_per_batch": (_count, "1 or more"),
  "evaluate.largest_epochs": _NOT_NEGATIVE,
  "evaluate.own_norms": (_count, "1 or more"),
  "evaluate.own_kernels": (_count, "1 or more"),
  "evaluate.own_kernel_epochs": _NOT_NEGATIVE,
  "evaluate.oracle_archs": (_count, "1 or more"),
  "evaluate.oracle_finalists": (_count, "1 or more"),
  "evaluate.oracle_final_archs": (_count, "1 or more"),
  "evaluate.bootstrap_samples": (_count, "1 or more"),
  "latency_table.batch_size": (_count, "1 or more"),
  "latency_table.num_widths": (lambda v: 2 <= v <= 64, "2 to 64"),
  "latency_table.repeats": (lambda v: 1 <= v <= 10_000, "1 to 10,000"),
  "latency_table.quantile": (lambda v: 0 <= v <= 1, "0 to 1"),
  "latency_table.num_networks": (lambda v: 2 <= v <= 10_000, "2 to 10,000"),
  "latency_table.seed": (lambda v: 0 <= v < 2**32, "0 to 2^32 - 1"),
  "rank_check.num_archs": (lambda v: v >= 2, "2 or more"),
  "rank_check.num_near_archs": _NOT_NEGATIVE,
  "rank_check.num_seeds": (_count, "1 or more"),
  "rank_check.epochs": _EPOCHS,
  "principles.num_archs": (_count, "1 or more"),
  "principles.window": (
    lambda v: len(v) == 2 and all(map(_is_number, v)) and 0 < v[0] < v[1],
    "two ascending shares of the target, above 0",
  ),
  "complexity.width_shares": _SHARES,
  "complexity.depth_shares": _SHARES,
  "complexity.target_flops": _NOT_NEGATIVE,
  "complexity.learning_rate": (_positive, "above 0"),
  "complexity.num_archs": (_count, "1 or more"),
  "complexity.tolerance": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "nas.num_scored": (_count, "1 or more"),
  "nas.num_images": (_count, "1 or more"),
  "nas.num_finalists": (_count, "1 or more"),
  "nas.race_epochs": _EPOCHS,
  "nas.epochs": _EPOCHS,
  "nas.warmup_epochs": _NOT_NEGATIVE,
  "nas.learning_rates": (
    lambda v: len(v) > 0 and all(_is_number(x) and x > 0 for x in v),
    "numbers above 0, at least one",
  ),
  "nas.num_samples": (_count, "1 or more"),
  "nas.max_samples": (_count, "1 or more"),
  "nas.num_sample_seeds": (_count, "1 or more"),
  "nas.tolerance": (lambda v: 0 < v < 1, "above 0 and below 1"),
  "sweep.targets": (
    lambda v: not v or _ascending(v),
    "ascending numbers above 0, in multiply-adds",
  ),
  "sweep.phases": (
    lambda v: len(v) > 0 and all(name in PHASES_OF_A_TARGET for name in v),
    f"at least one of {', '.join(PHASES_OF_A_TARGET)}",
  ),
  "train.epochs": _EPOCHS,
  "train.batch_size": (lambda v: v >= 2, "2 or more"),
  "train.num_seeds": (_count, "1 or more"),
  "train.learning_rate": (_positive, "above 0"),
  "train.decay_factor": (lambda v: 0 < v <= 1, "above 0, at most 1"),
  "train.decay_at": (
    lambda v: (
      all(_is_number(x) and 0 < x < 1 for x in v) and list(v) == sorted(set(v))
    ),
    "ascending shares above 0 and below 1",
  ),
  "train.momentum": (lambda v: 0 <= v < 1, "0 up to, not including, 1"),
  "train.weight_decay": _NOT_NEGATIVE,
  "train.cutout": _NOT_NEGATIVE,
  "train.test_batch_size": (_count, "1 or more"),
  "weights.learning_rate": (_positive, "above 0"),
  "weights.final_learning_rate": _NOT_NEGATIVE,
  "weights.momentum": (lambda v: 0 <= v < 1, "0 up to, not including, 1"),
  "weights.weight_decay": _NOT_NEGATIVE,
  "weights.clip_norm": (_positive, "above 0"),
  "logits.learning_rate": (_positive, "above 0"),
  "logits.b1": (lambda v: 0 <= v < 1, "0 up to, not including, 1"),
  "logits.b2": (lambda v: 0 <= v < 1, "0 up to, not including, 1"),
  "logits.weight_decay": _NOT_NEGATIVE,
}


def _check_fields(given: Any, known: Any, path: str) -> None:
  """Same fields and types as the base config, all the way down."""
  if isinstance(known, dict):
    if not isinstance(given, dict):
      raise ConfigError(f"{path}: {given!r} is not a group of fields")
    if extra := sorted(set(given) - set(known)):
      raise ConfigError(unknown_field(f"{path}.{extra[0]}"))
    if missing := sorted(set(known) - set(given)):
      raise ConfigError(f"{path}: the field {missing[0]!r} is missing")
    for key in known:
      _check_fields(given[key], known[key], f"{path}.{key}")
    return
  kinds = {float: (float, int), tuple: (tuple, list)}
  accepted = kinds.get(type(known), (type(known),))
  wrong_bool = isinstance(given, bool) and not isinstance(known, bool)
  if wrong_bool or not isinstance(given, accepted):
    raise ConfigError(
      f"{path}: {given!r} is a {type(given).__name__}; expected "
      f"{type(known).__name__}"
    )


def _get(config: ml_collections.ConfigDict, path: str) -> Any:
  for name in path.split("."):
    config = config[name]
  return config


def _message(path: str, value: Any, accepted: str) -> str:
  return f"config.{path}: {value} is not accepted; expected {accepted}"
