"""What `sliced_steps.py` compares: the same step, computed in four ways.

Sliced and masked are ours. The floor is one arch compiled alone, with static
shapes and unrolled blocks. PyTorch, and our engine of another checkout, run in
processes of their own. All start from the same weights and batch, so their
first losses must agree.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import time

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nss_jax as nss
from nss_jax.supernet.residual import ConvNorm, ResidualBlock

BATCH, SIDE, WIDTH, DEPTH = 64, 16, 64, 8
SPACE = nss.SearchSpace.expanded(
  max_depth=DEPTH, max_width=WIDTH, image_shape=(SIDE, SIDE, 3), num_classes=10
)
OPTIMIZER = optax.sgd(1e-3, momentum=0.9)


def make_batch():
  """Makes images and labels of noise."""
  keys = jax.random.split(jax.random.key(1))
  images = jax.random.normal(keys[0], (BATCH, *SPACE.image_shape))
  return images, jax.random.randint(keys[1], (BATCH,), 0, SPACE.num_classes)


# The engines: `(weights, images, arch) -> logits`.


def sliced(weights, images, arch):
  return nss.apply_sliced(SPACE, weights, images, arch)


def masked(weights, images, arch):
  masks = nss.arch_masks(SPACE, arch)
  return nss.apply_masked(SPACE, weights, images, masks)


def alone(weights, images, arch):
  """Applies a network of just that size; `arch` is static."""
  x = ConvNorm(SPACE.stem_width).apply({"params": weights["stem"]}, images)
  x = nn.relu(x)
  described = nss.find_block(SPACE.block)
  for stage, blocks in enumerate(weights["stages"]):
    width = int(arch.width[stage])
    for row, params in enumerate(blocks):
      stride = SPACE.strides[stage] if row == 0 else 1
      block = ResidualBlock(described, width, stride, project=row == 0)
      x = block.apply({"params": params}, x, jnp.ones(width))
  head = nn.Dense(SPACE.num_classes)
  return head.apply({"params": weights["head"]}, x.mean((1, 2)))


def own_weights(weights, arch):
  """Cuts the parameters of one arch out of the supernet's."""

  def cut(block, before, width, row=None):
    def leaf(path, x):
      x = x if row is None else x[row]
      if path[-1].key != "kernel":
        return x[:width]
      return x[..., : width if path[0].key == "second" else before, :width]

    return jax.tree_util.tree_map_with_path(leaf, block)

  stages, before = [], SPACE.stem_width
  for stage in range(SPACE.num_stages):
    params = weights[f"stage_{stage + 1}"]
    width = int(arch.width[stage])
    blocks = [cut(params["block_1"], before, width)]
    for row in range(int(arch.depth[stage]) - 1):
      blocks.append(cut(params["blocks_rest"], width, width, row))
    stages.append(blocks)
    before = width
  head = {**weights["head"], "kernel": weights["head"]["kernel"][:before]}
  return {"stem": weights["stem"], "stages": stages, "head": head}


# The programs.


def train_fn(apply):
  """Returns `(state, images, labels, archs [K, S]) -> state, losses [K]`."""

  def step(images, labels, state, arch):
    def loss_fn(weights):
      return nss.cross_entropy(apply(weights, images, arch), labels)[0]

    weights, momentum = state
    loss, gradients = jax.value_and_grad(loss_fn)(weights)
    updates, momentum = OPTIMIZER.update(gradients, momentum)
    return (optax.apply_updates(weights, updates), momentum), loss

  def run(state, images, labels, archs):
    def body(state, arch):
      return step(images, labels, state, arch)

    return jax.lax.scan(body, state, archs)

  return jax.jit(run, donate_argnums=0)


def score_fn(apply):
  """Returns `(weights, images, labels, archs [K, S]) -> losses [K]`."""

  def run(weights, images, labels, archs):
    def score(arch):
      return nss.cross_entropy(apply(weights, images, arch), labels)[0]

    return jax.lax.map(score, archs)

  return jax.jit(run)


@dataclasses.dataclass
class Jax:
  """A program of this process, whose calls return seconds a step and a loss."""

  fn: object
  weights: object
  batch: tuple
  state: object = None

  def train(self, archs, *, fresh=False):
    if fresh or self.state is None:
      weights = jax.tree.map(jnp.copy, self.weights)
      self.state = weights, OPTIMIZER.init(weights)
    start = time.perf_counter()
    self.state, losses = jax.block_until_ready(
      self.fn(self.state, *self.batch, archs)
    )
    return (time.perf_counter() - start) / len(losses), float(losses[0])

  def score(self, archs):
    start = time.perf_counter()
    losses = jax.block_until_ready(self.fn(self.weights, *self.batch, archs))
    return (time.perf_counter() - start) / len(losses), float(losses[0])


class Other:
  """Another process, which runs `torch_sliced.py` or `before_sliced.py`.

  It reads weights and batch from a file in `folder`, and imports the nss_jax of
  `package`, another checkout, if there is one.
  """

  def __init__(self, python, script, weights, batch, folder, package=None):
    path = pathlib.Path(folder, f"{script}.npz")
    arrays = flax.traverse_util.flatten_dict(weights, sep="/")
    images, labels = batch
    arrays |= {"images": images, "labels": labels, "strides": SPACE.strides}
    np.savez(path, **arrays)
    script = pathlib.Path(__file__).with_name(script)
    place = {} if package is None else {"PYTHONPATH": str(package)}
    self.process = subprocess.Popen(
      [python, str(script), str(path)],
      env=os.environ | place,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def close(self):
    self.process.stdin.close()
    self.process.wait()

  def train(self, archs, *, fresh=False):
    return self._ask(archs, train=True, fresh=fresh)

  def score(self, archs):
    return self._ask(archs, train=False, fresh=False)

  def _ask(self, archs, **request):
    depths, widths = archs.depth.tolist(), archs.width.tolist()
    request["archs"] = list(zip(depths, widths, strict=True))
    self.process.stdin.write(json.dumps(request) + "\n")
    self.process.stdin.flush()
    answer = json.loads(self.process.stdout.readline())
    return answer["seconds"] / len(depths), answer["loss"]


def torch_version(python):
  """Returns the version of torch that a Python has, or None."""
  code = "import torch; print(torch.__version__)"
  found = subprocess.run(
    [python, "-c", code], capture_output=True, text=True, check=False
  )
  return found.stdout.strip() if found.returncode == 0 else None
