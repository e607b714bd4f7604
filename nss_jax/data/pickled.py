"""Dictionaries of numbers and arrays that Python has pickled; none is executed.

Such a file is a program, and Python's reader runs what it names. This one has a
stack, and knows what numpy and Python 2 have written for CIFAR: numbers,
strings, lists, tuples, dictionaries, and arrays of uint8. All else is refused.
"""

import pickletools
from typing import Any

import numpy as np

# What a program may name; nothing is looked up or called.
_RECONSTRUCT = "numpy.core.multiarray _reconstruct"
_ARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_NAMES = (_RECONSTRUCT, _ARRAY, _DTYPE)
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_STRINGS = {
  *("INT", "LONG", "LONG1", "BININT", "BININT1", "BININT2", "FLOAT"),
  *("BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
  *("BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "STOP"}


class PickleError(ValueError):
  """A program that does more than to describe numbers and arrays."""


class _Name(str):
  """One of `_NAMES`; not a string of the data."""


class _Dtype:
  """uint8, the only one."""


class _Array:
  """Made empty, and then given its content."""

  content: np.ndarray | None = None


def read(content: bytes) -> dict[str, Any]:
  """The dictionary in such a file; its keys as strings, arrays of uint8.

  Python 2 does not tell bytes from text: strings have a character for a byte.

  Raises:
    Exception: of many types, if the bytes are damaged or something else;
      `PickleError` if they name what is not accepted.
  """
  machine = _Machine()
  for opcode, argument, _ in pickletools.genops(content):
    machine.step(opcode.name, argument)
  (found,) = machine.stack
  if not isinstance(found, dict):
    raise PickleError("no dictionary")
  return {
    _text(key): value.content if isinstance(value, _Array) else value
    for key, value in found.items()
  }


def _text(value: Any) -> str:
  return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class _Machine:
  """The stack of a program, its marks and its memory."""

  def __init__(self):
    self.stack: list[Any] = []
    self._memory: dict[int, Any] = {}

  def step(self, name: str, argument: Any) -> None:
    """One instruction."""
    stack = self.stack
    if name in _NUMBERS_AND_STRINGS:
      stack.append(argument)
    elif name in _PUTS:
      self._memory[argument] = stack[-1]
    elif name in _GETS:
      stack.append(self._memory[argument])
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
      stack.append(_EMPTY[name]())
    elif name == "MARK":
      stack.append(_MARK)
    elif name in ("TUPLE", "LIST", "DICT"):
      stack.append(_collect(name, self._pop_to_mark()))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
      stack.append(tuple(self._pop(int(name[-1]))))
    elif name in ("APPEND", "APPENDS"):
      values = self._pop(1) if name == "APPEND" else self._pop_to_mark()
      _as(list, stack[-1]).extend(values)
    elif name in ("SETITEM", "SETITEMS"):
      items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
      _as(dict, stack[-1]).update(_pairs(items))
    elif name == "GLOBAL":
      stack.append(_name(argument))
    elif name == "REDUCE":
      stack.append(_make(*self._pop(2)))
    elif name == "BUILD":
      _fill(stack[-2], self._pop(1)[0])
    elif name not in _NOTHING:
      raise PickleError(f"the instruction {name}")

  def _pop(self, count: int) -> list[Any]:
    values = self.stack[-count:]
    if len(values) < count or any(value is _MARK for value in values):
      raise PickleError("too few values")
    del self.stack[-count:]
    return values

  def _pop_to_mark(self) -> list[Any]:
    values = []
    while (value := self.stack.pop()) is not _MARK:
      values.append(value)
    return values[::-1]


def _as(kind: type, value: Any) -> Any:
  if type(value) is not kind:
    raise PickleError(f"a {type(value).__name__} for a {kind.__name__}")
  return value


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
  return list(zip(items[::2], items[1::2], strict=True))


def _collect(name: str, values: list[Any]) -> Any:
  if name == "DICT":
    return dict(_pairs(values))
  return tuple(values) if name == "TUPLE" else values


def _name(argument: str) -> _Name:
  # numpy 2 has moved it.
  argument = argument.replace("numpy._core.", "numpy.core.")
  if argument not in _NAMES:
    raise PickleError(f"the name {argument[:60]!r}")
  return _Name(argument)


def _make(function: Any, arguments: Any) -> Any:
  """What numpy makes of a call: an array or a type, both to be filled."""
  if type(function) is _Name and type(arguments) is tuple and arguments:
    if function == _RECONSTRUCT and arguments[0] == _ARRAY:
      return _Array()
    if function == _DTYPE and arguments[0] in ("u1", b"u1", "|u1"):
      return _Dtype()
  raise PickleError("a call of another kind than for an array of uint8")


def _fill(target: Any, state: Any) -> None:
  """Gives an array its content: version, shape, dtype, order of axes, bytes."""
  if type(target) is _Dtype:
    return  # uint8 has no byte order
  _, shape, dtype, is_fortran, content = _as(tuple, state)
  if type(target) is not _Array or type(dtype) is not _Dtype:
    raise PickleError("a state of another kind than of an array of uint8")
  if isinstance(content, str):
    content = content.encode("latin-1")
  array = np.frombuffer(_as(bytes, content), np.uint8)
  target.content = array.reshape(shape, order="F" if is_fortran else "C")
