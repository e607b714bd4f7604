"""What the compiler for TPUs makes of small programs, if libtpu is there.

No TPU has to be there. Minutes each: with --slow.
"""

import pytest
import runs

import nss_jax as nss
from nss_jax.runtime import hlo

pytestmark = pytest.mark.slow
GIB = 2**30
FIELDS = {
  "data.source": "synthetic",
  "data.image_size": 32,
  "data.synthetic.num_train": 384,
  "data.synthetic.num_test": 10,
  "space.max_depth": 2,
  "space.num_depth_bins": 2,
  "space.max_width": 128,
  "space.num_width_bins": 4,
  "space.strides": (1,),
  "search.batch_size": 64,
  "search.epochs": 2,
  "search.steps_per_dispatch": 3,
  "objective.target_flops": 2e8,
}


def _compiled(**fields):
  pytest.importorskip("libtpu")
  config = runs.load_config("cifar100_600mf", **FIELDS | fields)
  return list(nss.compile_for(config, "v5e-1"))


def _check(found, least_convolution, most_fill):
  """No transfer, no sum in bfloat16, and mostly convolutions."""
  assert 0 < found.memory < 2 * GIB
  assert 1e-5 < found.seconds < 0.1
  assert 0.05 < found.share_of_peak < 1
  assert found.shares["conv"] > least_convolution
  assert found.shares.get("fill", 0) < most_fill
  module = hlo.Module(found.text)
  assert module.num_host_transfers() == 0
  assert module.sums("f32")
  assert not module.sums("bf16")


def test_a_search_by_soft_masks():
  (found,) = _compiled(
    **{"search.warmup_epochs": 0, "supernet.engine": "masked"}
  )
  _check(found, least_convolution=0.3, most_fill=0.03)
  # The old state makes room for the new one.
  assert found.outputs < 0.01 * found.arguments


def test_the_sliced_engine():
  """Of warmup, whose largest arch has most of what there is."""
  warmup, _ = _compiled(**{"search.warmup_epochs": 1})
  # So small it moves more than it computes: 30 %, and 6 % of it zeros of
  # gradients, when this was written.
  _check(warmup, least_convolution=0.25, most_fill=0.08)
