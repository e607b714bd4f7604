"""The PyTorch side of `sliced_steps.py`: a supernet in eager mode.

That file starts it, with any Python that has torch and numpy; it imports
nothing of ours. As in once-for-all, the parameters are those of the largest
network. Every layer uses the front corner of its own, and autograd fills the
rest with zeros. Blocks that did not run have no gradient, so SGD with momentum
passes them by. It runs channels-last, with two threads.

  python torch_sliced.py ARRAYS.npz

The file holds images, labels, strides and the weights under their paths
(`stage_1/block_1/first/kernel`). Every line on standard input is a JSON
request, and every line on standard output its answer:

  {"archs": [[depths, widths], ...], "train": true, "fresh": true}
  {"seconds": 0.5, "loss": 2.3}

It runs one step for each arch, or only the forward pass if `train` is false. It
answers how long all of them took together, and the loss of the first.
"""

import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

LEARNING_RATE, MOMENTUM, EPSILON = 1e-3, 0.9, 1e-5


class Supernet:
  """Holds parameters by path, those of blocks 2 to D of a stage one by one."""

  def __init__(self, arrays, strides):
    self.strides = strides
    self.params = {}
    for path, value in arrays.items():
      if "blocks_rest" in path:
        for row, one in enumerate(value):
          self._add(path.replace("blocks_rest", f"block_{row + 2}"), one)
      else:
        self._add(path, value)

  def _add(self, path, value):
    tensor = torch.from_numpy(np.array(value))
    if tensor.ndim == 4:
      tensor = tensor.permute(3, 2, 0, 1)
      tensor = tensor.contiguous(memory_format=torch.channels_last)
    self.params[path] = tensor.requires_grad_()

  def conv_norm(self, path, x, features, stride=1):
    kernel = self.params[f"{path}/kernel"][:features, : x.shape[1]]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    scale, offset = (
      self.params[f"{path}/{name}"][:features] for name in ("scale", "offset")
    )
    return F.batch_norm(
      x, None, None, scale, offset, training=True, eps=EPSILON
    )

  def block(self, path, x, features, stride):
    y = F.relu(self.conv_norm(f"{path}/first", x, features, stride))
    y = self.conv_norm(f"{path}/second", y, features)
    if path.endswith("block_1"):
      x = self.conv_norm(f"{path}/project", x, features, stride)
    return F.relu(x + y)

  def __call__(self, x, depths, widths):
    stem = self.params["stem/kernel"].shape[0]
    x = F.relu(self.conv_norm("stem", x, stem))
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
      for row in range(depth):
        stride = self.strides[stage] if row == 0 else 1
        x = self.block(f"stage_{stage + 1}/block_{row + 1}", x, width, stride)
    x = x.mean((2, 3))
    return (
      x @ self.params["head/kernel"][: widths[-1]] + (self.params["head/bias"])
    )


def main():
  torch.set_num_threads(2)
  arrays = dict(np.load(sys.argv[1]))
  images = torch.from_numpy(arrays.pop("images")).permute(0, 3, 1, 2)
  images = images.contiguous(memory_format=torch.channels_last)
  labels = torch.from_numpy(arrays.pop("labels")).long()
  strides = arrays.pop("strides").tolist()

  network = optimizer = None
  for line in sys.stdin:
    request = json.loads(line)
    if network is None or request["fresh"]:
      network = Supernet(arrays, strides)
      optimizer = torch.optim.SGD(
        network.params.values(), LEARNING_RATE, momentum=MOMENTUM
      )
    losses = []
    start = time.perf_counter()
    if request["train"]:
      for arch in request["archs"]:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images, *arch), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    else:
      with torch.inference_mode():
        for arch in request["archs"]:
          losses.append(F.cross_entropy(network(images, *arch), labels))
    seconds = time.perf_counter() - start
    answer = {"seconds": seconds, "loss": losses[0].item()}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
