"""The supernet computed on slices: the cost follows the architecture.

The same function of (weights, images, arch) as `network.apply_masked` under
hard masks. Widths are rounded up to a few buckets; inside a bucket the shapes
are static and a mask cuts the rest. One traced program serves every arch:

* The blocks of a bucket run in a loop of dynamic length, zero for all buckets
  but one. XLA updates the carry of a loop in place, where a `switch` copies the
  results of its branches and fills the residuals of the others with zeros.
* Activations go from loop to loop at the front of a buffer, which is flat on
  CPUs so that nothing is padded channel by channel; see `platforms.py`.
* The outputs of convolutions are kept for the backward pass in one such buffer
  (the tape); the rest is cheap and computed again, see `tape.py`.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nss_jax.spaces.metrics import stage_shapes
from nss_jax.spaces.search_space import Arch, SearchSpace, check_archs
from nss_jax.supernet.norm import NormScope
from nss_jax.supernet.platforms import load, ways
from nss_jax.supernet.precision import widen
from nss_jax.supernet.residual import ConvNorm, check_images
from nss_jax.supernet.sliced_loops import (
  Plan,
  exit_loop,
  first_loop,
  rest_loop,
  width_index,
)
from nss_jax.supernet.sliced_stage import Given, run_stage

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
  platform: str | None = None,
) -> jax.Array:
  """Returns the logits `[B, C]` of one arch of the supernet.

  It is differentiable in weights and images once, in reverse mode;
  `apply_masked` is so again and again. Never `vmap` it over archs, which would
  run every bucket: use `lax.scan` or `lax.map`.

  Args:
    search_space: the static description.
    weights: parameters from `init_weights`.
    images: `[B, H, W, channels]`, normalised; their type is that of the
      activations.
    arch: depths and widths `[S]`, of the search space. Inside `jit` its values
      are not seen; what comes of an arch of another space means nothing.
    buckets: widths to round up to, ascending to the largest, for each stage;
      `default_buckets` by default.
    axis_name: device axis over which batch statistics are shared.
    num_calibration: how many images, the first ones, batch statistics are of;
      all by default.
    platform: see `make_apply`; it decides the layout of buffers.

  Raises:
    TypeError: if the images are not of a floating type.
    ValueError: if the arch is not of the search space, or the buckets are not
      such widths.
    NotImplementedError: for second derivatives.
  """
  check_images(images)
  check_archs(search_space, arch, one=True)
  buckets = default_buckets(search_space) if buckets is None else buckets
  _check(search_space, buckets)
  chosen = ways(platform)
  layout = chosen.layout
  scope = NormScope(axis_name, num_calibration, one_pass=chosen.one_pass)
  stem = ConvNorm(
    search_space.stem_width, stride=search_space.stem_stride, norm_scope=scope
  )
  x = cast(jax.Array, stem.apply({"params": weights["stem"]}, images))
  x = nn.relu(x)
  flat, shape = x.reshape(-1) if layout == "flat" else x, x.shape[:3]
  entries, entry = (search_space.stem_width,), jnp.zeros((), jnp.int32)
  before = jnp.asarray(search_space.stem_width, jnp.int32)
  for stage, size in enumerate(stage_shapes(search_space)[1:]):
    last = stage + 1 == search_space.num_stages
    plan = Plan(
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
      layout=layout,
      switched=chosen.switched,
    )
    depth, width = (
      jnp.asarray(x[stage], jnp.int32) for x in (arch.depth, arch.width)
    )
    name = f"stage_{stage + 1}"
    with jax.named_scope(name):
      given = Given(weights[name], flat, entry, before, depth, width)
      flat = run_stage(plan, given)
    entries, entry = plan.exits, width_index(plan.exits, width)
    before = width
    shape = plan.outputs
  x = load(flat, (*shape, entries[-1]))
  # At least float32 from here on, whatever the activations are.
  x = widen(x).mean((1, 2))
  head = nn.Dense(search_space.num_classes, dtype=x.dtype)
  return cast(jax.Array, head.apply({"params": weights["head"]}, x))


def default_buckets(
  search_space: SearchSpace, shares: Sequence[float] = ()
) -> Buckets:
  """Returns shares of the largest width of each stage, rounded up.

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
      stage_shapes(search_space)[1:], search_space.max_widths, strict=True
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


def loop_counts(
  search_space: SearchSpace, buckets: Buckets, archs: Arch
) -> dict[str, np.ndarray]:
  """Counts how often archs `[N, S]` run each loop: `{name: [N]}`.

  The compiler does not know the length of a loop. In its program the loops have
  these names, such as `stage_1/rest_128`.
  """
  found, entries = {}, (search_space.stem_width,)
  before = np.full(len(archs.depth), search_space.stem_width)
  for stage, widths in enumerate(buckets):
    last = stage + 1 == search_space.num_stages
    exits = _exits(widths, last)
    depth, width = (np.asarray(x)[:, stage] for x in (archs.depth, archs.width))
    entry, bucket = (
      np.asarray(options)[np.searchsorted(options, here)]
      for options, here in ((entries, before), (widths, width))
    )
    loops = {}
    for option in widths:
      here = bucket == option
      loops[rest_loop(option)] = np.where(here, depth - 1, 0)
      loops[exit_loop(option)] = here
      for start in entries:
        loops[first_loop(start, option)] = here & (entry == start)
    for name, count in loops.items():
      found[f"stage_{stage + 1}/{name}"] = count.astype(int)
    entries, before = exits, width
  return found


def _shares(
  width: int, shares: Sequence[float], least: int = 1
) -> tuple[int, ...]:
  """Returns shares of a width, rounded up, that are not below the least."""
  widths = {math.ceil(width * share) for share in shares}
  return tuple(sorted(w for w in widths if w >= least))


def _exits(buckets: tuple[int, ...], last: bool) -> tuple[int, ...]:
  """Returns widths in which a stage hands over: few, as each is a loop more."""
  if last:
    return buckets[-1:]
  wanted = _shares(buckets[-1], (0.25, 0.5, 1.0))
  return tuple(
    sorted({min(b for b in buckets if b >= width) for width in wanted})
  )


def _check(search_space: SearchSpace, buckets: Buckets) -> None:
  for stage, (widths, largest) in enumerate(
    zip(buckets, search_space.max_widths, strict=True)
  ):
    if list(widths) != sorted({*widths, largest}) or widths[0] < 1:
      raise ValueError(
        f"buckets of stage {stage + 1} must be positive and ascend to its "
        f"largest width, {largest}; got {tuple(widths)}"
      )
