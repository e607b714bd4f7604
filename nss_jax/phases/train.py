"""The train phase: a network alone, and its test error (paper 4.3).

The recipe is that of Cutout (DeVries and Taylor, 2017).
"""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from nss_jax.data.batches import normalize
from nss_jax.deploy import saved
from nss_jax.errors import UserError
from nss_jax.phases import loop, supernet
from nss_jax.phases.job import Job, base_keys
from nss_jax.phases.program import (
  LoopState,
  Program,
  batch_fn,
  check_batch,
  class_weights,
  make_training,
)
from nss_jax.phases.registry import SEARCH, Phase
from nss_jax.phases.schedules import make_schedule
from nss_jax.results import load, trained
from nss_jax.results.networks import FOUND, NasSummary
from nss_jax.results.trained import Line, Trained
from nss_jax.runtime import files, processes, sharding
from nss_jax.spaces.cost import arch_macs, arch_params
from nss_jax.spaces.search_space import Arch
from nss_jax.spaces.text import format_arch, format_space, parse_arch
from nss_jax.steps import losses, optimizers, train_step
from nss_jax.supernet import network, sharing


def run(job: Job) -> dict[str, list[Trained]]:
  """Trains every arch that is named, or that the nas phase has found.

  Writes `train/<name>/seed_<k>/result.json` for each, goes on with what is
  missing, and returns the results of all seeds by name. The network found is
  saved in `best`, beside the folder of the phase: of its seeds the one of the
  smallest training loss, so that no test image has a part in the choice.
  """
  start = _start(job)
  results = {
    name: _train_seeds(job, name, arch, start)
    for name, arch in archs_to_train(job).items()
  }
  if FOUND in results:
    processes.run_once(lambda: _save_best(job, results))
  return results


def _save_best(job: Job, results: dict[str, list[Trained]]) -> None:
  """Saves the network that the run stands behind, unless it is there."""
  folder, seeds = job.workdir / load.BEST, results[FOUND]
  best = min(seeds, key=lambda one: one.train_loss)
  network = load.load_network(
    job.workdir / "train" / FOUND / f"seed_{best.seed}"
  )
  summary = job.workdir / "nas" / "summary.json"
  about = {
    **network.about,
    **trained.over_seeds(seeds),
    "space": format_space(job.search_space, job.load_elite()),
    "found": NasSummary.read(summary, job.search_space).elite.chosen,
    "controls": {
      name: trained.over_seeds(ones)
      for name, ones in results.items()
      if name != FOUND
    },
  }
  # One of folders that were removed since may be another, or be damaged.
  with contextlib.suppress(UserError):
    kept = saved.read(folder)
    if kept.search_space == network.search_space and kept.about == about:
      return
  dataclasses.replace(network, about=about).save(folder)


def archs_to_train(job: Job) -> dict[str, Arch]:
  """Returns archs by the name of their folder."""
  texts = {text: text for text in job.archs}
  summary = job.workdir / "nas" / "summary.json"
  if not texts and summary.exists():
    networks = NasSummary.read(summary, job.search_space).networks
    chosen = job.config.train.networks or tuple(networks)
    if not {*chosen} <= {*networks}:
      raise UserError(
        f"config.train.networks: {chosen} is not accepted; expected names of "
        f"{', '.join(networks)}, which the nas phase has found"
      )
    texts = {name: networks[name].arch for name in networks if name in chosen}
  return {name: parse_arch(text) for name, text in texts.items()}


def _start(job: Job) -> Callable[[Arch], Any]:
  """Returns `arch -> weights to start from`, or None for fresh ones."""
  if job.config.train.start == "fresh":
    return lambda arch: None
  params, space = supernet.train_supernet(job), job.search_space
  return lambda arch: network.extract_subnet(
    space, sharing.weights_of(space, params, arch), arch
  )


def _train_seeds(
  job: Job, name: str, arch: Arch, start: Callable[[Arch], Any]
) -> list[Trained]:
  paths = {
    seed: job.workdir / "train" / name / f"seed_{seed}" / "result.json"
    for seed in range(job.config.train.num_seeds)
  }
  if not all(path.exists() for path in paths.values()):
    alone = job.within(job.search_space.only(arch))
    program, test = build(alone), make_test_fn(alone)
    for seed, path in paths.items():
      if not path.exists():
        job.say(f"training {name}, {format_arch(arch)}, seed {seed}")
        init = functools.partial(program.init, seed, start(arch))
        seeded = dataclasses.replace(program, init=init)
        state = loop.run(job, seeded, path.parent)
        result = _result(job, name, arch, seed, state, test, path.parent)
        result.write(path)
  return [Trained.read(path, job.search_space) for path in paths.values()]


def build(job: Job) -> Program:
  """Trains the largest network of the search space on all training images.

  `init(seed, params)` starts it, from fresh weights if `params` is None. The
  seed is part of the state, so that all seeds share one compiled program.
  """
  settings, space = job.config.train, job.search_space
  axis_name = sharding.AXIS if job.config.search.sync_batch_norm else None
  num_images = len(job.dataset.train_labels)
  schedule = make_schedule(
    num_images,
    batch_size=settings.batch_size,
    epochs=settings.epochs,
    steps_per_dispatch=job.config.search.steps_per_dispatch,
  )
  optimizer = optimizers.train_optimizer(
    learning_rate=settings.learning_rate,
    decay_factor=settings.decay_factor,
    decay_steps=[round(x * schedule.num_steps) for x in settings.decay_at],
    momentum=settings.momentum,
    weight_decay=settings.weight_decay,
  )

  def init_fn(seed: int = 0, params: Any = None):
    if params is None:
      params = jax.jit(network.init_weights, static_argnums=1)(
        base_keys(seed)["init"], space
      )
    averages = network.init_averages(space)
    weights = train_step.init_train_state(params, averages, optimizer)
    return weights, jnp.uint32(seed)

  weights = class_weights(job)

  def loss_fn(params, averages, batch):
    images, labels = batch
    logits, averages = network.apply_alone(
      space, params, averages, images, train=True, axis_name=axis_name
    )
    loss, metrics = losses.cross_entropy(logits, labels, weights)
    return loss, (averages, metrics)

  def update_fn(state, part, indices, positions):
    key = base_keys(state.search)["augment"]
    make_batch = batch_fn(job, key, cutout=settings.cutout)
    batch = make_batch(part, indices, positions, 0, state.weights.step)
    return train_step.train_step(
      state.weights,
      batch,
      loss_fn=loss_fn,
      optimizer=optimizer,
      axis_name=sharding.AXIS,
    )

  return make_training(
    job,
    schedule,
    batch_size=settings.batch_size,
    init_fn=init_fn,
    update_fn=update_fn,
    rows=np.arange(num_images),
    order_key=lambda state: base_keys(state.search)["order"],
  )


def make_test_fn(job: Job) -> Callable[[Any, Any], tuple[float, float]]:
  """Returns `(params, averages) -> (error, loss)` on the test images.

  Every device takes its share of them; what fills the last batch up counts
  nothing.
  """
  dataset, mesh, count = job.dataset, job.mesh, len(job.dataset.test_labels)
  batch = min(job.config.train.test_batch_size, -(-count // mesh.size))
  rows = -(-count // (batch * mesh.size)) * mesh.size
  fill = np.arange(rows * batch)
  labels = np.where(fill < count, dataset.test_labels[fill % count], -1)
  images = dataset.test_images[fill % count]
  dtype = jnp.dtype(job.config.supernet.activations)
  prepare = functools.partial(normalize, mean=dataset.mean, std=dataset.std)

  def on_device(params, averages, images, labels):
    def one_batch(batch):
      x, y = batch
      inputs = params, averages, prepare(x).astype(dtype)
      logits, _ = network.apply_alone(job.search_space, *inputs, train=False)
      loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(y, 0)
      )
      wrong = (logits.argmax(-1) != y) & (y >= 0)
      return wrong.sum(), jnp.where(y >= 0, loss, 0).sum()

    sums = jax.tree.map(jnp.sum, jax.lax.map(one_batch, (images, labels)))
    return jax.lax.psum(sums, sharding.AXIS)

  run = jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(P(), P(), P(sharding.AXIS), P(sharding.AXIS)),
      out_specs=P(),
      check_vma=False,
    )
  )
  shape = rows, batch
  parts = images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)
  parts = sharding.split(parts, mesh)

  def test(params, averages) -> tuple[float, float]:
    wrong, loss = jax.device_get(run(params, averages, *parts))
    return int(wrong) / count, float(loss) / count

  return test


def _result(
  job: Job,
  name: str,
  arch: Arch,
  seed: int,
  state: LoopState,
  test: Callable,
  folder: pathlib.Path,
) -> Trained:
  """Returns what is written: the last epoch's error, never the best."""
  error, loss = test(state.weights.params, state.weights.averages)
  path = folder / "metrics.jsonl"
  lines = [Line.parse(path, line) for line in files.read_lines(path)]
  images = job.config.train.batch_size * (
    len(job.dataset.train_labels) // job.config.train.batch_size
  )
  return Trained(
    arch=format_arch(arch),
    name=name,
    depth=np.asarray(arch.depth).tolist(),
    width=np.asarray(arch.width).tolist(),
    flops=int(arch_macs(job.search_space, arch)),
    params=int(arch_params(job.search_space, arch)),
    seed=seed,
    epochs=job.config.train.epochs,
    start=job.config.train.start,
    # What it takes to use the weights, see `results/load.py`.
    search_space=job.search_space.only(arch).to_dict(),
    data=job.dataset.name,
    test_images=len(job.dataset.test_labels),
    class_names=list(job.dataset.class_names),
    background=job.config.data.background,
    mean=list(job.dataset.mean),
    std=list(job.dataset.std),
    test_error=error,
    test_loss=loss,
    train_loss=lines[-1].train_loss,
    # From the log, so that what an interruption cost does not count.
    seconds=sum(images / line.images_per_second for line in lines),
  )


def check(job: Job) -> None:
  """Refuses archs, batches and cutouts that nothing can be trained with."""
  try:
    for text in job.archs:
      _check_arch(job, text)
  except ValueError as error:
    raise UserError(f"--arch: {error}") from None
  settings, side = job.config.train, min(job.search_space.image_shape[:2])
  if settings.cutout >= side:
    raise UserError(
      f"config.train.cutout: {settings.cutout} is not accepted; expected "
      f"less than the {side} pixels of the images' shorter side"
    )
  check_batch(job, "train")
  batch, images = settings.batch_size, len(job.dataset.train_labels)
  if batch > images:
    raise UserError(
      f"config.train.batch_size: {batch} is not accepted; expected at most the "
      f"{images} images"
    )


def _check_arch(job: Job, text: str) -> None:
  """Refuses an arch of other stages, or larger than the supernet it is from."""
  arch, space = parse_arch(text), job.search_space
  largest, count = (space.max_depths, space.max_widths), space.num_stages
  if len(arch.depth) != count:
    stages = "stage" if count == 1 else "stages"
    raise ValueError(f"{text!r} is not accepted; expected {count} {stages}")
  beyond = any(
    np.greater(given, most).any()
    for given, most in zip((arch.depth, arch.width), largest, strict=True)
  )
  if beyond and job.config.train.start == "supernet":
    raise ValueError(
      f"{text!r} is not accepted; expected at most depths {largest[0]} and "
      f"widths {largest[1]}, with config.train.start=supernet"
    )


def plan(job: Job) -> str:
  """Says what is going to be trained."""
  settings = job.config.train
  return (
    f"every arch alone, {settings.epochs} epochs, {settings.num_seeds} seeds"
  )


PHASE = Phase(
  "train",
  run,
  trained.describe,
  result=None,
  needs="nas",
  reads=(*SEARCH, "evaluate", "nas", "train"),
  check=check,
  plan=plan,
)
