"""The mesh of local devices and where arrays live on it."""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
  """A one-axis mesh over the local devices, or the first few of them."""
  devices = jax.local_devices()[:num_devices]
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts a copy of every array of a pytree on every device."""
  return jax.device_put(tree, NamedSharding(mesh, P()))


def abstract(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Shapes and types of a replicated pytree, for a restore."""
  sharding = NamedSharding(mesh, P())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
