"""Eight CPU devices and strict shapes, for every test."""

import os

import quick

os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), quick.FLAGS]
)

import jax
import pytest
import runs

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
  parser.addoption(
    "--kills", type=int, default=1, help="in faults/: SIGKILLs of each phase"
  )
  parser.addoption(
    "--slow", action="store_true", help="run those marked slow as well"
  )
  parser.addoption(
    "--cases",
    type=int,
    help="in faults/: inputs of each fuzzed reader",
  )


def pytest_configure(config):
  if cases := config.getoption("cases"):
    runs.CASES = runs.CASES_OF_A_FILE = cases
  config.addinivalue_line("markers", "slow: takes minutes; runs with --slow")


def pytest_collection_modifyitems(config, items):
  for item in items:
    # A file is one worker's, so that what its tests share is made once; so are
    # the files of one server of forks, each of whose phases runs once.
    shared = "harness" in getattr(item, "fixturenames", ())
    group = "harness" if shared else item.path.stem
    item.add_marker(pytest.mark.xdist_group(group))
  if config.getoption("slow") or config.getoption("kills") > 1:
    return
  for item in items:
    if item.get_closest_marker("slow"):
      item.add_marker(pytest.mark.skip(reason="slow; runs with --slow"))
