"""The config of a run."""

from nss_jax.config.checks import (
  differences,
  search_space,
  to_json,
  validate,
  validate_target,
)
from nss_jax.config.fields import ConfigError, base, paper

__all__ = [
  "ConfigError",
  "base",
  "differences",
  "paper",
  "search_space",
  "to_json",
  "validate",
  "validate_target",
]
