"""The start-up check of the backend."""

import pytest

from nss_jax.runtime import canary


def test_this_backend_is_sound():
  canary.check()
  assert canary._last_square() == 2.0**30


def test_a_wrong_sum_is_refused(monkeypatch):
  # What jaxlib 0.10.2 answers, by jax issue 39103.
  monkeypatch.setattr(canary, "_last_square", lambda: 1071645696.0)
  with pytest.raises(canary.BrokenBackend, match=r"1071645696.*1073741824"):
    canary.check()
