"""Flags by which XLA compiles sooner what then runs slower."""

import importlib.metadata

_JAXLIB = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
# Nearly all the time of tests is the compiler's, on programs that run once.
FLAGS = "--xla_backend_optimization_level=0"
if _JAXLIB < (0, 11):
  # Half of what is left; later versions know no such flag, and need it less.
  FLAGS += " --xla_cpu_use_fusion_emitters=false"
