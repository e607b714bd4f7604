r"""What compilers say of the paper's programs on chips that are not there.

  JAX_PLATFORMS=cpu python tests/benchmarks/accelerators.py \
    --csv=configs/results/accelerators.csv

It needs libtpu, and for GPUs jax-cuda13-plugin and jax-cuda13-pjrt, and takes
five to fifteen minutes for each program on two cores. Rows that the CSV has are
not compiled again; `--rows` names those to compile. The sliced engine has a row
for the largest arch and one for an arch of the target, by the lengths of their
loops.

The columns are the GiB of a chip (arguments, temporaries, outputs); the
millions of cycles of a step, and the shares of convolutions and of fills with a
constant; the seconds; the share of the chip's peak; the bytes that chips sum
among each other in a step, and those of the gradients. Cycles are the
compiler's estimates. For GPUs there are none; their columns are how often the
host waits in a step to learn where the program continues, and how many
convolutions cuDNN computes.
"""

import argparse
import pathlib
import time

import jax
import numpy as np
from spaces import append, read, versions

import nss_jax as nss
from nss_jax import config as config_lib
from nss_jax.phases import chip_programs, compilation
from nss_jax.phases.job import Job
from nss_jax.runtime import chips, hlo
from nss_jax.spaces.cost import largest_arch
from nss_jax.supernet import sliced

GIB = 2**30
# Chip, phase, a part of the program's name, and fields.
ROWS = {
  "soft pair": ("v5e-1", "search", "both steps", {}),
  "soft pair, remat": (
    *("v5e-1", "search", "both steps"),
    {"supernet.remat": True},
  ),
  "soft pair, v6e-1": ("v6e-1", "search", "both steps", {}),
  "soft pair, v5e-8": ("v5e-8", "search", "both steps", {}),
  "warmup": ("v5e-1", "search", "warmup", {}),
  "masked weight step": (
    *("v5e-1", "evaluate", "supernet"),
    {"supernet.engine": "masked"},
  ),
  "sliced weight step": ("v5e-1", "evaluate", "supernet", {}),
  "scores": ("v5e-1", "evaluate", "scores", {}),
  "soft pair, h100": ("h100", "search", "both steps", {}),
  "soft pair, a100": ("a100", "search", "both steps", {}),
  "soft pair, t4": ("t4", "search", "both steps", {}),
  "sliced weight step, h100": ("h100", "evaluate", "supernet", {}),
}
COLUMNS = (
  *("jax", "commit", "row", "arch", "chip", "arguments", "temporaries"),
  *("outputs", "cycles", "conv", "fill", "seconds", "peak", "reduced"),
  *("gradients", "compiled_in", "reads", "convolutions", "cudnn"),
)


def compile_row(name):
  """Returns what the compiler says of a row's program, and its job."""
  chip, phase, part, fields = ROWS[name]
  config = config_lib.paper("cifar100_600mf")
  config.update_from_flattened_dict(fields)
  found = chips.find(chip)
  job = Job.open(
    config,
    pathlib.Path(),
    mesh=chips.make_mesh(found),
    fetch=False,
    phases=(phase,),
  )
  (program,) = (x for x in chip_programs.programs(job) if part in x.name)
  return compilation.compile_program(job, program, found), job


def rows_of(name, texts):
  began = time.monotonic()
  compiled, job = compile_row(name)
  config, space = job.config, job.search_space
  module = hlo.Module(compiled.text)
  if texts is not None:
    texts.mkdir(parents=True, exist_ok=True)
    (texts / f"{name}.txt").write_text(compiled.text)
  archs = {"": None}
  if compiled.program.loop_counts:
    archs = {
      "largest": largest_arch(space),
      "target": nss.proportional_arch(space, job.constraints),
    }
  clock, steps = compiled.chips.clock, compiled.program.steps
  for arch_name, arch in archs.items():
    counts = {}
    if arch is not None:
      shares = (
        config.evaluate.score_bucket_shares
        if name == "scores"
        else config.supernet.bucket_shares
      )
      buckets = sliced.default_buckets(space, shares)
      stacked = jax.tree.map(lambda x: np.asarray(x)[None], arch)
      counts = {
        key: float(count[0])
        for key, count in sliced.loop_counts(space, buckets, stacked).items()
      }
    trips = compilation.trips_of(counts)
    cycles = module.cycles(trips)
    total = sum(cycles.values())
    on_gpu = {}
    if not clock:
      cudnn = compiled.text.count('custom_call_target="__cudnn$conv')
      others = sum(x.kind == "convolution" for x in module.instructions())
      on_gpu = {
        "reads": module.num_host_reads(trips) / steps,
        "convolutions": cudnn + others,
        "cudnn": cudnn,
      }
    yield {
      "row": name,
      "arch": arch_name,
      "chip": compiled.chips.name,
      "arguments": compiled.arguments / GIB,
      "temporaries": compiled.temporaries / GIB,
      "outputs": compiled.outputs / GIB,
      "cycles": total / steps / 1e6 if clock else "",
      "conv": cycles.get("conv", 0) / total if clock else "",
      "fill": cycles.get("fill", 0) / total if clock else "",
      "seconds": total / clock / steps if clock else "",
      "peak": compiled.share_of_peak if arch is None and clock else "",
      "reduced": module.reduced_bytes(),
      "gradients": 4 * int(nss.arch_params(space, largest_arch(space))),
      "compiled_in": round(time.monotonic() - began),
      **on_gpu,
    }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--csv", type=pathlib.Path, required=True)
  parser.add_argument("--texts", type=pathlib.Path, help="where programs go")
  parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
  flags = parser.parse_args()
  origin = versions()
  for name in flags.rows:
    if any(row["row"] == name for row in read(flags.csv)):
      continue
    for row in rows_of(name, flags.texts):
      row = {"jax": origin["jax"], "commit": origin["commit"], **row}
      append(flags.csv, row, COLUMNS)
      print(row, flush=True)
  print(
    "| program | arch | chip | GiB | M cycles | convolution | fills | seconds |"
  )
  print("|---|---|---|---|---|---|---|---|")
  for row in read(flags.csv):
    memory = sum(
      float(row[key]) for key in ("arguments", "temporaries", "outputs")
    )
    if not row["cycles"]:
      print(
        f"| {row['row']} | {row['arch']} | {row['chip']} | {memory:.2f} | | "
        f"{row['cudnn']} of {row['convolutions']} by cuDNN | | "
        f"{row['reads']} waits of the host |"
      )
      continue
    print(
      f"| {row['row']} | {row['arch']} | {row['chip']} | {memory:.2f} | "
      f"{float(row['cycles']):.0f} | {100 * float(row['conv']):.0f} % | "
      f"{100 * float(row['fill']):.1f} % | {float(row['seconds']):.3f} |"
    )


if __name__ == "__main__":
  main()
