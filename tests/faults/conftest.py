"""One server of forks for all tests of faults."""

import pytest
from harness import Harness


@pytest.fixture(scope="session")
def harness(tmp_path_factory):
  made = Harness(tmp_path_factory.mktemp("harness"))
  yield made
  made.close()
