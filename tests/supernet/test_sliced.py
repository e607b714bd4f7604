"""The sliced engine is the same function as the masked reference."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import arguments, as_arrays, with_gradient

import nss_jax as nss

SPACE = nss.SearchSpace(
  depth_bins=(((1, 2), (3, 4)), ((1, 1), (2, 2))),
  width_bins=(((1, 4), (5, 8)), ((2, 3), (4, 6))),
  strides=(1, 2),
  stem_width=3,
  image_shape=(9, 8, 2),
  num_classes=3,
)
BUCKETS = ((2, 4, 8), (3, 6))
# Widths at a bucket, one above it, the smallest and the largest; depths too.
EDGES = (
  "d1-1_w1-2",
  "d4-2_w8-6",
  "d2-1_w2-3",
  "d1-2_w3-4",
  "d3-1_w4-6",
  "d2-2_w5-2",
)


def _random_archs(count):
  spaces = nss.sample_space(jax.random.key(5), nss.init_logits(SPACE), (count,))
  for i in range(count):
    space = jax.tree.map(lambda x, i=i: x[i], spaces)
    archs = nss.sample_archs(jax.random.key(i), SPACE, space, 1)
    yield jax.tree.map(lambda x: x[0], archs)


def _functions(platform=None, **options):
  """Makes functions of logits and gradients, of both engines."""
  return [
    with_gradient(
      nss.make_apply(
        SPACE, engine, buckets=BUCKETS, platform=platform, **options
      )
    )
    for engine, platform in (("masked", None), ("sliced", platform))
  ]


@pytest.mark.parametrize(
  "platform", ["cpu", pytest.param("tpu", marks=pytest.mark.slow), "gpu"]
)
def test_equals_masked(platform, monkeypatch):
  """Logits and all gradients agree in float64, from one trace.

  On GPUs statistics are of a part of the batch.
  Nothing is read that was not written, which accelerators do not fill.
  """
  monkeypatch.setattr(
    jax.lax, "empty", lambda shape, dtype: jnp.full(shape, jnp.nan, dtype)
  )
  with jax.enable_x64(True):
    given = arguments(SPACE, 6, jnp.float64)
    chex.clear_trace_counter()
    count = 4 if platform == "gpu" else None
    masked, sliced = _functions(platform, num_calibration=count)
    masked = jax.jit(masked)
    sliced = jax.jit(chex.assert_max_traces(sliced, n=1))
    for arch in [*map(as_arrays, EDGES), *_random_archs(12)]:
      want, got = masked(*given, arch), sliced(*given, arch)
      chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-10)
      # What the arch does not have gets no gradient at all.
      depth, width = arch.depth[0], arch.width[0]
      kernel = np.asarray(
        got[1][0]["stage_1"]["blocks_rest"]["second"]["kernel"]
      )
      assert kernel[: depth - 1, ..., :width, :width].any((1, 2)).all()
      assert not kernel[depth - 1 :].any()
      assert not kernel[..., width:, :].any()
      assert not kernel[..., width:].any()


def test_bfloat16_activations():
  """They are of the images' type; logits and gradients are float32, and near.

  One stage, and no deep arch, which flips activations at zero.
  """
  space = nss.SearchSpace(
    SPACE.depth_bins[:1],
    SPACE.width_bins[:1],
    SPACE.strides[:1],
    stem_width=3,
    image_shape=SPACE.image_shape,
    num_classes=3,
  )
  weights, images, upstream = arguments(space, 6)
  masked, sliced = (
    jax.jit(with_gradient(nss.make_apply(space, engine, buckets=((4, 8),))))
    for engine in ("masked", "sliced")
  )
  arch = as_arrays("d2_w3")
  want = masked(weights, images, upstream, arch)
  whole = sliced(weights, images, upstream, arch)
  chex.assert_trees_all_close(whole, want, rtol=1e-4, atol=1e-4)
  logits, (gradient, _) = sliced(
    weights, images.astype(jnp.bfloat16), upstream, arch
  )
  leaves = jax.tree.leaves((logits, gradient))
  assert all(leaf.dtype == jnp.float32 for leaf in leaves)
  assert 0 < np.abs(logits - want[0]).max() < 0.1 * np.abs(want[0]).max()
  flat = [
    np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    for tree in (gradient, want[1][0])
  ]
  cosine = flat[0] @ flat[1] / np.prod([np.linalg.norm(x) for x in flat])
  assert 0.97 < cosine < 1


def test_default_buckets():
  search_space = nss.SearchSpace.expanded(
    max_depth=8, max_width=64, image_shape=(8, 8, 1), num_classes=10
  )
  assert nss.default_buckets(search_space) == (
    (8, 16, 32, 48, 64),
    (16, 32, 64),
    (16, 32, 64),
  )


@pytest.mark.parametrize("widths", [(4, 2, 8), (0, 8), (4,), (4, 4, 8), ()])
def test_buckets_are_checked(widths):
  weights, images, _ = arguments(SPACE, 6)
  arch = as_arrays("d1-1_w1-2")
  with pytest.raises(ValueError, match=r"buckets of stage 1 .* 8; got"):
    nss.apply_sliced(SPACE, weights, images, arch, buckets=(widths, (3, 6)))
