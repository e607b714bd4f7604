"""Which estimator, and which selection of the Elite Space, finds good spaces?

Run `python tests/benchmarks/estimators.py --workdir=DIR`, for real images with
`--config=configs/fashion_mnist.py`. On digits one estimator of the three
(`--estimators=soft`) takes 20 minutes on one core. It goes on where it was
stopped. Every search sees the same number of images.

For each estimator and seed: one search by the command; from its probabilities
the Elite Space by both selections; and both on the evaluator, one supernet for
all, among random spaces whose mean cost is within 10 % of the target. It prints
the rows of configs/RESULTS.md's tables: the seconds of the last seed's search,
deviations from the target, percentiles by mean loss (0: none of the random
spaces is better), in brackets those among random spaces without the lowest
width bin, and the mean errors.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
ESTIMATORS = ("soft", "score", "straight_through")
SELECTIONS = ("exact", "paper")
ELITE = pathlib.PurePath("search", "elite_space.json")
# Without the oracle, which no row asks for.
FEWER = ("--config.evaluate.oracle_spaces=0", "--config.evaluate.num_archs=64")


def command(flags, workdir, estimator, selection, seed, phase):
  """Runs a phase; it does nothing where that is finished."""
  subprocess.run(
    [
      *(sys.executable, "-m", "nss_jax.main", f"--config={flags.config}"),
      *(f"--workdir={workdir}", f"--phases={phase}", *FEWER),
      f"--config.evaluate.cache={flags.workdir / 'supernets'}",
      f"--config.search.estimator={estimator}",
      f"--config.search.elite={selection}",
      f"--config.seed={seed}",
    ],
    cwd=ROOT,
    check=True,
    stdout=sys.stderr,
  )


def choose(source, target):
  """The same search with the closest of its draws as its Elite Space."""
  elite = json.loads(source.read_text())
  closest = min(elite["candidates"], key=lambda found: abs(found["deviation"]))
  target.parent.mkdir(parents=True, exist_ok=True)
  target.write_text(json.dumps({**elite, **closest}))


def evaluate(flags, estimator, seed):
  """What each selection of one search is worth, `{selection: numbers}`."""
  found = {}
  for selection in SELECTIONS:
    workdir = flags.workdir / f"{estimator}_{selection}_{seed}"
    if selection == "exact":
      command(flags, workdir, estimator, selection, seed, "search")
      searched = workdir
    else:
      choose(searched / ELITE, workdir / ELITE)
    command(flags, workdir, estimator, selection, seed, "evaluate")
    summary = json.loads((workdir / "evaluate" / "summary.json").read_text())
    against = summary["elite_against"]
    found[selection] = {
      "deviation": json.loads((workdir / ELITE).read_text())["deviation"],
      "error": summary["groups"]["elite"]["mean_error"],
      **{
        name: spaces["loss"]["percentile"] for name, spaces in against.items()
      },
    }
  return found, seconds_of(searched)


def seconds_of(workdir):
  """Of a search, by its log, compilation included."""
  settings = json.loads((workdir / "config.json").read_text())["search"]
  seconds, before = 0.0, 0
  for text in (workdir / "search" / "metrics.jsonl").read_text().splitlines():
    line = json.loads(text)
    # After warmup a step is one on each half.
    halves = 1 if line["epoch"] <= settings["warmup_epochs"] else 2
    images = halves * (line["step"] - before) * settings["batch_size"]
    seconds += images / line["images_per_second"]
    before = line["step"]
  return seconds


def print_row(estimator, seconds, found):
  """One estimator, all seeds, by each selection."""
  print(f"{estimator}, {seconds:.0f} s")
  for selection in SELECTIONS:
    rows = [one[selection] for one in found]
    deviations = ", ".join(f"{100 * row['deviation']:+.1f}" for row in rows)
    among, hard, errors = (
      ", ".join(f"{scale * row[name]:.{digits}f}" for row in rows)
      for name, scale, digits in (
        ("random_spaces", 1, 0),
        ("hard_random_spaces", 1, 0),
        ("error", 100, 1),
      )
    )
    print(
      f"  {selection:6} {deviations} %; percentiles {among} ({hard}); "
      f"errors {errors} %",
      flush=True,
    )


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--config", default="configs/quickstart.py")
  parser.add_argument("--estimators", default=",".join(ESTIMATORS))
  parser.add_argument("--seeds", default="0,1,2")
  flags = parser.parse_args()
  flags.workdir = flags.workdir.resolve()
  found = {name: [] for name in flags.estimators.split(",")}
  for seed, name in itertools.product(flags.seeds.split(","), found):
    numbers, seconds = evaluate(flags, name, seed)
    found[name].append(numbers)
    print(f"{name}, seed {seed}: {numbers}", file=sys.stderr, flush=True)
    if len(found[name]) == len(flags.seeds.split(",")):
      print_row(name, seconds, found[name])


if __name__ == "__main__":
  main()
