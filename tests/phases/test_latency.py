"""The latency table: how it is measured, read and held against constraints."""

import csv
import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
import runs
from strategies import random_logits

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.errors import UserError
from nss_jax.phases import latency_table, pipeline, running
from nss_jax.results import block_times
from nss_jax.results.block_times import BlockTimes, Origin
from nss_jax.runtime import files
from nss_jax.spaces import blocks
from nss_jax.spaces.cost import (
  arch_cost,
  cost_range,
  cost_tables,
  space_cost,
)
from nss_jax.spaces.metrics import LatencyTable, latency_metric
from nss_jax.spaces.sampling import enumerate_archs, enumerate_spaces
from nss_jax.spaces.search_space import Arch, SearchSpace

SPACE = SearchSpace(
  depth_bins=(((1, 1), (2, 4)), ((1, 3),)),
  width_bins=(((1, 3), (4, 9)), ((2, 5), (6, 12))),
  strides=(1, 2),
  stem_width=4,
  image_shape=(8, 8, 1),
)
# Linear between its grid points, so any error is one of the interpolation.
BY_HAND = LatencyTable(
  before=(np.asarray([4]), np.asarray([1, 9])),
  widths=(np.asarray([1, 5, 9]), np.asarray([2, 12])),
  first=(
    np.asarray([[1.0, 3.0, 11.0]]),
    np.asarray([[10.0, 20.0], [50.0, 100.0]]),
  ),
  rest=(np.asarray([0.5, 1.5, 5.5]), np.asarray([7.0, 17.0])),
  ends=np.asarray([100.0, 200.0]),
)


def time_of_layers(space):
  """As if a call took a millisecond, and the multiply-adds the rest."""
  arch = nss.Arch(
    depth=np.asarray(space.max_depths), width=np.asarray(space.max_widths)
  )
  return 1e-3 + 1e-9 * float(nss.arch_macs(space, arch))


# The metric


@pytest.mark.parametrize(
  ("depth", "width", "seconds"),
  [
    # On the grid; 5 is reached from the stem's 4, so it projects.
    ((1, 1), (5, 2), 3 + (10 + 50) / 2 + 100),
    ((3, 2), (9, 12), 11 + 2 * 5.5 + 100 + 17 + 200),
    # Between; no projection from 4 to 4, so the first block is any other.
    ((1, 1), (4, 2), (0.5 + 3 * 1.5) / 4 + 25 + 100),
    # Half way in both widths of the second stage.
    ((1, 3), (5, 7), 3 + (10 + 20 + 50 + 100) / 4 + 2 * 12 + 150),
  ],
)
def test_latency_by_hand(depth, width, seconds):
  arch = Arch(depth=np.asarray(depth), width=np.asarray(width))
  cost = arch_cost(SPACE, latency_metric(BY_HAND), arch)
  np.testing.assert_allclose(cost, seconds, rtol=1e-12)


def test_mean_latency_is_that_of_the_archs():
  metric = latency_metric(BY_HAND)
  tables = cost_tables(SPACE, metric)
  for space in enumerate_spaces(SPACE):
    costs = [
      arch_cost(SPACE, metric, arch) for arch in enumerate_archs(SPACE, space)
    ]
    np.testing.assert_allclose(
      space_cost(SPACE, tables, space), np.mean(costs), rtol=1e-12
    )


# The measurement


def test_differences_give_the_times_of_additive_networks():
  """On the grid without error, whatever the network."""
  table = latency_table.measure(SPACE, 3, time_of_layers)
  assert [x.tolist() for x in table.before] == [[4], [1, 5, 9]]
  assert [x.tolist() for x in table.widths] == [[1, 5, 9], [2, 7, 12]]
  metric = latency_metric(table)
  for depth in ((1, 1), (4, 3), (2, 1)):
    for width in ((1, 2), (5, 12), (9, 7)):
      arch = Arch(depth=np.asarray(depth), width=np.asarray(width))
      np.testing.assert_allclose(
        arch_cost(SPACE, metric, arch),
        time_of_layers(SPACE.only(arch)),
        rtol=1e-9,
      )


def _job(space, num_widths, num_networks):
  config = runs.load_config(
    **{
      "latency_table.num_widths": num_widths,
      "latency_table.num_networks": num_networks,
    }
  )
  return runs.make_job(config, search_space=space)


def test_whole_networks_are_compared():
  table = latency_table.measure(SPACE, 3, time_of_layers)
  archs = latency_table.held_out(_job(SPACE, 4, 12))
  found = latency_table.compare(SPACE, table, archs, time_of_layers)
  assert found["tau"]["latency"] > 0.9
  assert found["tau"]["flops"] == pytest.approx(1)
  assert 0 < found["relative_error"]["mean"] < 0.02
  errors = [abs(x["predicted"] / x["measured"] - 1) for x in found["networks"]]
  assert len(errors) == 12
  assert found["relative_error"]["max"] == pytest.approx(max(errors))
  assert found["relative_error"]["mean"] == pytest.approx(np.mean(errors))
  slow = latency_table.compare(
    SPACE, table, archs, lambda space: 2 * time_of_layers(space)
  )
  assert slow["relative_error"]["mean"] == pytest.approx(0.5, abs=0.02)


def test_networks_of_the_table_do_not_check_it():
  """Drawn from a search space of few networks, all of them but those."""
  space = dataclasses.replace(
    SPACE, depth_bins=(((1, 1),),) * 2, width_bins=(((3, 4),), ((5, 7),))
  )
  archs = latency_table.held_out(_job(space, 2, 16))
  found = [
    space.only(Arch(d, w))
    for d, w in zip(archs.depth, archs.width, strict=True)
  ]
  timed = []

  def time_one(probe):
    timed.append(probe)
    return time_of_layers(probe)

  table = latency_table.measure(space, 2, time_one)
  # Those that give the ends are whole networks: of 6 there are 4 others.
  assert len(found) == len(set(found)) == 4
  assert not set(found) & set(timed)
  checked = latency_table.compare(space, table, archs, time_of_layers)
  assert len(checked["networks"]) == 4
  with pytest.raises(
    UserError, match=r"num_widths: 3 is not .* expected fewer"
  ):
    small = dataclasses.replace(space, width_bins=(((3, 3),), ((5, 7),)))
    latency_table.held_out(_job(small, 3, 16))


def test_calls_are_timed_after_warmup(monkeypatch):
  times = iter([0, 5, 10, 11, 20, 22])
  monkeypatch.setattr(latency_table.time, "perf_counter", lambda: next(times))
  calls = []
  seconds = latency_table.call_seconds(lambda: calls.append(0), 3)
  assert seconds.tolist() == [5, 1, 2]
  assert len(calls) == 3 + latency_table.WARMUP


# The phase

TINY = {
  **runs.TINY,
  "space.strides": (1, 2),
  "space.max_width": 4,
  "space.num_width_bins": 2,
  "latency_table.num_widths": 2,
  "latency_table.num_networks": 2,
  "latency_table.repeats": 5,
  "objective.target_flops": 4e4,
}


def test_phase(tmp_path):
  job = runs.make_job(runs.load_config(**TINY), tmp_path)
  found = running.run_phase(latency_table.PHASE, job)
  result = found.to_json()
  folder = tmp_path / "latency_table"
  assert files.read_json(folder / "summary.json") == result
  rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
  parts = [row["part"] for row in rows]
  # 1 x 2 and 2 x 2 first blocks, 2 + 2 others, 2 last widths.
  assert [parts.count(x) for x in ("first", "rest", "ends")] == [6, 4, 2]
  seconds = np.asarray([float(row["seconds"]) for row in rows])
  # Blocks this small may take less than the noise, but never a second.
  assert (seconds >= 0).all() and 0 < seconds.max() < 1
  assert result["device"] == jax.devices()[0].device_kind
  assert result["batch_size"] == 1
  for one in result["networks"]:
    assert 1e-6 < one["measured"] < 1
  metric = block_times.read_metric(folder, job.search_space)
  archs = [nss.parse_arch(x["arch"]) for x in result["networks"]]
  np.testing.assert_allclose(
    [arch_cost(job.search_space, metric, arch) for arch in archs],
    [x["predicted"] for x in result["networks"]],
    rtol=1e-6,
  )
  low, high = result["mean_range"]
  assert 0 <= low <= high
  words = "\n".join(latency_table.PHASE.show(found, folder))
  assert "2 networks: error" in words and result["device"] in words


def test_sigterm_stops_between_timings(tmp_path, monkeypatch):
  timed = []

  def time_one(config, space):
    timed.append(space)
    if len(timed) == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    return time_of_layers(space) * np.asarray([1, 0.9, 1, 1.3, 1])

  monkeypatch.setattr(latency_table, "network_seconds", time_one)
  config = runs.load_config(**TINY, **{"latency_table.quantile": 0.0})
  workdir = tmp_path / "w"
  assert pipeline.run(config, workdir, ["latency_table"]) == 75
  assert len(timed) == 3
  assert not (workdir / "latency_table" / "summary.json").exists()
  assert pipeline.run(config, workdir, ["latency_table"]) == 0
  assert len(set(timed[3:])) == len(timed) - 3  # no network twice
  assert timed[:3] == timed[3:6]
  metric = block_times.read_metric(workdir / "latency_table", None)
  arch = nss.parse_arch("d2-1_w4-4")
  space = config_lib.search_space(config, (8, 8, 1))
  fastest = 0.9 * time_of_layers(space.only(arch))
  np.testing.assert_allclose(arch_cost(space, metric, arch), fastest, rtol=1e-6)
  result = files.read_json(workdir / "latency_table" / "summary.json")
  assert result["spread"] == pytest.approx(0)  # quartiles of 0.9 1 1 1 1.3


# The files


@pytest.fixture
def folder(tmp_path):
  """A table of the tiny search space, as the phase writes it."""
  space = config_lib.search_space(runs.load_config(**TINY), (8, 8, 1), 10)
  table = latency_table.measure(space, 2, time_of_layers)
  (tmp_path / "latency_table").mkdir()
  BlockTimes(
    **{**Origin.here("float32").to_json(), "device": "made up"},
    backend="cpu",
    jax=jax.__version__,
    batch_size=1,
    quantile=0.5,
    spread=0.1,
    mean_range=[1e-3, 2e-3],
    relative_error={"mean": 0.1, "max": 0.2},
    tau={"latency": None, "flops": 0.5},
    networks=[],
    search_space=space.to_dict(),
    table=block_times.Table.of(table),
    version="0",
  ).write(tmp_path / "latency_table" / "summary.json")
  return tmp_path / "latency_table"


def test_a_table_is_read_once(folder):
  once = block_times.read_metric(folder, None)
  assert block_times.read_metric(folder, None) is once


def test_constraint_of_latency(folder):
  constraint = {"metric": "latency", "target": 1.05e-3, "mode": "at_most"}
  config = runs.load_config(
    **{
      **TINY,
      "objective.constraints": (constraint,),
      "search.elite": "scored",
      "search.elite_tolerance": 0.5,
    }
  )
  job = runs.make_job(config, folder.parent)
  space, constraints = job.search_space, job.constraints
  logits = random_logits(space, 0)
  found = nss.elite_candidates(space, logits, constraints, 0.5).spaces
  elite = jax.tree.map(lambda x: x[0], found)
  tables = cost_tables(space, constraints[1].metric)
  assert space_cost(space, tables, elite) <= 1.05e-3
  # Architecture search has the same stages in other bins.
  refined = space.refine(elite)
  archs = nss.sample_archs(jax.random.key(0), space, elite, 9)
  costs = arch_cost(refined, constraints[1].metric, archs)
  assert (costs > 1e-3).all() and (costs < 1.2e-3).all()
  small = {"objective.constraints": ({**constraint, "target": 1e-4},)}
  with pytest.raises(
    UserError,
    match=r"constraints\[0\].target: 0.0001 is not .* to .* seconds, the mean",
  ):
    job.vary(small)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"stem_width": 8}, "measured for stem_width 16; expected 8"),
    ({"image_shape": (9, 8, 1)}, r"expected \(9, 8, 1\), that of the config"),
    (
      {"width_bins": (((1, 4),), ((1, 5),))},
      "widths 1 to 4 of stage 2; expected to hold 1 to 5",
    ),
  ],
)
def test_a_table_of_another_search_space_is_refused(folder, change, words):
  space = config_lib.search_space(runs.load_config(**TINY), (8, 8, 1), 10)
  block_times.read_metric(folder, space)
  with pytest.raises(UserError, match=words):
    block_times.read_metric(folder, dataclasses.replace(space, **change))


def test_a_table_of_an_edited_block_is_refused(folder, monkeypatch):
  edited = blocks.find_block("basic")._replace(activation="silu")
  monkeypatch.setitem(blocks.BLOCKS, "basic", edited)
  with pytest.raises(UserError, match="basic is another one"):
    block_times.read_metric(folder, None)


@pytest.mark.parametrize(
  ("name", "value", "words"),
  [
    ("rest", [[1.0, 2.0]], "do not fit each other"),
    ("ends", [1.0, -2.0], r"table.ends\[1\]: expected"),
    ("widths", [[4, 1], [1, 4]], "do not fit each other"),
    ("first", [[[1.0, 2.0]], [[1.0], [2.0, 3.0]]], "do not fit each other"),
  ],
)
def test_a_broken_table_is_refused(folder, name, value, words):
  content = files.read_json(folder / "summary.json")
  content["table"][name] = value
  files.write_json(folder / "summary.json", content)
  with pytest.raises(UserError, match=words):
    block_times.read_metric(folder, None)


def _edit(folder, **changes):
  path = folder / "summary.json"
  BlockTimes.read(path).model_copy(update=changes).write(path)


@pytest.fixture
def by_latency(folder):
  """The config of a search by that table, as if it had been measured here."""
  _edit(folder, **Origin.here("float32").to_json())
  constraint = {"metric": "latency", "target": 1.05e-3}
  return runs.load_config(
    **TINY,
    **{
      "objective.constraints": (constraint,),
      "objective.latency_table": str(folder),
    },
  )


@pytest.mark.parametrize(
  ("changes", "phase"),
  [
    ({"device": "TPU v4", "processor": None}, "search"),
    ({"processor": "Another CPU, 64 cores"}, "sweep"),
    ({"activations": "bfloat16"}, "search"),
  ],
)
def test_a_table_of_another_device_is_refused(
  by_latency, folder, tmp_path, changes, phase
):
  workdir, config = tmp_path / "w", by_latency
  config.sweep.targets, config.sweep.phases = (4e4,), ("search",)
  assert pipeline.run(config, workdir, [phase], dry_run=True) == 0
  _edit(folder, **changes)
  with pytest.raises(UserError) as error:
    pipeline.run(config, workdir, [phase], dry_run=True)
  line, (name, value) = str(error.value), next(iter(changes.items()))
  here = getattr(Origin.here("float32"), name)
  assert f"measured with {name} {value!r}; expected {here!r}" in line
  assert "--config.objective.foreign_latency_table=True" in line
  assert "\n" not in line and isinstance(error.value, UserError)
  config.objective.foreign_latency_table = True
  config_lib.validate(config)
  assert pipeline.run(config, workdir, [phase], dry_run=True) == 0


def test_a_search_that_has_begun_goes_on_elsewhere(
  by_latency, folder, tmp_path
):
  _edit(folder, device="TPU v4")
  (tmp_path / "w" / "search").mkdir(parents=True)
  assert pipeline.run(by_latency, tmp_path / "w", ["search"], dry_run=True) == 0


@pytest.fixture
def wanted():
  """The config of a search by a table that is not there."""
  constraint = {"metric": "latency", "target": 1.05e-3}
  one_program = {"search.epochs": 2, "search.warmup_epochs": 0}
  fields = {**TINY, **one_program, "objective.constraints": (constraint,)}
  return runs.load_config(**fields)


def test_search_needs_a_table(wanted, tmp_path):
  phases, line = ["search", "latency_table"], "no latency table.*--phases=laten"
  with pytest.raises(UserError, match=line):
    pipeline.run(wanted, tmp_path / "w", phases)
  assert not (tmp_path / "w").exists()


def test_one_command_measures_and_searches(
  wanted, tmp_path, monkeypatch, capsys
):
  def time_one(config, space):
    return np.full(5, time_of_layers(space))

  monkeypatch.setattr(latency_table, "network_seconds", time_one)
  workdir, phases = tmp_path / "w", ["latency_table", "search", "report"]
  assert pipeline.run(wanted, workdir, phases, dry_run=True) == 0
  assert "constraint of latency too" in capsys.readouterr().out
  assert not workdir.exists()
  # Of the other phases all is checked before anything is measured.
  wanted.search.batch_size = 10**6
  with pytest.raises(UserError, match="one batch of 1000000"):
    pipeline.run(wanted, workdir, phases)
  assert not workdir.exists()
  wanted.search.batch_size = TINY["search.batch_size"]
  assert pipeline.run(wanted, workdir, phases) == 0
  result = files.read_json(workdir / "search" / "elite_space.json")
  (flops, latency) = result["constraints"]
  assert (flops["metric"], latency["metric"]) == ("flops", "latency")
  assert latency["target"] == 1.05e-3
  # Of what is in the table, of another layer and all blocks.
  space = config_lib.search_space(wanted, (8, 8, 1))
  metric = block_times.read_metric(workdir / "latency_table", space)
  low, high = cost_range(space, cost_tables(space, metric))
  assert low <= latency["mean_cost"] <= high
  # By itself it needs no target that can be met, and is said to be there.
  capsys.readouterr()
  assert pipeline.run(wanted, workdir, ["latency_table", "search"]) == 0
  assert capsys.readouterr().out.count("already done") == 2


def test_a_target_that_the_table_shows_to_be_out_of_reach(
  wanted, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    latency_table,
    "network_seconds",
    lambda *_: np.full(5, time_of_layers(_[1])),
  )
  wanted.objective.constraints = ({"metric": "latency", "target": 1.0},)
  with pytest.raises(UserError, match=r"\[0\].target: 1 is not"):
    pipeline.run(wanted, tmp_path / "w", ["latency_table", "search"])
  assert (tmp_path / "w" / "latency_table" / "summary.json").exists()
  assert not (tmp_path / "w" / "search").exists()


@pytest.mark.parametrize(
  ("alone", "phases", "said"),
  [
    (False, "latency_table,sweep", "search for 0.04 MF"),
    (True, "latency_table,search,evaluate,rank_check,nas", "rank_check"),
  ],
)
def test_phases_after_the_measurement_are_planned_and_checked(
  wanted, tmp_path, capsys, alone, phases, said
):
  """Constraints that are not known yet are neither read nor told."""
  wanted.sweep.targets, wanted.sweep.phases = (4e4,), ("search",)
  wanted.objective.cost_weight = 0.0 if alone else 1.0
  workdir, names = tmp_path / "w", phases.split(",")
  assert pipeline.run(wanted, workdir, names, dry_run=True) == 0
  lines = capsys.readouterr().out
  assert said in lines and "meet all constraints" not in lines
  wanted.supernet.microbatches = 7
  with pytest.raises(UserError, match=r"search\.batch_size.*7 microbatches"):
    pipeline.run(wanted, workdir, names)
  assert not workdir.exists()
