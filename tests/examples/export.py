"""From an Elite Space to a network that runs without this library.

  python tests/examples/export.py

Weights cut out of a supernet, tuned with optax, saved with orbax, exported.
"""

import pathlib
import tempfile

import jax
import jax.numpy as jnp
import optax
from orbax.checkpoint import v1 as ocp
from sklearn.datasets import load_digits

import nss_jax as nss

FIXED = {"strides": (1, 2), "image_shape": (8, 8, 1), "max_width": 16}
SPACE = nss.SearchSpace.expanded(
  max_depth=4, num_depth_bins=2, num_width_bins=2, **FIXED
)
OPTIMIZER, folder = optax.adam(1e-2), pathlib.Path(tempfile.mkdtemp())


def tune(small, state, x, y):
  def loss(params):
    logits, averages = nss.apply_alone(small, params, state[1], x, train=True)
    return nss.cross_entropy(logits, y)[0], averages

  gradients, averages = jax.grad(loss, has_aux=True)(state[0])
  updates, opt_state = OPTIMIZER.update(gradients, state[2])
  return optax.apply_updates(state[0], updates), averages, opt_state


digits = load_digits()
images = jnp.asarray(digits.images[..., None] / 16, jnp.float32)
# After a search: nss.load_space, and the weights that weight_step trained.
elite = nss.exact_elite_space(SPACE, nss.init_logits(SPACE), 4e5, 0.1)
weights = nss.init_weights(jax.random.key(0), SPACE)
archs = nss.sample_archs(jax.random.key(1), SPACE, elite.space, 1)
arch = jax.tree.map(lambda x: x[0], archs)
small, params = SPACE.only(arch), nss.extract_subnet(SPACE, weights, arch)
state = params, nss.init_averages(small), OPTIMIZER.init(params)
step = jax.jit(tune, static_argnums=0)
for i in 3 * [*range(0, 1500, 50)]:
  state = step(small, state, images[i : i + 50], digits.target[i : i + 50])
ocp.save(folder / "tuned", state[:2])
tuned = ocp.load(folder / "tuned", state[:2])
predict = jax.jit(lambda x: nss.apply_alone(small, *tuned, x, train=False)[0])
shape = jax.export.symbolic_shape("batch, 8, 8, 1")
export = jax.export.export(predict, platforms=("cpu", "cuda", "tpu"))
exported = export(jax.ShapeDtypeStruct(shape, jnp.float32))
(folder / "network").write_bytes(exported.serialize())
again = jax.export.deserialize((folder / "network").read_bytes())
images, labels = images[1500:], digits.target[1500:]
ours, theirs = predict(images), again.call(images)
print(folder / "network", "accuracy", (theirs.argmax(-1) == labels).mean())
print("largest difference to this process", abs(theirs - ours).max())
