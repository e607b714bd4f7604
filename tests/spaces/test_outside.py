"""What is not of the search space, or no image, is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies import RAGGED, random_logits

import nss_jax as nss
from nss_jax.spaces import sampling
from nss_jax.spaces.table import space_indices
from nss_jax.supernet import masks as masks_lib

WEIGHTS = jax.eval_shape(lambda: nss.init_weights(jax.random.key(0), RAGGED))
IMAGES = jax.ShapeDtypeStruct((2, 9, 6, 3), jnp.float32)
MASKS = nss.arch_masks(RAGGED, nss.parse_arch("d1-2-1_w3-1-5"))


def _arch(depth, width):
  return nss.Arch(depth=np.asarray(depth), width=np.asarray(width))


def _sliced(arch):
  jax.eval_shape(
    lambda w, x: nss.apply_sliced(RAGGED, w, x, arch), WEIGHTS, IMAGES
  )


# Each takes an arch whose values are concrete, also while it is traced.
TAKE_ARCHS = {
  "apply_sliced": _sliced,
  "arch_masks": lambda arch: nss.arch_masks(RAGGED, arch),
  "extract_subnet": lambda arch: nss.extract_subnet(RAGGED, WEIGHTS, arch),
  "arch_macs": lambda arch: nss.arch_macs(RAGGED, arch),
  "arch_params": lambda arch: nss.arch_params(RAGGED, arch),
  "mix_masks": lambda arch: nss.mix_masks(
    RAGGED, jax.tree.map(lambda x: x[:, None], arch), None
  ),
}


@pytest.mark.parametrize("name", TAKE_ARCHS)
@pytest.mark.parametrize(
  ("depth", "width", "message"),
  [
    # Between two bins, above them, below them.
    ([5, 2, 1], [3, 1, 5], "depth of stage 1 must be 1 to 4 or 6 to 7; got 5"),
    ([1, 2, 4], [3, 1, 5], "depth of stage 3 must be 1 to 3; got 4"),
    ([1, 2, 1], [3, 0, 5], "width of stage 2 must be 1 to 2 or 4 to 9 or 11"),
    ([1, 2, 1], [3, 1, 11], "width of stage 3 must be 5 to 10; got 11"),
    ([1, 2, 1], [3.0, 2.9, 5.0], "width of stage 2 must be .*; got 2.9"),
    ([1, 2, 1], [3.0, 2.0, 5.0], "width must be integers; got float64"),
    ([1, 2], [3, 1], r"depth must have the shape .*3\], for 3 stages; got "),
  ],
)
def test_archs(name, depth, width, message):
  with pytest.raises(ValueError, match=message):
    TAKE_ARCHS[name](_arch(depth, width))


def test_inside_jit_the_shape_and_type_are_seen():
  def masks(depth):
    return nss.arch_masks(RAGGED, nss.Arch(depth, np.array([3, 1, 5])))

  with pytest.raises(ValueError, match="depth must be integers; got float32"):
    jax.eval_shape(masks, jnp.ones(3))
  with pytest.raises(ValueError, match=r"shape \[3\], for 3 stages; got \[4\]"):
    jax.eval_shape(masks, jnp.ones(4, jnp.int32))
  # The values are not: this is what the docstring warns of.
  assert not jax.jit(masks)(jnp.full(3, 8)).depth.any()


def test_many_archs_at_once():
  archs = _arch([[1, 2, 1], [1, 4, 1]], [[3, 1, 5]] * 2)
  with pytest.raises(ValueError, match="of stage 2 must be 2 to 3; got 4"):
    nss.arch_macs(RAGGED, archs)


@pytest.mark.parametrize(
  ("depth", "width", "message"),
  [
    ([2, 0, 2], [0, 0, 0], "depth bin of stage 3 must be 0 to 1; got 2"),
    ([0, 0, 0], [0, 0, 1], "width bin of stage 3 must be 0; got 1"),
    ([0, 0, 0], [-1, 0, 0], "width bin of stage 1 must be 0 to 1; got -1"),
    ([0.5, 0, 0], [0, 0, 0], "depth bin of stage 1 must be 0 to 2; got 0.5"),
  ],
)
def test_spaces(depth, width, message):
  space = nss.Space(depth=np.asarray(depth), width=np.asarray(width))
  many = jax.tree.map(lambda x: x[None], space)
  for call in (
    lambda: nss.sample_archs(jax.random.key(0), RAGGED, space, 4),
    lambda: sampling.sample_archs_of_spaces(jax.random.key(0), RAGGED, many, 4),
    lambda: space_indices(RAGGED, many),
    lambda: nss.space_macs(RAGGED, space),
    lambda: nss.describe_space(RAGGED, space),
  ):
    with pytest.raises(ValueError, match=message):
      call()


def test_a_network_of_no_whole_channel():
  with pytest.raises(ValueError, match=r"width of stage 1 .*; got 2\.9"):
    RAGGED.only(_arch([1, 1, 1], [2.9, 1, 1]))


@pytest.mark.parametrize(
  ("field", "shape"), [("depth", (2, 7)), ("width", (3, 12))]
)
def test_masks_of_another_search_space(field, shape):
  masks = MASKS.replace(**{field: jnp.ones(shape)})
  with pytest.raises(ValueError, match=f"{field} mask must .*; got"):
    nss.apply_masked(RAGGED, WEIGHTS, IMAGES, masks)
  masks_lib.check_masks(RAGGED, MASKS)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool", "complex64"])
def test_images_are_floating(dtype):
  images = jnp.ones(IMAGES.shape, dtype)
  arch = nss.parse_arch("d1-2-1_w3-1-5")
  for call in (
    lambda: nss.apply_masked(RAGGED, WEIGHTS, images, MASKS),
    lambda: nss.apply_sliced(RAGGED, WEIGHTS, images, arch),
    lambda: nss.apply_alone(RAGGED, WEIGHTS, None, images, train=True),
  ):
    with pytest.raises(TypeError, match=f"floating type.*got {dtype}"):
      call()


def test_what_is_on_offer_passes():
  """Every arch of random spaces, by every check."""
  spaces = nss.sample_space(jax.random.key(0), random_logits(RAGGED, 0), (20,))
  archs = sampling.sample_archs_of_spaces(jax.random.key(1), RAGGED, spaces, 5)
  assert (nss.arch_macs(RAGGED, archs) > 0).all()
