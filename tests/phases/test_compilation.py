"""Programs for chips that are not there: handed out, compiled, told."""

import os
import re
import subprocess
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

import nss_jax as nss
from nss_jax import data
from nss_jax.errors import UserError
from nss_jax.phases import (
  chip_programs,
  compilation,
  memory,
  pipeline,
  schedules,
  search,
)
from nss_jax.runtime import chips, hlo
from nss_jax.supernet import sliced

GIB = 2**30
IMAGES = data.load(
  "synthetic",
  image_size=8,
  channels=3,
  synthetic=data.Synthetic(num_train=96, num_test=10),
)
# Three steps of warmup and three others, of one stage and two buckets.
FIELDS = {
  "data.source": "synthetic",
  "data.image_size": 8,
  "data.synthetic.num_train": 96,
  "data.synthetic.num_test": 10,
  "space.max_depth": 2,
  "space.num_depth_bins": 2,
  "space.max_width": 8,
  "space.num_width_bins": 4,
  "space.strides": (1,),
  "search.batch_size": 16,
  "search.epochs": 2,
  "search.warmup_epochs": 1,
  "search.steps_per_dispatch": 3,
  "search.elite": "paper",
  "supernet.activations": "bfloat16",
  "supernet.bucket_shares": (0.5, 1.0),
  "objective.target_flops": 1e5,
}
MODULE = """HloModule made_up, is_scheduled=true

%conv_body (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %c = f32[8]{0} convolution(%p, %p), window={size=1}
}

%fill_body (z: f32[]) -> f32[8] {
  %z = f32[] parameter(0)
  ROOT %b = f32[8]{0} broadcast(%z), dimensions={}
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  ROOT %f = f32[8]{0} fusion(%s), kind=kOutput, calls=%conv_body, \
backend_config={"estimated_cycles":"10"}
}

%cond (s.1: (s32[], f32[8])) -> pred[] {
  %s.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] compare(%s.1, %s.1), direction=LT
}

%cheap (s.2: f32[8]) -> f32[8] {
  %s.2 = f32[8]{0} parameter(0)
  ROOT %a = f32[8]{0} add(%s.2, %s.2), backend_config={"estimated_cycles":"1"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %fill = f32[8]{0} fusion(%x), kind=kLoop, calls=%fill_body, \
backend_config={"estimated_cycles":"7"}
  %known = (s32[], f32[8]{0}) while(%fill), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %unknown = (s32[], f32[8]{0}) while(%fill), condition=%cond, body=%body, \
metadata={op_name="jit(f)/transpose(jvp(stage_1))/rest_128/while"}
  %send = f32[8]{0} send(%x), channel_id=1
  ROOT %branch = f32[8]{0} conditional(%x, %x), branch_computations=\
{%cheap, %fill_two}
}

%fill_two (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  ROOT %g = f32[8]{0} fusion(%y), kind=kLoop, calls=%fill_body, \
backend_config={"estimated_cycles":"5"}
}
"""


def test_cycles_of_a_program_by_hand():
  """Loops count as often as they run, and of branches the dearest."""
  module = hlo.Module(MODULE)
  switched = MODULE.replace("stage_1))/", "stage_1))/cond/branch_1_fun/")
  once = module.cycles()
  assert once == {"conv": 3 * 10 + 10, "fill": 7 + 5}
  trips = compilation.trips_of(
    {"stage_1/rest_12": 100.0, "stage_1/rest_128": 4}
  )
  for text in (MODULE, switched):
    assert hlo.Module(text).cycles(trips)["conv"] == 3 * 10 + 4 * 10
  assert module.num_host_transfers() == 1
  # Four iterations, the end of them, and the conditional.
  assert module.num_host_reads(trips) == 4 + 1 + 1


def test_loops_of_an_arch_are_those_of_the_program():
  space = nss.SearchSpace(
    depth_bins=(((1, 2), (3, 4)), ((1, 1), (2, 2))),
    width_bins=(((1, 4), (5, 8)), ((2, 3), (4, 6))),
    strides=(1, 2),
    stem_width=3,
    image_shape=(4, 4, 2),
    num_classes=3,
  )
  buckets = (2, 4, 8), (3, 6)
  archs = nss.Arch(
    depth=np.array([[1, 2], [4, 1]]), width=np.array([[2, 3], [5, 4]])
  )
  counts = sliced.loop_counts(space, buckets, archs)
  of_each = [
    {name: int(count[n]) for name, count in counts.items() if count[n]}
    for n in range(2)
  ]
  assert of_each == [
    {
      "stage_1/first_3_2": 1,
      "stage_1/exit_2": 1,
      "stage_2/first_2_3": 1,
      "stage_2/rest_3": 1,
      "stage_2/exit_3": 1,
    },
    {
      "stage_1/first_3_8": 1,
      "stage_1/rest_8": 3,
      "stage_1/exit_8": 1,
      "stage_2/first_8_6": 1,
      "stage_2/exit_6": 1,
    },
  ]
  # These are the names of its loops, forward and backward.
  weights = jax.eval_shape(lambda: nss.init_weights(jax.random.key(0), space))
  images = jnp.zeros((2, *space.image_shape))
  arch = jax.tree.map(lambda x: x[0], archs)

  def total(weights):
    return nss.apply_sliced(space, weights, images, arch, buckets=buckets).sum()

  lowered = jax.jit(jax.grad(total)).lower(weights)
  text = lowered.as_text(debug_info=True)
  names = re.findall(r'"([^"]*)/while', text)
  for name in counts:
    stage, loop = name.split("/")
    # A bucket that hands over as it is changes no width.
    if loop.startswith("exit") and loop not in text:
      continue
    seen = [x for x in names if stage in x and x.endswith(loop)]
    assert any("transpose" in x for x in seen), name
    assert any("transpose" not in x for x in seen), name


CPU = chips.Chips("made_up", "cpu", "", 1, 1e9, 4 * GIB, 1e9)


def test_programs_are_handed_out_and_compile():
  config = runs.load_config("cifar100_600mf", **FIELDS)
  job = runs.make_job(config, dataset=IMAGES)
  warmup, both = chip_programs.programs(job)
  assert (warmup.name, both.name) == ("search, warmup", "search, both steps")
  assert [p.steps * p.calls for p in (warmup, both)] == [3, 3]
  # Soft masks run no loop of unknown length, drawn archs do.
  assert not both.loop_counts
  assert warmup.loop_counts["stage_1/rest_8"] > 0.5
  whole = nss.arch_macs(job.search_space, nss.parse_arch("d2_w8"))
  assert both.macs == pytest.approx(16 * 6 * whole, rel=0.01)
  found = compilation.compile_program(job, both, CPU)
  assert found.seconds is None
  # State and images go in; the state comes out in their place.
  leaves = jax.tree.leaves(jax.eval_shape(search.build(job).init))
  state = sum(x.size * x.dtype.itemsize for x in leaves)
  assert found.outputs < 0.05 * state
  images = IMAGES.train_images.nbytes + IMAGES.train_labels.nbytes
  assert found.arguments == pytest.approx(state + images, rel=0.05)
  assert found.memory == found.arguments + found.outputs + found.temporaries
  (line, more) = compilation.describe(found)
  assert f"{found.memory / GIB:.2f} GiB of 4.00: fits made_up" in line
  assert more == f"  {12 * 16 * whole:.3g} FLOP a step"


def _found(**fields):
  one = chip_programs.ChipProgram("search", lambda: None, 100, 10, 3e12)
  made_up = chips.find("v5e-4")
  known = {"arguments": GIB, "outputs": GIB, "temporaries": 2 * GIB}
  return compilation.Compiled(
    one, made_up, **known, seconds=0.1, shares={}, text="", **fields
  )


def test_time_and_bill_by_hand():
  found = _found()
  assert found.hours == pytest.approx(0.1 * 1000 / 3600)
  assert found.share_of_peak == pytest.approx(6e12 / (0.1 * 4 * 197e12))
  _, line = compilation.describe(found, price_per_hour=36.0)
  assert line == (
    "  6e+12 FLOP a step, about 0.1 s, 8 % of peak; 0.028 hours of the phase, "
    "1.00 to pay"
  )


def _fake(error=None, temporaries=0):
  """What `lower` gives: a program that fails to compile, or needs so much."""

  def compile_():
    if error:
      raise jax.errors.JaxRuntimeError(error)
    sizes = types.SimpleNamespace(
      argument_size_in_bytes=GIB,
      output_size_in_bytes=GIB,
      alias_size_in_bytes=0,
      temp_size_in_bytes=temporaries,
    )
    return types.SimpleNamespace(
      memory_analysis=lambda: sizes, as_text=lambda: ""
    )

  lowered = types.SimpleNamespace(compile=compile_)
  return chip_programs.ChipProgram("search", lambda: lowered, 1, 1, 1.0)


def _paper(**fields):
  config = runs.load_config("cifar100_600mf", **fields)
  space = nss.SearchSpace.expanded(num_classes=100)
  return runs.make_job(config, search_space=space, dataset=IMAGES)


@pytest.mark.parametrize(
  ("program", "words"),
  [
    (
      _fake("RESOURCE_EXHAUSTED: Used 20.25G of 15.75G hbm. Exceeded"),
      "search does not fit v5e-1: 20.2 GiB of 15.8, 4.5 too much",
    ),
    (
      _fake(temporaries=18 * GIB),
      "search does not fit v5e-1: 20.0 GiB of 15.8, 4.2 too much",
    ),
  ],
)
def test_what_does_not_fit_is_one_line(program, words):
  """By how much, and which fields help, each with its memory."""
  job = _paper(**{"supernet.activations": "float32"})
  with pytest.raises(UserError) as caught:
    compilation.compile_program(job, program, chips.find("v5e-1"))
  line = str(caught.value)
  assert words in line
  assert "\n" not in line
  helped = re.findall(r"supernet\.(\w+)=(\w+) ([\d.]+) GiB", line)
  names = ["activations", "remat", "microbatches"]
  assert [name for name, *_ in helped] == names
  whole = memory.estimate(job.config, job.search_space, 1, "tpu") / GIB
  assert all(0.3 * whole < float(size) < 0.8 * whole for *_, size in helped)


def test_other_failures_of_a_compiler_are_not_hidden():
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    compilation.compile_program(
      _paper(), _fake("INTERNAL: a bug"), chips.find("v5e-1")
    )


def test_a_long_compilation_shows_that_it_is_alive(monkeypatch):
  monkeypatch.setattr(compilation, "ALIVE", 0.01)
  lines = []
  with compilation.tell_alive("search", lines.append):
    while len(lines) < 2:
      pass
  assert lines[0] == "search: compiling for 0 s"


@pytest.mark.parametrize(
  ("name", "package"), [("v5e-1", "libtpu"), ("h100", "jax-cuda13-plugin")]
)
def test_without_a_compiler(name, package, monkeypatch):
  from jax.experimental import topologies

  def lacks(**_):
    raise NotImplementedError("topology not implemented\nfor it")

  monkeypatch.setattr(topologies, "get_topology_desc", lacks)
  with pytest.raises(UserError) as caught:
    next(nss.compile_for(runs.load_config(**FIELDS), name))
  assert f"pip install {package}" in str(caught.value)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("fields", "line"),
  [
    ({"topology": "v9", "dry_run": True}, "--topology: 'v9' is not accepted; "),
    ({"topology": "v5e-1"}, "--topology: v5e-1 needs --dry_run too"),
  ],
)
def test_what_the_command_refuses(tmp_path, fields, line):
  with pytest.raises(UserError) as caught:
    pipeline.run(runs.load_config(), tmp_path, ["search"], **fields)
  assert str(caught.value).startswith(line)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "platform", ["tpu", pytest.param("cuda", marks=pytest.mark.slow)]
)
def test_a_platform_that_is_not_there(platform):
  """One line, where jax has sixty of traceback or a bare assertion."""
  if any(d.platform != "cpu" for d in jax.devices()):
    pytest.skip("there is an accelerator")
  found = subprocess.run(
    runs.command("--dry_run"),
    cwd=runs.ROOT,
    env={
      **os.environ,
      "JAX_PLATFORMS": platform,
      "PYTHONPATH": str(runs.ROOT),
      "TPU_SKIP_MDS_QUERY": "1",
    },
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert found.returncode == 2
  last = found.stderr.splitlines()[-1]
  assert last.startswith(f"error: JAX_PLATFORMS={platform}: jax finds no such")
  assert "Traceback" not in found.stderr


@pytest.mark.parametrize("name", chips.NAMES)
def test_presets_fit_by_the_estimate(name):
  """As the table of configs/README.md says."""
  found = chips.find(name)
  config = runs.load_config("cifar100_600mf")
  space = nss.SearchSpace.expanded(num_classes=100)

  def need():
    return memory.estimate(config, space, found.count, found.platform)

  assert need() < found.memory
  table = (runs.ROOT / "configs" / "README.md").read_text()
  (row,) = [
    line
    for line in table.splitlines()
    if f"| `{name}`" in line
    or (line.startswith("| `") and f", `{name}`" in line)
  ]
  assert f"{found.memory / GIB:.1f}".removesuffix(".0") in row
  assert f"{need() / GIB:.1f}" in row
  print(f"{name}: {need() / GIB:.1f} of {found.memory / GIB:.1f} GiB")


@pytest.mark.parametrize(
  ("images", "batch", "most", "lengths"),
  [
    (25_000, 64, 16, {15}),  # the search's halves, 390 steps
    (40_000, 64, 25, {25}),  # the evaluator's, 625
    (40_000, 64, 16, {15, 16}),  # no length of more than half of it divides
    (7, 1, 3, {2, 3}),
  ],
)
def test_epochs_have_one_length_of_dispatch(images, batch, most, lengths):
  schedule = schedules.make_schedule(
    images,
    batch_size=batch,
    epochs=2,
    warmup_epochs=1,
    steps_per_dispatch=most,
  )
  assert {length for _, length in schedule.dispatches} == lengths
  first, length = schedule.dispatches[-1]
  assert first + length == schedule.steps_per_epoch == images // batch
