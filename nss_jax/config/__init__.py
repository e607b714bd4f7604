"""The config of a run: its fields, their checks, and the files that fill them.

Nothing here reads data, starts a device or knows how a phase runs.
"""

from nss_jax.config.lookup import fields_named, find_file, missing_field
from nss_jax.config.paper import PAPER_TARGETS_MF, paper
from nss_jax.config.schema import (
  Config,
  base,
  differences,
  search_space,
  to_json,
  validate,
)

__all__ = [
  "PAPER_TARGETS_MF",
  "Config",
  "base",
  "differences",
  "fields_named",
  "find_file",
  "missing_field",
  "paper",
  "search_space",
  "to_json",
  "validate",
]
