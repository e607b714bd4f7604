"""The start-up check of the backend."""

import re

import jax
import numpy as np
import pytest

from nss_jax.runtime import canary
from nss_jax.supernet import conv

_JAXLIB = tuple(int(part) for part in jax.lib.__version__.split(".")[:2])


def test_this_backend_is_sound():
  canary.check(conv.conv2d)
  assert canary._last_square() == 2.0**30


def test_a_wrong_sum_is_refused(monkeypatch):
  # What jaxlib 0.10.2 answers, by jax issue 39103.
  monkeypatch.setattr(canary, "_last_square", lambda: 1071645696.0)
  with pytest.raises(canary.BrokenBackend, match=r"1071645696.*1073741824"):
    canary.check(conv.conv2d)


@pytest.mark.parametrize("number", [2.0**-16, np.nan])
@pytest.mark.parametrize(
  ("index", "name"),
  [(0, "convolution"), (1, "image gradient"), (2, "kernel gradient")],
)
def test_a_wrong_convolution_is_refused(index, name, number):
  def add(x, to):
    return x.at[(0,) * x.ndim].add(number) if to == index else x

  @jax.custom_vjp
  def strided(images, kernel):
    return conv.conv2d(images, kernel, 2)

  def forward(images, kernel):
    outputs, vjp = jax.vjp(lambda *x: conv.conv2d(*x, 2), images, kernel)
    return add(outputs, 0), vjp

  def backward(vjp, upstream):
    images, kernel = vjp(upstream)
    return add(images, 1), add(kernel, 2)

  strided.defvjp(forward, backward)

  def convolve(images, kernel, stride):
    if stride == 2:
      return strided(images, kernel)
    return conv.conv2d(images, kernel, stride)

  said = re.escape(f"(the {name} of stride 2 is off by {number:.3g})")
  with pytest.raises(canary.BrokenBackend, match=said):
    canary.check(convolve)


@pytest.mark.skipif(_JAXLIB < (0, 12), reason="wrong: openxla issue 48713")
def test_negative_padding_is_right_on_newer_jaxlibs():
  """Why the canary refuses none for it: those that have it never meet it."""
  rng = np.random.default_rng(0)
  images = rng.integers(-3, 4, (2, 8, 8, 8)).astype(np.float32)
  kernel = rng.integers(-3, 4, (3, 3, 8, 8)).astype(np.float32)

  @jax.jit
  def convolve(images, kernel):
    return jax.lax.conv_general_dilated(
      images, kernel, (1, 1), [(-1, 1)] * 2, dimension_numbers=conv._NHWC
    )

  # The windows of the padded convolution, from the third on.
  padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
  upstream = np.zeros((2, 9, 9, 8))
  expected, _, _ = canary.in_float64(padded, kernel, upstream, 1)
  got = convolve(images, kernel)
  assert got.shape == (2, 6, 6, 8)
  np.testing.assert_array_equal(got, expected[:, 2:8, 2:8])
