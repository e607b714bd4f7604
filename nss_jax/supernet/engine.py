"""The one place that chooses how the supernet is computed."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax

from nss_jax.spaces.search_space import Arch, SearchSpace
from nss_jax.supernet.masks import Masks, arch_masks
from nss_jax.supernet.network import apply_masked
from nss_jax.supernet.sliced import Buckets, apply_sliced


def make_apply(
  search_space: SearchSpace,
  engine: Literal["sliced", "masked"] = "sliced",
  *,
  buckets: Buckets | None = None,
  axis_name: str | None = None,
  num_calibration: int | None = None,
  remat: bool = False,
  autodiff: bool = False,
  platform: str | None = None,
) -> Callable[[Any, jax.Array, Arch | Masks], jax.Array]:
  """Makes `(weights, images, choice) -> logits`, the same numbers either way.

  Masks always run masked: every channel with a weight above zero counts. An
  arch runs sliced, at its own cost, unless the masked engine is asked for.

  Args:
    search_space: the static description.
    engine: how archs run.
    buckets: of the sliced engine, see `apply_sliced`.
    axis_name: device axis over which batch statistics are shared.
    num_calibration: how many images, the first ones, batch statistics are of;
      all by default.
    remat: for masks, see `apply_masked`; the sliced engine always does so.
    autodiff: for masks, see `apply_masked`; the sliced engine refuses second
      derivatives.
    platform: what it is to run on, as jax names it (cpu, gpu, tpu); jax's
      default one by default. It decides what is kept for the gradient, and how;
      it changes no number.
  """
  options: dict[str, Any] = {
    "axis_name": axis_name,
    "num_calibration": num_calibration,
    "platform": platform,
  }
  masked = functools.partial(
    apply_masked, search_space, remat=remat, autodiff=autodiff, **options
  )
  sliced = functools.partial(
    apply_sliced, search_space, buckets=buckets, **options
  )

  def apply(weights, images, choice):
    if not isinstance(choice, Arch):
      return masked(weights, images, choice)
    if engine == "sliced":
      return sliced(weights, images, choice)
    return masked(weights, images, arch_masks(search_space, choice))

  return apply
