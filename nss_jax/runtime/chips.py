"""Accelerators that need not be there: what is known of them, and a mesh.

XLA compiles for a chip by a description of it, so memory and program are exact.
"""

import os
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType

from nss_jax.errors import UserError
from nss_jax.runtime.sharding import AXIS


class Chips(NamedTuple):
  """One kind of accelerator, and how many of it.

  Attributes:
    name: as in `--topology`.
    platform: "tpu" or "cuda".
    topology: the compiler's name of them.
    count: chips that share a batch.
    peak: FLOP a second of one chip, bfloat16 products (a T4: float16).
    memory: bytes of one chip that a program may take.
    bandwidth: bytes a second of its memory.
    clock: cycles a second; 0 where no compiler counts them.
  """

  name: str
  platform: str
  topology: str
  count: int
  peak: float
  memory: float
  bandwidth: float
  clock: float = 0.0


_GIB = 2**30
# jax takes three quarters of a GPU for itself: XLA_PYTHON_CLIENT_MEM_FRACTION.
_GPU_SHARE = 0.75
# From Google's pages and the compiler's own answers; memory is what libtpu
# leaves of 16, 32 and 95 GiB.
_TPUS = {
  "v5e": (197e12, 15.75 * _GIB, 819e9, 1.5e9),
  "v6e": (918e12, 31.25 * _GIB, 1640e9, 1.75e9),
  "v5p": (459e12, 95.0 * _GIB, 2765e9, 1.75e9),
}
_SLICES = {
  "v5e-1": ("v5e:1x1", 1),
  "v5e-4": ("v5e:2x2", 4),
  "v5e-8": ("v5e:2x4", 8),
  "v6e-1": ("v6e:1x1", 1),
  "v6e-8": ("v6e:2x4", 8),
  "v5p": ("v5p:1x1x1", 1),
}
# Peak; then of XLA's description: capability, multiprocessors and their lanes,
# threads and shared memory of each, and of one block, level 2 cache, bandwidth,
# GHz, bytes.
_GPUS = {
  "h100": (
    *(989e12, (9, 0), 132, 128, 2048, 233472, 232448, 52428800),
    *(3352320000000, 1.98, 84929347584, "NVIDIA H100 80GB HBM3"),
  ),
  "a100": (
    *(312e12, (8, 0), 108, 64, 2048, 167936, 166912, 41943040),
    *(1555000000000, 1.41, 42331013120, "NVIDIA A100-SXM4-40GB"),
  ),
  "l4": (
    *(121e12, (8, 9), 58, 128, 1536, 102400, 101376, 50331648),
    *(300000000000, 2.04, 23655809024, "NVIDIA L4"),
  ),
  "t4": (
    *(65e12, (7, 5), 40, 64, 1024, 65536, 65536, 4194304),
    *(320000000000, 1.59, 15655829504, "Tesla T4"),
  ),
}
NAMES = (*_SLICES, *_GPUS)
# What pip installs to compile for them.
_PACKAGES = {
  "tpu": "libtpu",
  "cuda": "jax-cuda13-plugin jax-cuda13-pjrt",
}


def find(name: str) -> Chips:
  """Returns the chips of a name, or raises UserError if there are none."""
  if name in _SLICES:
    topology, count = _SLICES[name]
    peak, memory, bandwidth, clock = _TPUS[topology.partition(":")[0]]
    return Chips(name, "tpu", topology, count, peak, memory, bandwidth, clock)
  if name in _GPUS:
    *_, bandwidth, _, memory, _ = _GPUS[name]
    peak, share = _GPUS[name][0], _GPU_SHARE * memory
    return Chips(name, "cuda", name, 1, peak, share, bandwidth)
  raise UserError(
    f"--topology: {name!r} is not accepted; expected one of {', '.join(NAMES)}"
  )


def make_mesh(chips: Chips) -> jax.sharding.Mesh:
  """Returns a mesh of chips that programs are compiled for.

  Raises UserError if their compiler is not installed.
  """
  # No chip is looked for, which would take minutes, or be another's.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
  os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  from jax.experimental import topologies

  options = {}
  if chips.platform == "cuda":
    options = {"target_config": _describe(chips.name), "topology": "1x1x1"}
  try:
    devices = topologies.get_topology_desc(
      platform=chips.platform, topology_name=chips.topology, **options
    ).devices
  except Exception as error:  # of whatever type a plug-in that lacks has
    needed = _PACKAGES[chips.platform]
    reason = str(error).partition("\n")[0]
    raise UserError(
      f"--topology: {chips.name} needs the compiler of its maker, "
      f"`pip install {needed}` ({type(error).__name__}: {reason})"
    ) from error
  found = np.array(devices[: chips.count])
  return jax.sharding.Mesh(found, (AXIS,), axis_types=(AxisType.Auto,))


def _describe(name: str) -> str:
  """Describes a GPU in XLA's text proto."""
  (_, (major, minor), cores, lanes, threads, shared, optin, cache, *rest) = (
    _GPUS[name]
  )
  bandwidth, clock, memory, description = rest
  fields = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 49152,
    "shared_memory_per_core": shared,
    "threads_per_core_limit": threads,
    "core_count": cores,
    "fpus_per_core": lanes,
    "block_dim_limit_x": 2147483647,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "memory_bandwidth": bandwidth,
    "l2_cache_size": cache,
    "clock_rate_ghz": clock,
    "device_memory_size": memory,
    "shared_memory_per_block_optin": optin,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
  }
  lines = " ".join(f"{name}: {value}" for name, value in fields.items())
  return (
    f"gpu_device_info {{ {lines} cuda_compute_capability "
    f"{{ major: {major} minor: {minor} }} }}\n"
    'platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 } '
    "runtime_version { major: 13 minor: 0 patch: 0 } "
    f'device_description_str: "{description}"'
  )
