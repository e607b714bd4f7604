"""Workdirs with results, as their phases would write them: by the models."""

import pathlib

import jax
import numpy as np

from nss_jax.results import groups, larger_spaces, rank_agreement, trends
from nss_jax.results import scores as scores_lib
from nss_jax.results.contents import read_contents
from nss_jax.results.elite_space import (
  Chances,
  Choice,
  Entry,
  FoundSpace,
  Scored,
)
from nss_jax.results.epochs import Epoch
from nss_jax.results.met_constraint import MetConstraint
from nss_jax.results.networks import Contender, Controls, Network
from nss_jax.results.scores import append_scores, make_scores, read_scores
from nss_jax.results.targets import summarize
from nss_jax.results.trained import Trained
from nss_jax.results.truths import GROUPS, seed_source
from nss_jax.runtime import files
from nss_jax.spaces import cost, sampling
from nss_jax.spaces.populations import StageOrder, sample_ordered_archs
from nss_jax.spaces.sampling import sample_uniform_archs
from nss_jax.spaces.search_space import Arch, Space, space_ranges
from nss_jax.spaces.text import parse_arch

TARGET = 1.6e5
ELITE, CONTROL = "d1-2-1_w4-6-3", "d2-2-1_w4-5-4"
EXPANDED, UNIFORM = "d2-1-1_w8-2-5", "d1-1-2_w5-8-1"
HANDMADE = "d1-1-1_w2-4-8"
CHOSEN = "the best of a race"
COUNT = 20  # archs of each population


def made(path):
  """A path, whose folder is made."""
  path.parent.mkdir(parents=True, exist_ok=True)
  return path


def write_all(search_space, workdir):
  rng = np.random.default_rng(0)
  write_search(search_space, workdir)
  write_epochs(search_space, workdir)
  write_evaluate(search_space, workdir, rng)
  write_rank_check(search_space, workdir, rng)
  write_nas(search_space, workdir)
  write_train(search_space, workdir, rng)
  write_experiments(search_space, workdir)


def write_experiments(search_space, workdir):
  rng = np.random.default_rng(1)
  write_principles(search_space, workdir, rng)
  write_complexity(search_space, workdir, rng)
  write_sweep(search_space, workdir, rng)


def some_space(search_space):
  """The lowest and the second bins of the stages in turns."""
  indices = np.arange(search_space.num_stages, dtype=np.int32) % 2
  return Space(depth=indices, width=indices)


def write_search(search_space, workdir, space=None, target=TARGET):
  space = some_space(search_space) if space is None else space
  macs = float(cost.space_macs(search_space, space))
  found = {
    "space": space_ranges(search_space, space),
    "mean_flops": macs,
    "deviation": macs / target - 1,
    "probability": 0.25,
    "rank": 2,
  }
  entry = {**found, "costs": {"flops": macs}}
  scored = Scored(**entry, loss=0.5, loss_error=0.01, error=0.2)
  chances = _chances(search_space)
  FoundSpace(
    **found,
    target_flops=target,
    constraints=[
      MetConstraint(
        metric="flops",
        mode="equal",
        target=target,
        weight=1.0,
        mean_cost=macs,
        deviation=macs / target - 1,
      )
    ],
    choice=Choice(rule="scored", tolerance=0.02, scored=[scored] * 2),
    candidates=[Entry(**entry)] * 3,
    argmax_space=Entry(**{**entry, "probability": 0.5, "rank": 1}),
    probabilities=chances,
    seed=0,
    search_space=search_space.to_dict(),
    version="0",
    warnings=["a stage is <narrow>"],
  ).write(made(workdir / "search" / "elite_space.json"))


def _chances(search_space):
  return Chances(
    **{
      kind: [
        [1 / len(bins)] * len(bins)
        for bins in getattr(search_space, f"{kind}_bins")
      ]
      for kind in ("depth", "width")
    }
  )


def write_epochs(search_space, workdir):
  for epoch in range(1, 5):
    searched = None if epoch < 3 else 1.0 + 1 / epoch
    line = Epoch(
      epoch=epoch,
      temperature=5.0 / epoch,
      sampled_cost=searched,
      validation_loss=searched,
      expected_cost=1.2,
      train_loss=2.0 / epoch,
      depth_entropy=1.0,
      width_entropy=1.0,
      probabilities=_chances(search_space),
    )
    path = made(workdir / "search" / "metrics.jsonl")
    files.append_line(path, line.to_json())


def append(path, search_space, source, archs, rng, **fields):
  error = rng.uniform(0.1, 0.9, len(archs.depth))
  table = make_scores(
    search_space, source, archs, error=error, loss=3 * error, **fields
  )
  append_scores(made(path), search_space, table)


def draw(search_space, seed, count):
  return sample_uniform_archs(jax.random.key(seed), search_space, count)


def write_evaluate(search_space, workdir, rng):
  path = workdir / "evaluate" / "scores.csv"
  many = jax.tree.map(lambda x: x[None], some_space(search_space))
  elite = sampling.sample_archs_of_spaces(
    jax.random.key(7), search_space, many, 10
  )
  elite = jax.tree.map(lambda x: x[0], elite)
  append(path, search_space, scores_lib.ELITE, elite, rng)
  for seed, name in enumerate((scores_lib.EXPANDED, scores_lib.EXPANDED_NEAR)):
    append(path, search_space, name, draw(search_space, seed, 10), rng)
  for seed, name in enumerate((scores_lib.RANDOM_SPACES, scores_lib.ORACLE), 3):
    archs, space = draw(search_space, seed, 12), np.repeat(range(4), 3)
    append(path, search_space, name, archs, rng, space=space)
  groups.summarize(
    read_scores(path, search_space),
    TARGET,
    largest_flops=cost.largest_macs(search_space),
    num_resamples=20,
  ).write(path.with_name("summary.json"))


def write_rank_check(search_space, workdir, rng):
  folder = workdir / "rank_check"
  for name, count in zip(GROUPS, (24, 6), strict=True):
    archs = draw(search_space, count, count)
    append(folder / "scores.csv", search_space, name, archs, rng)
    for seed in range(2):
      source = seed_source(name, seed)
      append(folder / "truths.csv", search_space, source, archs, rng)
  rank_agreement.summarize(
    *(
      read_scores(folder / name, search_space)
      for name in ("scores.csv", "truths.csv")
    ),
    num_resamples=20,
  ).write(folder / "summary.json")


def of_arch(search_space, text):
  """The fields that follow from an arch."""
  arch = parse_arch(text)
  return {
    "arch": text,
    "depth": arch.depth.tolist(),
    "width": arch.width.tolist(),
    "flops": int(cost.arch_macs(search_space, arch)),
    "params": int(cost.arch_params(search_space, arch)),
  }


def network(search_space, text, **fields):
  found = of_arch(search_space, text)
  off = found["flops"] / TARGET - 1
  return Network(
    **{
      **found,
      "target_flops": TARGET,
      "deviation": off,
      "deviations": {"flops": off},
      "off": abs(off),
      "costs": {"flops": found["flops"]},
      "within_tolerance": abs(off) < 0.1,
      "num_samples": 5,
      "chosen": CHOSEN,
      "seed": 0,
      **fields,
    }
  )


def write_nas(search_space, workdir):
  draws = {
    "num_samples_by_seed": [90, 117, 150],
    "num_samples_mean": 119.0,
    "num_samples_interval": [90.5, 147.25],
  }
  race = [
    Contender(arch=ELITE, loss=0.5, errors=[0.25, 0.125]),
    Contender(arch=CONTROL, loss=0.25, errors=[0.5]),
  ]

  def found(text, **fields):
    return network(search_space, text, **fields)

  runs = [found(ELITE, learning_rate=0.1), found(CONTROL, learning_rate=0.02)]
  elite = found(ELITE, learning_rate=0.1, race=race, runs=runs)
  rate = {"learning_rate": 0.1, "num_samples": 117}
  expanded = found(EXPANDED, **rate, runs=[found(EXPANDED, **rate, **draws)])
  controls = Controls(
    elite_uniform=found(CONTROL),
    expanded_uniform=found(UNIFORM, **draws),
    handmade=found(HANDMADE),
  )
  for name, one in (
    ("elite", elite),
    ("expanded", expanded),
    ("controls", controls),
  ):
    one.write(made(workdir / "nas" / name / "architecture.json"))


def trained(search_space, text, name, seed, **fields):
  only = search_space.only(parse_arch(text))
  given = {
    "epochs": 2,
    "start": "fresh",
    "search_space": only.to_dict(),
    "data": "digits",
    "test_images": 360,
    "class_names": [],
    "background": 255,
    "mean": [0.5] * search_space.image_shape[-1],
    "std": [0.25] * search_space.image_shape[-1],
    "test_loss": 0.5,
    "train_loss": 0.25,
    "seconds": 3.0,
    **fields,
  }
  return Trained(name=name, seed=seed, **of_arch(search_space, text), **given)


def write_train(search_space, workdir, rng):
  own = "d1-1-1_w2-2-2"
  for name, text in (
    ("elite", ELITE),
    ("elite_uniform", CONTROL),
    ("expanded", EXPANDED),
    (own, own),
  ):
    for seed in range(3 if name == "elite" else 1):
      error = rng.uniform(0.02, 0.2)
      one = trained(search_space, text, name, seed, test_error=error)
      path = workdir / "train" / name / f"seed_{seed}" / "result.json"
      one.write(made(path))


def write_principles(search_space, workdir, rng):
  path = workdir / "principles" / "scores.csv"
  orders = {
    "design_principles": StageOrder.design_principles(),
    "elite_trend": StageOrder.elite_trend(),
    "own_trend": StageOrder((1, 0, 2)),
  }
  window = (0.5 * TARGET, 1.5 * TARGET)
  for cost_name, costs in (("in_window", window), ("any_cost", None)):
    for seed, (name, order) in enumerate(orders.items()):
      archs = sample_ordered_archs(
        jax.random.key(seed), search_space, order, COUNT, window=costs
      )
      append(path, search_space, f"{name}_{cost_name}", archs, rng)
  trends.summarize(
    read_scores(path, search_space),
    window=window,
    own_order=trends.OwnOrder(stages=[1, 0, 2], note=""),
    missing={"regnet_in_window": "only 0 of 20 archs"},
  ).write(path.with_name("summary.json"))


def write_complexity(search_space, workdir, rng):
  path = workdir / "complexity" / "scores.csv"
  for name, width, depth in (("w4_d1", 4, 1), ("w4_d2", 4, 2), ("w8_d2", 8, 2)):
    shape = (COUNT, search_space.num_stages)
    drawn = Arch(
      rng.integers(1, depth + 1, shape), rng.integers(1, width + 1, shape)
    )
    append(path, search_space, name, drawn, rng)
  append(path, search_space, "elite", draw(search_space, 1, COUNT), rng)
  larger_spaces.summarize(
    read_scores(path, search_space),
    search_space,
    target_flops=TARGET,
    elite_target_flops=2 * TARGET,
    tolerance=0.3,
  ).write(path.with_name("summary.json"))


def write_sweep(search_space, workdir, rng):
  """Two targets with scores; the last has the networks of the run, if any."""
  for target in (TARGET / 2, TARGET):
    folder = workdir / "sweep" / f"{target / 1e6:g}mf"
    config = {"objective": {"target_flops": target}}
    files.write_json(made(folder / "config.json"), config)
    for seed, source in enumerate(("elite", "expanded")):
      path = folder / "evaluate" / "scores.csv"
      append(path, search_space, source, draw(search_space, seed, COUNT), rng)
  if (workdir / "nas").exists():
    write_nas(search_space, folder)
  sweep = read_contents(workdir, search_space).sweep
  names = [pathlib.Path(c.workdir).name for _, c in sweep]
  result = summarize(names, sweep, ["evaluate"])
  result.write(workdir / "sweep" / "summary.json")
