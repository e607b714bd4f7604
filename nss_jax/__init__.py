"""Network Space Search in JAX.

The names below are the library: search spaces and their cost, distributions
over spaces, the supernet, and the pure steps. See `README.md` for the program.
"""

from nss_jax.data import register_source
from nss_jax.deploy.trained_network import Prediction, TrainedNetwork
from nss_jax.phases.compile_for import compile_for
from nss_jax.phases.find import find
from nss_jax.results.load import load_network, load_space, load_supernet
from nss_jax.spaces.blocks import (
  Block,
  Channels,
  Conv,
  Depthwise,
  SqueezeExcite,
  find_block,
  register_block,
)
from nss_jax.spaces.constraints import (
  Constraint,
  flops_penalty,
  mean_costs,
  penalties,
)
from nss_jax.spaces.cost import (
  CostTables,
  arch_cost,
  arch_macs,
  arch_params,
  cost_tables,
  macs_range,
  mean_cost,
  mean_macs,
  space_cost,
  space_macs,
)
from nss_jax.spaces.distribution import (
  EliteSpace,
  SpaceLogits,
  elite_space,
  entropy,
  gumbel_softmax,
  init_logits,
  most_probable_space,
  probabilities,
  sample_space,
)
from nss_jax.spaces.feasible import (
  Candidates,
  elite_candidates,
  sample_feasible_archs,
  sample_feasible_spaces,
)
from nss_jax.spaces.handmade import proportional_arch, proportional_space
from nss_jax.spaces.metrics import Metric, register_metric
from nss_jax.spaces.sampling import (
  enumerate_archs,
  enumerate_spaces,
  sample_archs,
  sample_bin_archs,
)
from nss_jax.spaces.search_space import Arch, SearchSpace, Space
from nss_jax.spaces.table import all_space_macs
from nss_jax.spaces.text import (
  describe_space,
  format_arch,
  format_space,
  parse_arch,
  parse_space,
)
from nss_jax.steps.estimators import (
  pathwise,
  register_estimator,
  score_function,
)
from nss_jax.steps.losses import cross_entropy
from nss_jax.steps.penalties import drawn_penalty, expected_penalty
from nss_jax.steps.search_step import (
  SearchState,
  init_search_state,
  search_step,
)
from nss_jax.steps.train_step import TrainState, init_train_state, train_step
from nss_jax.steps.weight_step import (
  WeightState,
  init_weight_state,
  weight_step,
)
from nss_jax.supernet.engine import make_apply
from nss_jax.supernet.masks import (
  Masks,
  Sample,
  arch_masks,
  arch_sampler,
  gumbel_sampler,
  mix_masks,
  warmup_sampler,
)
from nss_jax.supernet.network import (
  apply_alone,
  apply_masked,
  extract_subnet,
  init_averages,
  init_weights,
)
from nss_jax.supernet.sliced import apply_sliced, default_buckets
from nss_jax.version import __version__

__all__ = [
  "Arch",
  "Block",
  "Candidates",
  "Channels",
  "Constraint",
  "Conv",
  "CostTables",
  "Depthwise",
  "EliteSpace",
  "Masks",
  "Metric",
  "Prediction",
  "Sample",
  "SearchSpace",
  "SearchState",
  "Space",
  "SpaceLogits",
  "SqueezeExcite",
  "TrainState",
  "TrainedNetwork",
  "WeightState",
  "__version__",
  "all_space_macs",
  "apply_alone",
  "apply_masked",
  "apply_sliced",
  "arch_cost",
  "arch_macs",
  "arch_masks",
  "arch_params",
  "arch_sampler",
  "compile_for",
  "cost_tables",
  "cross_entropy",
  "default_buckets",
  "describe_space",
  "drawn_penalty",
  "elite_candidates",
  "elite_space",
  "entropy",
  "enumerate_archs",
  "enumerate_spaces",
  "expected_penalty",
  "extract_subnet",
  "find",
  "find_block",
  "flops_penalty",
  "format_arch",
  "format_space",
  "gumbel_sampler",
  "gumbel_softmax",
  "init_averages",
  "init_logits",
  "init_search_state",
  "init_train_state",
  "init_weight_state",
  "init_weights",
  "load_network",
  "load_space",
  "load_supernet",
  "macs_range",
  "make_apply",
  "mean_cost",
  "mean_costs",
  "mean_macs",
  "mix_masks",
  "most_probable_space",
  "parse_arch",
  "parse_space",
  "pathwise",
  "penalties",
  "probabilities",
  "proportional_arch",
  "proportional_space",
  "register_block",
  "register_estimator",
  "register_metric",
  "register_source",
  "sample_archs",
  "sample_bin_archs",
  "sample_feasible_archs",
  "sample_feasible_spaces",
  "sample_space",
  "score_function",
  "search_step",
  "space_cost",
  "space_macs",
  "train_step",
  "warmup_sampler",
  "weight_step",
]
