"""Programs of phases, compiled for chips that need not be there."""

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator

import jax

from nss_jax.errors import UserError
from nss_jax.phases import chip_programs, memory
from nss_jax.phases.chip_programs import ChipProgram
from nss_jax.phases.job import Job
from nss_jax.runtime import chips as chips_lib
from nss_jax.runtime import hlo
from nss_jax.spaces.text import parse_arch

_GIB = 2**30
# Seconds between lines of a compilation.
ALIVE = 30.0


@dataclasses.dataclass(frozen=True)
class Compiled:
  """Holds what a compiler says of a program; bytes are of each chip.

  Attributes:
    program: what was compiled.
    chips: for which.
    arguments: bytes that go in.
    outputs: bytes that come out and are not in the place of an argument.
    temporaries: bytes beside them.
    seconds: of a step, by estimated cycles; None where there are none.
    shares: of the cycles by what they are spent on, `conv` and `fill` among
      them.
    text: the compiled program.
  """

  program: ChipProgram
  chips: chips_lib.Chips
  arguments: int
  outputs: int
  temporaries: int
  seconds: float | None
  shares: dict[str, float]
  text: str = dataclasses.field(repr=False)

  @property
  def memory(self) -> int:
    return self.arguments + self.outputs + self.temporaries

  @property
  def hours(self) -> float | None:
    """The hours of all calls of the phase."""
    if self.seconds is None:
      return None
    return self.seconds * self.program.steps * self.program.calls / 3600

  @property
  def share_of_peak(self) -> float | None:
    """What the multiply-adds of a step are of those that the chips could do."""
    if not self.seconds:
      return None
    possible = self.seconds * self.chips.peak * self.chips.count
    return 2 * self.program.macs / possible


def compile_program(
  job: Job,
  program: ChipProgram,
  chips: chips_lib.Chips,
  tell: Callable[[str], None] = lambda line: None,
) -> Compiled:
  """Compiles a program, with a line now and then; refuses one that does not
  fit, with how much it lacks and the fields that need less."""
  with tell_alive(program.name, tell):
    lowered = program.lower()
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      needed = _out_of_memory(str(error))
      if needed is None:
        raise
      raise _does_not_fit(job, program, chips, needed) from None
  found, text = compiled.memory_analysis(), compiled.as_text()
  assert found is not None and text is not None  # of these platforms
  arguments, temporaries = (
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
  )
  outputs = found.output_size_in_bytes - found.alias_size_in_bytes
  needed = arguments + outputs + temporaries
  if needed > chips.memory:
    raise _does_not_fit(job, program, chips, needed)
  cycles: hlo.Cycles = {}
  if chips.clock:
    cycles = hlo.Module(text).cycles(trips_of(program.loop_counts))
  total = sum(cycles.values())
  return Compiled(
    program=program,
    chips=chips,
    arguments=arguments,
    outputs=outputs,
    temporaries=temporaries,
    seconds=total / chips.clock / program.steps if total else None,
    shares={kind: part / total for kind, part in cycles.items()},
    text=text,
  )


def trips_of(counts: dict[str, float]) -> hlo.Trips:
  """Returns how often loops of unknown length run, by their names."""

  def trips(loop: hlo.Instruction) -> float:
    for name, count in counts.items():
      # jax puts what it has done to a loop, and where it is, around and between
      # the two: `transpose(jvp(stage_1))/cond/branch_1_fun/rest_128/while`.
      stage, part = name.split("/")
      if re.search(rf"\b{stage}\b.*/{part}/", loop.name):
        return count
    return 1.0

  return trips


@contextlib.contextmanager
def tell_alive(name: str, tell: Callable[[str], None]) -> Iterator[None]:
  """Tells now and then, while the block runs, that a program compiles."""
  ended, began = threading.Event(), time.monotonic()

  def run():
    while not ended.wait(ALIVE):
      tell(f"{name}: compiling for {time.monotonic() - began:.0f} s")

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


def _out_of_memory(text: str) -> float | None:
  """Reads the bytes that were needed from the compiler's own refusal."""
  found = re.search(r"Used ([\d.]+)([MG]) of", text)
  if found is None:
    return None
  return float(found[1]) * {"M": 2**20, "G": _GIB}[found[2]]


def _does_not_fit(
  job: Job, program: ChipProgram, chips: chips_lib.Chips, needed: float
) -> UserError:
  parts = job.config, job.search_space, chips.count
  less = "; ".join(memory.what_helps(*parts))
  return UserError(
    f"--topology: {program.name} does not fit {chips.name}: "
    f"{needed / _GIB:.1f} GiB of {chips.memory / _GIB:.1f}, "
    f"{(needed - chips.memory) / _GIB:.1f} too much; a search with one field "
    f"changed, estimated: {less}"
  )


def describe(compiled: Compiled, price_per_hour: float = 0.0) -> Iterator[str]:
  """Tells what was compiled, line by line."""
  parts = compiled.arguments, compiled.temporaries, compiled.outputs
  arguments, temporaries, outputs = (size / _GIB for size in parts)
  chips = compiled.chips
  yield (
    f"{compiled.program.name}: arguments {arguments:.2f} + temporaries "
    f"{temporaries:.2f} + outputs {outputs:.2f} = "
    f"{compiled.memory / _GIB:.2f} GiB of {chips.memory / _GIB:.2f}: fits "
    f"{chips.name}"
  )
  line = f"  {2 * compiled.program.macs:.3g} FLOP a step"
  share, hours = compiled.share_of_peak, compiled.hours
  if share is not None and hours is not None:
    line += (
      f", about {compiled.seconds:.3g} s, {100 * share:.0f} % of peak; "
      f"{hours:.2g} hours of the phase"
    )
    if price_per_hour:
      line += f", {hours * price_per_hour:.2f} to pay"
  yield line


TRUST = (
  "memory is the compiler's own; seconds are the sum of its estimated cycles "
  "and nothing has run: convolutions plausible, fills of memory doubtful, "
  "collectives, sorting and the host not counted"
)


def run(job: Job, chips: chips_lib.Chips, price_per_hour: float) -> None:
  """Tells what the compiler says of the phases' programs, one by one, up to the
  first that does not fit."""
  known = chip_programs.PHASES
  for phase in job.phases:
    if phase not in known:
      job.say(f"{phase}: not compiled; only {', '.join(known)} are")
  arch = parse_arch(job.archs[0]) if job.archs else None
  for program in chip_programs.programs(job, arch):
    found = compile_program(job, program, chips, job.say)
    for line in describe(found, price_per_hour):
      job.say(line)
  job.say(TRUST)
