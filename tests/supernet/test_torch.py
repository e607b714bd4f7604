"""The network against PyTorch, written from the papers (extra `bench`).

It shares no code with the package: the parameters come as a tree of arrays, and
what is done with them is said here once more.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import arguments, normal

import nss_jax as nss
from nss_jax.spaces.cost import largest_arch

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _conv_norm(p, x, stride=1, groups=1):
  kernel = p["kernel"].permute(3, 2, 0, 1).contiguous()
  pad = kernel.shape[-1] // 2
  x = F.conv2d(x, kernel, stride=stride, padding=pad, groups=groups)
  return F.batch_norm(
    x, None, None, p["scale"], p["offset"], training=True, eps=1e-5
  )


def _dense(p, x):
  return x @ p["kernel"] + p["bias"]


def _shortcut(p, x, stride):
  return _conv_norm(p["project"], x, stride) if "project" in p else x


def _basic(p, x, stride):
  y = F.relu(_conv_norm(p["first"], x, stride))
  return F.relu(_conv_norm(p["second"], y) + _shortcut(p, x, stride))


def _bottleneck(p, x, stride):
  y = F.relu(_conv_norm(p["reduce"], x))
  y = F.relu(_conv_norm(p["middle"], y, stride))
  return F.relu(_conv_norm(p["expand"], y) + _shortcut(p, x, stride))


def _inverted(p, x, stride, identity):
  y = F.relu6(_conv_norm(p["expand"], x))
  y = F.relu6(_conv_norm(p["depthwise"], y, stride, groups=y.shape[1]))
  if "excite" in p:
    z = F.relu(_dense(p["excite"]["squeeze"], y.mean((2, 3))))
    y = y * torch.sigmoid(_dense(p["excite"]["excite"], z))[:, :, None, None]
  y = _conv_norm(p["reduce"], y)
  return x + y if identity else y


def _network(block, strides, weights, images):
  """Returns logits of a network alone, of one block in a stage or more."""
  x = F.relu(
    _conv_norm(weights["stem"], images.permute(0, 3, 1, 2).contiguous())
  )
  for index, stride in enumerate(strides):
    stage = weights[f"stage_{index + 1}"]
    rest = _rows(stage.get("blocks_rest"))
    for row, p in enumerate([stage["block_1"], *rest]):
      step = 1 if row else stride
      if block in ("basic", "bottleneck"):
        x = {"basic": _basic, "bottleneck": _bottleneck}[block](p, x, step)
        continue
      width = p["reduce"]["scale"].shape[0]
      x = _inverted(p, x, step, step == 1 and width == x.shape[1])
  return _dense(weights["head"], x.mean((2, 3)))


def _rows(tree):
  """Makes a tree of each row of stacked parameters."""
  if tree is None:
    return []
  leaves, structure = jax.tree.flatten(tree)
  return [structure.unflatten(row) for row in zip(*leaves, strict=True)]


def _tensor(x):
  return torch.tensor(np.asarray(x), requires_grad=True)


def _dot(a, b):
  return sum(
    (x * y).sum()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def _assert_close(ours, theirs):
  """Compares arrays, relative to the largest number of each."""
  ours, theirs = np.asarray(ours), theirs.detach().numpy()
  scale = np.abs(theirs).max() + 1e-3
  np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-8)


def _random_network(block, seed):
  """Draws a network, its arch, weights, images and a gradient of logits."""
  rng = np.random.default_rng([seed, *block.encode()])

  def draw(low, high, count):
    return [int(n) for n in rng.integers(low, high + 1, count)]

  stages = 2
  space = nss.SearchSpace(
    depth_bins=[[(n, n)] for n in draw(1, 3, stages)],
    width_bins=[[(n, n)] for n in draw(1, 9, stages)],
    strides=draw(1, 3, stages),
    stem_width=draw(1, 6, 1)[0],
    block=block,
    image_shape=[*draw(5, 12, 2), draw(1, 3, 1)[0]],
    num_classes=3,
  )
  return space, largest_arch(space), *arguments(space, 4, float)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
  "block", ["basic", "bottleneck", "inverted_residual", "mobilenet_v2"]
)
def test_random_networks(block, seed):
  """Logits, gradients, and second derivatives along a direction agree."""
  with jax.enable_x64(True):
    space, arch, weights, images, upstream = _random_network(block, seed)
    masks = nss.arch_masks(space, arch)
    v = normal(seed, weights, float)

    def masked(weights, images):
      return nss.apply_masked(space, weights, images, masks)

    def slope(weights, images):
      logits, vjp = jax.vjp(masked, weights, images)
      gradients = vjp(jnp.tanh(logits) * upstream)
      return _dot(gradients[0], v), (logits, gradients)

    second, ours = jax.jit(jax.grad(slope, has_aux=True))(weights, images)

  theirs, leaf = jax.tree.map(_tensor, weights), _tensor(images)
  logits = _network(block, space.strides, theirs, leaf)
  leaves, structure = jax.tree.flatten((theirs, leaf))
  found = torch.autograd.grad(
    logits,
    leaves,
    torch.tanh(logits) * _tensor(upstream),
    create_graph=True,
  )
  gradients = structure.unflatten(found)
  total = _dot(gradients[0], jax.tree.map(_tensor, v))
  both = torch.autograd.grad(total, jax.tree.leaves(theirs), allow_unused=True)
  both = [
    torch.zeros_like(x) if y is None else y
    for x, y in zip(jax.tree.leaves(theirs), both, strict=True)
  ]
  for got, want in zip(
    jax.tree.leaves((ours, second)),
    [logits, *found, *both],
    strict=True,
  ):
    _assert_close(got, want)
