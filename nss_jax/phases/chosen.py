"""A network that was chosen for the budgets, as `architecture.json` has it."""

from typing import Any

import jax
import ml_collections
import numpy as np

from nss_jax import config as config_lib
from nss_jax.phases.program import base_keys
from nss_jax.spaces import constraints
from nss_jax.spaces.archs import nearest_arch
from nss_jax.spaces.cost import arch_cost, arch_macs, arch_params
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.spaces.text import format_arch

Costs = tuple[tuple[constraints.Constraint, ...], list[np.ndarray]]


def entry(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  arch: Arch,
  num_samples: int,
  chosen: str,
) -> dict[str, Any]:
  """All that is said of one arch `[S]`, as JSON.

  Args:
    config: has the budgets, and `nas.tolerance`.
    space: to count in.
    arch: the network.
    num_samples: archs that it was chosen among.
    chosen: how, in words.
  """
  target = config_lib.flops_target(config)
  flops = int(arch_macs(space, arch))
  budgets, costs = costs_of(config, space, arch)
  return {
    "arch": format_arch(arch),
    "depth": arch.depth.tolist(),
    "width": arch.width.tolist(),
    "flops": flops,
    "params": int(arch_params(space, arch)),
    "target_flops": target,
    "deviation": None if target is None else flops / target - 1,
    "deviations": {
      one.name: x.item() / one.target - 1
      for one, x in zip(budgets, costs, strict=True)
    },
    "off": float(constraints.worst_penalty(budgets, costs)),
    "costs": {
      one.name: x.item() for one, x in zip(budgets, costs, strict=True)
    },
    "within_tolerance": bool(is_near(config, space, arch)),
    "num_samples": int(num_samples),
    "chosen": chosen,
    "seed": config.seed,
  }


def or_nearest(
  config: ml_collections.ConfigDict,
  space: SearchSpace,
  found: dict[str, Any],
) -> dict[str, Any]:
  """The entry, or that of the nearest arch where it misses a budget.

  An arch that misses is never the answer if there is one that meets.

  Args:
    config: of the run.
    space: what there is, with bins of size one.
    found: an entry.
  """
  if found["within_tolerance"]:
    return found
  rng = jax.random.fold_in(base_keys(config.seed)["nas"], 2**31)
  arch = nearest_arch(
    rng, space, config_lib.constraints(config), config.nas.tolerance
  )
  nearest = entry(config, space, arch, found["num_samples"], "")
  words = f"{found['chosen']} does not meet {within(config)}"
  if nearest["within_tolerance"]:
    words += ": the nearest arch by exact cost is taken instead"
  else:
    words += ", and no arch there does: the nearest by exact cost is taken"
  return {**found, **nearest, "chosen": words, "by_cost": True}


def within(config: ml_collections.ConfigDict) -> str:
  """`every budget within 2 %`."""
  return f"every budget within {100 * config.nas.tolerance:g} %"


def is_near(
  config: ml_collections.ConfigDict, space: SearchSpace, archs: Arch
) -> np.ndarray:
  """Whether archs meet every budget, within `nas.tolerance`."""
  budgets, costs = costs_of(config, space, archs)
  return constraints.needed_tolerance(budgets, costs) <= config.nas.tolerance


def costs_of(
  config: ml_collections.ConfigDict, space: SearchSpace, archs: Arch
) -> Costs:
  """The budgets, and the exact cost of archs `[..., S]` in each."""
  budgets = config_lib.constraints(config)
  return budgets, [arch_cost(space, one.metric, archs) for one in budgets]
