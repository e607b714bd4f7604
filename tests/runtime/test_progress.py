"""What is shown of a run, and that it changes no result."""

import json

import numpy as np
import pytest
import rich.console
import runs

from nss_jax.errors import UserError
from nss_jax.phases import schedules, work
from nss_jax.runtime import console, progress
from nss_jax.runtime.progress import (
  Progress,
  ProgressOptions,
  TimeLeft,
  format_seconds,
)


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.4, "0 s"),
    (59.2, "59 s"),
    (60, "1 min"),
    (93, "1 min 30 s"),
    (599, "10 min"),
    (754, "13 min"),
    (3599, "60 min"),
    (3600, "1 h"),
    (4000, "1 h 10 min"),
    (12_000, "3 h 20 min"),
    (86_400, "1 d"),
    (187_000, "2 d 4 h"),
  ],
)
def test_seconds_in_words(seconds, text):
  assert format_seconds(seconds) == text


def test_time_left_of_steps_that_cost_another_amount():
  """Seconds are 2 a step and 3 a unit of work, which triples in the middle."""
  costs = np.repeat([1.0, 3.0], 50)
  costs[:5] = 0.5
  left = TimeLeft(costs)
  assert left.seconds(0) is None
  for first in range(0, 10, 2):
    part = costs[first : first + 2]
    left.add(first, first + 2, 2 * len(part) + 3 * part.sum())
  expected = 2 * 90 + 3 * costs[10:].sum()
  assert left.seconds(10) == pytest.approx(expected, rel=1e-3)
  assert left.seconds(100) == pytest.approx(0, abs=1e-6)


def test_time_left_takes_work_for_the_cause_where_nothing_tells():
  left = TimeLeft(np.repeat([1.0, 4.0], 10))
  left.add(0, 5, 10.0)
  assert left.seconds(10) == pytest.approx(80, rel=0.01)


class Clock:
  """Counts seconds that a test moves on."""

  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def test_lines_come_after_some_seconds_and_say_what_is_left(capsys):
  clock = Clock()
  with Progress(console.make_console(), np.ones(10), clock=clock) as shown:
    clock.now += 50  # compiles
    shown.move_to(1, "one", compiled=True)
    assert capsys.readouterr().out == ""
    clock.now += 32
    shown.move_to(3, "two")  # 7 steps of 16 s are left
    assert capsys.readouterr().out == "two  left 1 min 50 s\n"
    clock.now += 32
    shown.move_to(5, "three")
    assert capsys.readouterr().out == ""
    shown.end_epoch({}, "epoch")
    assert capsys.readouterr().out == "epoch  left 1 min 20 s\n"
    clock.now += 75
    shown.move_to(10, "four")
    assert capsys.readouterr().out == "four\n"
  never = ProgressOptions(log_every=0)
  with Progress(
    console.make_console(), np.ones(2), options=never, clock=clock
  ) as shown:
    clock.now += 1e6
    shown.move_to(1, "one")
  assert capsys.readouterr().out == ""


def test_time_left_counts_the_program_that_is_compiled_after_warmup(
  capsys, tmp_path
):
  """It is right within a fifth, from the first tenth on; else by a third."""
  clock = Clock()
  schedule = schedules.Schedule(10, 6, 2, dispatches=((0, 4), (4, 3), (7, 3)))
  # An arch step beside the weight step, of twice its work.
  costs = np.repeat([1.0, 3.0], [20, 40])
  seconds, ends, began = [], [], clock.now
  shown = Progress(
    console.make_console(),
    costs,
    options=ProgressOptions(log_every=1e-3),
    folder=tmp_path,
    kinds=schedule.kinds(0),
    clock=clock,
  )
  compile_seconds = {(4, True): 60, (3, True): 50, (4, False): 60}
  compile_seconds[3, False] = 70
  with shown:
    for epoch in range(schedule.epochs):
      for first, length in schedule.dispatches:
        kind, step = (length, epoch < 2), 10 * epoch + first
        shown.before_call(kind)
        clock.now += compile_seconds.pop(kind, 0)
        clock.now += 2 * costs[step : step + length].sum()
        shown.after_call(step + length, "line")
        seconds.append(clock.now - began)
        ends.append(step + length)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == len(ends) and not compile_seconds
  assert lines[0] == "line"  # nothing is known but that it compiled
  checked = 0
  for line, passed, end in zip(lines, seconds, ends, strict=True):
    if 10 <= end < 60:
      expected = seconds[-1] - passed
      assert _seconds(line) == pytest.approx(expected, rel=0.2), (end, line)
      checked += 1
  assert checked == 15


def _seconds(line):
  """Reads `left 6 min 10 s`."""
  words = line.partition(" left ")[2].split()
  sizes = {"s": 1, "min": 60, "h": 3600}
  numbers, units = words[::2], words[1::2]
  return sum(int(n) * sizes[u] for n, u in zip(numbers, units, strict=True))


def test_programs_that_are_still_to_be_compiled():
  schedule = schedules.Schedule(10, 6, 2, dispatches=((0, 4), (4, 3), (7, 3)))
  assert schedule.kinds(0) == {(n, w) for n in (3, 4) for w in (True, False)}
  assert schedule.kinds(14) == {(3, True), (3, False), (4, False)}
  assert schedule.kinds(20) == {(3, False), (4, False)}
  assert schedule.kinds(54) == {(3, False)}
  assert schedule.kinds(60) == set()


def test_a_terminal_gets_a_bar_and_no_lines():
  screen = rich.console.Console(force_terminal=True, record=True, width=80)
  clock = Clock()
  each = ProgressOptions(log_every=1)
  with Progress(screen, np.ones(4), options=each, clock=clock) as shown:
    clock.now += 20
    shown.move_to(2, "epoch 1/2")
    shown.end_epoch({}, "never seen")
  text = screen.export_text()
  assert "epoch 1/2  left 20 s" in text
  assert "50%" in text
  assert "never seen" not in text


def test_work_of_a_search_falls_in_warmup_and_is_dense_after():
  job = runs.make_job(runs.load_config())
  schedule = schedules.make_schedule(
    718, batch_size=32, epochs=30, warmup_epochs=8, steps_per_dispatch=22
  )
  found = work.search_work(job, schedule)
  largest = 47_929_000  # 64 wide, 8 deep, on 8x8 images
  assert found[0] == pytest.approx(3 * largest, rel=0.01)
  # Soft masks: an arch step and a weight step, both of the largest network.
  np.testing.assert_allclose(found[8 * 22 :], 2 * found[0])
  warmup = found[: 8 * 22]
  assert (np.diff(warmup) < 0).all()
  assert 0.1 < warmup[-1] / warmup[0] < 0.35  # a uniform draw
  job = job.vary({"supernet.engine": "masked"})
  masked = work.search_work(job, schedule)
  np.testing.assert_allclose(masked[: 8 * 22], found[0])


@pytest.mark.slow
def test_what_is_shown_changes_no_result(tmp_path):
  """There may be TensorBoard, a trace and lines at every step, or none."""
  flags = ("--config.search.epochs=2", "--config.search.warmup_epochs=0")
  flags += (
    "--config.space.strides=(1,)",
    "--config.objective.target_flops=6e4",
  )
  shown, plain = tmp_path / "shown", tmp_path / "plain"
  viewing = ("--tensorboard", "--profile", "--log_every=0.001")
  code, out, err = runs.run(f"--workdir={shown}", *flags, *viewing)
  assert code == 0, err
  assert runs.run(f"--workdir={plain}", *flags)[0] == 0
  for name in ("elite_space.json", "trajectory.png"):
    found = (shown / "search" / name).read_bytes()
    assert found == (plain / "search" / name).read_bytes()
  assert out.count("epoch 1/2") == 4  # 3 calls, and the end of the epoch
  assert " left " in out
  traces = list((shown / "search" / progress.PROFILE).rglob("*.xplane.pb"))
  assert len(traces) == 1 and traces[0].stat().st_size > 1000
  assert not (plain / "search" / progress.PROFILE).exists()
  assert not (plain / "search" / progress.TENSORBOARD).exists()
  lines = (shown / "search" / "metrics.jsonl").read_text().splitlines()
  found = _events(shown / "search" / progress.TENSORBOARD)
  for line in map(json.loads, lines):
    for name in ("train_loss", "expected_cost", "images_per_second"):
      assert found[name, line["step"]] == pytest.approx(line[name], rel=1e-6)
  assert ("trajectory", 0) in found


def _events(folder):
  """Reads all event files of a folder: `{(tag, step): scalar or None}`."""
  from tensorboardX import proto

  found = {}
  for path in folder.glob("events.*"):
    data = path.read_bytes()
    place = 0
    while place < len(data):
      size = int.from_bytes(data[place : place + 8], "little")
      event = proto.event_pb2.Event.FromString(
        data[place + 12 : place + 12 + size]
      )
      place += size + 16
      for value in event.summary.value:
        is_scalar = value.WhichOneof("value") == "simple_value"
        scalar = value.simple_value if is_scalar else None
        found[value.tag, event.step] = scalar
  return found


def test_tensorboard_that_is_missing_is_said_at_once(monkeypatch):
  monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install"):
    progress.check_tensorboard()
