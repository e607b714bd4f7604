"""The start-up check of the backend."""

import re

import jax
import numpy as np
import pytest

from nss_jax.errors import UserError
from nss_jax.runtime import backend
from nss_jax.supernet import conv


def test_this_backend_is_sound():
  backend.check_numbers(conv.conv2d)
  assert backend._last_square() == 2.0**30


def test_a_wrong_sum_is_refused(monkeypatch):
  # What jaxlib 0.10.2 answers, by jax issue 39103.
  monkeypatch.setattr(backend, "_last_square", lambda: 1071645696.0)
  with pytest.raises(UserError, match=r"1071645696.*1073741824"):
    backend.check_numbers(conv.conv2d)


@pytest.mark.parametrize("number", [2.0**-16, np.nan])
@pytest.mark.parametrize(
  ("index", "name"),
  [(0, "convolution"), (1, "image gradient"), (2, "kernel gradient")],
)
def test_a_wrong_convolution_is_refused(index, name, number):
  said = re.escape(f"(the {name} of stride 2 is off by {number:.3g})")
  with pytest.raises(UserError, match=said):
    backend.check_numbers(_off_by(number, index))


def test_accelerators_may_round(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  backend.check_numbers(_off_by(0.01, 2))
  with pytest.raises(UserError, match="is off by 10"):
    backend.check_numbers(_off_by(10.0, 2))


def _off_by(number, index):
  """A convolution that is wrong in stride 2: in its result or a gradient."""

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

  return convolve
