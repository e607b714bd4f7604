"""The masked supernet equals the small network it simulates."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import arguments, shapes_of

import nss_jax as nss
from nss_jax.spaces.cost import largest_arch
from nss_jax.supernet.residual import he_normal

SPACES = {
  "strides 1 2 2": nss.SearchSpace.expanded(
    max_depth=3,
    max_width=6,
    num_depth_bins=3,
    num_width_bins=3,
    stem_width=4,
    image_shape=(7, 8, 2),
    num_classes=3,
  ),
  "uneven stages": nss.SearchSpace(
    depth_bins=(((1, 2),), ((1, 1), (2, 4))),
    width_bins=(((1, 3), (4, 5)), ((2, 7),)),
    strides=(2, 1),
    stem_width=3,
    image_shape=(9, 9, 1),
    num_classes=4,
  ),
}
ARCHS = {
  "strides 1 2 2": ("d1-1-1_w1-1-1", "d3-3-3_w6-6-6", "d2-1-3_w6-1-4"),
  "uneven stages": ("d1-4_w1-7", "d2-1_w5-2", "d2-3_w3-5"),
}
CASES = [(name, arch) for name, archs in ARCHS.items() for arch in archs]


def _norm(x, p):
  mean = x.mean((0, 1, 2), keepdims=True)
  spread = jnp.sqrt(((x - mean) ** 2).mean((0, 1, 2), keepdims=True) + 1e-5)
  scale, offset = (p[k].reshape(1, 1, 1, -1) for k in ("scale", "offset"))
  return (x - mean) / spread * scale + offset


def _conv_norm(p, x, stride=1):
  pad = p["kernel"].shape[0] // 2
  out = lax.conv_general_dilated(
    x,
    p["kernel"],
    (stride, stride),
    [(pad, pad)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  return _norm(out, p)


def _block(p, x, stride):
  y = jax.nn.relu(_conv_norm(p["first"], x, stride))
  y = _conv_norm(p["second"], y)
  if "project" in p:
    x = _conv_norm(p["project"], x, stride)
  return jax.nn.relu(x + y)


def _small_network(params, strides, images):
  """First principles: only the channels and blocks that live."""
  x = jax.nn.relu(_conv_norm(params["stem"], images))
  for blocks, stride in zip(params["stages"], strides, strict=True):
    for index, p in enumerate(blocks):
      x = _block(p, x, stride if index == 0 else 1)
  return (
    x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"][None]
  )


def _cut(p, inputs, outputs):
  return {
    "kernel": p["kernel"][:, :, :inputs, :outputs],
    "scale": p["scale"][:outputs],
    "offset": p["offset"][:outputs],
  }


def _slice(weights, space, arch):
  """The parameters of one arch, out of the supernet's."""
  before, stages = space.stem_width, []
  for s in range(space.num_stages):
    stage = weights[f"stage_{s + 1}"]
    w, d = int(arch.width[s]), int(arch.depth[s])
    blocks = [
      {
        "first": _cut(stage["block_1"]["first"], before, w),
        "second": _cut(stage["block_1"]["second"], w, w),
        "project": _cut(stage["block_1"]["project"], before, w),
      }
    ]
    for i in range(d - 1):
      p = jax.tree.map(lambda x, i=i: x[i], stage["blocks_rest"])
      blocks.append({k: _cut(p[k], w, w) for k in ("first", "second")})
    stages.append(blocks)
    before = w
  head = weights["head"]
  return {
    "stem": weights["stem"],
    "stages": stages,
    "head": {"kernel": head["kernel"][:before], "bias": head["bias"]},
  }


@functools.cache
def _masked(name):
  """Compiled once for all archs of a space."""
  space = SPACES[name]
  _, images, upstream = arguments(space, 5, jnp.float64)

  def loss(weights, masks):
    outputs = nss.apply_masked(space, weights, images, masks)
    return (outputs * upstream).sum(), outputs

  return jax.jit(jax.grad(loss, has_aux=True))


@pytest.mark.parametrize(("name", "text"), CASES)
def test_masked_equals_small(name, text):
  space, arch = SPACES[name], nss.parse_arch(text)
  with jax.enable_x64(True):
    weights, images, upstream = arguments(space, 5, jnp.float64)
    masks = nss.arch_masks(space, arch)

    def small(weights):
      params = _slice(weights, space, arch)
      outputs = _small_network(params, space.strides, images)
      return (outputs * upstream).sum(), outputs

    ours, outputs = _masked(name)(weights, masks)
    theirs, expected = jax.jit(jax.grad(small, has_aux=True))(weights)
    np.testing.assert_allclose(outputs, expected, rtol=1e-10, atol=1e-10)
    # Slicing embeds the small gradient; all else must be exactly unused.
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10),
      ours,
      theirs,
    )


@pytest.mark.parametrize("name", SPACES)
def test_parameters_are_counted(name):
  space = SPACES[name]
  counted = sum(x.size for x in jax.tree.leaves(shapes_of(space)))
  assert counted == nss.arch_params(space, largest_arch(space))


@pytest.mark.parametrize("shape", [(3, 3, 5, 16), (1, 1, 4, 7)])
def test_kernels_are_those_of_flax(shape):
  """To the last bit: only compilation is faster. One key per block, as here."""
  keys = jax.random.split(jax.random.key(0), 2)
  flax = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
  ours, theirs = (
    jax.vmap(lambda key, make=make: make(key, shape, jnp.float32))(keys)
    for make in (he_normal, flax)
  )
  np.testing.assert_array_equal(ours, theirs)


def test_output_is_linear_in_depth_weights_of_the_last_stage():
  space = SPACES["strides 1 2 2"]
  weights, images, _ = arguments(space, 4)

  @jax.jit
  def outputs(depth):
    masks = nss.arch_masks(space, nss.parse_arch("d1-2-1_w6-4-3"))
    masks = masks.replace(depth=masks.depth.at[-1].set(depth))
    return nss.apply_masked(space, weights, images, masks)

  mixed = outputs(jnp.array([0.2, 0.5, 0.3]))
  parts = [outputs(row) for row in jnp.eye(3)]
  expected = 0.2 * parts[0] + 0.5 * parts[1] + 0.3 * parts[2]
  np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-5)


def test_remat_gives_the_same_gradient():
  """Of weights and of mixed masks, in float64."""
  space = SPACES["uneven stages"]
  with jax.enable_x64(True):
    weights, images, _ = arguments(space, 3, jnp.float64)
    masks = nss.arch_masks(space, nss.parse_arch("d2-3_w3-5"))
    masks = jax.tree.map(lambda x: (0.8 * x + 0.1).astype(jnp.float64), masks)

    def gradient(remat):
      def loss(weights, masks):
        logits = nss.apply_masked(space, weights, images, masks, remat=remat)
        return jnp.square(logits).sum()

      return jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, masks)

    chex.assert_trees_all_close(gradient(True), gradient(False), rtol=1e-10)
