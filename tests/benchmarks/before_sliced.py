"""The sliced engine of another checkout, for `sliced_steps.py --before`.

It runs in a process whose `PYTHONPATH` is that checkout, and answers requests
like `torch_sliced.py`.
"""

import json
import sys

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from contenders import Jax, score_fn, sliced, train_fn

import nss_jax as nss


def main():
  arrays = {name: jnp.asarray(x) for name, x in np.load(sys.argv[1]).items()}
  batch = arrays.pop("images"), arrays.pop("labels")
  arrays.pop("strides")
  weights = flax.traverse_util.unflatten_dict(arrays, sep="/")
  train = Jax(train_fn(sliced), weights, batch)
  score = Jax(score_fn(sliced), weights, batch)
  for line in sys.stdin:
    request = json.loads(line)
    depth, width = zip(*request["archs"], strict=True)
    archs = nss.Arch(
      depth=np.array(depth, np.int32), width=np.array(width, np.int32)
    )
    seconds, loss = (
      train.train(archs, fresh=request["fresh"])
      if request["train"]
      else score.score(archs)
    )
    answer = {"seconds": seconds * len(depth), "loss": loss}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  main()
