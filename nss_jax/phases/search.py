"""The search phase: find an Elite Space (paper 3.3-3.4, 4.1)."""

import pathlib
import time
from typing import Any

import jax
import ml_collections
import numpy as np
import rich.console

from nss_jax.phases import program as program_lib
from nss_jax.phases.program import LoopState, Program
from nss_jax.runtime import artifacts, figures, sharding
from nss_jax.runtime.checkpoint import Checkpoints
from nss_jax.runtime.log import Progress, format_macs, say
from nss_jax.runtime.preemption import Preemption
from nss_jax.runtime.space_file import load_space
from nss_jax.spaces import cost, distribution
from nss_jax.spaces.search_space import Space, space_ranges
from nss_jax.spaces.text import describe_space
from nss_jax.version import __version__


class Diverged(RuntimeError):
  """A loss is not finite; the message names the step and the checkpoint."""


class Interrupted(Exception):
  """SIGTERM came and the state is saved; run again to go on."""


def run(
  config: ml_collections.ConfigDict,
  program: Program,
  workdir: pathlib.Path,
  console: rich.console.Console,
) -> dict[str, Any]:
  """Searches, or goes on where an earlier run stopped, and writes the result.

  Returns:
    The content of `search/elite_space.json`.

  Raises:
    Diverged: at a loss that is not finite.
    Interrupted: after SIGTERM, once all is saved.
  """
  folder = workdir / "search"
  folder.mkdir(parents=True, exist_ok=True)
  checkpoints = Checkpoints(
    folder / "checkpoints",
    keep=config.search.keep_checkpoints,
    warn=lambda line: say(console, f"warning: {line}"),
  )
  # From the start, which compiles, to the last file: SIGTERM is always 75.
  with Preemption() as preemption:
    state = _resume(program, checkpoints, folder / "metrics.jsonl", console)
    state = _loop(
      config, program, state, checkpoints, folder, console, preemption
    )
    checkpoints.wait()
    elite = find_elite(config, program, state.search.logits)
    draw_trajectory(program, elite, folder)
    # Last: this file says that the search is finished.
    artifacts.write_json(folder / "elite_space.json", elite)
  return elite


def draw_trajectory(program: Program, elite: dict, folder) -> None:
  """Draws `trajectory.png` from `metrics.jsonl`."""
  with artifacts.atomic_path(folder / "trajectory.png") as path:
    figures.draw_trajectory(
      path,
      artifacts.read_lines(folder / "metrics.jsonl"),
      program.search_space,
      elite,
      warmup_epochs=program.schedule.warmup_epochs,
    )


def find_elite(
  config: ml_collections.ConfigDict, program: Program, logits: Any
) -> dict[str, Any]:
  """The Elite Space of the logits, as the JSON object that is written."""
  space = program.search_space
  target = config.objective.target_flops
  elite = distribution.elite_space(
    program_lib.base_keys(config.seed)["elite"],
    logits,
    cost_fn=lambda weights: cost.mean_macs(space, weights),
    target=target,
    num_samples=config.search.num_elite_samples,
  )

  def entry(chosen: Space) -> dict[str, Any]:
    macs = cost.space_macs(space, chosen)
    return {
      "space": space_ranges(space, chosen),
      "mean_flops": macs,
      "deviation": macs / target - 1,
    }

  candidates = [
    entry(jax.tree.map(lambda x, i=i: x[i], elite.candidates))
    for i in range(config.search.num_elite_samples)
  ]
  chosen = entry(elite.space)
  return {
    "space": chosen["space"],
    "mean_flops": chosen["mean_flops"],
    "target_flops": target,
    "deviation": chosen["deviation"],
    "candidates": candidates,
    "argmax_space": entry(distribution.most_probable_space(logits)),
    "probabilities": bin_probabilities(logits),
    "seed": config.seed,
    "search_space": space.to_dict(),
    "version": __version__,
  }


def bin_probabilities(logits: Any) -> dict[str, list]:
  """`{"depth": [S][Kd], "width": [S][Kw]}`, six digits."""
  chances = distribution.probabilities(logits)
  return {
    kind: [[round(float(p), 6) for p in row] for row in np.asarray(rows)]
    for kind, rows in (("depth", chances.depth), ("width", chances.width))
  }


def report(
  elite: dict[str, Any], program: Program, folder: pathlib.Path
) -> list[str]:
  """The result in words, where the files are, and the next command."""
  _, chosen = load_space(folder / "elite_space.json")
  target = elite["target_flops"]
  return [
    "",
    "Elite Space",
    *(f"  {line}" for line in describe_space(program.search_space, chosen)),
    f"  {program.search_space.num_archs_in(chosen)} archs, mean cost "
    f"{format_macs(elite['mean_flops'])}, "
    f"{100 * elite['deviation']:+.1f} % from the target of "
    f"{format_macs(target)}",
    "",
    f"Files in {folder}: elite_space.json, trajectory.png, metrics.jsonl",
    "Next: draw archs from it,",
    '  python -c "import jax, nss_jax as nss; space = nss.load_space('
    f"'{folder / 'elite_space.json'}'); print(nss.sample_archs("
    'jax.random.key(0), *space, 5))"',
  ]


def _resume(program, checkpoints, metrics_path, console) -> LoopState:
  """The newest good state; the log is cut back to it."""
  fresh = jax.eval_shape(program.init)
  restored = checkpoints.restore(sharding.abstract(fresh, program.mesh))
  step, state = restored or (0, program.init())
  if step:
    say(console, f"resuming at step {step} of {program.schedule.num_steps}")
  artifacts.trim_lines(metrics_path, lambda line: line["step"] <= step)
  return state


def _loop(config, program, state, checkpoints, folder, console, preemption):
  schedule = program.schedule
  step = int(state.weights.step)
  with Progress(console, schedule.num_steps, step) as progress:
    began, began_step = time.monotonic(), step
    while step < schedule.num_steps:
      epoch, first = divmod(step, schedule.steps_per_epoch)
      length = dict(schedule.dispatches)[first]
      warmup = epoch < schedule.warmup_epochs
      state, losses = program.dispatch(state, epoch, first, length, warmup)
      _check_finite(np.asarray(losses), step, checkpoints)
      step += length
      ended = first + length == schedule.steps_per_epoch
      stop = preemption.requested
      if ended or stop:
        # Before it is written: the loss sees the last update a step later.
        _check_state(state, step, checkpoints)
      line = _metrics(program, state, step, epoch)
      progress.update(step, _describe(line, schedule))
      if ended:
        now = time.monotonic()
        images = _images(config, step - began_step, warmup)
        line["images_per_second"] = round(images / (now - began), 1)
        began, began_step = now, step
        artifacts.append_line(folder / "metrics.jsonl", line)
        progress.line(_describe(line, schedule))
        last = epoch + 1 == schedule.epochs
        if last or (epoch + 1) % config.search.checkpoint_every == 0:
          checkpoints.save(step, state)
      if stop:
        if checkpoints.latest_step != step:
          checkpoints.wait()
        if checkpoints.latest_step != step:
          checkpoints.save(step, state, block=True)
        raise Interrupted(f"saved at step {step} of {schedule.num_steps}")
  return state


def _metrics(program, state, step, epoch) -> dict[str, Any]:
  """One line of `metrics.jsonl`: means since the epoch began.

  Entropy in nats, summed over stages; costs over the target. What the frozen
  logits of warmup do not have is null.
  """
  schedule = program.schedule
  done = step - epoch * schedule.steps_per_epoch
  means = {k: float(v) / done for k, v in jax.device_get(state.sums).items()}
  if epoch < schedule.warmup_epochs:
    for name in program_lib.METRICS:
      if not name.startswith("train"):
        means[name] = None
  logits = state.search.logits
  entropy = distribution.entropy(logits)
  expected = cost.mean_macs(
    program.search_space, distribution.probabilities(logits)
  )
  return {
    "step": step,
    "epoch": epoch + 1,
    "temperature": float(program.temperature(step - 1)),
    **means,
    "expected_cost": float(expected) / program.target,
    "depth_entropy": float(entropy.depth.sum()),
    "width_entropy": float(entropy.width.sum()),
    "probabilities": bin_probabilities(logits),
  }


def _describe(line: dict[str, Any], schedule) -> str:
  return (
    f"epoch {line['epoch']}/{schedule.epochs}  "
    f"loss {line['train_loss']:.3f}  "
    f"temperature {line['temperature']:.2f}  "
    f"cost/target {line['expected_cost']:.2f}"
  )


def _images(config, steps, warmup) -> int:
  return steps * config.search.batch_size * (1 if warmup else 2)


def _check_finite(losses: np.ndarray, step: int, checkpoints) -> None:
  bad = np.flatnonzero(~np.isfinite(losses).all(-1))
  if not len(bad):
    return
  raise Diverged(
    f"the loss at step {step + int(bad[0]) + 1} is {losses[bad[0]].tolist()}; "
    f"last good checkpoint: {_last_good(checkpoints)}"
  )


def _check_state(state: LoopState, step: int, checkpoints) -> None:
  numbers = jax.device_get((state.weights.params, state.search.logits))
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
