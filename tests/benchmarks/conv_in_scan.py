"""Is `supernet/conv.py` still needed? Gradients of convolutions in a loop.

Run `python tests/benchmarks/conv_in_scan.py` on a CPU; it takes about a minute.
It times the gradient, with respect to images and kernels, of four 3x3
convolutions (16x16 images, batch 64), over all channels and depthwise:

* plain: `lax.conv_general_dilated` and autodiff inside `scan` and `cond`;
* ours: `conv2d` in the same loop;
* unrolled: the plain ones without any loop, which is the floor.

tests/README.md has what was measured, with 32 and 64 channels in this order. In
the run of the depthwise numbers, the ratios over all channels were 65 and 73
(plain/ours) and 1.30 and 1.23 (ours/unrolled). When plain/ours falls under 2,
supernet/conv.py can go.
"""

import statistics

import jax
import jax.numpy as jnp
from jax import lax
from timing import in_turns

from nss_jax.supernet.conv import conv2d

LAYERS, SIZE, BATCH, SIDE = 4, 3, 64, 16
REPEATS = 3


def plain_conv(images, kernel):
  return lax.conv_general_dilated(
    images,
    kernel,
    (1, 1),
    ((1, 1), (1, 1)),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=images.shape[-1] // kernel.shape[2],
  )


def gradient_fn(conv, *, loop):
  """Returns the jitted gradient of the stack; `flags` `[L]` say which run."""

  def loss(operands, flags):
    images, kernels = operands
    if not loop:
      for kernel in kernels:
        images = jax.nn.relu(conv(images, kernel))
      return jnp.square(images).mean()

    def body(x, layer):
      kernel, flag = layer

      def run(x, kernel):
        return jax.nn.relu(conv(x, kernel))

      # The flag is an argument, so the compiler cannot drop the branch.
      return lax.cond(flag, run, lambda x, kernel: x, x, kernel), None

    images, _ = lax.scan(body, images, (kernels, flags))
    return jnp.square(images).mean()

  return jax.jit(jax.grad(loss))


def measure(channels, inputs):
  """Returns the median seconds of each variant."""
  keys = jax.random.split(jax.random.key(0))
  images = jax.random.normal(keys[0], (BATCH, SIDE, SIDE, channels))
  shape = (LAYERS, SIZE, SIZE, inputs, channels)
  scale = (2 / (SIZE * SIZE * inputs)) ** 0.5
  kernels = scale * jax.random.normal(keys[1], shape)
  args = ((images, kernels), jnp.ones(LAYERS, bool))
  variants = {
    "plain": gradient_fn(plain_conv, loop=True),
    "ours": gradient_fn(conv2d, loop=True),
    "unrolled": gradient_fn(plain_conv, loop=False),
  }
  calls = {name: lambda fn=fn: fn(*args) for name, fn in variants.items()}
  times = in_turns(calls, REPEATS)
  return {name: statistics.median(found) for name, found in times.items()}


def main():
  print(f"jax {jax.__version__}, {jax.default_backend()}")
  for channels, inputs in ((32, 32), (64, 64), (32, 1)):
    times = measure(channels, inputs)
    # Forward, gradient of the images, gradient of the kernels.
    macs = 3 * LAYERS * BATCH * SIDE**2 * SIZE**2 * inputs * channels
    kind = "depthwise, " if inputs == 1 else ""
    print(f"{channels} channels, {kind}{macs / 1e9:.2g} GMAC")
    for name, value in times.items():
      rate = macs / value / 1e9
      print(f"  {name:9} {1e3 * value:8.1f} ms {rate:7.1f} GMAC/s")
    print(f"  plain/ours    {times['plain'] / times['ours']:6.2f}")
    print(f"  ours/unrolled {times['ours'] / times['unrolled']:6.2f}")


if __name__ == "__main__":
  main()
