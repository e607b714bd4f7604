"""The masked supernet written out plainly, with a hook where it stores.

With one that stores bfloat16 it says what rounded activations allow: in float64
all sums are as good as exact.
"""

import jax
import jax.numpy as jnp

from nss_jax.spaces.blocks import SqueezeExcite, find_block
from nss_jax.supernet.conv import conv2d
from nss_jax.supernet.norm import plain_batch_norm

_ACTIVATIONS = {
  "none": lambda x: x,
  "relu": jax.nn.relu,
  "relu6": jax.nn.relu6,
  "silu": jax.nn.silu,
}


@jax.custom_vjp
def to_bfloat16(x):
  """Rounds, with the gradient of what is not rounded."""
  return x.astype(jnp.bfloat16).astype(x.dtype)


to_bfloat16.defvjp(lambda x: (to_bfloat16(x), None), lambda _, g: (g,))


def apply(space, weights, images, masks, store=lambda x: x):
  """Returns logits of the supernet under masks, in the weights' type."""
  block = find_block(space.block)

  def conv_norm(p, x, stride):
    x = store(conv2d(x, store(p["kernel"]), stride))
    return store(plain_batch_norm(x, p["scale"], p["offset"]))

  def mask_of(channels, x, mask, before):
    source = mask if channels.of == "width" else before
    count = channels.number(x.shape[-1], len(mask))
    return source[channels.sources(count)]

  def run_block(p, x, mask, before, stride, project):
    y = x
    for layer, channels in zip(block.layers, block.channels()[1:], strict=True):
      if isinstance(layer, SqueezeExcite):
        z = _linear(p[layer.name]["squeeze"], y.mean((1, 2)))
        z = jax.nn.relu(z) * mask_of(layer.hidden, x, mask, before)[None]
        z = jax.nn.sigmoid(_linear(p[layer.name]["excite"], z))
        y = store(y * z[:, None, None])
        continue
      y = conv_norm(p[layer.name], y, stride if layer.strided else 1)
      y = store(y * _spread(mask_of(channels, x, mask, before)))
      y = _ACTIVATIONS[layer.activation](y)
    if project and block.projects:
      x = store(conv_norm(p["project"], x, stride) * _spread(mask))
    if not project or block.projects:
      y = store(x + y)
    return _ACTIVATIONS[block.activation](y)

  x = jax.nn.relu(conv_norm(weights["stem"], store(images), 1))
  before = jnp.ones(space.stem_width)
  for stage, stride in enumerate(space.strides):
    p = weights[f"stage_{stage + 1}"]
    depth = masks.depth[stage, : space.max_depths[stage]]
    mask = masks.width[stage, : space.max_widths[stage]]
    project = space.projects(stage)
    x = run_block(p["block_1"], x, mask, before, stride, project)

    def body(carry, row, mask=mask):
      (x, mixed), (p, weight) = carry, row
      x = run_block(p, x, mask, mask, 1, False)
      return (x, store(mixed + store(weight * x))), None

    carry = x, store(depth[0] * x)
    (_, x), _ = jax.lax.scan(body, carry, (p["blocks_rest"], depth[1:]))
    before = mask
  return _linear(weights["head"], x.mean((1, 2)))


def _linear(p, x):
  return x @ p["kernel"] + p["bias"][None]


def _spread(x):
  return x[None, None, None]
