"""Second derivatives are those of finite differences, or are refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import arguments, normal

import nss_jax as nss
from nss_jax.steps import losses
from nss_jax.supernet import conv

STEP = 1e-5


@pytest.fixture(autouse=True)
def _in_float64():
  with jax.enable_x64(True):
    yield


def _space(block):
  return nss.SearchSpace(
    depth_bins=(((1, 1), (2, 2)),),
    width_bins=(((1, 3), (4, 5)),),
    strides=(2,),
    stem_width=3,
    block=block,
    image_shape=(4, 3, 2),
    num_classes=3,
  )


def _normal(seed, tree):
  return normal(seed, tree, float)


def _add(tree, step, direction):
  return jax.tree.map(lambda x, y: x + step * y, tree, direction)


def _dot(a, b):
  return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)))


def _slopes(fn, point, direction):
  """Returns slopes of a function along a direction, by finite differences."""
  high, low = (fn(_add(point, s, direction)) for s in (STEP, -STEP))
  return [
    pytest.approx(float(a - b) / (2 * STEP), rel=1e-5)
    for a, b in zip(high, low, strict=True)
  ]


def _setup(block):
  space = _space(block)
  weights, images, _ = arguments(space, 4, float)
  return space, weights, (images, jnp.array([0, 1, 2, 1]))


def _assert_derivatives(loss, weights):
  """Checks the gradient, and Hessian-vector products in both modes."""
  v = _normal(6, weights)

  def slope(weights):
    value, gradient = jax.value_and_grad(loss)(weights)
    return _dot(gradient, v), value

  @jax.jit
  def found(weights):
    first, forward, value = jax.jvp(slope, (weights,), (v,), has_aux=True)
    backward, _ = jax.grad(slope, has_aux=True)(weights)
    return value, first, forward, _dot(backward, v)

  _, *derivatives = map(float, found(weights))
  first, second, *_ = _slopes(found, weights, v)
  assert derivatives == [first, second, second]


@pytest.mark.parametrize(
  "block",
  ["basic", pytest.param("inverted_residual", marks=pytest.mark.slow)],
)
def test_unrolled_darts(block):
  """d/ds of loss(w - 0.1 d/dw loss(w, s), s), soft masks of the logits s."""
  space, weights, (images, labels) = _setup(block)
  offers = nss.sample_bin_archs(jax.random.key(3), space, 1)
  offers = jax.tree.map(lambda x: x[0], offers)
  logits = _normal(4, nss.init_logits(space))

  def loss(weights, logits):
    masks = nss.mix_masks(space, offers, nss.probabilities(logits))
    outputs = nss.apply_masked(space, weights, images, masks)
    return nss.cross_entropy(outputs, labels)[0]

  def unrolled(logits):
    gradient = jax.grad(loss)(weights, logits)
    return loss(_add(weights, -0.1, gradient), logits)

  direction = _normal(5, logits)

  @jax.jit
  def found(logits):
    value, gradient = jax.value_and_grad(unrolled)(logits)
    return value, _dot(gradient, direction)

  slope, _ = _slopes(found, logits, direction)
  assert float(found(logits)[1]) == slope


def _masked(space, **options):
  masks = nss.arch_masks(space, nss.parse_arch("d2_w4"))
  masks = jax.tree.map(lambda x: 0.8 * x + 0.1, masks)

  def apply(weights, images):
    return nss.apply_masked(space, weights, images, masks, **options)

  return apply


@pytest.mark.parametrize(
  ("block", "options"),
  [
    ("mobilenet_v2", {}),
    ("basic", {"platform": "tpu", "num_calibration": 1}),
    pytest.param("basic", {"remat": True}, marks=pytest.mark.slow),
  ],
)
def test_derivatives_of_every_way_to_run(block, options):
  """The basic block runs through parts of a batch, computed again."""
  space, weights, batch = _setup(block)
  apply = _masked(space, **options)
  loss_fn = losses.single_loss(
    lambda weights, images, _: apply(weights, images)
  )
  loss_fn = losses.microbatched(loss_fn, 2 if block == "basic" else 1)
  _assert_derivatives(lambda weights: loss_fn(weights, None, batch)[0], weights)


@pytest.mark.slow
def test_derivatives_by_running_averages():
  space, weights, (images, labels) = _setup("basic")
  averages = jax.tree.map(lambda x: x + 0.1, nss.init_averages(space))

  def loss(weights):
    logits, _ = nss.apply_alone(space, weights, averages, images, train=False)
    return nss.cross_entropy(logits, labels)[0]

  _assert_derivatives(loss, weights)


def test_forward_mode_of_autodiff():
  """It is held against the gradients by hand."""
  space, weights, (images, _) = _setup("basic")
  by_hand, autodiff = (_masked(space, autodiff=x) for x in (False, True))
  upstream = jax.random.normal(jax.random.key(7), (4, 3), float)
  v = _normal(8, weights)

  @jax.jit
  def found(weights):
    _, tangents = jax.jvp(lambda w: autodiff(w, images), (weights,), (v,))
    _, vjp = jax.vjp(lambda w: by_hand(w, images), weights)
    return _dot(tangents, upstream), _dot(vjp(upstream)[0], v)

  np.testing.assert_allclose(*found(weights), rtol=1e-9)
  with pytest.raises(TypeError, match="forward-mode"):
    jax.jvp(lambda w: by_hand(w, images), (weights,), (v,))


@pytest.mark.parametrize("of", ["weights", "images"])
def test_the_sliced_engine_refuses(of):
  space, weights, (images, _) = _setup("basic")
  point = {"weights": weights, "images": images}

  def slope(x):
    def loss(x):
      arch = nss.parse_arch("d2_w4")
      outputs = nss.apply_sliced(space, **{**point, of: x}, arch=arch)
      return jnp.square(outputs).sum()

    return _dot(jax.grad(loss)(x), x)

  x = point[of]
  for second in (jax.grad(slope), lambda x: jax.jvp(slope, (x,), (x,))):
    with pytest.raises(NotImplementedError, match="apply_masked") as error:
      jax.eval_shape(second, x)
    assert "\n" not in str(error.value)


def _hessian_product(convolve, stride):
  """Makes a second derivative in images and kernel, of a loop."""

  def loss(x, kernel):
    def body(carry, _):
      return carry + jnp.square(convolve(x, kernel, stride)).sum(), None

    return jax.lax.scan(body, jnp.zeros(()), length=2)[0]

  def slope(*point):
    gradients = jax.grad(loss, argnums=(0, 1))(*point)
    return sum(jnp.sin(g).sum() for g in gradients)

  return jax.grad(slope, argnums=(0, 1))


def _convolution(size, side, depthwise):
  shape = (size, size, 1 if depthwise else 3, 3)
  return _normal(0, (np.zeros((2, side, side, 3)), np.zeros(shape)))


@pytest.mark.parametrize(
  ("stride", "size", "side", "depthwise"),
  [(2, 1, 6, False), (3, 3, 9, False), (1, 3, 2, False), (2, 3, 4, True)],
)
def test_convolutions(stride, size, side, depthwise):
  point = _convolution(size, side, depthwise)
  got, want = (
    jax.jit(_hessian_product(convolve, stride))(*point)
    for convolve in (conv.conv2d, conv.plain_conv2d)
  )
  chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("convolve", [conv.conv2d, conv.plain_conv2d])
@pytest.mark.parametrize(
  ("stride", "size"), [(2, 1), (3, 1), (2, 3), (3, 3), (2, 5)]
)
def test_no_padding_is_negative(convolve, stride, size):
  """XLA computes it wrongly on CPU (openxla issue 48713)."""
  cases = [(7, False), (8, False), (9, False), (8, True)]
  # So many places in a window say no more of a depthwise convolution.
  for side, depthwise in cases[: 3 if size == 5 else 4]:
    point = _convolution(size, side, depthwise)
    program = jax.make_jaxpr(_hessian_product(convolve, stride))(*point)
    found = [*_paddings(program.jaxpr)]
    assert len(found) > 3
    assert np.min(found) >= 0


def _paddings(jaxpr):
  """Yields those of all convolutions of a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      yield equation.params["padding"]
    for leaf in jax.tree.leaves([*equation.params.values()]):
      inner = getattr(leaf, "jaxpr", leaf)
      if hasattr(inner, "eqns"):
        yield from _paddings(inner)


def test_score_function():
  """Its Hessians average to that of the expectation."""
  values = jnp.array([0.3, 2.0, -1.0])
  logits = jnp.array([0.2, -0.5, 0.1])

  def draw(rng, logits):
    index = jax.random.categorical(rng, logits)
    return nss.Sample(jax.nn.one_hot(index, 3), None)

  def surrogate(logits, rng):
    return nss.score_function(2)(
      rng, logits, draw, lambda sample: (sample.weights @ values, {})
    )[0]

  keys = jax.random.split(jax.random.key(0), 20_000)
  found = jax.jit(jax.vmap(jax.hessian(surrogate), (None, 0)))(logits, keys)
  want = jax.hessian(lambda logits: jax.nn.softmax(logits) @ values)(logits)
  error = found.std(0) / np.sqrt(len(keys))
  assert np.abs(want).max() > 20 * error.max()
  assert (np.abs(found.mean(0) - want) < 4 * error).all()
