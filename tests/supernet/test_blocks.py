"""Each block, described once: network, masks, slices and cost agree."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from jax import lax
from networks import (
  arguments,
  as_arrays,
  normal,
  shapes_of,
  with_gradient,
)

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import supernet, workdir
from nss_jax.spaces import blocks
from nss_jax.spaces.blocks import block_digest, block_names
from nss_jax.spaces.cost import arch_activations
from nss_jax.supernet import conv
from nss_jax.supernet.masks import all_masks
from nss_jax.supernet.residual import ConvNorm, ResidualBlock

WIDTH = nss.Channels("width")
# Hidden channels of both widths, more and fewer than these.
CUSTOM = nss.Block(
  layers=(
    nss.Conv("widen", 1, nss.Channels("width", 3, 2), activation="silu"),
    nss.SqueezeExcite("attend", nss.Channels("width", 1, 3)),
    nss.Depthwise("look", 5, strided=True),
    nss.Conv("mix", 3, nss.Channels("before", 2, 3)),
    nss.Conv("out", 1, WIDTH, activation="none"),
  ),
)
nss.register_block("custom", CUSTOM)
BLOCKS = ("basic", "bottleneck", "inverted_residual", "mobilenet_v2", "custom")


def _space(block, stages=2):
  """The last so many of two stages."""
  return nss.SearchSpace(
    depth_bins=(((1, 1), (2, 3)), ((1, 2),))[-stages:],
    width_bins=(((1, 3), (4, 6)), ((2, 5),))[-stages:],
    strides=(1, 2)[-stages:],
    stem_width=3,
    block=block,
    image_shape=(5, 4, 2),
    num_classes=3,
  )


def _equal(got, want):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9),
    got,
    want,
  )


TWO_STAGES = "d1-2_w2-3", "d3-1_w5-4", "d2-2_w6-5", "d2-2_w1-2"


# Of those that stay, the first has every kind of layer, and channels of both
# widths; the second a projection and fractions of channels.
@pytest.mark.parametrize(
  ("block", "platform", "stages", "buckets", "texts"),
  [
    pytest.param(
      *(name, platform, 2, ((6,), (3, 5)), TWO_STAGES),
      marks=[pytest.mark.slow]
      * ((name, platform) != ("inverted_residual", "cpu")),
      id=f"{name}, {platform}",
    )
    for name in BLOCKS
    for platform in ("cpu", "tpu")
  ]
  + [
    pytest.param(
      *("bottleneck", "tpu", 1, ((3, 5),)),
      ("d1_w2", "d2_w3", "d1_w4", "d2_w5"),
      id="bottleneck, one stage",
    )
  ],
)
def test_masked_is_sliced_is_small(block, platform, stages, buckets, texts):
  """Logits and all gradients, in float64."""
  space = _space(block, stages)
  with jax.enable_x64(True):
    given = arguments(space, 4, jnp.float64)
    masked, sliced = (
      jax.jit(with_gradient(nss.make_apply(space, engine, **options)))
      for engine, options in (
        ("masked", {}),
        ("sliced", {"buckets": buckets, "platform": platform}),
      )
    )
    for text in texts:
      arch = as_arrays(text)
      want, (gradient, down) = masked(*given, arch)
      _equal(sliced(*given, arch), (want, (gradient, down)))
      assert all(jax.tree.leaves(jax.tree.map(jnp.any, gradient)["head"]))
    # Cut out, it computes the same; and nothing else has a gradient.
    arch = nss.parse_arch(texts[1])
    want, (gradient, down) = masked(*given, arch)
    small = nss.extract_subnet(space, given[0], arch)
    only = space.only(arch)
    alone = jax.jit(
      with_gradient(lambda w, x: nss.apply_masked(only, w, x, all_masks(only)))
    )
    cut = nss.extract_subnet(space, gradient, arch)
    _equal(alone(small, *given[1:]), (want, (cut, down)))
    sizes = jax.tree.map(lambda x: np.abs(x).sum(), (gradient, cut))
    whole, part = (sum(jax.tree.leaves(tree)) for tree in sizes)
    assert whole == pytest.approx(part, rel=1e-10)


def test_mixed_masks_mix_the_masks_of_hidden_channels():
  """Of each fraction, against the definition."""
  for times, over in itertools.product((1, 2, 3, 6), (1, 2, 4)):
    channels = nss.Channels("width", times, over)
    widths, shares = (2, 5, 11), (0.2, 0.5, 0.3)
    assert channels.number(None, 11) == math.ceil(11 * times / over)

    def mix(size, numbers, shares=shares):
      prefixes = [np.arange(size) < n for n in numbers]
      return sum(s * p for s, p in zip(shares, prefixes, strict=True))

    size = channels.number(None, 11)
    hidden = mix(11, widths)[channels.sources(size)]
    want = mix(size, [channels.number(None, w) for w in widths])
    np.testing.assert_allclose(hidden, want)


def test_soft_masks_reach_every_layer():
  """The gradient of masks is that of finite differences."""
  space = _space("inverted_residual")
  with jax.enable_x64(True):
    weights, images, upstream = arguments(space, 4, jnp.float64)
    masks = nss.arch_masks(space, nss.parse_arch("d2-1_w4-3"))
    masks = jax.tree.map(lambda x: 0.7 * x.astype(float) + 0.1, masks)

    @jax.jit
    def loss(width):
      logits = nss.apply_masked(
        space, weights, images, masks.replace(width=width)
      )
      return (logits * upstream).sum()

    gradient = jax.jit(jax.grad(loss))(masks.width)
    for place in ((0, 1), (0, 5), (1, 2)):
      step = jnp.zeros_like(masks.width).at[place].set(1e-6)
      slope = (loss(masks.width + step) - loss(masks.width - step)) / 2e-6
      assert abs(slope) > 1e-3
      assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-4)


def _count(jaxpr):
  """Multiply-adds and results of convolutions and matrix products."""
  macs = results = 0
  for equation in jaxpr.eqns:
    # Some put out nothing on older jax.
    out = equation.outvars[0].aval if equation.outvars else None
    if equation.primitive.name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape  # HWIO
      macs += math.prod(out.shape) * math.prod(kernel[:3])
      results += math.prod(out.shape)
    if equation.primitive.name == "dot_general":
      macs += math.prod(out.shape) * equation.invars[0].aval.shape[-1]
      results += math.prod(out.shape)
    parts = [
      _count(getattr(part, "jaxpr", part))
      for value in equation.params.values()
      for part in (value if isinstance(value, (tuple, list)) else [value])
      if hasattr(getattr(part, "jaxpr", part), "eqns")
    ]
    if equation.primitive.name == "cond":
      parts = [max(parts)]  # One branch for each platform.
    times = equation.params.get("length", 1)
    macs += times * sum(m for m, _ in parts)
    results += times * sum(r for _, r in parts)
  return macs, results


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("text", ["d1-1_w1-2", "d3-2_w3-5", "d2-2_w6-4"])
def test_cost_is_that_of_the_network(block, text):
  """Parameters of the pytree, convolutions and products of the trace."""
  arch = nss.parse_arch(text)
  # Large enough that no convolution is written as a product of all pixels.
  only = nss.SearchSpace.from_dict(
    {**_space(block).only(arch).to_dict(), "image_shape": (9, 7, 2)}
  )
  shapes = shapes_of(only)
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  sizes = [x.size for _, x in leaves]
  assert nss.arch_params(only, arch) == sum(sizes)
  biases = sum(x.size for path, x in leaves if path[-1].key == "bias")
  images = jax.ShapeDtypeStruct((1, *only.image_shape), jnp.float32)
  macs, results = _count(
    jax.make_jaxpr(lambda w, x: nss.apply_masked(only, w, x, all_masks(only)))(
      shapes, images
    ).jaxpr
  )
  assert nss.arch_macs(only, arch) == macs + biases
  assert arch_activations(only, arch) == results


# Published networks, of which `(block, width, depth, stride)` is a stage: what
# their blocks cost by our descriptions, and stem and head by hand. The figures
# are `num_params` and `GFLOPS` (multiply-adds) of the pages of their weights,
# https://pytorch.org/vision/stable/models/generated/torchvision.models.NAME.html.


def _body(stages, side, before):
  """Parameters and multiply-adds of stages, on square images."""
  total = np.zeros(2, np.int64)
  for block, width, depth, stride in stages:
    for row in range(depth):
      small = -(-side // (stride if row == 0 else 1))
      project = before != width or small != side
      total += [
        blocks.block_cost(
          block, metric, before, width, (side**2, small**2), project
        )
        for metric in ("params", "flops")
      ]
      side, before = small, width
  return total, side, before


def _conv(side, size, inputs, outputs):
  macs = size**2 * inputs * outputs
  return np.asarray([macs + 2 * outputs, macs * side**2])


def _head(inputs, outputs):
  return (inputs + 1) * outputs


# https://github.com/osmr/imgclsmob/blob/master/pytorch/README.md, CIFAR-10: the
# parameters of ResNet-164(BN), ResNet-272(BN) and ResNet-1001. (Its FLOPs also
# count normalisation and activations.)
@pytest.mark.parametrize(
  ("depth", "params"), [(18, 1_704_154), (30, 2_816_986), (111, 10_328_602)]
)
def test_bottleneck_resnets_for_cifar(depth, params):
  """He et al. 2015 and 2016: a whole network, with our stem and head."""
  space = nss.SearchSpace.expanded(
    block="bottleneck",
    max_depth=111,
    max_width=256,
    num_depth_bins=1,
    num_width_bins=1,
  )
  arch = nss.parse_arch(f"d{depth}-{depth}-{depth}_w64-128-256")
  assert nss.arch_params(space, arch) == params
  # By hand: a further block of any stage; the first ones, whose reduction is
  # before the stride, and their projections; stem and head.
  rest = 32**2 * (64 * 16 + 9 * 16 * 16 + 16 * 64)
  first = 32**2 * (16 * 16 + 9 * 16 * 16 + 16 * 64 + 16 * 64)
  first += 32**2 * 64 * 32 + 16**2 * (9 * 32 * 32 + 32 * 128 + 64 * 128)
  first += 16**2 * 128 * 64 + 8**2 * (9 * 64 * 64 + 64 * 256 + 128 * 256)
  ends = 32**2 * 9 * 3 * 16 + (256 + 1) * 10
  macs = 3 * (depth - 1) * rest + first + ends
  assert nss.arch_macs(space, arch) == macs


def _inverted_macs(rows, excite):
  """Without our descriptions: of the layers as the two papers have them.

  Args:
    rows: of their tables: expansion, kernel, channels, depth, stride.
    excite: whether with squeeze-excite, of a quarter of what comes in.
  """
  side, before = 112, 32
  total = side**2 * 9 * 3 * before
  for times, size, width, depth, stride in rows:
    for step in (stride, *[1] * (depth - 1)):
      hidden, squeezed = times * before, before // 4
      total += (times > 1) * side**2 * before * hidden
      side //= step
      total += side**2 * hidden * (size**2 + width)
      if excite:
        total += hidden * squeezed + squeezed + squeezed * hidden + hidden
      before = width
  return total + side**2 * before * 1280 + (1280 + 1) * 1000


def test_resnet_50():
  """He et al. 2015, strided as torchvision's `resnet50` is."""
  block = nss.find_block("bottleneck")
  stages = [
    (block, width, depth, 1 if width == 256 else 2)
    for width, depth in zip((256, 512, 1024, 2048), (3, 4, 6, 3), strict=True)
  ]
  body, side, width = _body(stages, 56, 64)
  total = body + _conv(112, 7, 3, 64) + _head(width, 1000)
  assert side == 7
  assert total[0] == 25_557_032
  assert round(total[1] / 1e9, 2) == 4.09
  # By hand: further blocks, all alike; first ones, whose reduction is before
  # the stride, and their projections; stem and head.
  rest = 56**2 * (256 * 64 + 9 * 64 * 64 + 64 * 256)
  first = 56**2 * (64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256)
  for small, side in ((128, 28), (256, 14), (512, 7)):
    first += (2 * side) ** 2 * 2 * small * small
    first += side**2 * (9 * small * small + 4 * small * small)
    first += side**2 * 2 * small * 4 * small
  ends = 112**2 * 49 * 3 * 64 + (2048 + 1) * 1000
  assert total[1] == 12 * rest + first + ends == 4_089_185_256


def test_mobilenet_v2():
  """Sandler et al. 2018, Table 2; torchvision's `mobilenet_v2`."""
  block = nss.find_block("mobilenet_v2")
  first = block._replace(layers=block.layers[1:])  # It expands by one.
  rest = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2))
  stages = [(block, *stage) for stage in (*rest, (320, 1, 1))]
  body, side, width = _body([(first, 16, 1, 1), *stages], 112, 32)
  total = body + _conv(112, 3, 3, 32) + _conv(7, 1, width, 1280)
  total += _head(1280, 1000)
  assert side == 7
  assert total[0] == 3_504_872
  assert round(total[1] / 1e9, 2) == 0.30
  rows = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 3, 32, 3, 2),
    (6, 3, 64, 4, 2),
    (6, 3, 96, 3, 1),
    (6, 3, 160, 3, 2),
    (6, 3, 320, 1, 1),
  )
  assert total[1] == _inverted_macs(rows, excite=False) == 300_775_272


def test_efficientnet_b0():
  """Tan and Le 2019, Table 1; torchvision's `efficientnet_b0`."""
  block = nss.find_block("inverted_residual")
  expand, _, excite, reduce = block.layers
  wide = block._replace(
    layers=(expand, nss.Depthwise("depthwise", 5, strided=True), excite, reduce)
  )
  first = block._replace(layers=block.layers[1:])
  stages = (
    (first, 16, 1, 1),
    (block, 24, 2, 2),
    (wide, 40, 2, 2),
    (block, 80, 3, 2),
    (wide, 112, 3, 1),
    (wide, 192, 4, 2),
    (block, 320, 1, 1),
  )
  body, _, width = _body(stages, 112, 32)
  total = body + _conv(112, 3, 3, 32) + _conv(7, 1, width, 1280)
  total += _head(1280, 1000)
  assert total[0] == 5_288_548
  assert round(total[1] / 1e9, 2) == 0.39
  rows = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
  )
  assert total[1] == _inverted_macs(rows, excite=True)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("side", "size"), [(7, 3), (2, 3), (5, 5), (1, 3)])
def test_depthwise_convolution(stride, side, size):
  """Outputs and gradients are those of XLA's own, in a loop as well."""
  shapes = np.zeros((2, side, side + 1, 4)), np.zeros((size, size, 1, 4))

  def plain(x, k):
    pad = ((size // 2,) * 2,) * 2
    numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(
      x, k, (stride, stride), pad, **numbers, feature_group_count=4
    )

  @jax.jit
  def both(upstream, *point):
    want, vjp = jax.vjp(plain, *point)

    def body(carry, _):
      got, vjp = jax.vjp(lambda x, k: conv.conv2d(x, k, stride), *point)
      return carry, (got, vjp(upstream))

    _, stacked = lax.scan(body, jnp.zeros(()), length=2)
    return jax.tree.map(lambda x: x[1], stacked), (want, vjp(upstream))

  with jax.enable_x64(True):
    point = normal(0, shapes, float)
    upstream = normal(1, jax.eval_shape(plain, *point), float)
    _equal(*both(upstream, *point))


def test_kernels_of_depthwise_convolutions_have_a_fan_out_of_their_own():
  layer = ConvNorm(4096, size=3, depthwise=True)
  shape = (1, 4, 4, 4096)
  kernel = layer.init(jax.random.key(0), jnp.zeros(shape))["params"]["kernel"]
  assert kernel.shape == (3, 3, 1, 4096)
  assert float(kernel.var()) == pytest.approx(2 / 9, rel=0.03)


def test_squeeze_excite_of_one_channel_by_hand():
  """sigmoid(2 relu(3 mean + 1) - 20) of each image, by its own mean."""
  block = nss.Block(
    (nss.SqueezeExcite("se", WIDTH), nss.Conv("conv", 1, WIDTH, True, "none")),
    projects=False,
    activation="none",
  )
  images = jnp.asarray([[1.0, 3.0], [4.0, 8.0]]).reshape(2, 2, 1, 1)
  parts = {
    "squeeze": {"kernel": jnp.full((1, 1), 3.0), "bias": jnp.ones(1)},
    "excite": {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, -20.0)},
  }
  norm = {"scale": jnp.ones(1), "offset": jnp.zeros(1)}
  network = ResidualBlock(
    block, 1, project=True, norm=lambda x, scale, offset, scope: x
  )
  params = {"se": parts, "conv": {"kernel": jnp.ones((1, 1, 1, 1)), **norm}}
  out = network.apply({"params": params}, images, jnp.ones(1))
  factors = 1 / (1 + np.exp([20 - 2 * 7, 20 - 2 * 19]))
  want = np.asarray(images) * factors.reshape(2, 1, 1, 1)
  np.testing.assert_allclose(out, want, rtol=1e-5)


def test_running_averages_of_every_layer():
  """A network of its own trains and is tested with them."""
  only = _space("inverted_residual").only(nss.parse_arch("d2-1_w4-3"))
  weights, images, _ = arguments(only, 4)
  averages = nss.init_averages(only)
  step, test = (
    jax.jit(lambda a, t=t: nss.apply_alone(only, weights, a, images, train=t))
    for t in (True, False)
  )
  for _ in range(150):
    expected, averages = step(averages)
  got, _ = test(averages)
  np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
  moments = averages["stage_1"]["blocks_rest"]["depthwise"]["moments"]
  assert moments.shape == (1, 2, 24)


def test_unknown_blocks_are_refused():
  with pytest.raises(ValueError, match=r"one of basic, bottleneck.*'resnext'"):
    nss.SearchSpace.expanded(block="resnext")
  with pytest.raises(ValueError, match="block must be one of"):
    nss.SearchSpace.expanded(block=["basic"])
  config = config_lib.base()
  config.space.block = "custom"  # Registered: known to configs as well.
  config_lib.validate(config)
  config.space.block = "resnext"
  with pytest.raises(
    UserError,
    match=r"^config.space.block: 'resnext' .* one of basic, .*, custom$",
  ):
    config_lib.validate(config)


CONV = nss.Conv("conv", 3, WIDTH, strided=True)
WRONG = {
  "must be a Block": CONV,
  "layers must be a tuple": nss.Block([CONV]),
  "different words": nss.Block((CONV, CONV)),
  "one layer must be strided; got 0": nss.Block(
    (CONV._replace(strided=False),)
  ),
  "size must be odd": nss.Block((CONV._replace(size=2),)),
  "activation must be one of": nss.Block((CONV,), activation="tanh"),
  "positive multiples": nss.Block((CONV._replace(outputs=16),)),
  "must put out the stage's width": nss.Block(
    (CONV._replace(outputs=nss.Channels("before")),)
  ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_descriptions_are_refused(message):
  with pytest.raises(ValueError, match=f"block wrong: .*{message}"):
    nss.register_block("wrong", WRONG[message])
  assert "wrong" not in block_names()


def test_an_edited_block_is_another_one(monkeypatch, tmp_path):
  """Of the same name and shapes, in what an earlier process has kept."""
  space, fields = _space("custom"), config_lib.base()
  fields.space.block = "custom"
  job = runs.make_job(fields, search_space=space)
  config = job.config
  kept = json.loads(json.dumps(space.to_dict()))
  key = supernet.cache_key(job)
  workdir.claim(config, tmp_path)
  (tmp_path / "search").mkdir()
  (tmp_path / "search" / "metrics.jsonl").write_text("")
  before = block_digest("custom")

  def use(block):
    monkeypatch.setitem(blocks.BLOCKS, "custom", block)

  use(nss.Block(*CUSTOM))  # made anew, of the same parts
  assert nss.SearchSpace.from_dict(kept) == space
  assert supernet.cache_key(job) == key
  workdir.check(config, tmp_path)
  use(CUSTOM._replace(activation="silu"))
  now = block_digest("custom")
  message = f"custom is another one here, of block_digest {now}.*{before}"
  with pytest.raises(ValueError, match=message):
    nss.SearchSpace.from_dict(kept)
  assert supernet.cache_key(job) != key
  with pytest.raises(
    UserError, match=f"block_digest: '{before}' is now '{now}'"
  ):
    workdir.check(config, tmp_path)
  # What is written by hand, or was by an earlier version, names the block.
  del kept["block_digest"]
  assert nss.SearchSpace.from_dict(kept) == space


def test_digests_see_every_field(monkeypatch):
  """Of each kind of layer, and of the block."""
  first, *rest = CUSTOM.layers
  found = set()
  for change in (
    {},
    {"projects": False},
    {"activation": "relu6"},
    {"layers": (*rest[:2], first, *rest[2:])},
    {"layers": (first._replace(activation="relu"), *rest)},
    {"layers": (first._replace(size=3), *rest)},
    {"layers": (first._replace(outputs=nss.Channels("width", 2)), *rest)},
  ):
    monkeypatch.setitem(blocks.BLOCKS, "custom", CUSTOM._replace(**change))
    found.add(block_digest("custom"))
  assert len(found) == 7


def test_a_name_is_of_one_block():
  nss.register_block("custom", CUSTOM)
  with pytest.raises(ValueError, match="custom is registered already"):
    nss.register_block("custom", CUSTOM._replace(projects=False))
  with pytest.raises(ValueError, match="must be a word; got ''"):
    nss.register_block("", CUSTOM)
  assert nss.find_block("custom") == CUSTOM
