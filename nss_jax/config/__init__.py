"""The config of a run."""

from nss_jax.config.bounds import PHASES, PHASES_OF_A_TARGET
from nss_jax.config.checks import (
  differences,
  record,
  search_space,
  to_json,
  validate,
)
from nss_jax.config.constraints import (
  check_phases,
  constraints,
  flops_target,
  refused_phases,
  validate_target,
  wants_latency,
)
from nss_jax.config.files import (
  fields_named,
  find_file,
  unknown_field,
)
from nss_jax.config.paper import PAPER_TARGETS_MF, paper
from nss_jax.config.schema import base

__all__ = [
  "PAPER_TARGETS_MF",
  "PHASES",
  "PHASES_OF_A_TARGET",
  "base",
  "check_phases",
  "constraints",
  "differences",
  "fields_named",
  "find_file",
  "flops_target",
  "paper",
  "record",
  "refused_phases",
  "search_space",
  "to_json",
  "unknown_field",
  "validate",
  "validate_target",
  "wants_latency",
]
