"""Losses and the contract of loss functions."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nss_jax.spaces.search_space import Array

Metrics = dict[str, Array]
# (weights, choice, batch) -> (scalar loss, metrics). `choice` is whatever the
# sampler of the same loop returns as such: an arch, or mixed masks.
LossFn = Callable[[Any, Any, Any], tuple[jax.Array, Metrics]]
# (rng, logits, step) -> a draw with `.weights`, like the logits, and `.choice`.
SampleFn = Callable[[jax.Array, Any, jax.Array], Any]
# (weights, images, choice) -> logits [B, C]
ApplyFn = Callable[[Any, jax.Array, Any], jax.Array]


def checked_loss(loss_fn: Callable, of: str = "metrics") -> Callable:
  """A loss function whose result is held to its contract.

  Args:
    loss_fn: `(...) -> (scalar loss, the rest)`.
    of: the rest: "metrics", a dict, or "(averages, metrics)".

  Raises:
    TypeError: when called, naming `loss_fn` and what it must return.
  """

  def checked(*args):
    found = loss_fn(*args)
    rest = _second(found)
    metrics = _second(rest) if of != "metrics" else rest
    if not isinstance(metrics, Mapping) or jnp.shape(found[0]) != ():
      raise TypeError(
        f"loss_fn must return (scalar loss, {of}), metrics a dict; got "
        f"{_in_words(found)}"
      )
    return found

  return checked


def _second(pair: Any) -> Any:
  """Of a pair; None if it is none."""
  is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
  return pair[1] if is_pair else None


def _in_words(value: Any) -> str:
  """Types, and the shapes of arrays: `(float32[4], dict)`."""
  if isinstance(value, (tuple, list)):
    return f"({', '.join(map(_in_words, value))})"
  if hasattr(value, "dtype"):
    return f"{value.dtype}{list(value.shape)}"
  return type(value).__name__


def checked_sample(sample: Any, *fields: str) -> Any:
  """What a `sample_fn` returned, if it has the fields that are needed.

  Raises:
    TypeError: naming `sample_fn` and what it must return.
  """
  if not all(hasattr(sample, field) for field in fields):
    raise TypeError(
      "sample_fn must return a Sample(weights, choice); got "
      f"{_in_words(sample)}"
    )
  return sample


def as_number(name: str, value: Any) -> Any:
  """A number or an array of them, in floating point.

  jax takes Python's and numpy's integers for int32, and 3.2 GF are more than
  that holds.

  Raises:
    TypeError: naming the argument.
  """
  array = isinstance(value, (np.ndarray, np.number, jax.Array))
  number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not number and not (array and jnp.issubdtype(value.dtype, jnp.number)):
    raise TypeError(
      f"{name} must be a number, or an array of numbers [C], one for each "
      f"cost; got {value!r}"
    )
  return 1.0 * cast(Any, value)


def cross_entropy(
  logits: jax.Array, labels: jax.Array, class_weights: Array | None = None
) -> tuple[jax.Array, Metrics]:
  """Mean softmax cross-entropy of `[B, C]` logits and `[B]` labels, in nats.

  Args:
    logits: `[B, C]`.
    labels: `[B]`.
    class_weights: `[C]`, by which an image of a class counts; the sum is over
      the B images all the same, so that parts of a batch add up. None: 1.

  Returns:
    The loss, and `{"accuracy": share of correct predictions}`.
  """
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  loss = weigh(loss, labels, class_weights).mean()
  accuracy = (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
  return loss, {"accuracy": accuracy}


def weigh(
  losses: jax.Array, labels: jax.Array, class_weights: Array | None
) -> jax.Array:
  """Losses `[B]`, each by the weight of its class, `[C]`; None: as they are."""
  if class_weights is None:
    return losses
  return losses * jnp.asarray(class_weights, losses.dtype)[labels]


def single_loss(
  apply_fn: ApplyFn, class_weights: Array | None = None
) -> LossFn:
  """Cross-entropy of one choice on a batch of `(images, labels)`."""

  def loss_fn(weights, choice, batch):
    images, labels = batch
    logits = apply_fn(weights, images, choice)
    return cross_entropy(logits, labels, class_weights)

  return loss_fn


def mean_loss(apply_fn: ApplyFn, class_weights: Array | None = None) -> LossFn:
  """The mean over choices, a pytree of `[A, ...]`, on the same batch.

  One after the other; each is computed again for its gradient, so the memory
  is that of one.
  """
  single = single_loss(apply_fn, class_weights)

  def loss_fn(weights, choices, batch):
    one = jax.checkpoint(lambda weights, choice: single(weights, choice, batch))
    found = jax.lax.map(lambda choice: one(weights, choice), choices)
    return jax.tree.map(lambda x: x.mean(0), found)

  return loss_fn


def distilled_loss(
  apply_fn: ApplyFn, class_weights: Array | None = None
) -> LossFn:
  """The sandwich rule: the first choice learns the labels, and all the others
  learn its predictions (in-place distillation).

  Source: Yu and Huang 2019, Universally Slimmable Networks, section 3.
  """

  def loss_fn(weights, choices, batch):
    images, labels = batch
    first = jax.tree.map(lambda x: x[0], choices)
    others = jax.tree.map(lambda x: x[1:], choices)
    logits = apply_fn(weights, images, first)
    loss, metrics = cross_entropy(logits, labels, class_weights)
    teacher = jax.lax.stop_gradient(jax.nn.softmax(logits))

    @jax.checkpoint
    def student(weights, choice):
      logits = apply_fn(weights, images, choice)
      losses = optax.softmax_cross_entropy(logits, teacher)
      return weigh(losses, labels, class_weights).mean()

    rest = jax.lax.map(lambda choice: student(weights, choice), others)
    return (loss + rest.sum()) / (1 + rest.shape[0]), metrics

  return loss_fn


def microbatched(loss_fn: LossFn, count: int) -> LossFn:
  """The mean of a loss over equal parts of the batch, one after the other.

  Gradients accumulate. Each part is computed again for its gradient, so the
  memory of the activations is that of one part, for a third more time. What
  examples of a batch share, such as batch statistics, is then of a part: as
  on so many devices that share none.

  Args:
    loss_fn: of a batch whose leaves are `[B, ...]`.
    count: of the parts.

  Raises:
    ValueError: when called with a batch that has no `count` equal parts.
  """
  if count == 1:
    return loss_fn

  def split(x):
    if x.shape[0] % count:
      raise ValueError(
        f"a batch of {x.shape[0]} has no {count} equal parts; expected a "
        "multiple"
      )
    return x.reshape(count, -1, *x.shape[1:])

  def in_parts(weights, choice, batch):
    one = jax.checkpoint(loss_fn)
    found = jax.lax.map(
      lambda part: one(weights, choice, part), jax.tree.map(split, batch)
    )
    return jax.tree.map(lambda x: x.mean(0), found)

  return in_parts


def step_rng(
  rng: jax.Array, step: jax.Array, axis_name: str | None, own_draws: bool
) -> jax.Array:
  """The key of a step, the same on all devices or, with `own_draws`, one each.

  Raises:
    ValueError: for `own_draws` without an axis.
  """
  rng = jax.random.fold_in(rng, step)
  if not own_draws:
    return rng
  if axis_name is None:
    raise ValueError("own_draws needs axis_name, the axis of the devices")
  return jax.random.fold_in(rng, jax.lax.axis_index(axis_name))


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
  """`pmean` over a device axis; the tree itself when there is none."""
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def vary_over_devices(tree: Any, axis_name: str | None) -> Any:
  """Marks replicated values as different per device, for a local gradient.

  Inside a `shard_map` that checks replication, the gradient of a replicated
  value is already summed over the devices; a `pmean` after it would be too
  large by their number. Marked so, the gradient stays local and `pmean` is the
  mean, checked or not.
  """
  if axis_name is None:
    return tree

  def vary(x):
    if axis_name in getattr(jax.typeof(x), "vma", ()):
      return x
    return jax.lax.pcast(x, axis_name, to="varying")

  return jax.tree.map(vary, tree)
