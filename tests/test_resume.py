"""Cut and gone on with, a search is the one that was not cut, bit for bit."""

import json

import chex
import jax
import numpy as np
import pytest
import runs

from nss_jax.phases import loop

# 63 steps of both kinds, 9 an epoch and 3 a call.
FIELDS = {**runs.TINY, "space.strides": (1,), "search.epochs": 7}
END_OF_WARMUP, END = 18, 63
# In warmup, at its end, right after, in the middle of an epoch, at the end of
# one, and when there is nothing left to do.
CUTS = (3, END_OF_WARMUP, 21, 30, 45, END)


class _StopAt:
  """Asked after every call, it stops the loop at a step."""

  came = False

  def __init__(self, step, at=0):
    self._calls = (step - at) // 3

  def requested(self):
    self._calls -= 1
    return self._calls == 0


def _lines(folder):
  text = (folder / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  for line in lines:
    assert line.pop("images_per_second") > 0
  return lines


def test_cut_anywhere_is_the_uninterrupted_search(tmp_path):
  """Which also shows that two runs of a seed are one, on all cores."""
  job = runs.make_job(runs.load_config(**FIELDS), tmp_path)
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  expected = loop.run(job, job.search, whole, _StopAt(10**6))
  at = 0
  for step in CUTS:
    with pytest.raises(loop.Interrupted, match=f"saved at step {step} of 63"):
      loop.run(job, job.search, cut, _StopAt(step, at))
    at = step
  found = loop.run(job, job.search, cut, _StopAt(10**6))
  chex.assert_trees_all_equal(jax.device_get(found), jax.device_get(expected))
  assert np.ptp(found.search.logits.width) > 0.01
  lines = _lines(cut)
  assert lines == _lines(whole)
  assert [line["step"] for line in lines] == list(range(9, END + 1, 9))
