"""From a finished search to a network that runs without this library.

  python tests/examples/export.py

An arch is drawn from the Elite Space of the quickstart's run, or of the folder
given. Its weights are cut out of the supernet, tuned, saved and exported.
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import nss_jax as nss

RUN = pathlib.Path(sys.argv[1] if sys.argv[1:] else "runs/quickstart")
OPTIMIZER, folder = optax.adam(1e-2), pathlib.Path(tempfile.mkdtemp())


def tune(small, state, x, y):
  def loss(params):
    logits, averages = nss.apply_alone(small, params, state[1], x, train=True)
    return nss.cross_entropy(logits, y)[0], averages

  gradients, averages = jax.grad(loss, has_aux=True)(state[0])
  updates, opt_state = OPTIMIZER.update(gradients, state[2])
  return optax.apply_updates(state[0], updates), averages, opt_state


images, labels = load_digits(return_X_y=True)
images = np.float32(images.reshape(-1, 8, 8, 1))
split = {"test_size": 360, "stratify": labels, "random_state": 0}  # as the run
x, test_x, y, test_y = train_test_split(images / 6 - 0.8, labels, **split)
space, elite = nss.load_space(RUN)
weights = nss.load_supernet(RUN / "search", space)
archs = nss.sample_archs(jax.random.key(0), space, elite, 1)
arch = jax.tree.map(lambda n: n[0], archs)
small, params = space.only(arch), nss.extract_subnet(space, weights, arch)
state = params, nss.init_averages(small), OPTIMIZER.init(params)
step = jax.jit(tune, static_argnums=0)
for i in 6 * [*range(0, 1400, 50)]:
  state = step(small, state, x[i : i + 50], y[i : i + 50])
ocp.save(folder / "tuned", state[:2])
tuned = ocp.load(folder / "tuned", state[:2])
predict = jax.jit(lambda x: nss.apply_alone(small, *tuned, x, train=False)[0])
shape = jax.export.symbolic_shape("batch, 8, 8, 1")
export = jax.export.export(predict, platforms=("cpu", "cuda", "tpu"))
exported = export(jax.ShapeDtypeStruct(shape, jnp.float32))
(folder / "network").write_bytes(exported.serialize())
logits = predict(test_x)
right = (logits.argmax(-1) == test_y).mean()
print(f"{nss.format_arch(arch)}, {right:.1%} right, in {folder / 'network'}")
