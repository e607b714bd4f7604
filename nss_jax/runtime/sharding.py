"""The mesh of devices, of all processes, and where arrays live on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"


def make_mesh(num_devices: int | None = None) -> jax.sharding.Mesh:
  """Makes a one-axis mesh of all devices, or of the first few of them."""
  devices = jax.devices()[:num_devices]
  return jax.make_mesh(
    (len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices
  )


def is_there(mesh: jax.sharding.Mesh) -> bool:
  """Returns whether programs can run there, and not only be compiled."""
  return set(mesh.devices.flat) <= set(jax.devices())


def platform(mesh: jax.sharding.Mesh) -> str:
  """Returns what the devices are: cpu, gpu or tpu."""
  return mesh.devices.flat[0].platform


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts a copy of every array of a pytree on every device.

  For devices that are not there it returns the shapes of the copies.
  """
  if not is_there(mesh):
    return abstract(tree, mesh)
  place = NamedSharding(mesh, P())
  if place.is_fully_addressable:
    return jax.device_put(tree, place)
  return jax.tree.map(lambda x: put(x, place), tree)


def split(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """Gives every device its share of the first axis of each array.

  For devices that are not there it returns the shapes of the whole arrays.
  """
  if not is_there(mesh):
    return abstract(tree, mesh, P(AXIS))
  return jax.tree.map(lambda x: put(x, NamedSharding(mesh, P(AXIS))), tree)


def put(x: Any, place: jax.sharding.Sharding) -> jax.Array:
  """Spreads an array that every process has over the devices of all.

  `device_put` would also check that all have the same, by sending it around.
  """
  if isinstance(x, jax.Array) and x.sharding == place:
    return x
  x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
  return jax.make_array_from_callback(x.shape, place, lambda at: x[at])


def abstract(tree: Any, mesh: jax.sharding.Mesh, spec: P | None = None) -> Any:
  """Describes a pytree on a mesh to a restore or a compiler.

  Each device has a copy of it, or what `spec` says.
  """
  place = NamedSharding(mesh, P() if spec is None else spec)

  def shape_of(x):
    dtype = jax.dtypes.canonicalize_dtype(x.dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=place)

  return jax.tree.map(shape_of, tree)
