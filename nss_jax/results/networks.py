"""`nas/`: one network that meets the constraints, and those it has to beat."""

import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic

from nss_jax.results import fields
from nss_jax.results.artifact import Artifact
from nss_jax.results.met_constraint import MetricName
from nss_jax.spaces import cost
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_arch, parse_arch

# Where networks come from: found inside the Elite Space and, by gradient, in
# the whole search space; the uniform draws that each is measured against; and
# what an engineer and RegNet's rule would take at that cost.
FOUND, EXPANDED = "elite", "expanded"
SOURCES = {
  FOUND: "Elite: found",
  "elite_uniform": "Elite: a uniform draw",
  EXPANDED: "Expanded: searched",
  "expanded_uniform": "Expanded: a uniform draw",
  "handmade": "hand-made: equal depths, widths doubling",
  "regnet": "RegNet's rule",
}
SEARCHED = (FOUND, EXPANDED)
METHODS = ("evaluator", "gradient")
ARCHITECTURE = "architecture.json"


class Contender(Artifact):
  """A finalist of the race, and its errors in the rounds that it was in."""

  arch: fields.Text
  loss: fields.NonNegative
  errors: list[fields.Share]


class Scored(Artifact):
  """What the stand-alone supernet says."""

  error: fields.Share
  loss: fields.NonNegative


class Network(Artifact):
  """`architecture.json`: a network and how it was chosen.

  Attributes:
    learning_rate: of the logits, in a search by gradient.
    deviation: from the target; null where no constraint is of multiply-adds.
    deviations: from each target.
    off: from the constraint that is met worst.
    chosen: how, in words.
    by_cost: it is the nearest by exact cost, and was not drawn.
    num_samples_by_seed: draws that it took, of many seeds.
    runs: of each learning rate; this is the best of them.
  """

  learning_rate: fields.Positive | None = None
  arch: fields.Text
  depth: list[fields.Count]
  width: list[fields.Count]
  flops: fields.Count
  params: fields.Count
  target_flops: fields.MaybePositive
  deviation: fields.MaybeNumber
  deviations: dict[MetricName, fields.Number]
  off: fields.NonNegative
  costs: dict[MetricName, fields.NonNegative]
  within_tolerance: fields.Flag
  num_samples: fields.Count
  chosen: fields.Text
  seed: fields.Whole
  by_cost: fields.Flag = False
  num_samples_by_seed: list[fields.Whole] = pydantic.Field(default_factory=list)
  num_samples_mean: fields.NonNegative | None = None
  num_samples_interval: (
    Annotated[list[float], fields.NON_NEGATIVE.pair()] | None
  ) = None
  runs: "list[Network]" = pydantic.Field(default_factory=list)
  race: list[Contender] = pydantic.Field(default_factory=list)
  method: Annotated[str, fields.one_of(*METHODS)] | None = None
  evaluator: Scored | None = None

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError for what does not follow from the arch, and for runs
    that do not say of which learning rate they are."""
    check_arch(self, search_space)
    if not self.deviations:
      raise ValueError("deviations: expected one or more, got {}")
    if self.runs and self.learning_rate is None:
      raise ValueError("learning_rate: this field is missing")
    for number, run in enumerate(self.runs):
      if run.learning_rate is None:
        raise ValueError(f"runs[{number}].learning_rate: this field is missing")
      run.check(search_space)

  @property
  def mean_samples(self) -> float:
    """Draws that it took, the mean over seeds where there are several."""
    mean = self.num_samples_mean
    return self.num_samples if mean is None else mean

  def words(self) -> str:
    """Returns `-1.9 % from the target`."""
    return from_targets(self.deviations)

  def drawn(self) -> "Network":
    """Returns itself, or the run of its own rate, if that counts draws of many
    seeds."""
    for run in self.runs if self.num_samples_mean is None else ():
      if run.learning_rate == self.learning_rate:
        return run
    return self


class _Networks(Artifact):
  """Networks by the names of `SOURCES`."""

  @property
  def networks(self) -> dict[str, Network]:
    """Those that there are, by name."""
    found = {name: getattr(self, name, None) for name in SOURCES}
    return {name: one for name, one in found.items() if one is not None}

  def check(self, search_space: SearchSpace | None) -> None:
    """Raises ValueError for a network that is not of the search space."""
    for network in self.networks.values():
      network.check(search_space)


class Controls(_Networks):
  """`nas/controls/architecture.json`: networks that nobody has searched."""

  elite_uniform: Network
  expanded_uniform: Network
  handmade: Network
  regnet: Network | None = None


class NasSummary(_Networks):
  """`nas/summary.json`: what `nas/*/architecture.json` have."""

  elite: Network
  expanded: Network | None = None
  controls: Controls

  @property
  def networks(self) -> dict[str, Network]:
    """Those that there are, by name."""
    return _in_order(super().networks | self.controls.networks)


def _in_order(networks: Mapping[str, Network]) -> dict[str, Network]:
  """Returns networks in the order of their sources."""
  return {name: networks[name] for name in SOURCES if name in networks}


def check_arch(found: Any, search_space: SearchSpace | None) -> None:
  """Raises ValueError for fields that do not follow from the field `arch`."""
  if search_space is None:
    return
  try:
    arch = parse_arch(found.arch)
    expected = {
      "depth": arch.depth.tolist(),
      "width": arch.width.tolist(),
      "flops": int(cost.arch_macs(search_space, arch)),
      "params": int(cost.arch_params(search_space, arch)),
    }
  except (ValueError, IndexError) as error:
    raise ValueError(f"arch: {error}") from error
  if len(arch.depth) != search_space.num_stages:
    raise ValueError(
      f"arch: expected {search_space.num_stages} stages, got "
      f"{format_arch(arch)}"
    )
  for field, value in expected.items():
    if getattr(found, field) != value:
      raise ValueError(
        f"{field}: {getattr(found, field)} is not that of the arch "
        f"{found.arch}, {value}"
      )


def find_networks(
  folder: pathlib.Path, search_space: SearchSpace
) -> dict[str, Network]:
  """Reads the files `*/architecture.json` that are there, by `SOURCES`."""
  found = {}
  for name in SEARCHED:
    network = Network.find(folder / name / ARCHITECTURE, search_space)
    if network is not None:
      found[name] = network
  controls = Controls.find(folder / "controls" / ARCHITECTURE, search_space)
  if controls is not None:
    found |= controls.networks
  return _in_order(found)


def expected_names(networks: Mapping[str, Network]) -> list[str]:
  """Returns the names of networks that a run has or is going to have."""
  absent = {"regnet"}
  if FOUND in networks and networks[FOUND].method == "evaluator":
    absent.add(EXPANDED)
  return [name for name in SOURCES if name in networks or name not in absent]
