"""What a compiled program is made of, read from the compiler's own text.

The text of a program for TPUs has the compiler's estimate of the cycles of each
instruction. Summed with the lengths of loops they are an estimate of its time.
"""

import collections
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(
  r"(body|condition|to_apply|calls|true_computation|false_computation)="
  r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WIDTHS = {"bf16": 2, "f16": 2, "f64": 8, "s8": 1, "u8": 1, "pred": 1}
# Instructions by which a device waits for its host.
_HOST = ("infeed", "outfeed", "send", "recv")
# Instructions that others run inside of.
_CONTROL = ("while", "conditional", "call")


class Instruction(NamedTuple):
  """One line of a program.

  Attributes:
    variable: what it is called.
    kind: the operation.
    result: its type, such as `f32[64,512]{1,0}`.
    cycles: the compiler's estimate; 0 if there is none.
    trips: of a loop, how often it runs; None if that is not known.
    called: computations that it runs, by the role they have.
    name: where it comes from, in the words of jax.
    text: all of it.
  """

  variable: str
  kind: str
  result: str
  cycles: int
  trips: int | None
  called: dict[str, str]
  name: str
  text: str


# Cycles by what they are spent on.
Cycles = dict[str, float]
# How often a loop of unknown length runs.
Trips = Callable[[Instruction], float]
# What an instruction adds that runs so often, by kind.
Own = Callable[[Instruction, float], Cycles]


class Module:
  """A compiled program, from the text that `compiled.as_text()` gives."""

  def __init__(self, text: str):
    self._computations: dict[str, list[Instruction]] = {}
    self._entry, current = "", None
    for line in text.splitlines():
      if line.startswith("}"):
        current = None
      elif line and not line[0].isspace():
        if found := _COMPUTATION.match(line):
          current = self._computations[found[2]] = []
          self._entry = found[2] if found[1] else self._entry
      elif current is not None and (found := _INSTRUCTION.match(line)):
        current.append(_read(found[2], found[3]))

  def instructions(self) -> Iterator[Instruction]:
    """Yields all instructions, each once."""
    for computation in self._computations.values():
      yield from computation

  def cycles(self, trips: Trips = lambda _: 1) -> Cycles:
    """Estimates cycles by kind: `conv`, `fill`, and other operations.

    Of the branches of a conditional the dearest counts.
    """

    def own(one, times):
      if one.kind in _CONTROL or not one.cycles:
        return {}
      return {self._kind(one): float(one.cycles)}

    return self._total(self._entry, own, trips, {})

  def num_host_transfers(self) -> int:
    """Counts the instructions that make a device wait for the host."""
    return sum(one.kind in _HOST for one in self.instructions())

  def num_host_reads(self, trips: Trips = lambda _: 1) -> float:
    """Counts how often the host waits to be told where a program goes on.

    The host of a GPU waits for each iteration of a loop whose length is not
    known, once more at its end, and once for each conditional. Of branches the
    one counts that waits most often.
    """

    def own(one, times):
      if one.kind == "while" and self._length(one) is None:
        return {"": times + 1.0}
      return {"": 1.0} if one.kind == "conditional" else {}

    return sum(self._total(self._entry, own, trips, {}).values())

  def reduced_bytes(self) -> int:
    """Counts the bytes that devices sum among each other, by the text."""
    return sum(
      sum(
        _WIDTHS.get(dtype, 4) * _size(f"[{shape}]")
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", one.result)
      )
      for one in self.instructions()
      if one.kind == "all-reduce"
    )

  def sums(self, dtype: str) -> list[str]:
    """Returns the instructions that sum numbers of a type, such as `bf16`.

    One that only drops axes of length 1 does not count.
    """
    found = []
    for computation in self._computations.values():
      for one in computation:
        if one.kind != "reduce" or not one.result.startswith(f"{dtype}["):
          continue
        operand = _operand(one.text)
        (given,) = (x for x in computation if x.variable == operand)
        adds = self._computations[one.called["to_apply"]][-1].kind == "add"
        if adds and _size(given.result) > _size(one.result):
          found.append(one.text)
    return found

  def _total(
    self, computation: str, own: Own, trips: Trips, known: dict[str, Cycles]
  ) -> Cycles:
    """Sums what instructions have of their own, as often as they run."""
    if computation in known:
      return known[computation]
    total = known[computation] = collections.defaultdict(float)
    for one in self._computations[computation]:
      times, parts = 1.0, []

      def inside(role, one=one):
        return self._total(one.called[role], own, trips, known)

      if one.kind == "while":
        length = self._length(one)
        times = trips(one) if length is None else length
        parts = [inside("body"), inside("condition")]
      elif one.kind == "conditional":
        roles = [role for role in one.called if role != "to_apply"]
        parts = [max(map(inside, roles), key=lambda part: sum(part.values()))]
      elif one.kind == "call":
        parts = [inside("to_apply")]
      for part in parts:
        for kind, number in part.items():
          total[kind] += times * number
      for kind, number in own(one, times).items():
        total[kind] += number
    return total

  def _length(self, loop: Instruction) -> int | None:
    """Returns how often a loop runs, if it counts to a constant."""
    if loop.trips is not None:
      return loop.trips
    *_, last = condition = self._computations[loop.called["condition"]]
    constants = [
      re.search(r"constant\((\d+)\)", one.text)
      for one in condition
      if one.kind == "constant"
    ]
    if len(constants) == 1 and constants[0] and "direction=LT" in last.text:
      operands = last.text.partition("(")[2].partition(")")[0]
      return int(constants[0][1]) if "constant" in operands else None
    return None

  def _kind(self, one: Instruction) -> str:
    """Says what a fusion does: `conv` with anything, `fill` with nothing."""
    if one.kind not in ("fusion", "convolution", "dot"):
      return "fill" if one.kind == "broadcast" else one.kind
    kinds, waiting = set(), [one]
    while waiting:
      here = waiting.pop()
      kinds.add(here.kind)
      if here.kind == "fusion":
        waiting += self._computations[here.called["calls"]]
    if kinds & {"convolution", "dot"}:
      return "conv"
    real = kinds - {"parameter", "bitcast", "constant", "fusion", "tuple"}
    if real <= {"broadcast", "get-tuple-element"}:
      return "fill"
    if real <= {"copy", "transpose", "reshape", "get-tuple-element"}:
      return "copy"
    return "other"


def _read(variable: str, text: str) -> Instruction:
  result, rest = _split(text)
  kind = re.match(r"[a-z][\w\-]*", rest)
  called = dict(_CALLED.findall(rest))
  if found := _BRANCHES.search(rest):
    names = found[1].replace("%", "").split(",")
    called |= {f"branch {i}": name.strip() for i, name in enumerate(names)}
  cycles, trips, name = (
    pattern.search(rest) for pattern in (_CYCLES, _TRIPS, _NAME)
  )
  return Instruction(
    variable=variable,
    kind=kind[0] if kind else "",
    result=result,
    cycles=int(cycles[1]) if cycles else 0,
    trips=int(trips[1]) if trips else None,
    called=called,
    name=name[1] if name else "",
    text=rest,
  )


def _split(text: str) -> tuple[str, str]:
  """Parts the type, up to the first space outside of brackets, and the rest."""
  depth = 0
  for place, letter in enumerate(text):
    depth += (letter in "([{") - (letter in ")]}")
    if letter == " " and depth == 0:
      return text[:place], text[place + 1 :]
  return text, ""


def _operand(text: str) -> str:
  """Returns the name of the first operand."""
  return text.partition("(")[2].split(",")[0].strip().lstrip("%")


def _size(result: str) -> int:
  """Counts the numbers of an array, by its type."""
  shape = result.partition("[")[2].partition("]")[0]
  return math.prod(int(n) for n in shape.split(",") if n)
