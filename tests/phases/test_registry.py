"""A phase is registered once: then it is checked, planned, run and kept."""

import pytest
import runs

from nss_jax.errors import UserError
from nss_jax.phases import pipeline, registry, running
from nss_jax.phases.registry import Phase

NAME = "count_stages"


@pytest.fixture
def counted():
  """Registers a phase; the jobs that it was run for."""
  seen = []

  def run(job):
    seen.append(job)
    return {"stages": job.search_space.num_stages}

  def check(job):
    if job.search_space.num_stages > 2:
      raise UserError("config.space.strides: too many stages to count")

  registry.register_phase(
    Phase(
      NAME,
      run,
      show=lambda result, job: [f"{result['stages']} stages"],
      check=check,
      plan=lambda job: "counts the stages",
    )
  )
  yield seen
  registry.unregister_phase(NAME)


def test_a_phase_of_another_file(counted, tmp_path, capsys):
  config = runs.load_config(**{**runs.TINY, "space.strides": (1, 2)})
  assert NAME in registry.of_a_target()
  assert registry.names()[-1] == "report"
  workdir = tmp_path / "run"
  assert pipeline.run(config, workdir, [NAME], dry_run=True) == 0
  assert f"{NAME} counts the stages" in capsys.readouterr().out
  assert not workdir.exists() and not counted
  for times in (1, 1):  # the second finds its result
    assert pipeline.run(config, workdir, [NAME]) == 0
    assert "2 stages" in capsys.readouterr().out
    assert len(counted) == times
  found = running.run_phase(registry.find(NAME), counted[0])
  assert found == {"stages": 2}
  # Its result depends on what a search depends on.
  other = runs.load_config(**{**runs.TINY, "space.strides": (1, 2), "seed": 1})
  with pytest.raises(UserError, match=r"config\.seed: 0 is now 1"):
    pipeline.run(other, workdir, [NAME])


def test_it_refuses_before_anything_is_written(counted, tmp_path):
  with pytest.raises(UserError, match="too many stages"):
    pipeline.run(runs.load_config(**runs.TINY), tmp_path / "run", [NAME])
  assert not (tmp_path / "run").exists()


def test_names_are_taken_once(counted):
  with pytest.raises(ValueError, match="'search' is there already"):
    registry.register_phase(Phase("search", print, show=print))
