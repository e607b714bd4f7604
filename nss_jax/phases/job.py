"""What every phase is given: the config, taken apart once."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import rich.console

from nss_jax import config as config_lib
from nss_jax import data
from nss_jax.data.streaming import image_memory
from nss_jax.errors import UserError
from nss_jax.results import block_times, load
from nss_jax.runtime import sharding
from nss_jax.runtime.console import make_console, say
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.progress import DEFAULT_OPTIONS, ProgressOptions
from nss_jax.spaces.constraints import Constraint
from nss_jax.spaces.cost import cost_range, cost_tables
from nss_jax.spaces.feasible import feasible_indices
from nss_jax.spaces.metrics import LATENCY, METRICS, UNITS
from nss_jax.spaces.search_space import SearchSpace, Space

# One stream of randomness each, from one base key. Never reorder: a resumed
# run must draw what the interrupted one would have drawn.
STREAMS = (
  "init",
  "order",
  "augment",
  "weight",
  "search",
  "elite",
  "evaluate",
  "nas",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """Describes one run of the command.

  Attributes:
    config: checked, and as it stays.
    dataset: the images.
    mesh: the devices.
    search_space: where the search, and all that is drawn, takes place.
    constraints: what spaces and archs are to cost, at least one; none where a
      latency that has not been measured yet is the only one.
    target: multiply-adds to be met; None where no constraint is of them.
    workdir: every phase writes to a folder of its own name.
    console: where lines and progress go.
    phases: what is run, in order.
    archs: to be trained, as text; none: those that the nas phase has found.
    config_flags: the words of the command line that give the config.
    supernets: folder of the stand-alone supernets; None: beside the workdir.
    take_over: whether a process that was on another host has surely ended.
    progress: what is shown meanwhile.
    preemption: is asked whether to stop, between calls of the devices.
  """

  config: config_lib.Config
  dataset: data.Dataset
  mesh: jax.sharding.Mesh
  search_space: SearchSpace
  constraints: tuple[Constraint, ...]
  target: float | None
  workdir: pathlib.Path
  console: rich.console.Console
  phases: tuple[str, ...] = ("search",)
  archs: tuple[str, ...] = ()
  config_flags: tuple[str, ...] = ()
  supernets: pathlib.Path | None = None
  take_over: bool = False
  progress: ProgressOptions = DEFAULT_OPTIONS
  preemption: Preemption = dataclasses.field(default_factory=Preemption)

  @classmethod
  def open(
    cls,
    config: ml_collections.ConfigDict | config_lib.Config,
    workdir: pathlib.Path,
    *,
    dataset: data.Dataset | None = None,
    search_space: SearchSpace | None = None,
    mesh: jax.sharding.Mesh | None = None,
    console: rich.console.Console | None = None,
    fetch: bool = True,
    with_latency: bool = True,
    **more: Any,
  ) -> "Job":
    """Takes a config apart, once for all phases; writes nothing.

    Images and search space are those of the config by default, the devices are
    all, and the console is standard output. A search space that is given is not
    held against the constraints. Data that are not there are fetched, or
    refused. Without `with_latency` a constraint that needs the latency table is
    left out. Further attributes may follow.
    """
    config = with_table(config_lib.validate(config), workdir)
    console = console or make_console()
    dataset = dataset or _load(config, console, fetch)
    _check_crop(config, dataset)
    is_given = search_space is not None
    if search_space is None:
      _, height, width, channels = dataset.train_images.shape
      shape = height, width, channels
      search_space = config_lib.search_space(config, shape, dataset.num_classes)
    measured = None if is_given else search_space
    constraints = _constraints(config, measured, with_latency)
    if constraints and not is_given:
      _check_constraints(config, search_space, constraints)
    return cls(
      config=config,
      dataset=dataset,
      mesh=mesh or sharding.make_mesh(),
      search_space=search_space,
      constraints=constraints,
      target=next((x.target for x in constraints if x.name == "flops"), None),
      workdir=workdir,
      console=console,
      **more,
    )

  def vary(self, fields: Mapping[str, Any], **more: Any) -> "Job":
    """Returns a job whose config differs in fields such as `search.epochs`, and
    in what follows from them; `more` is as in `open`, by default as it is."""
    kept = {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}
    for name in ("config", "search_space", "constraints", "target"):
      del kept[name]
    workdir = more.pop("workdir", kept.pop("workdir"))
    kept["with_latency"] = self.has_all_constraints
    return Job.open(self.config.vary(fields), workdir, **kept | more)

  def within(self, search_space: SearchSpace) -> "Job":
    """Returns the same job in another search space."""
    return dataclasses.replace(self, search_space=search_space)

  @property
  def has_all_constraints(self) -> bool:
    """Whether no latency is left out, as one that is yet to be measured."""
    known = [one.name for one in self.constraints]
    return LATENCY in known or not wants_latency(self.config)

  @functools.cached_property
  def keys(self) -> dict[str, jax.Array]:
    """The key of every stream of randomness of the search."""
    return base_keys(self.config.seed)

  @functools.cached_property
  def evaluator_key(self) -> jax.Array:
    """The key of all that is scored, which no search has a part in."""
    return base_keys(self.config.evaluate.seed)["evaluate"]

  def say(self, line: str) -> None:
    """Prints a line."""
    say(self.console, line)

  def load_elite(self) -> Space:
    """Reads the Elite Space of the search phase, if it is of this job's search
    space."""
    path = self.workdir / "search" / load.ELITE_SPACE
    search_space, space = load.load_space(path)
    if search_space != self.search_space:
      raise UserError(
        f"{path}: search_space: is not that of the config and the images"
      )
    return space


def base_keys(seed: Any) -> dict[str, jax.Array]:
  """Returns the key of every stream of randomness."""
  base = jax.random.key(seed)
  return {name: jax.random.fold_in(base, i) for i, name in enumerate(STREAMS)}


def wants_latency(config: config_lib.Config) -> bool:
  """Tells whether a constraint needs a latency table."""
  return any(one.metric == LATENCY for one in config.objective.constraints)


def with_table(
  config: config_lib.Config, workdir: pathlib.Path
) -> config_lib.Config:
  """Returns the config with the place of the latency table, if it needs one."""
  if config.objective.latency_table or not wants_latency(config):
    return config
  folder = str(workdir / block_times.FOLDER)
  return config.vary({"objective.latency_table": folder})


def is_by_target(config: config_lib.Config) -> bool:
  """Tells whether `target_flops` is a constraint; else others stand alone."""
  return bool(config.objective.cost_weight or not config.objective.constraints)


def has_flops(config: config_lib.Config) -> bool:
  """Tells whether any constraint is of multiply-adds."""
  metrics = [one.metric for one in config.objective.constraints]
  return is_by_target(config) or "flops" in metrics


def _load(
  config: config_lib.Config, console: rich.console.Console, fetch: bool
) -> data.Dataset:
  """Reads the images; prints what is wrong with each if many are bad."""
  try:
    return data.load_settings(
      config.data.model_dump(), memory=image_memory(), fetch=fetch
    )
  except UserError as error:
    for line in error.details:
      say(console, line)
    raise


def _check_crop(config: config_lib.Config, dataset: data.Dataset) -> None:
  """Refuses crops that may hold nothing of an image."""
  side = min(dataset.train_images.shape[1:3])
  if config.data.crop_padding >= side:
    raise UserError(
      f"config.data.crop_padding: {config.data.crop_padding} is not accepted; "
      f"expected less than the {side} pixels of the images' shorter side, or a "
      "crop may hold nothing of one"
    )


def _constraints(
  config: config_lib.Config,
  search_space: SearchSpace | None,
  with_latency: bool,
) -> tuple[Constraint, ...]:
  """Returns the constraints, that of `target_flops` first if it is one.

  A latency table has to fit the search space, if one is given.
  """
  objective, found = config.objective, []
  if is_by_target(config):
    of_target = objective.target_flops, objective.cost_weight
    found.append(Constraint("flops", METRICS["flops"], *of_target))
  for one in objective.constraints:
    if one.metric != LATENCY:
      metric = METRICS[one.metric]
    elif with_latency:
      metric = block_times.read_metric(objective.latency_table, search_space)
    else:
      continue
    found.append(
      Constraint(one.metric, metric, one.target, one.weight, one.mode)
    )
  return tuple(found)


def _check_constraints(
  config: config_lib.Config,
  search_space: SearchSpace,
  constraints: tuple[Constraint, ...],
) -> None:
  """Refuses targets that no space meets, with the range of what can be met."""
  for one in constraints:
    low, high = cost_range(search_space, cost_tables(search_space, one.metric))
    if low <= one.target and (one.target <= high or one.mode == "at_most"):
      continue
    field = "target_flops"
    for index, given in enumerate(config.objective.constraints):
      if given.metric == one.name:
        field = f"constraints[{index}].target"
    raise UserError(
      f"config.objective.{field}: {one.target:g} is not accepted; expected "
      f"{low:.6g} to {high:.6g} {UNITS[one.name]}, the mean costs that a space "
      "of this search space can have"
    )
  if config.search.elite == "scored":
    try:
      feasible_indices(search_space, constraints, config.search.elite_tolerance)
    except ValueError as error:
      raise UserError(f"config.search.elite_tolerance: {error}") from None
