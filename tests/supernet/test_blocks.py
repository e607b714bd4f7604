"""Each block, described once: network, masks, slices and cost agree."""

import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from networks import (
  arguments,
  as_arrays,
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
  """Makes a search space of the last one or both of two stages."""
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


# Of those that stay without --slow, the first has every kind of layer, and
# channels of both widths; the second a projection and fractions of channels.
@pytest.mark.parametrize(
  ("block", "platform", "buckets", "texts"),
  [
    ("inverted_residual", "cpu", ((6,), (5,)), TWO_STAGES),
    ("bottleneck", "tpu", ((3, 5),), ("d1_w2", "d2_w3", "d1_w4", "d2_w5")),
    *(
      pytest.param(
        *(block, platform, ((6,), (3, 5)), TWO_STAGES), marks=pytest.mark.slow
      )
      for block in BLOCKS
      for platform in ("cpu", "tpu")
    ),
  ],
)
def test_masked_is_sliced_is_small(block, platform, buckets, texts):
  """Logits and all gradients agree in float64."""
  space = _space(block, len(buckets))
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
  """Those of each fraction are held against the definition."""
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


def _count(jaxpr):
  """Counts multiply-adds and results of convolutions and matrix products."""
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


@pytest.mark.parametrize(
  ("block", "text"),
  [
    ("basic", "d1-1_w1-2"),
    ("bottleneck", "d2-2_w6-4"),
    ("inverted_residual", "d3-2_w3-5"),
    ("mobilenet_v2", "d2-2_w3-3"),
    ("custom", "d2-2_w6-4"),
  ],
)
def test_cost_is_that_of_the_network(block, text):
  """It is that of the parameters, and of the operations of the trace."""
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


# https://github.com/osmr/imgclsmob/blob/master/pytorch/README.md, CIFAR-10: the
# parameters of ResNet-164(BN), ResNet-272(BN) and ResNet-1001. (Its FLOPs also
# count normalisation and activations: multiply-adds are by hand.)
@pytest.mark.parametrize(
  ("depth", "params", "macs"),
  [
    (18, 1_704_154, 247_646_730),
    (30, 2_816_986, 408_078_858),
    (111, 10_328_602, 1_490_995_722),
  ],
)
def test_bottleneck_resnets_for_cifar(depth, params, macs):
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
  assert nss.arch_macs(space, arch) == macs


# Published networks for 224 x 224 pixels and 1,000 classes: block; kernels,
# widths, depths and strides of their stages; parameters and multiply-adds. The
# parameters, and two digits of the multiply-adds, are those on the pages of
# their weights, https://pytorch.org/vision/stable/models/generated/
# torchvision.models.NAME.html; all digits are a sum over the layers, by hand.
PUBLISHED = {
  "mobilenet_v2": (
    "mobilenet_v2",
    (3, 3, 3, 3, 3, 3, 3),
    (16, 24, 32, 64, 96, 160, 320),
    (1, 2, 3, 4, 3, 3, 1),
    (1, 2, 2, 2, 1, 2, 1),
    (3_504_872, 300_775_272),
  ),
  "efficientnet_b0": (
    "inverted_residual",
    (3, 3, 5, 3, 5, 5, 3),
    (16, 24, 40, 80, 112, 192, 320),
    (1, 2, 2, 3, 3, 4, 1),
    (1, 2, 2, 2, 1, 2, 1),
    (5_288_548, 385_825_092),
  ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
  """Sandler et al. 2018, Table 2; Tan and Le 2019, Table 1."""
  block, *stages, expected = PUBLISHED[name]
  # Stem and head, whose convolutions have 112 and 7 pixels in a row.
  total = np.array([(9 * 3 + 2) * 32, 9 * 3 * 32 * 112**2])
  total += [(320 + 2) * 1280, 320 * 1280 * 7**2]
  total += (1280 + 1) * 1000
  layers, side, before = nss.find_block(block).layers, 112, 32
  for size, width, depth, stride in zip(*stages, strict=True):
    sized = [
      x._replace(size=size) if isinstance(x, nss.Depthwise) else x
      for x in layers
    ]
    # The first stage expands by one.
    here = nss.find_block(block)._replace(layers=(*sized[width == 16 :],))
    for row in range(depth):
      small = side // (stride if row == 0 else 1)
      pixels, project = (side**2, small**2), before != width or small < side
      total += [
        blocks.block_cost(here, metric, before, width, pixels, project)
        for metric in ("params", "flops")
      ]
      side, before = small, width
  assert side == 7
  assert (*total,) == expected


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
  """It has the name and shapes of one that an earlier process has kept."""
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
  """They see those of each kind of layer, and of the block."""
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
