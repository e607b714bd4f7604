"""The config of a run."""

from nss_jax.config.checks import (
  differences,
  search_space,
  to_json,
  validate,
)
from nss_jax.config.constraints import (
  constraints,
  validate_target,
  wants_latency,
)
from nss_jax.config.fields import (
  PHASES,
  PHASES_OF_A_TARGET,
  ConfigError,
  base,
)
from nss_jax.config.paper import PAPER_TARGETS_MF, paper

__all__ = [
  "PAPER_TARGETS_MF",
  "PHASES",
  "PHASES_OF_A_TARGET",
  "ConfigError",
  "base",
  "constraints",
  "differences",
  "paper",
  "search_space",
  "to_json",
  "validate",
  "validate_target",
  "wants_latency",
]
