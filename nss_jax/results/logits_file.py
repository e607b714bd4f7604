"""`logits.json`: where the search of one arch has ended."""

import jax.numpy as jnp
import numpy as np

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.files import Path
from nss_jax.spaces.distribution import SpaceLogits, init_logits
from nss_jax.spaces.search_space import SearchSpace

LOGITS = "logits.json"


def write_logits(path: Path, logits: SpaceLogits) -> None:
  """Writes logits; they come back as they are, to the last bit."""
  files.write_json(path, {"depth": logits.depth, "width": logits.width})


def read_logits(path: Path, space: SearchSpace) -> SpaceLogits:
  """Reads the logits that a search of the space has written."""
  content, expected = files.read_json(path), init_logits(space)
  fields = {}
  for name in ("depth", "width"):
    shape = getattr(expected, name).shape
    try:
      values = np.asarray(content.get(name), np.float64)
    except (TypeError, ValueError):
      values = np.empty(0)
    # Far above the logit of a bin that does not exist.
    if values.shape != shape or not (np.abs(values) < 1e30).all():
      raise UserError(
        f"{path}: {name}: expected finite numbers of the shape {shape}"
      )
    fields[name] = jnp.asarray(values, jnp.float32)
  return SpaceLogits(**fields)
