"""The loop on the host: dispatches, log, checkpoints, interruptions."""

import pathlib
import time
from typing import Any

import jax
import numpy as np
import rich.console

from nss_jax.errors import Diverged, Interrupted
from nss_jax.phases.job import Job
from nss_jax.phases.program import LoopState, Program, Schedule
from nss_jax.runtime import files, lock, processes, sharding
from nss_jax.runtime.checkpoint import Checkpoints
from nss_jax.runtime.console import say
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.progress import Progress
from nss_jax.runtime.report import fields


def run(
  job: Job,
  program: Program,
  folder: pathlib.Path,
  preemption: Preemption,
  *,
  checkpoint_every: int | None = None,
) -> LoopState:
  """Runs a program to its end, from where an earlier run stopped.

  Writes `metrics.jsonl` and `checkpoints/` in the folder. A checkpoint is
  written while the devices do the next call, whose steps do not count before
  it is on disk: a process that dies loses the steps of one interval of
  checkpoints at most, and the call that is under way.

  Args:
    job: how many checkpoints are kept, and where lines and progress go.
    program: to be run.
    folder: of its files.
    preemption: asked between dispatches.
    checkpoint_every: epochs; None: as `config.search` has it.

  Raises:
    Diverged: at a loss that is not finite.
    Interrupted: after SIGTERM, once all is saved.
  """
  settings, console = job.config.search, job.console
  files.make_folder(folder)
  checkpoints = Checkpoints(
    folder / "checkpoints",
    keep=settings.keep_checkpoints,
    warn=lambda line: say(console, f"warning: {line}"),
  )
  num_steps = program.schedule.num_steps
  preemption.tell(lambda: _saved(checkpoints, folder, num_steps))
  state = _resume(program, checkpoints, folder / "metrics.jsonl", console)
  every = checkpoint_every or settings.checkpoint_every
  step = int(state.weights.step)
  with Progress(
    *(console, program.work, step),
    options=job.progress,
    folder=folder,
    kinds=program.schedule.kinds(step),
  ) as progress:
    state = _loop(
      program, state, checkpoints, folder, progress, preemption, every
    )
  checkpoints.wait()
  return state


def run_shared(
  job: Job, program: Program, folder: pathlib.Path, preemption: Preemption
) -> LoopState:
  """As `run`, of a folder that other runs use too: one of them trains."""
  told = []

  def wait(owner: str) -> None:
    if not told:
      told.append(owner)
      say(job.console, f"{owner} trains {folder}: waiting")
    if preemption.came:
      raise Interrupted(f"waiting for {folder}")

  with lock.exclusive(folder, wait, take_over=job.take_over):
    return run(job, program, folder, preemption)


def _resume(
  program: Program,
  checkpoints: Checkpoints,
  metrics_path: pathlib.Path,
  console: rich.console.Console,
) -> LoopState:
  """The newest good state; the log is cut back to it."""
  fresh = jax.eval_shape(program.init)
  restored = checkpoints.restore(sharding.abstract(fresh, program.mesh))
  if restored:
    step, state = restored
  else:
    step, state = 0, sharding.replicate(program.init(), program.mesh)
  if 0 < step < program.schedule.num_steps:
    say(console, f"resuming at step {step} of {program.schedule.num_steps}")
  trim(metrics_path, step)
  return state


def trim(path: pathlib.Path, step: int) -> None:
  """Cuts the lines of `metrics.jsonl` after a step.

  Raises:
    UserError: if a line has no whole number of a step.
  """

  def cut():
    lines = files.read_lines(path) if path.exists() else []
    for line in lines:
      fields.check(path, line, {"step": fields.WHOLE})
    kept = [line for line in lines if line["step"] <= step]
    if len(kept) < len(lines):
      files.write_lines(path, kept)

  processes.run_once(cut)


def _loop(
  program: Program,
  state: LoopState,
  checkpoints: Checkpoints,
  folder: pathlib.Path,
  progress: Progress,
  preemption: Preemption,
  checkpoint_every: int,
) -> LoopState:
  schedule = program.schedule
  step = int(state.weights.step)
  began, began_step = time.monotonic(), step
  while step < schedule.num_steps:
    epoch, first = divmod(step, schedule.steps_per_epoch)
    length = schedule.lengths(first)[0]
    warmup = epoch < schedule.warmup_epochs
    if progress.before_call((length, warmup)):
      checkpoints.wait()  # or it is not there before all has been compiled
    state, losses = program.dispatch(state, epoch, first, length, warmup)
    # The devices are at work, and what they do counts from here on.
    checkpoints.wait()
    _check_finite(np.asarray(losses), step, checkpoints)
    step += length
    ended = first + length == schedule.steps_per_epoch
    stop = preemption.requested()
    if ended or stop:
      # Before it is written: the loss sees the last update a step later.
      _check_state(state, step, checkpoints)
    line = _line(program, state, step, epoch)
    progress.after_call(step, _describe(line, schedule))
    if ended:
      now = time.monotonic()
      halves = 1 if warmup else 2
      images = (step - began_step) * program.batch_size * halves
      line["images_per_second"] = round(images / (now - began), 1)
      began, began_step = now, step
      files.append_line(folder / "metrics.jsonl", line)
      progress.end_epoch(line, _describe(line, schedule))
      last = epoch + 1 == schedule.epochs
      if last or (epoch + 1) % checkpoint_every == 0:
        checkpoints.save(step, state)
    if stop:
      checkpoints.save(step, state, block=True)
      raise Interrupted(f"saved at step {step} of {schedule.num_steps}")
  return state


def _saved(
  checkpoints: Checkpoints, folder: pathlib.Path, num_steps: int
) -> str:
  """What is on disk, in words; asked from another thread."""
  step = checkpoints.latest_step
  if step is None:
    return f"no checkpoint is in {folder} yet"
  return f"saved is step {step} of {num_steps} in {folder}"


def _line(
  program: Program, state: LoopState, step: int, epoch: int
) -> dict[str, Any]:
  """One line of `metrics.jsonl`, with means since the epoch began."""
  done = step - epoch * program.schedule.steps_per_epoch
  means = {
    name: (np.asarray(total, np.float64) / done).tolist()
    for name, total in jax.device_get(state.sums).items()
  }
  return {
    "step": step,
    "epoch": epoch + 1,
    **program.measure(state, step, means),
  }


def _describe(line: dict[str, Any], schedule: Schedule) -> str:
  words = [
    f"epoch {line['epoch']}/{schedule.epochs}",
    f"loss {line['train_loss']:.3f}",
  ]
  if "temperature" in line:
    words.append(f"temperature {line['temperature']:.2f}")
    costs = [
      f"{name} {one['expected_cost']:.2f}"
      for name, one in line["constraints"].items()
    ]
    if len(costs) == 1:
      costs = [f"{line['expected_cost']:.2f}"]
    words.append(f"cost/target {' '.join(costs)}")
  return "  ".join(words)


def _check_finite(
  losses: np.ndarray, step: int, checkpoints: Checkpoints
) -> None:
  bad = np.flatnonzero(~np.isfinite(losses).all(-1))
  if not len(bad):
    return
  raise Diverged(
    f"the loss at step {step + int(bad[0]) + 1} is {losses[bad[0]].tolist()}; "
    f"last good checkpoint: {_last_good(checkpoints)}"
  )


def _check_state(state: LoopState, step: int, checkpoints: Checkpoints) -> None:
  logits = getattr(state.search, "logits", None)
  numbers = jax.device_get((state.weights.params, logits))
  if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
    return
  raise Diverged(
    f"the weights or logits after step {step} are not finite; last good "
    f"checkpoint: {_last_good(checkpoints)}"
  )


def _last_good(checkpoints: Checkpoints) -> str:
  checkpoints.wait()
  step = checkpoints.latest_step
  return "none was written yet" if step is None else str(checkpoints.path(step))
