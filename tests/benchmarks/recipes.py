r"""Which way of training the evaluator orders archs as they end alone?

  python tests/benchmarks/recipes.py --workdir=DIR \
    --truths=configs/results/truths.csv --csv=configs/results/recipes.csv

On 24,800 images of Fashion-MNIST, of which 20,000 are trained on and 4,800 are
scored: 60 archs spread in cost and 40 within 10 % of 1.5 MF, trained alone for
four epochs with two seeds. These truths are computed once and kept, by
`--only_truths=near_target` (about two hours on a core) and `=spread` (eight or
nine), which may run side by side; without it, by one after the other. Then
every recipe is compared on them, at the multiply-adds of `--epochs` of single
paths, about 45 minutes each; truths of one group are enough. It goes on where
it was stopped, and rows that the CSV has are not run again. `--summary` prints
the table of what it has.

Columns, of the archs near the target and of those spread: the tau between two
seeds of the truths (ceiling); the tau of the supernet's loss and of its error
with their mean, and the interval of the first; the best trivial predictor, its
tau, how far the loss is above it, and the deviation of that.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
from spaces import ROOT, append, read, versions

sys.path.insert(0, str(ROOT / "tests"))
import runs

from nss_jax import data
from nss_jax.phases import schedules, work
from nss_jax.phases.job import Job

NUM_IMAGES, NUM_SCORED, BATCH = 24_800, 4_800, 1_200
# Epochs that are shares here are of all the recipe's.
RECIPES = {
  "single_path": {},
  "archs_8": {"archs_per_batch": 8},
  "archs_16": {"archs_per_batch": 16, "coin_epochs": 0.0},
  "fair_8": {"archs_per_batch": 8, "fair": True},
  "sandwich_8": {"archs_per_batch": 8, "sandwich": True},
  "largest_first": {"largest_epochs": 1 / 6},
  "largest_then_sandwich_8": {
    **{"archs_per_batch": 8, "sandwich": True, "fair": True},
    "largest_epochs": 1 / 3,
  },
  "own_norms": {"own_norms": 32},
  "own_norms_8": {"archs_per_batch": 8, "own_norms": 32},
  "own_kernels_late": {"own_kernels": 4, "own_kernel_epochs": 1 / 3},
  "no_coins": {"coin_epochs": 0.0},
  "twice_as_long": {},
}
TIMES = {"twice_as_long": 2}
COIN_SHARE = 1 / 3
GROUPS = ("near_target", "spread")
NUM_ARCHS = {"num_archs": ("spread", 60), "num_near_archs": ("near_target", 40)}
COLUMNS = (
  *("python", "jax", "commit", "recipe", "seed", "epochs", "work", "seconds"),
  *(
    f"{group}_{name}"
    for group in GROUPS
    for name in (
      *("count", "ceiling", "loss", "loss_low", "loss_high", "error"),
      *("best_trivial", "trivial", "above", "deviation", "ridge"),
      "ridge_and_loss",
    )
  ),
)


def make_images(path):
  """Images of the training set, drawn, in a file that `npz` reads."""
  if path.exists():
    return
  whole = data.load("fashion_mnist")
  rows = np.random.default_rng(0).permutation(len(whole.train_labels))
  rows = np.sort(rows[:NUM_IMAGES])
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(
    path,
    train_images=np.asarray(whole.train_images[rows]),
    train_labels=whole.train_labels[rows],
    test_images=np.asarray(whole.test_images[np.arange(2_000)]),
    test_labels=whole.test_labels[:2_000],
  )


def fields_of(flags, recipe, epochs):
  """Of the config, by their names under `config`."""
  settings = {"coin_epochs": COIN_SHARE, **RECIPES[recipe]}
  settings = {
    name: round(value * epochs) if name.endswith("_epochs") else value
    for name, value in settings.items()
  }
  return {
    "data.source": "npz",
    "data.path": str(flags.workdir / "images.npz"),
    "evaluate.epochs": epochs,
    "evaluate.holdout_fraction": NUM_SCORED / NUM_IMAGES,
    "evaluate.score_batch_size": BATCH,
    "evaluate.calibration_images": 500,
    "rank_check.epochs": 4,
    **{f"evaluate.{name}": value for name, value in settings.items()},
  }


def work_of(flags, recipe, epochs):
  """Multiply-adds of one image in all steps of the training."""
  config = runs.load_config("fashion_mnist", **fields_of(flags, recipe, epochs))
  images = data.load("fashion_mnist", fetch=False)
  job = Job.open(config, pathlib.Path(), dataset=images)
  schedule = schedules.make_schedule(
    NUM_IMAGES - NUM_SCORED,
    batch_size=config.evaluate.batch_size,
    epochs=epochs,
    steps_per_dispatch=config.search.steps_per_dispatch,
  )
  return float(work.supernet_work(job, schedule).sum())


def length_of(flags, recipe):
  """The epochs whose work is nearest to what a recipe may take, and a share."""
  allowed = work_of(flags, "single_path", flags.epochs) * TIMES.get(recipe, 1)
  works = {n: work_of(flags, recipe, n) for n in range(1, 4 * flags.epochs)}
  epochs = min(works, key=lambda n: abs(works[n] - allowed))
  return epochs, works[epochs] / allowed


def command(flags, workdir, fields):
  """Runs the rank check, and returns the folder of its files."""
  words = [
    *(sys.executable, "-m", "nss_jax.main", "--phases=rank_check"),
    f"--config={ROOT / 'configs' / 'fashion_mnist.py'}",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
  ]
  subprocess.run(words, cwd=ROOT, check=True, stdout=sys.stderr)
  return workdir / "rank_check"


def compute_truths(flags, group):
  """The truths of a group, or of the part of it that an earlier run has done.

  The supernet, which has no part in them, is trained for an epoch.
  """
  fields = fields_of(flags, "no_coins", 1)
  fields |= {
    f"rank_check.{name}": count if owner == group else 0
    for name, (owner, count) in NUM_ARCHS.items()
  }
  return command(flags, flags.workdir / f"truths_{group}", fields)


def keep_truths(flags):
  """Both groups in one file."""
  lines = []
  for group in GROUPS:
    path = compute_truths(flags, group) / "truths.csv"
    header, *rows = path.read_text("utf-8").splitlines(keepends=True)
    lines += rows
  flags.truths.write_text("".join([header, *lines]), "utf-8")


def run(flags, recipe, seed):
  """Trains the evaluator, scores the archs, and returns a row."""
  epochs, share = length_of(flags, recipe)
  fields = fields_of(flags, recipe, epochs)
  fields |= {"evaluate.seed": seed, "rank_check.truths": str(flags.truths)}
  began = time.monotonic()
  folder = command(flags, flags.workdir / f"{recipe}_{seed}", fields)
  summary = json.loads((folder / "summary.json").read_text())
  row = {"recipe": recipe, "seed": seed, "epochs": epochs, "work": share}
  row["seconds"] = round(time.monotonic() - began)
  for group, found in summary.items():
    row |= {f"{group}_{k}": v for k, v in numbers(found).items()}
  return row


def numbers(found):
  taus = {name: entry["tau"] for name, entry in found["predictors"].items()}
  low, high = found["predictors"]["loss"]["interval"]
  against = found["against_trivial"]
  return {
    "count": found["count"],
    "ceiling": found["ceiling"]["tau"],
    "loss": taus["loss"],
    "loss_low": low,
    "loss_high": high,
    "error": taus["error"],
    "best_trivial": against["best"],
    "trivial": taus[against["best"]],
    "above": against["difference"],
    "deviation": against["deviation"],
    "ridge": taus["ridge"],
    "ridge_and_loss": taus["ridge_and_supernet"],
  }


def print_summary(rows):
  """A table of each group of archs, in Markdown."""
  for group in GROUPS:
    found = [row for row in rows if row[f"{group}_loss"]]
    if not found:
      continue
    print(f"\n{found[0][f'{group}_count']} archs, {group.replace('_', ' ')}\n")
    print("| recipe | seed | epochs | tau of the loss | of the error ", end="")
    print("| share of the ceiling | above the best trivial | ridge, with it |")
    print("|---|---|---|---|---|---|---|---|")
    for row in found:
      own = {k.removeprefix(f"{group}_"): v for k, v in row.items()}
      number = {k: float(own[k]) for k in ("loss", "ceiling", "above")}
      print(
        f"| {row['recipe']} | {row['seed']} | {row['epochs']} "
        f"| {number['loss']:.2f} ({float(own['loss_low']):.2f} to "
        f"{float(own['loss_high']):.2f}) | {float(own['error']):.2f} "
        f"| {100 * number['loss'] / number['ceiling']:.0f} % of "
        f"{number['ceiling']:.2f} | {number['above']:+.2f} +- "
        f"{float(own['deviation']):.2f} ({own['best_trivial']}, "
        f"{float(own['trivial']):.2f}) | {float(own['ridge']):.2f}, "
        f"{float(own['ridge_and_loss']):.2f} |"
      )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--truths", type=pathlib.Path)
  parser.add_argument("--csv", type=pathlib.Path, required=True)
  parser.add_argument("--recipes", default=",".join(RECIPES))
  parser.add_argument("--seeds", default="0")
  parser.add_argument("--epochs", type=int, default=18)
  parser.add_argument("--only_truths", choices=GROUPS, help="stop after them")
  parser.add_argument("--plan", action="store_true", help="print the epochs")
  parser.add_argument("--summary", action="store_true")
  flags = parser.parse_args()
  if flags.summary:
    print_summary(read(flags.csv))
    return
  flags.workdir, flags.truths = (
    path.resolve() for path in (flags.workdir, flags.truths)
  )
  recipes = flags.recipes.split(",")
  if flags.plan:
    for recipe in recipes:
      epochs, share = length_of(flags, recipe)
      print(f"{recipe}: {epochs} epochs, {share:.2f} of the multiply-adds")
    return
  make_images(flags.workdir / "images.npz")
  if flags.only_truths:
    compute_truths(flags, flags.only_truths)
    return
  if not flags.truths.exists():
    keep_truths(flags)
  origin = versions()
  for seed in flags.seeds.split(","):
    for recipe in recipes:
      if any(
        (x["recipe"], x["seed"]) == (recipe, seed) for x in read(flags.csv)
      ):
        continue
      row = {**origin, **run(flags, recipe, seed)}
      append(flags.csv, row, COLUMNS)
      print(row, file=sys.stderr, flush=True)
  print_summary(read(flags.csv))


if __name__ == "__main__":
  main()
