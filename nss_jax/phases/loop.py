"""The loop on the host: calls of the devices, log, checkpoints, SIGTERM."""

import pathlib
import time
from typing import Any

import jax
import numpy as np

from nss_jax.errors import Diverged, Interrupted
from nss_jax.phases.job import Job
from nss_jax.phases.program import LoopState, Program
from nss_jax.results.artifact import LogLine
from nss_jax.runtime import files, lock, processes, sharding
from nss_jax.runtime.checkpoint import Checkpoints
from nss_jax.runtime.progress import Progress


def run(
  job: Job,
  program: Program,
  folder: pathlib.Path,
  *,
  checkpoint_every: int | None = None,
) -> LoopState:
  """Runs a program to its end, from where an earlier run stopped.

  Writes `metrics.jsonl` and `checkpoints/` in the folder. A checkpoint is
  written while the devices do the next call, whose steps do not count before
  it is on disk: a process that dies loses the steps of one interval of
  checkpoints at most, and the call that is under way. The interval is that of
  `config.search`, or `checkpoint_every` epochs.

  Raises Diverged at a loss that is not finite, and Interrupted after SIGTERM,
  once all is saved.
  """
  schedule, log = program.schedule, folder / "metrics.jsonl"
  checkpoints = _open_checkpoints(job, program, folder)
  state = _resume(job, program, checkpoints, log)
  step = began_step = int(state.weights.step)
  began = time.monotonic()
  with Progress(
    *(job.console, program.work, step),
    options=job.progress,
    folder=folder,
    kinds=schedule.kinds(step),
  ) as progress:
    for call in schedule.calls(step):
      if progress.before_call(call.kind):
        checkpoints.wait()  # or it is not there before all has been compiled
      state, losses = program.dispatch(state, *call)
      # The devices are at work, and what they do counts from here on.
      checkpoints.wait()
      _check_losses(np.asarray(losses), step, checkpoints)
      step += call.length
      ended, stop = schedule.ends(step), job.preemption.requested()
      if ended or stop:
        # Before it is written: the loss sees the last update a step later.
        _check_state(state, step, checkpoints)
      line = _line(program, state, step, call.epoch)
      words = describe(line, schedule.epochs)
      progress.after_call(step, words)
      if ended:
        images = (step - began_step) * program.batch_size * (2 - call.warmup)
        began_step, before, began = step, began, time.monotonic()
        line["images_per_second"] = round(images / (began - before), 1)
        files.append_line(log, line)
        progress.end_epoch(line, words)
        every = checkpoint_every or job.config.search.checkpoint_every
        if step == schedule.num_steps or line["epoch"] % every == 0:
          checkpoints.save(step, state)
      if stop:
        checkpoints.save(step, state, block=True)
        raise Interrupted(f"saved at step {step} of {schedule.num_steps}")
  checkpoints.wait()
  return state


def run_shared(job: Job, program: Program, folder: pathlib.Path) -> LoopState:
  """Runs a program in a folder that several runs share.

  One of them trains; the others wait, and read what it has trained.
  """
  told = []

  def wait(owner: str) -> None:
    if not told:
      told.append(owner)
      job.say(f"{owner} trains {folder}: waiting")
    if job.preemption.came:
      raise Interrupted(f"waiting for {folder}")

  with lock.exclusive(folder, wait, take_over=job.take_over):
    return run(job, program, folder)


def trim(path: pathlib.Path, step: int) -> None:
  """Cuts the lines of `metrics.jsonl` after a step."""

  def cut():
    lines = files.read_lines(path) if path.exists() else []
    kept = [x for x in lines if LogLine.parse(path, x).step <= step]
    if len(kept) < len(lines):
      files.write_lines(path, kept)

  processes.run_once(cut)


def _open_checkpoints(
  job: Job, program: Program, folder: pathlib.Path
) -> Checkpoints:
  """Makes the folder, and tells what is on disk if SIGTERM comes too late."""
  files.make_folder(folder)
  checkpoints = Checkpoints(
    folder / "checkpoints",
    keep=job.config.search.keep_checkpoints,
    warn=lambda line: job.say(f"warning: {line}"),
  )

  def saved() -> str:  # another thread asks
    step = checkpoints.latest_step
    if step is None:
      return f"no checkpoint is in {folder} yet"
    return f"saved is step {step} of {program.schedule.num_steps} in {folder}"

  job.preemption.tell(saved)
  return checkpoints


def _resume(
  job: Job, program: Program, checkpoints: Checkpoints, log: pathlib.Path
) -> LoopState:
  """Returns the newest good state; the log is cut back to it."""
  fresh = jax.eval_shape(program.init)
  restored = checkpoints.restore(sharding.abstract(fresh, program.mesh))
  if restored:
    step, state = restored
  else:
    step, state = 0, sharding.replicate(program.init(), program.mesh)
  if 0 < step < program.schedule.num_steps:
    job.say(f"resuming at step {step} of {program.schedule.num_steps}")
  trim(log, step)
  return state


def _line(
  program: Program, state: LoopState, step: int, epoch: int
) -> dict[str, Any]:
  """Returns a line of `metrics.jsonl`, with means since the epoch began."""
  done = step - epoch * program.schedule.steps_per_epoch
  means = {
    name: (np.asarray(total, np.float64) / done).tolist()
    for name, total in jax.device_get(state.sums).items()
  }
  measured = program.measure(state, step, means)
  return {"step": step, "epoch": epoch + 1, **measured}


def describe(line: dict[str, Any], epochs: int) -> str:
  """Tells a line of `metrics.jsonl` in words."""
  words = [
    f"epoch {line['epoch']}/{epochs}",
    f"loss {line['train_loss']:.3f}",
  ]
  if "temperature" in line:
    costs = [
      f"{name} {one['expected_cost']:.2f}"
      for name, one in line["constraints"].items()
    ]
    if len(costs) == 1:
      costs = [f"{line['expected_cost']:.2f}"]
    words.append(f"temperature {line['temperature']:.2f}")
    words.append(f"cost/target {' '.join(costs)}")
  return "  ".join(words)


def _check_losses(
  losses: np.ndarray, step: int, checkpoints: Checkpoints
) -> None:
  bad = np.flatnonzero(~np.isfinite(losses).all(-1))
  if len(bad):
    what = f"the loss at step {step + int(bad[0]) + 1} is "
    _diverge(f"{what}{losses[bad[0]].tolist()}", checkpoints)


def _check_state(state: LoopState, step: int, checkpoints: Checkpoints) -> None:
  logits = getattr(state.search, "logits", None)
  numbers = jax.device_get((state.weights.params, logits))
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(numbers)):
    what = f"the weights or logits after step {step} are not finite"
    _diverge(what, checkpoints)


def _diverge(what: str, checkpoints: Checkpoints) -> None:
  checkpoints.wait()
  step = checkpoints.latest_step
  last = "none was written yet" if step is None else checkpoints.path(step)
  raise Diverged(f"{what}; last good checkpoint: {last}")
