"""What the log says of a search: a line for each epoch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.phases import schedules
from nss_jax.phases.elite import bin_probabilities
from nss_jax.phases.job import Job
from nss_jax.phases.program import LoopState
from nss_jax.phases.schedules import Schedule
from nss_jax.spaces import distribution
from nss_jax.spaces.constraints import mean_costs
from nss_jax.steps import losses

METRICS = (
  "train_loss",
  "train_accuracy",
  "validation_loss",
  "validation_accuracy",
  "sampled_cost",
  "penalty",
)
# Over the target, and the penalty without its weight.
OF_EACH_CONSTRAINT = ("sampled_cost", "penalty")


def temperature_of(job: Job, schedule: Schedule) -> schedules.Values:
  """Returns the temperature of the Gumbel-Softmax, from the step."""
  settings = job.config.search
  return schedules.temperature(
    settings.temperature_start, settings.temperature_end, schedule.num_steps
  )


def epoch_metrics(
  metrics: losses.Metrics, arch_metrics: losses.Metrics, sums: losses.Metrics
) -> losses.Metrics:
  """Returns the metrics of both steps, by the names of the log."""
  seen: dict[str, Any] = {
    "train_loss": metrics["loss"],
    "train_accuracy": metrics["accuracy"],
    **{f"validation_{name}": x for name, x in arch_metrics.items()},
    **{name: arch_metrics.get(name) for name in OF_EACH_CONSTRAINT},
  }
  # In warmup there is no arch step.
  return {
    name: jnp.zeros_like(sums[name]) if seen.get(name) is None else seen[name]
    for name in METRICS
  }


def measure(
  job: Job,
  schedule: Schedule,
  state: LoopState,
  step: int,
  means: dict[str, Any],
) -> dict[str, Any]:
  """Returns a line of the log, with entropies in nats, summed over stages.

  Costs, over the target, and penalty are of the first constraint, and
  `constraints` has those of all. What the frozen logits of warmup do not have
  is null.
  """
  if step <= schedule.warmup_steps:
    means = {
      name: value if name.startswith("train") else None
      for name, value in means.items()
    }
  logits = jax.device_get(state.search.logits)
  entropy = distribution.entropy(logits)
  chances = jax.tree.map(np.asarray, distribution.probabilities(logits))
  costs = mean_costs(job.search_space, job.constraints, chances)
  of_each = {}
  for index, one in enumerate(job.constraints):
    of_each[one.name] = {
      name: means[name] and means[name][index] for name in OF_EACH_CONSTRAINT
    }
    of_each[one.name]["expected_cost"] = float(costs[index]) / one.target
  return {
    "temperature": float(temperature_of(job, schedule)(step - 1)),
    **means,
    **of_each[job.constraints[0].name],
    "depth_entropy": float(entropy.depth.sum()),
    "width_entropy": float(entropy.width.sum()),
    "constraints": of_each,
    "probabilities": bin_probabilities(logits),
  }
