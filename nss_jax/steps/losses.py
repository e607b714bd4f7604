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
# Of a model with a state, such as batch statistics, or with dropout:
# (weights, choice, batch, model_state, rng) -> (loss, (model_state, metrics)).
StatefulLossFn = Callable[
  [Any, Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, Metrics]]
]
# (rng, logits, step) -> a draw with `.weights`, like the logits, and `.choice`.
SampleFn = Callable[[jax.Array, Any, jax.Array], Any]
# (weights, images, choice) -> logits [B, C]
ApplyFn = Callable[[Any, jax.Array, Any], jax.Array]


def with_state(
  loss_fn: LossFn | StatefulLossFn,
  model_state: Any,
  rng: jax.Array,
  axis_name: str | None,
) -> Callable[[Any, Any, Any], tuple[jax.Array, tuple[Any, Metrics]]]:
  """Returns `(weights, choice, batch) -> (loss, (model_state, metrics))`.

  A model without a state, None, has a loss of three arguments. One that has a
  state is given it, and a key of its own on each device: their images differ.
  """
  if model_state is None:
    plain = checked_loss(loss_fn)

    def without(weights, choice, batch):
      loss, metrics = plain(weights, choice, batch)
      return loss, (None, metrics)

    return without
  # A key of its own: the draws of the step stay what they are.
  key = jax.random.fold_in(rng, 2)
  if axis_name is not None:
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
  # A copy: equinox's states can be used once.
  state = jax.tree.map(lambda x: x, vary_over_devices(model_state, axis_name))
  full = checked_loss(loss_fn, of="(model_state, metrics)")
  return lambda weights, choice, batch: full(weights, choice, batch, state, key)


def checked_loss(loss_fn: Callable, of: str = "metrics") -> Callable:
  """Holds a loss function to its contract: `(scalar loss, the rest)`.

  The rest is "metrics", a dict, or a pair such as "(averages, metrics)".
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
  """Returns the second of a pair; None if it is none."""
  is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
  return pair[1] if is_pair else None


def _in_words(value: Any) -> str:
  """Says the types, and the shapes of arrays: `(float32[4], dict)`."""
  if isinstance(value, (tuple, list)):
    return f"({', '.join(map(_in_words, value))})"
  if hasattr(value, "dtype"):
    return f"{value.dtype}{list(value.shape)}"
  return type(value).__name__


def checked_sample(sample: Any, *fields: str) -> Any:
  """Returns what a `sample_fn` gave, or refuses it without these fields."""
  if not all(hasattr(sample, field) for field in fields):
    raise TypeError(
      "sample_fn must return a Sample(weights, choice); got "
      f"{_in_words(sample)}"
    )
  return sample


def as_number(name: str, value: Any) -> Any:
  """Returns a number or an array of them, in floating point, by its name.

  jax takes Python's and numpy's integers for int32, and 3.2 GF are more than
  that holds.
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
  """Returns mean softmax cross-entropy of logits and labels, in nats.

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
  """Weighs losses `[B]` by the weights of their classes, `[C]`, if any."""
  if class_weights is None:
    return losses
  return losses * jnp.asarray(class_weights, losses.dtype)[labels]


def single_loss(
  apply_fn: ApplyFn, class_weights: Array | None = None
) -> LossFn:
  """Makes the cross-entropy of one choice on a batch `(images, labels)`."""

  def loss_fn(weights, choice, batch):
    images, labels = batch
    logits = apply_fn(weights, images, choice)
    return cross_entropy(logits, labels, class_weights)

  return loss_fn


def mean_loss(apply_fn: ApplyFn, class_weights: Array | None = None) -> LossFn:
  """Makes the mean over choices, a pytree of `[A, ...]`, on the same batch.

  They are taken one after the other; each is computed again for its gradient,
  so the memory is that of one.
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
  """Makes the loss of the sandwich rule, distilled in place.

  The first choice learns the labels, all others learn its predictions.

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
  """Makes the mean of a loss over equal parts of a batch, one by one.

  Gradients accumulate. Each part is computed again for its gradient, so the
  memory of the activations is that of one part, for a third more time. What
  examples of a batch share, such as batch statistics, is then of a part: as
  on so many devices that share none.
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
  """Returns the key of a step, the same on all devices or one of its own."""
  rng = jax.random.fold_in(rng, step)
  if not own_draws:
    return rng
  if axis_name is None:
    raise ValueError("own_draws needs axis_name, the axis of the devices")
  return jax.random.fold_in(rng, jax.lax.axis_index(axis_name))


def mean_over_devices(tree: Any, axis_name: str | None) -> Any:
  """Averages over a device axis; returns the tree itself if there is none.

  Integers, such as counts of steps in the state of a model, are the same on all
  devices, and stay integers.
  """
  if axis_name is None:
    return tree

  def mean(x):
    real = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return (jax.lax.pmean if real else jax.lax.pmax)(x, axis_name)

  return jax.tree.map(mean, tree)


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


def descend(
  loss_fn: Callable[[Any], tuple[jax.Array, Any]],
  params: Any,
  opt_state: Any,
  optimizer: optax.GradientTransformation,
  axis_name: str | None,
) -> tuple[Any, Any, jax.Array, Any]:
  """Takes one step down a loss: the end of every step here.

  The loss and what comes with it, `loss_fn(params) -> (loss, rest)`, and the
  gradients are averaged over the devices of an axis, if there is one.

  Returns:
    The next params, the optimizer's state, the loss, and the rest.
  """
  varying = vary_over_devices(params, axis_name)
  both, gradients = jax.value_and_grad(loss_fn, has_aux=True)(varying)
  (loss, rest), gradients = mean_over_devices((both, gradients), axis_name)
  updates, opt_state = optimizer.update(gradients, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, loss, rest
