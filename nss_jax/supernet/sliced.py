"""The supernet computed on slices: the cost follows the architecture.

The same function of (weights, images, arch) as `network.apply_masked` under
hard masks. Widths are rounded up to a few buckets; inside a bucket the shapes
are static and a mask cuts the rest. One traced program serves every arch:

* The blocks of a bucket run in a loop of dynamic length, zero for all buckets
  but one. XLA updates the carry of a loop in place, where a `switch` copies the
  results of its branches and fills the residuals of the others with zeros.
* Activations go from loop to loop at the front of a flat buffer, so that
  nothing is padded channel by channel.
* The outputs of convolutions are kept for the backward pass in one such buffer
  (the tape); the rest is cheap and computed again, see `replay.py`.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from nss_jax.spaces.blocks import find_block
from nss_jax.spaces.metrics import stage_shapes
from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.supernet import buffers, replay
from nss_jax.supernet.blocks import ConvNorm, NormScope, ResidualBlock

Buckets = tuple[tuple[int, ...], ...]


def apply_sliced(
  search_space: SearchSpace,
  weights: Any,
  images: jax.Array,
  arch: Arch,
  *,
  buckets: Buckets | None = None,
  axis_name: str | None = None,
  num_calibration: int | None = None,
) -> jax.Array:
  """Logits `[B, C]` of one arch of the supernet.

  Differentiable in weights and images, in reverse mode. Never `vmap` it over
  archs, which would run every bucket: use `lax.scan` or `lax.map`.

  Args:
    search_space: the static description.
    weights: parameters from `init_weights`.
    images: `[B, H, W, channels]`, normalised; their type is that of the
      activations.
    arch: depths and widths `[S]`.
    buckets: widths to round up to, ascending to the largest, for each stage;
      `default_buckets` by default.
    axis_name: device axis over which batch statistics are shared.
    num_calibration: batch statistics of the first so many images only; no
      gradient is offered then.

  Raises:
    ValueError: if the buckets are not such widths.
  """
  buckets = default_buckets(search_space) if buckets is None else buckets
  _check(search_space, buckets)
  scope = NormScope(axis_name, num_calibration)
  stem = ConvNorm(search_space.stem_width, norm_scope=scope)
  x = cast(jax.Array, stem.apply({"params": weights["stem"]}, images))
  x = nn.relu(x)
  flat, shape = x.reshape(-1), x.shape[:3]
  entries, entry = (search_space.stem_width,), jnp.zeros((), jnp.int32)
  before = jnp.asarray(search_space.stem_width, jnp.int32)
  for stage, size in enumerate(stage_shapes(search_space)):
    last = stage + 1 == search_space.num_stages
    plan = _Plan(
      block=search_space.block,
      stride=search_space.strides[stage],
      project=search_space.projects(stage),
      max_depth=search_space.max_depths[stage],
      scope=scope,
      buckets=tuple(buckets[stage]),
      entries=entries,
      exits=_exits(buckets[stage], last),
      inputs=shape,
      outputs=(shape[0], *size),
    )
    depth, width = arch.depth[stage], arch.width[stage]
    params = weights[f"stage_{stage + 1}"]
    flat = _stage(plan, params, flat, entry, before, depth, width)
    entries, entry = plan.exits, _index(plan.exits, width)
    before = width
    shape = plan.outputs
  x = flat.reshape(*shape, entries[-1])
  # At least float32 from here on, whatever the activations are.
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
  head = nn.Dense(search_space.num_classes, dtype=x.dtype)
  return cast(jax.Array, head.apply({"params": weights["head"]}, x))


def default_buckets(
  search_space: SearchSpace, shares: Sequence[float] = ()
) -> Buckets:
  """Shares of the largest width of each stage, rounded up.

  By default an eighth, a quarter, a half, three quarters and all of it. Every
  bucket takes time to compile, so stages whose blocks cost less than half of
  the dearest stage's do with a quarter, a half and all; and none is narrower
  than the stage can be.

  Example:
    >>> import nss_jax as nss
    >>> default_buckets(nss.SearchSpace.expanded())
    ((64, 128, 256, 384, 512), (128, 256, 512), (128, 256, 512))
  """
  costs = [
    math.prod(size) * width**2
    for size, width in zip(
      stage_shapes(search_space), search_space.max_widths, strict=True
    )
  ]
  many, few = (0.125, 0.25, 0.5, 0.75, 1.0), (0.25, 0.5, 1.0)
  return tuple(
    _shares(
      bins[-1][1],
      shares or (many if 2 * cost >= max(costs) else few),
      least=bins[0][0],
    )
    for bins, cost in zip(search_space.width_bins, costs, strict=True)
  )


def _shares(width, shares, least=1):
  """Shares of a width, rounded up, that are not below the least."""
  widths = {math.ceil(width * share) for share in shares}
  return tuple(sorted(w for w in widths if w >= least))


def _exits(buckets, last):
  """Widths in which a stage hands over: each is one more program, so few."""
  if last:
    return buckets[-1:]
  wanted = _shares(buckets[-1], (0.25, 0.5, 1.0))
  return tuple(
    sorted({min(b for b in buckets if b >= width) for width in wanted})
  )


def _check(search_space, buckets):
  for stage, (widths, largest) in enumerate(
    zip(buckets, search_space.max_widths, strict=True)
  ):
    if list(widths) != sorted({*widths, largest}) or widths[0] < 1:
      raise ValueError(
        f"buckets of stage {stage + 1} must be positive and ascend to its "
        f"largest width, {largest}; got {tuple(widths)}"
      )


class _Plan(NamedTuple):
  """The static shape of one stage.

  Attributes:
    block: name of the block.
    stride: of the first block.
    project: whether the identity does not fit the first block.
    max_depth: D of this stage.
    scope: of the normalisations' statistics.
    buckets: widths of the stage.
    entries: widths in which the stage before hands over.
    exits: widths in which this stage hands over.
    inputs: `(B, H, W)` before the stage.
    outputs: `(B, H, W)` inside it.
  """

  block: str
  stride: int
  project: bool
  max_depth: int
  scope: NormScope
  buckets: tuple[int, ...]
  entries: tuple[int, ...]
  exits: tuple[int, ...]
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]

  def first(self, features, *parts):
    block = find_block(self.block)
    return ResidualBlock(
      block, features, self.stride, self.project, self.scope, *parts
    )

  def rest(self, features, *parts):
    block = find_block(self.block)
    return ResidualBlock(block, features, 1, False, self.scope, *parts)

  def exit(self, bucket):
    return next(width for width in self.exits if width >= bucket)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _stage(plan, params, flat, entry, before, depth, width):
  """The output of a stage, flat, in the exit's width.

  Args:
    plan: static shapes.
    params: of the stage.
    flat: input `[B * H * W * largest entry]`, in the width of the entry.
    entry: index of that width.
    before: channels that are used of it, a scalar.
    depth: blocks, a scalar.
    width: channels, a scalar.
  """
  return _forward(plan, params, flat, entry, before, depth, width, None)[0]


def _stage_and_tape(plan, params, flat, entry, before, depth, width):
  tape = _empty_tape(plan, flat.dtype, jax.tree.leaves(params)[0].dtype)
  out, tape = _forward(plan, params, flat, entry, before, depth, width, tape)
  return out, (params, flat, entry, before, depth, width, tape)


def _forward(plan, params, flat, entry, before, depth, width, tape):
  index = _index(plan.buckets, width)
  out = jnp.zeros(buffers.size((*plan.outputs, plan.buckets[-1])), flat.dtype)

  def first(entered, bucket, operands, carry):
    (params, flat), (out, tape) = operands, carry
    x = buffers.load(flat, (*plan.inputs, entered))
    corners, _ = replay.shapes(plan.first, bucket, x)
    params = replay.cut(params, corners)
    masks = _mask(bucket, width), _mask(entered, before)
    y, kept = replay.run(plan.first, params, x, masks)
    return buffers.store(out, y), buffers.store_row(tape, 0, kept)

  def rest(bucket, row, carry):
    out, tape = carry
    x = buffers.load(out, (*plan.outputs, bucket))
    corners, _ = replay.shapes(plan.rest, bucket, x)
    cut = replay.cut(params["blocks_rest"], corners, row)
    y, kept = replay.run(plan.rest, cut, x, (_mask(bucket, width),) * 2)
    return buffers.store(out, y), buffers.store_row(tape, row + 1, kept, x)

  carry = out, tape
  for e, b in _pairs(plan):
    body = functools.partial(first, plan.entries[e], plan.buckets[b])
    operands = params["block_1"], flat
    carry = _once((entry == e) & (index == b), body, operands, carry)
  for b, bucket in enumerate(plan.buckets if plan.max_depth > 1 else ()):
    times = jnp.where(index == b, depth - 1, 0)
    body = functools.partial(rest, bucket)
    carry = lax.fori_loop(0, times, body, carry)
  out, tape = carry
  return _change_width(plan, out, index, widen=True), tape


def _backward(plan, saved, upstream):
  params, flat, entry, before, depth, width, tape = saved
  index = _index(plan.buckets, width)

  def rest(bucket, i, carry):
    upstream, gradients = carry
    row, shape = depth - 2 - i, (*plan.outputs, bucket)
    spec = jax.ShapeDtypeStruct(shape, flat.dtype)
    corners, kept = replay.shapes(plan.rest, bucket, spec)
    x, kept = buffers.load_row(tape, row + 1, kept, spec)
    found, down = replay.run_back(
      plan.rest,
      replay.cut(params["blocks_rest"], corners, row),
      x,
      (_mask(bucket, width),) * 2,
      kept,
      buffers.load(upstream, shape),
    )
    return buffers.store(upstream, down), replay.paste(gradients, found, row)

  def first(entered, bucket, operands, carry):
    (params, flat, tape, upstream), (down, gradients) = operands, carry
    x = buffers.load(flat, (*plan.inputs, entered))
    corners, kept = replay.shapes(plan.first, bucket, x)
    found, below = replay.run_back(
      plan.first,
      replay.cut(params, corners),
      x,
      (_mask(bucket, width), _mask(entered, before)),
      buffers.load_row(tape, 0, kept)[1],
      buffers.load(upstream, (*plan.outputs, bucket)),
    )
    return buffers.store(down, below), replay.paste(gradients, found)

  gradients = jax.tree.map(jnp.zeros_like, params)
  upstream = _change_width(plan, upstream, index, widen=False)
  for b, bucket in enumerate(plan.buckets if plan.max_depth > 1 else ()):
    times = jnp.where(index == b, depth - 1, 0)
    body = functools.partial(rest, bucket)
    carry = upstream, gradients["blocks_rest"]
    upstream, gradients["blocks_rest"] = lax.fori_loop(0, times, body, carry)
  carry = jnp.zeros_like(flat), gradients["block_1"]
  for e, b in _pairs(plan):
    body = functools.partial(first, plan.entries[e], plan.buckets[b])
    operands = params["block_1"], flat, tape, upstream
    carry = _once((entry == e) & (index == b), body, operands, carry)
  down, gradients["block_1"] = carry
  return gradients, down, None, None, None, None


_stage.defvjp(_stage_and_tape, _backward)


def _pairs(plan):
  return [
    (e, b) for e in range(len(plan.entries)) for b in range(len(plan.buckets))
  ]


def _once(condition, body, operands, carry):
  """`body(operands, carry)` if the condition holds, in place.

  The barrier ties the operands to the loop: XLA moves what is the same in all
  iterations out of a loop, and would run it for every bucket.
  """

  def iteration(i, carry):
    _, tied = lax.optimization_barrier((i, operands))
    return body(tied, carry)

  times = jnp.asarray(condition, jnp.int32)
  return lax.fori_loop(0, times, iteration, carry)


def _change_width(plan, flat, index, *, widen):
  """From the bucket's width to that of its exit, or back, in place."""

  def change(bucket, _, flat):
    wide = (*plan.outputs, plan.exit(bucket))
    if not widen:
      return buffers.store(flat, buffers.load(flat, wide)[..., :bucket])
    pad = ((0, 0),) * 3 + ((0, wide[-1] - bucket),)
    return buffers.store(
      flat, jnp.pad(buffers.load(flat, (*plan.outputs, bucket)), pad)
    )

  for b, bucket in enumerate(plan.buckets):
    if plan.exit(bucket) != bucket:
      body = functools.partial(change, bucket)
      flat = _once(index == b, body, (), flat)
  return flat


def _index(widths, width):
  """Of the first of ascending widths that is not below a width."""
  return jnp.searchsorted(jnp.asarray(widths), width).astype(jnp.int32)


def _mask(bucket, width):
  return (jnp.arange(bucket) < width).astype(jnp.float32)


def _empty_tape(plan, dtype, wide):
  """Activations and statistics, a row per block.

  A row begins with the block's input, save for the first block, whose input
  is at hand anyway.
  """
  x = jax.ShapeDtypeStruct((*plan.inputs, plan.entries[-1]), dtype)
  y = jax.ShapeDtypeStruct((*plan.outputs, plan.buckets[-1]), dtype)
  _, first = replay.shapes(plan.first, plan.buckets[-1], x)
  _, rest = replay.shapes(plan.rest, plan.buckets[-1], y)

  def zeros(dtype, *rows):
    longest = max(sum(c.size for c in row) for row in rows)
    return jnp.zeros((plan.max_depth, longest), dtype)

  return (
    zeros(dtype, first.outputs, (y, *rest.outputs)),
    zeros(wide, first.statistics, rest.statistics),
  )
