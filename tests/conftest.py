"""Eight CPU devices and strict shapes, for every test."""

import os
import pathlib

import quick
import xdist.scheduler

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
  # So that no worker ends long before the others; the rest as they were found.
  items.sort(
    key=lambda item: (*_LONGEST, _group(item.nodeid)).index(_group(item.nodeid))
  )
  if config.getoption("slow") or config.getoption("kills") > 1:
    return
  for item in items:
    if item.get_closest_marker("slow"):
      item.add_marker(pytest.mark.skip(reason="slow; runs with --slow"))


# Minutes of one worker, these alone.
_LONGEST = (
  *("faults", "test_search", "test_nas", "test_evaluate", "test_examples"),
  *("test_blocks", "test_find", "test_exports", "test_model_state"),
  *("test_processes", "test_network", "test_sliced", "test_saved"),
  "test_devices",
)


def _group(nodeid):
  """A file, or the files of one server of forks, whose phases run once."""
  path = pathlib.PurePath(nodeid.partition("::")[0])
  return "faults" if path.parent.name == "faults" else path.stem


class _Files(xdist.scheduler.LoadScopeScheduling):
  """A file is one worker's, so that what its tests share is made once."""

  def _split_scope(self, nodeid):
    return _group(nodeid)


def pytest_xdist_auto_num_workers(config):
  # One more than cores: some tests wait, for a signal or another process.
  return len(os.sched_getaffinity(0)) + 1


def pytest_xdist_make_scheduler(config, log):
  # Not by marks of groups: xdist 3.8 loses them where pytest is 9.2.
  return _Files(config, log)
