"""bfloat16 is for what is stored; what is summed is summed in float32."""

import collections
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import written_out
from networks import arguments, shapes_of

import nss_jax as nss
from nss_jax.spaces import blocks
from nss_jax.supernet import conv
from nss_jax.supernet.precision import multiply

BLOCKS = ("basic", "bottleneck", "inverted_residual", "mobilenet_v2")


def test_the_gradient_of_a_factor_is_summed_in_float32():
  """bfloat16 would stop at 256 of these ones, or at blocks of 256."""
  x = jnp.ones((2, 64, 64, 3), jnp.bfloat16)
  for factors in (jnp.ones((1, 1, 1, 3)), jnp.ones((2, 1, 1, 1)), jnp.ones(())):
    run = jax.jit(jax.grad(lambda f: multiply(x, f).astype(jnp.float32).sum()))
    found = run(factors)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, x.size / max(factors.size, 1))


def test_a_product_has_all_derivatives():
  """It has them forward, in reverse, and one over the other."""
  x = jnp.asarray([[0.5, 2.0, -3.0]], jnp.bfloat16)
  factors = jnp.asarray([[1.5, 0.25, 1.0]])

  def total(x, factors):
    return jnp.square(multiply(x, factors).astype(jnp.float32)).sum()

  def plain(x, factors):
    return jnp.square(x.astype(jnp.float32) * factors).sum()

  for derivative in (
    jax.grad(total, 1),
    jax.jacfwd(total, 1),
    jax.jacfwd(jax.grad(total, 1), 1),
    jax.hessian(total, 1),
    lambda *args: jax.grad(total)(*args).astype(jnp.float32),
  ):
    assert derivative(x, factors).any()
  np.testing.assert_allclose(
    jax.jacfwd(jax.grad(total, 1), 1)(x, factors),
    jax.jacfwd(jax.grad(plain, 1), 1)(x, factors),
  )
  # The result keeps its type, and its gradient too.
  assert multiply(x, factors).dtype == jax.grad(total)(x, factors).dtype
  assert multiply(x, factors).dtype == jnp.bfloat16


def test_depthwise_sums_in_float32():
  """It sums nine products in a window, and a gradient over all pixels."""
  images = jnp.ones((4, 32, 32, 2), jnp.bfloat16)
  kernel = jnp.full((3, 3, 1, 2), 1.0, jnp.bfloat16).at[0, 0].set(256.0)

  @jax.jit
  def run(images, kernel):
    out, vjp = jax.vjp(lambda k: conv.conv2d(images, k), kernel)
    return out, vjp(jnp.ones_like(out))[0]

  out, gradient = run(images, kernel)
  # 256 + 1 is 256 in bfloat16, eight times; 264 is 264.
  np.testing.assert_array_equal(out[:, 1:-1, 1:-1].astype(float), 264)
  np.testing.assert_array_equal(gradient[1, 1, 0].astype(float), 4 * 32 * 32)


def _space(block, depth, width, side, bins=4, strides=(1, 2, 2)):
  return nss.SearchSpace.expanded(
    strides=strides,
    max_depth=depth,
    max_width=width,
    num_depth_bins=bins,
    num_width_bins=bins,
    image_shape=(side, side, 3),
    num_classes=10,
    block=block,
  )


def _loss(space, labels, apply=nss.apply_masked):
  def loss(masks, weights, images):
    logits = apply(space, weights, images, masks)
    return nss.cross_entropy(logits, labels)[0]

  return loss


def _masks(space, hard=False):
  draw = nss.gumbel_sampler(space, lambda step: 5.0, hard=hard)
  return draw(jax.random.key(3), nss.init_logits(space), 0).choice


# Sums over images and pixels, by the axes of `[B, H, W, C]`, that a block has:
# statistics and gradients of normalisations and masks; of squeeze-excite; and
# the weight of a block's output.
_CHANNELS, _PIXELS, _ALL = "0, 1, 2", "1, 2", "0, 1, 2, 3"


def _small(block):
  """Returns a space, shapes of its weights, and of images in bfloat16."""
  space = _space(block, 2, 8, 8, bins=2, strides=(1, 2))
  images = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.bfloat16)
  return space, shapes_of(space), images


# The others differ in a few convolutions.
PLATFORMS = (
  pytest.param("cpu", marks=pytest.mark.slow),
  pytest.param("cuda", marks=pytest.mark.slow),
  "tpu",
)
# One of each kind: with squeeze-excite and depthwise, and without.
KINDS = (
  "basic",
  pytest.param("bottleneck", marks=pytest.mark.slow),
  "inverted_residual",
  pytest.param("mobilenet_v2", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("block", KINDS)
def test_no_sum_over_pixels_is_in_bfloat16(block, platform):
  """Looks at what each platform's compiler is given, for soft masks."""
  space, weights, images = _small(block)
  loss = _loss(space, jnp.zeros(4, jnp.int32))
  found = _sums(
    jax.grad(loss, argnums=(0, 1)), platform, _masks(space), weights, images
  )
  assert {kind for kind, _ in found} == {"f32"}
  # Depth: a block's weight each, one of them in the loop of the others.
  assert found["f32", _ALL] == 2 * space.num_stages
  has_excite = block == "inverted_residual"
  assert (found["f32", _PIXELS] > space.num_stages) == has_excite
  # Of each normalisation: mean, variance, scale, offset, mask. The stem has no
  # mask, and a stage's two bodies have as many layers as the description says.
  layers = [
    layer
    for layer in blocks.find_block(block).layers
    if not isinstance(layer, blocks.SqueezeExcite)
  ]
  shortcuts = blocks.find_block(block).projects
  normalisations = space.num_stages * (2 * len(layers) + shortcuts)
  assert found["f32", _CHANNELS] >= 4 + 5 * normalisations


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_sum_of_the_sliced_engine_is_in_bfloat16(platform):
  space, weights, images = _small("inverted_residual")
  arch = jax.tree.map(jnp.asarray, nss.parse_arch("d1-2_w3-4"))
  apply = functools.partial(nss.apply_sliced, buckets=((4, 8), (8,)))
  loss = _loss(space, jnp.zeros(4, jnp.int32), apply)
  gradient = jax.grad(lambda *args: loss(arch, *args))
  found = _sums(gradient, platform, weights, images)
  assert {kind for kind, _ in found} == {"f32"}
  assert found["f32", _CHANNELS] > 60
  assert found["f32", _PIXELS] > 5


def _sums(function, platform, *arguments):
  """Counts sums over more than one axis: `{(type, axes): count}`."""
  lowered = jax.jit(function).trace(*arguments)
  text = lowered.lower(lowering_platforms=(platform,)).as_text()
  sums = re.findall(
    r"stablehlo\.reduce\(.*?applies stablehlo\.add across dimensions = "
    r"\[([\d, ]*)\].*?\(tensor<(?:\d+x)+(\w+)>",
    text,
  )
  assert text.count("applies stablehlo.add") == len(sums)
  return collections.Counter((kind, axes) for axes, kind in sums if "," in axes)


@pytest.mark.parametrize("block", KINDS)
def test_what_is_kept_for_the_gradient_stays_in_bfloat16(block):
  space, weights, images = _small(block)

  def kept(dtype):
    loss = _loss(space, jnp.zeros(4, jnp.int32))
    gradient = jax.eval_shape(
      lambda *args: jax.vjp(loss, *args)[1],
      _masks(space),
      weights,
      jax.ShapeDtypeStruct(images.shape, dtype),
    )
    found = collections.Counter()
    for leaf in jax.tree.leaves(gradient):
      if leaf.ndim >= 4 and leaf.shape[-4] == 4:  # images
        found[str(leaf.dtype)] += leaf.size
    return found

  half, whole = kept(jnp.bfloat16), kept(jnp.float32)
  # Of squeeze-excite a number for each image and channel, of 64 and more.
  assert half["float32"] < 0.02 * half["bfloat16"]
  assert half["bfloat16"] <= 1.02 * whole["float32"]


def _batches(space, count):
  """Draws images and labels, in float32 whatever jax's default is."""
  for seed in range(count):
    keys = jax.random.split(jax.random.key(seed))
    images = jax.random.normal(keys[0], (64, *space.image_shape), jnp.float32)
    labels = jax.random.randint(keys[1], (64,), 0, space.num_classes, jnp.int32)
    yield images, labels


def _gradients(block, count, side, hard=False):
  """Returns gradients of masks, with images in float32 and bfloat16."""
  space = _space(block, 4, side, side)
  weights = nss.init_weights(jax.random.key(0), space)
  masks = _masks(space, hard)

  @jax.jit
  def run(images, labels):
    return jax.grad(_loss(space, labels))(masks, weights, images)

  exact, half = [], []
  for images, labels in _batches(space, count):
    exact.append(run(images, labels))
    half.append(run(images.astype(jnp.bfloat16), labels))
  return exact, half


def _allowed(block, count):
  """Returns gradients by rounded activations, summed in float64."""
  space = _space(block, 4, 32, 32)
  masks = _masks(space)
  weights = nss.init_weights(jax.random.key(0), space)
  apply = functools.partial(written_out.apply, store=written_out.to_bfloat16)
  with jax.enable_x64(True):
    masks, weights = jax.tree.map(
      lambda x: x.astype(jnp.float64), (masks, weights)
    )

    @jax.jit
    def run(images, labels):
      loss = _loss(space, labels, apply)
      return jax.grad(loss)(masks, weights, images.astype(jnp.float64))

    return [run(*batch) for batch in _batches(space, count)]


def _rows(gradients, field):
  return np.stack([np.ravel(getattr(x, field)) for x in gradients])


def _rms(rows):
  """Returns the root of the mean squared length of vectors `[N, n]`."""
  return np.sqrt(np.square(rows).sum(1).mean())


# Mixed masks, and the hard ones of the straight-through estimator.
@pytest.mark.parametrize(
  ("hard", "side", "most"),
  [
    (False, 16, {"depth": 0.05, "width": 0.25}),
    *(
      pytest.param(
        hard, 32, {"depth": 0.05, "width": 0.14}, marks=pytest.mark.slow
      )
      for hard in (False, True)
    ),
  ],
)
def test_gradients_of_masks_are_near_those_of_float32(hard, side, most):
  exact, half = _gradients("basic", 1, side, hard)
  for field, share in most.items():
    (want,), (got,) = _rows(exact, field), _rows(half, field)
    # So the cosine is above 0.99 where at most 0.14 is off.
    assert np.linalg.norm(got - want) < share * np.linalg.norm(want)


def test_the_gradient_of_the_cost_does_not_see_the_activations():
  """The logits move alike where the loss says nothing."""
  space = _space("basic", 2, 4, 4, bins=2, strides=(1,))
  weights, images, _ = arguments(space, 4)
  optimizer = optax.sgd(1.0)

  def loss_fn(weights, masks, images):
    logits = nss.apply_masked(space, weights, images, masks)
    return 0 * logits.sum(), {}

  @jax.jit
  def step(images):
    state = nss.init_search_state(nss.init_logits(space), optimizer)
    state, _ = nss.search_step(
      state,
      weights,
      images,
      jax.random.key(1),
      loss_fn=loss_fn,
      cost_fn=functools.partial(nss.mean_macs, space),
      sample_fn=nss.gumbel_sampler(space, lambda step: 5.0),
      optimizer=optimizer,
      target=2e3,
      cost_weight=1.0,
    )
    return state.logits

  whole, half = step(images), step(images.astype(jnp.bfloat16))
  chex.assert_trees_all_close(whole, half, rtol=1e-6)
  assert all(np.ptp(leaf) > 0 for leaf in jax.tree.leaves(whole))


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_gradients_of_masks_are_as_good_as_rounding_allows(block):
  """Activations decide, not sums; and the draw of a batch far more than both.

  Beside the plain float64 program that rounds the same activations. Where the
  residual stream is linear, images of noise leave gradients that are small
  beside their parts, so errors are held against what batches differ by.
  """
  count = 3
  exact, half = _gradients(block, count, 32)
  allowed = _allowed(block, count)
  for field in ("depth", "width"):
    want = _rows(exact, field)
    off, least = (_rms(_rows(x, field) - want) for x in (half, allowed))
    noise = _rms(want - want.mean(0)) * np.sqrt(count / (count - 1))
    print(
      f"{block} {field}: {off / _rms(want):.3f} off, {least / _rms(want):.3f} "
      f"allowed; {off / noise:.3f} and {least / noise:.3f} of the batches' own"
    )
    assert off < 1.3 * least
    assert off < 0.6 * noise
