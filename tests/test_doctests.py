"""The examples in the docstrings print what they say; the API reference."""

import doctest
import importlib

import pdoc
import pytest
import runs

import nss_jax

MODULES = [
  ".".join(path.relative_to(runs.ROOT).with_suffix("").parts)
  for path in sorted((runs.ROOT / "nss_jax").rglob("*.py"))
  if ">>> " in path.read_text()
]
# What a newcomer calls first.
WITH_EXAMPLE = (
  "arch_macs",
  "elite_space",
  "elite_candidates",
  "gumbel_softmax",
  "parse_arch",
  "parse_space",
  "sample_archs",
  "sample_space",
  "search_step",
  "space_macs",
  "warmup_sampler",
  "weight_step",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
  result = doctest.testmod(importlib.import_module(name))
  assert result.attempted > 0
  assert result.failed == 0


@pytest.mark.parametrize("name", WITH_EXAMPLE)
def test_the_main_names_have_an_example(name):
  assert ">>> " in getattr(nss_jax, name).__doc__


def test_api_reference(tmp_path):
  """`pdoc --docformat google nss_jax`: no warning, and every public name."""
  pdoc.render.configure(docformat="google")
  pdoc.pdoc("nss_jax", output_directory=tmp_path)
  page = (tmp_path / "nss_jax.html").read_text()
  missing = [n for n in nss_jax.__all__ if f'id="{n}"' not in page]
  assert not missing
