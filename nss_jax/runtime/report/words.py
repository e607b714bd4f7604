"""What a report says in sentences; every number is one of its tables."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from nss_jax.runtime import scores, space_file
from nss_jax.runtime.report.cells import Record
from nss_jax.runtime.report.tables import is_of
from nss_jax.runtime.report.workdir import Results, found_space
from nss_jax.spaces.bins import Bin
from nss_jax.spaces.constraints import from_targets
from nss_jax.spaces.search_space import SearchSpace, space_ranges
from nss_jax.spaces.text import describe_space, format_macs

_HALF = 50  # percent


def elite_space(results: Results) -> list[str]:
  """The stages of the Elite Space, a line each."""
  return describe_space(results.search_space, found_space(results))


def cost(results: Results) -> str:
  """How large the Elite Space is and what its archs cost."""
  elite, search_space = results.elite, results.search_space
  return (
    f"{search_space.num_archs_in(found_space(results)):,} archs, one of "
    f"{search_space.num_spaces:,} spaces. {_met(elite)}."
  )


def _met(elite: Record) -> str:
  met = space_file.describe_costs(elite)
  names = [one["metric"] for one in elite["constraints"]]
  if names == ["flops"]:
    return met[0].replace("mean", "Their mean cost is", 1)
  macs = f"Their mean cost is {format_macs(elite['mean_flops'])}"
  each = (f"{name}: {words}" for name, words in zip(names, met, strict=True))
  return "; ".join([macs, *each])


def trend(results: Results) -> str:
  """Which stage is deepest and widest, beside what the paper saw (4.5)."""
  ranges = space_ranges(results.search_space, found_space(results))
  depth, width = _order("d", ranges["depth"]), _order("w", ranges["width"])
  text = f"Order of the stages: {depth} and {width}."
  if results.search_space.num_stages == 3:
    text += " The paper's Elite Spaces have d1 ≤ d3 ≤ d2 and w1 ≤ w3 ≤ w2."
  return text


def sure(results: Results) -> str:
  """How probable the Elite Space is, beside the most probable one."""
  words = space_file.how_sure(results.elite)
  return f"The search gives it a {words}."


def _off(network: Record) -> str:
  return from_targets(
    network.get("deviations") or {"flops": network["deviation"]}
  )


def draws(results: Results) -> str:
  """Why none of the draws is the Elite Space, if none is."""
  elite = results.elite
  if any(draw["space"] == elite["space"] for draw in elite["candidates"]):
    return ""
  return (
    "None of these draws is the Elite Space: by the rule of this run it was "
    "chosen among the most probable of all spaces."
  )


def _order(letter: str, ranges: Sequence[Bin]) -> str:
  lows = [low for low, _ in ranges]
  stages = np.argsort(lows, kind="stable")
  text = f"{letter}{stages[0] + 1}"
  for before, stage in itertools.pairwise(stages):
    sign = "=" if lows[before] == lows[stage] else "<"
    text += f" {sign} {letter}{stage + 1}"
  return text


def is_elite(results: Results) -> Iterator[str]:
  """The Elite Space among random spaces, and what the oracle found."""
  against = results.evaluation["elite_against"]
  confidence = 100 * results.evaluation["bootstrap"]["confidence"]
  for name, kind in (
    (scores.RANDOM_SPACES, "random spaces of about the target's cost"),
    (scores.HARD_RANDOM_SPACES, "such spaces without the lowest width"),
  ):
    if name in against and "exact_interval" in against[name]["loss"]:
      found = against[name]["loss"]
      low, high = found["exact_interval"]
      yield (
        f"{found['percentile']:.3g} % of {against[name]['num_spaces']} {kind} "
        f"have a smaller mean loss (exact {confidence:.0f} % interval "
        f"{low:.0f} to {high:.0f}): the Elite Space {_verdict(low, high)}."
      )
  if scores.HAND_MADE in against:
    found = against[scores.HAND_MADE]["loss"]
    off, error = found["regret"], found["regret_error"]
    which = "better" if off < 0 else "worse"
    sure = "" if abs(off) > 2 * error else ", which is within the noise"
    yield (
      "Against the space that one would draw by hand at this cost (equal "
      f"depths, widths that double) the Elite Space is {which} by "
      f"{abs(off):.4f} ± {error:.4f} nats of mean loss{sure}."
    )
  if scores.ORACLE in against:
    found = against[scores.ORACLE]
    yield (
      "Regret to the best space that evolution on the evaluator found: "
      f"{found['loss']['regret']:+.4f} ± {found['loss']['regret_error']:.4f} "
      f"nats of mean loss, {100 * found['error']['regret']:+.2f} ± "
      f"{100 * found['error']['regret_error']:.2f} points of mean error."
    )


def _verdict(low: float, high: float) -> str:
  """What an interval of the percentile says; 0 is the best."""
  if high < _HALF:
    return "is better than most of them"
  if low > _HALF:
    return "is worse than most of them"
  return "can not be told from a space in the middle"


def samples(results: Results) -> Iterator[str]:
  """The networks found, and how each was chosen."""
  for name, where in (("elite", "Elite"), ("expanded", "Expanded Search")):
    network = results.nas.get(name)
    if network is not None:
      meets = "meets" if network["within_tolerance"] else "misses"
      chosen = network.get(
        "chosen", f"the closest of {network['num_samples']} draws"
      )
      yield (
        f"In the {where} Space {network['arch']} was found: "
        f"{format_macs(network['flops'])}, {_off(network)}, "
        f"which {meets} the tolerance. How it was chosen: {chosen}."
      )
  for name in ("elite", "expanded"):
    network, trained = results.nas.get(name), results.trained.get(name)
    if network and trained and not is_of(network, trained):
      yield (
        f"train/{name} holds {trained[0]['arch']}, which is not the network "
        f"that nas/{name} holds now: its error is not shown here."
      )


def trained(records: list[Record]) -> Iterator[str]:
  """The network found against each of its controls."""
  for record in records:
    if record["name"] in _CONTROLS and record["above_found"] is not None:
      yield (
        f"The network found has "
        f"{_compared(-record['above_found'], record)} "
        f"{_CONTROLS[record['name']]}."
      )


_CONTROLS = {
  "elite_uniform": "a uniform draw from the Elite Space that meets the budgets",
  "expanded": "the one searched among all archs",
  "expanded_uniform": "a uniform draw from all archs that meets the budgets",
  "handmade": "the hand-made one of equal depths and doubling widths",
  "regnet": "one by RegNet's rule",
}


def _compared(difference: float, record: Record) -> str:
  points = f"{100 * abs(difference):.2f}"
  deviation = record["above_found_standard_error"]
  noise = f" (± {100 * deviation:.2f})" if deviation is not None else ""
  if float(points) == 0:
    return f"the same test error{noise} as"
  less = "less" if difference < 0 else "more"
  return f"{points}{noise} points {less} test error than"


def large(number: int) -> str:
  """A count in words: `6,400`, `1.34 × 10⁸`."""
  if number < 1e7:
    return f"{number:,}"
  digits, _, exponent = f"{number:.2e}".partition("e+")
  raised = str(int(exponent)).translate(
    str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
  )
  return f"{digits} \N{MULTIPLICATION SIGN} 10{raised}"


def size(search_space: SearchSpace) -> str:
  """What was searched, in a line."""
  shape = "x".join(map(str, search_space.image_shape))
  return (
    f"{search_space.num_stages} stages of 1 to {search_space.max_depth} blocks "
    f"and 1 to {search_space.max_width} channels, "
    f"{large(search_space.num_archs)} archs; images of {shape}, "
    f"{search_space.num_classes} classes"
  )
