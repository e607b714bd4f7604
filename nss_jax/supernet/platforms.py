"""The one place that chooses by platform how the supernet is computed.

No choice changes a number but by rounding.
"""

from typing import Literal, NamedTuple

import jax

Keep = Literal["all", "outputs", "ends"]
Layout = Literal["flat", "nhwc", "hwnc"]


class Ways(NamedTuple):
  """How programs are written for a platform.

  Attributes:
    keep: what a masked block keeps for its gradient: `all` that autodiff asks
      for; the `outputs` of convolutions, with the statistics, so that only
      elementwise arithmetic is done again: less to write and to read, where a
      convolution takes no longer than that; or the `ends` of the block.
    layout: of the sliced engine's activations, see `buffers.py`.
    switched: whether the sliced engine chooses a bucket by a conditional, or
      by loops of which all but one are empty. On CPU a conditional copies the
      results of its branches. On GPUs the host waits for the length of every
      loop, and for a conditional once.
    one_pass: how variances are computed, see `norm.batch_statistics`.
  """

  keep: Keep
  layout: Layout
  switched: bool
  one_pass: bool


_CPU = Ways("all", "flat", switched=False, one_pass=False)
_TPU = Ways("outputs", "hwnc", switched=False, one_pass=True)
_GPU = Ways("outputs", "nhwc", switched=True, one_pass=True)


def ways(platform: str | None = None) -> Ways:
  """Those of a platform, as jax names them: cpu, gpu or tpu; jax's default."""
  platform = jax.default_backend() if platform is None else platform
  return {"cpu": _CPU, "tpu": _TPU}.get(platform, _GPU)
