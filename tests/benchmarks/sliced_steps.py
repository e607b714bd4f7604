"""How fast is the sliced engine? Against masked, XLA's floor, and PyTorch.

Run `python tests/benchmarks/sliced_steps.py` on a CPU. All of it takes about 40
minutes; `--only=floor,torch --draws=8` runs parts. Any Python that has torch
and numpy can run the PyTorch side: `--torch_python=PATH`. `--before=CHECKOUT`
also times the sliced engine of another commit, in a process of its own.

The sizes are W 64, D 8, 16x16x3 images and batches of 64. A step is forward,
backward and the update of SGD with momentum; jax runs 4 of them in one `scan`
with donated state. The contenders (see `contenders.py`) take turns, and medians
are printed. Ratios above one say that sliced is faster. Results are in
tests/README.md.
"""

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import resource
import runpy
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from contenders import (
  DEPTH,
  OPTIMIZER,
  SPACE,
  WIDTH,
  Jax,
  Other,
  alone,
  make_batch,
  masked,
  own_weights,
  score_fn,
  sliced,
  torch_version,
  train_fn,
)

import nss_jax as nss
from nss_jax.phases import search
from nss_jax.phases.job import Job
from nss_jax.spaces.cost import largest_macs

PARTS = (
  "compile",
  "masked",
  "floor",
  "torch",
  "scoring",
  "profile",
  "host",
  "paper",
)
STEPS = 4  # in one call
ROUNDS = 5
NAMED = {
  "smallest": "d1-1-1_w8-8-8",
  "half": "d4-4-4_w32-32-32",
  "largest": "d8-8-8_w64-64-64",
}
SCORED_SHARE, SCORED = 0.006, 64


def draw_archs(count):
  """Draws uniform archs, `[N, S]`."""
  rng = np.random.default_rng(0)
  size = (count, SPACE.num_stages)
  return nss.Arch(
    depth=rng.integers(1, DEPTH + 1, size, np.int32),
    width=rng.integers(1, WIDTH + 1, size, np.int32),
  )


def pick(archs, index):
  return jax.tree.map(lambda x: x[index], archs)


def repeat(arch, times):
  return jax.tree.map(lambda x: np.stack([x] * times).astype(np.int32), arch)


def in_turns(calls, rounds):
  """Returns median seconds of calls that take turns and time themselves."""
  times = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      times[name].append(call()[0])
  return {name: statistics.median(values) for name, values in times.items()}


def time_arch(engines, arch, rounds):
  """Returns seconds a step of each engine, and how far apart losses start."""
  archs = repeat(arch, STEPS)
  if "floor" in engines:
    floor = engines["floor"]
    engines = engines | {
      "floor": dataclasses.replace(
        floor,
        fn=train_fn(lambda w, x, _: alone(w, x, arch)),
        weights=own_weights(floor.weights, arch),
      )
    }
  # Also compiles, and touches all memory once.
  losses = [engine.train(archs, fresh=True)[1] for engine in engines.values()]
  calls = {
    name: lambda engine=engine: engine.train(archs)
    for name, engine in engines.items()
  }
  spread = (max(losses) - min(losses)) / max(losses)
  return in_turns(calls, rounds), spread


def steps(engines, draws):
  """Times named archs, then uniform draws."""
  print_row("ms a step", list(engines))
  spreads = []
  for name, text in NAMED.items():
    seconds, spread = time_arch(engines, nss.parse_arch(text), ROUNDS)
    spreads.append(spread)
    print_seconds(name, seconds)
  if draws:
    archs, table = draw_archs(draws), []
    for i in range(draws):
      # Masked costs the same whatever is drawn, so a few times are enough.
      seconds, spread = time_arch(
        {k: v for k, v in engines.items() if k != "masked" or i < 3},
        pick(archs, i),
        3,
      )
      table.append(seconds)
      spreads.append(spread)
    mean = {
      name: statistics.mean(row[name] for row in table if name in row)
      for name in engines
    }
    print_seconds(f"{draws} draws", mean)
    total = nss.arch_macs(SPACE, archs).mean()
    print(f"  largest / mean MACs {largest_macs(SPACE) / total:.2f}")
    if "floor" in engines:
      worst = sorted(range(draws), key=lambda i: ratio(table[i], "floor"))
      for i in (worst[0], worst[draws // 2], worst[-1]):
        text = nss.format_arch(pick(archs, i))
        print_seconds(text, table[i])
  print(f"  first losses are at most {max(spreads):.1e} apart")


def scoring(weights, batch, torch):
  """Times forward passes of archs of a cheap space."""
  target = SCORED_SHARE * largest_macs(SPACE)
  space = find_space(target)
  archs = nss.sample_archs(jax.random.key(1), SPACE, space, SCORED)
  print(
    f"scoring {SCORED} archs of {nss.format_space(SPACE, space)}, mean "
    f"{nss.space_macs(SPACE, space) / largest_macs(SPACE):.2%} of the largest"
  )
  few = pick(archs, slice(4))
  calls = {
    "sliced": lambda: engines["sliced"].score(archs),
    "masked": lambda: engines["masked"].score(few),
    "torch": lambda: torch.score(archs),
  }
  engines = {
    "sliced": Jax(score_fn(sliced), weights, batch),
    "masked": Jax(score_fn(masked), weights, batch),
  }
  if torch is None:
    calls.pop("torch")
  for call in calls.values():
    call()
  print_row("ms an arch", list(calls))
  print_seconds("forward", in_turns(calls, ROUNDS))


def find_space(target):
  """Draws spaces until one is within 10 % of a mean cost."""
  logits = nss.init_logits(SPACE)
  spaces = nss.sample_space(jax.random.key(0), logits, (20_000,))
  spaces = jax.tree.map(np.asarray, spaces)
  for i in range(20_000):
    space = pick(spaces, i)
    if abs(nss.space_macs(SPACE, space) / target - 1) < 0.1:
      return space
  raise ValueError(f"no space within 10 % of {target:.3g} MACs was drawn")


def host(engine, draws):
  """Times a scanned loop against its steps, each of them a call."""
  archs = draw_archs(max(draws, STEPS))
  archs = pick(archs, slice(len(archs.depth) // STEPS * STEPS))
  single = dataclasses.replace(engine, fn=train_fn(sliced), state=None)
  count = len(archs.depth)
  total = {"loop": 0.0, "calls": 0.0}
  for i in range(0, count, STEPS):
    some = pick(archs, slice(i, i + STEPS))
    ones = [pick(some, slice(k, k + 1)) for k in range(STEPS)]
    calls = {"loop": lambda some=some: engine.train(some)} | {
      k: lambda one=one: single.train(one) for k, one in enumerate(ones)
    }
    if i == 0:
      for call in calls.values():
        call()
    seconds = in_turns(calls, 3)
    total["loop"] += STEPS * seconds.pop("loop")
    total["calls"] += sum(seconds.values())
  print(
    f"host overhead: loops of {STEPS} steps, {count} archs: "
    f"{total['loop']:.2f} s, their steps one by one {total['calls']:.2f} s: "
    f"{total['loop'] / total['calls']:.3f}"
  )


def profile(engine):
  """Times what the smallest arch pays for the supernet around it."""
  archs = repeat(nss.parse_arch(NAMED["smallest"]), STEPS)
  state = engine.weights, OPTIMIZER.init(engine.weights)
  lowered = engine.fn.lower(state, *engine.batch, archs)
  size = lowered.compile().memory_analysis().temp_size_in_bytes

  @jax.jit
  def fill(values):
    def body(total, value):
      # Barriers: written to memory, in every step anew.
      buffer = jax.lax.optimization_barrier(jnp.full(size // 4, value))
      return total + buffer[jnp.int32(value)], None

    return jax.lax.scan(body, 0.0, values)

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, values):
    def body(state, value):
      weights, momentum = state
      gradients = jax.tree.map(lambda x: jnp.full_like(x, value), weights)
      gradients = jax.lax.optimization_barrier(gradients)
      updates, momentum = OPTIMIZER.update(gradients, momentum)
      return (optax.apply_updates(weights, updates), momentum), None

    return jax.lax.scan(body, state, values)[0]

  values = jnp.zeros(STEPS)
  held = {"state": jax.tree.map(jnp.copy, state)}

  def updated():
    held["state"] = update(held["state"], values)
    return held["state"]

  calls = {
    "sliced": lambda: engine.train(archs),
    "fill": lambda: seconds_of(lambda: fill(values)),
    "update": lambda: seconds_of(updated),
  }
  for call in calls.values():
    call()
  print_row("ms a step", list(calls))
  print_seconds(f"smallest, {size / 1e6:.0f} MB", in_turns(calls, 4 * ROUNDS))


def seconds_of(call):
  """Returns the seconds of a step, in a tuple as `in_turns` takes it."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return ((time.perf_counter() - start) / STEPS,)


def compile_times(weights, batch):
  """Times tracing and compilation, and prints the memory of a step."""
  print_row("cold", ["trace s", "compile s", "temp MB"])
  arch = repeat(nss.parse_arch(NAMED["half"]), STEPS)
  state = weights, OPTIMIZER.init(weights)
  for name, apply in (("sliced", sliced), ("masked", masked)):
    jax.clear_caches()
    fn = train_fn(apply)
    print_compiled(name, lambda fn=fn: fn.lower(state, *batch, arch))
  for name, warmup in (("quickstart, warmup", True), ("quickstart", False)):
    jax.clear_caches()
    print_compiled(name, lambda warmup=warmup: quickstart(warmup))


def quickstart(warmup):
  """Lowers the jitted loop of the quickstart's search."""
  file = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
  config = runpy.run_path(str(file))["get_config"]()
  built = search.build(Job.open(config, pathlib.Path()))
  state = jax.eval_shape(built.init)
  _, length = built.schedule.dispatches[0]
  return jax.jit(built.dispatch, static_argnums=(3, 4)).lower(
    state, 0, 0, length, warmup
  )


def paper_size():
  """Prints time and memory of a step at the paper's size, batch 8."""
  space = nss.SearchSpace.expanded(
    max_depth=16, max_width=512, image_shape=(32, 32, 3), num_classes=100
  )
  keys = jax.random.split(jax.random.key(1))
  images = jax.random.normal(keys[0], (8, *space.image_shape))
  labels = jax.random.randint(keys[1], (8,), 0, 100)
  weights = nss.init_weights(jax.random.key(0), space)
  state = weights, OPTIMIZER.init(weights)
  step = train_fn(lambda w, x, arch: nss.apply_sliced(space, w, x, arch))
  print_row("paper size, batch 8", ["trace s", "compile s", "temp MB"])
  one = repeat(nss.parse_arch("d1-4-2_w32-128-96"), 1)
  compiled = print_compiled(
    "sliced step", lambda: step.lower(state, images, labels, one)
  )
  for text in ("d1-4-2_w32-128-96", "d16-16-16_w512-512-512"):
    arch = nss.parse_arch(text)
    times = []
    for _ in range(3):
      start = time.perf_counter()
      state, losses = jax.block_until_ready(
        compiled(state, images, labels, repeat(arch, 1))
      )
      times.append(time.perf_counter() - start)
    print_row(
      text,
      [f"{min(times):.2f} s"],
      f"  {nss.arch_macs(space, arch) / 1e6:.0f} MF, loss {losses[0]:.2f}",
    )
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  print(f"  peak memory of the process {peak:.1f} GiB")


# The words.


def print_row(name, cells, rest=""):
  print(f"{name:32}" + "".join(f"{cell:>14}" for cell in cells) + rest)


def ratio(seconds, name):
  """Returns a ratio that is above one where sliced is faster."""
  return seconds[name] / seconds["sliced"]


def print_seconds(name, seconds):
  cells = [f"{1e3 * value:.1f}" for value in seconds.values()]
  ratios = "".join(
    f"  {other}/sliced {ratio(seconds, other):.2f}"
    for other in seconds
    if other != "sliced"
  )
  print_row(name, cells, ratios)
  sys.stdout.flush()


def print_compiled(name, lower):
  start = time.perf_counter()
  lowered = lower()
  traced = time.perf_counter()
  compiled = lowered.compile()
  done = time.perf_counter()
  size = compiled.memory_analysis().temp_size_in_bytes
  cells = (traced - start, done - traced, size / 1e6)
  print_row(name, [f"{cell:.1f}" for cell in cells])
  sys.stdout.flush()
  return compiled


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--only", default=",".join(PARTS), help="some of these")
  parser.add_argument("--draws", type=int, default=64, help="uniform archs")
  parser.add_argument("--torch_python", default=sys.executable)
  parser.add_argument(
    "--before", type=pathlib.Path, help="a checkout whose steps take turns too"
  )
  flags = parser.parse_args()
  only = flags.only.split(",")
  if unknown := set(only) - set(PARTS):
    parser.error(f"--only: no part {sorted(unknown)}; expected {PARTS}")

  print(f"jax {jax.__version__}, {jax.default_backend()}")
  weights = nss.init_weights(jax.random.key(0), SPACE)
  batch = make_batch()
  if "compile" in only:
    compile_times(weights, batch)

  with contextlib.ExitStack() as stack:
    torch = None
    if {"torch", "scoring"} & set(only):
      version = torch_version(flags.torch_python)
      if version is None:
        print("PyTorch is not installed: skipped (pip install '.[bench]')")
      else:
        print(f"PyTorch {version}")
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        torch = Other(
          flags.torch_python, "torch_sliced.py", weights, batch, folder
        )
        stack.callback(torch.close)
    engines = {"sliced": Jax(train_fn(sliced), weights, batch)}
    if "masked" in only:
      engines["masked"] = Jax(train_fn(masked), weights, batch)
    if "floor" in only:
      engines["floor"] = Jax(None, weights, batch)
    if "torch" in only and torch is not None:
      engines["torch"] = torch
    if flags.before is not None:
      folder = stack.enter_context(tempfile.TemporaryDirectory())
      engines["before"] = Other(
        *(sys.executable, "before_sliced.py", weights, batch, folder),
        package=flags.before.resolve(),
      )
      stack.callback(engines["before"].close)
    if len(engines) > 1:
      steps(engines, flags.draws)
    if "scoring" in only:
      scoring(weights, batch, torch)
    if "profile" in only:
      profile(engines["sliced"])
    if "host" in only:
      host(engines["sliced"], flags.draws)
  if "paper" in only:
    paper_size()


if __name__ == "__main__":
  main()
