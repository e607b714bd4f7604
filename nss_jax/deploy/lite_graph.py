"""A trained network as TFLite, built operator by operator.

By the schema that comes with the runtime, ai-edge-litert. Not by a converter:
those of LiteRT trace PyTorch or TensorFlow and bring a hundred packages, in
versions that do not fit those of jax.
"""

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

from nss_jax.deploy import walk

# Its classes are generated: all fields begin as None, of no type.
schema: Any = schema_py_generated
_KINDS = {
  np.dtype(np.float32): schema.TensorType.FLOAT32,
  np.dtype(np.int32): schema.TensorType.INT32,
  np.dtype(np.uint8): schema.TensorType.UINT8,
}


class _Buffer(schema.BufferT):
  """The numbers of a constant, at a place that sixteen divides."""

  def Pack(self, builder: Any) -> int:  # noqa: N802, the schema's name
    if self.data is None:
      return super().Pack(builder)
    content = self.data.tobytes()
    builder.StartVector(1, len(content), 16)
    builder.head -= len(content)
    builder.Bytes[builder.head : builder.head + len(content)] = content
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)


class _Graph:
  """Operators and tensors so far; a value is the index of a tensor, NHWC."""

  def __init__(self) -> None:
    self.graph = schema.SubGraphT()
    self.graph.tensors, self.graph.operators = [], []
    self.buffers = [_Buffer()]
    self.codes: dict[int, int] = {}

  def tensor(
    self, shape: tuple[int, ...], kind: Any = np.float32, buffer: int = 0
  ) -> int:
    """Adds a tensor; one without a buffer has any number of images."""
    made = schema.TensorT()
    made.name = f"tensor_{len(self.graph.tensors)}"
    made.shape, made.type = np.array(shape, np.int32), _KINDS[np.dtype(kind)]
    made.buffer = buffer
    if not buffer:
      made.shapeSignature = np.array((-1, *shape[1:]), np.int32)
    self.graph.tensors.append(made)
    return len(self.graph.tensors) - 1

  def constant(self, value: np.ndarray) -> int:
    """Adds a constant; returns its index."""
    buffer = _Buffer()
    buffer.data = np.ascontiguousarray(value)
    self.buffers.append(buffer)
    return self.tensor(value.shape, value.dtype, len(self.buffers) - 1)

  def shape(self, x: int) -> tuple[int, ...]:
    """Returns the shape of a tensor, for one image."""
    return tuple(map(int, self.graph.tensors[x].shape))

  def operator(
    self,
    kind: str,
    inputs: list[int],
    shape: tuple[int, ...],
    options: str = "",
    **fields: Any,
  ) -> int:
    """Adds an operator with one output; returns that."""
    code = getattr(schema.BuiltinOperator, kind)
    made, output = schema.OperatorT(), self.tensor(shape)
    made.opcodeIndex = self.codes.setdefault(code, len(self.codes))
    made.inputs, made.outputs = np.array(inputs, np.int32), [output]
    if options:
      made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
      made.builtinOptions = getattr(schema, f"{options}T")()
      for name, value in fields.items():
        setattr(made.builtinOptions, name, value)
    self.graph.operators.append(made)
    return output

  def normal(self, images: int, mean: np.ndarray, std: np.ndarray) -> int:
    shape = self.shape(images)
    x = self.operator("CAST", [images], shape)
    for kind, options, number in (
      ("DIV", "DivOptions", np.array([255], np.float32)),
      ("SUB", "SubOptions", mean),
      ("DIV", "DivOptions", std),
    ):
      x = self.operator(kind, [x, self.constant(number)], shape, options)
    return x

  def conv(
    self, x: int, layer: dict[str, Any], kernel: np.ndarray, bias: np.ndarray
  ) -> int:
    size, stride = layer["size"], layer["stride"]
    before, pad = self.shape(x), (size - 1) // 2
    after = [-(-n // stride) for n in before[1:3]]
    # SAME has one zero less before the first pixel where their sum is odd.
    same = all(
      max((m - 1) * stride + size - n, 0) // 2 == pad
      for n, m in zip(before[1:3], after, strict=True)
    )
    if not same:
      ends = np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32)
      rows, columns = (n + 2 * pad for n in before[1:3])
      shape = (1, rows, columns, before[3])
      x = self.operator("PAD", [x, self.constant(ends)], shape, "PadOptions")
    padding = schema.Padding.SAME if same else schema.Padding.VALID
    fields = {"strideH": stride, "strideW": stride, "padding": padding}
    order, options = (3, 0, 1, 2), "Conv2DOptions"
    if layer["groups"] > 1:
      order, options = (2, 0, 1, 3), "DepthwiseConv2DOptions"
      fields["depthMultiplier"] = 1
    weights = self.constant(kernel.transpose(order))
    kind = "CONV_2D" if layer["groups"] == 1 else "DEPTHWISE_CONV_2D"
    inputs = [x, weights, self.constant(bias)]
    shape = (1, *after, kernel.shape[3])
    return self.operator(kind, inputs, shape, options, **fields)

  def activate(self, x: int, name: str) -> int:
    if name == "silu":
      return self.scale(x, self.activate(x, "sigmoid"))
    kinds = {"relu": "RELU", "relu6": "RELU6", "sigmoid": "LOGISTIC"}
    return self.operator(kinds[name], [x], self.shape(x))

  def add(self, x: int, y: int) -> int:
    return self.operator("ADD", [x, y], self.shape(x), "AddOptions")

  def scale(self, x: int, factors: int) -> int:
    return self.operator("MUL", [x, factors], self.shape(x), "MulOptions")

  def pool(self, x: int) -> int:
    axes = self.constant(np.array([1, 2], np.int32))
    shape = (1, 1, 1, self.shape(x)[3])
    return self.operator(
      "MEAN", [x, axes], shape, "ReducerOptions", keepDims=True
    )

  def linear(self, x: int, kernel: np.ndarray, bias: np.ndarray) -> int:
    layer = {"size": 1, "stride": 1, "groups": 1}
    return self.conv(x, layer, kernel[None, None], bias)


def build(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
  """Returns the content of the file.

  Args:
    content: `network.json`, see `saved.describe`.
    tensors: by their names.
  """
  form, made = content["preprocessing"], _Graph()
  shape = (1, form["height"], form["width"], form["channels"])
  images = made.tensor(shape, np.uint8)
  last = walk.walk(content["layers"], form, tensors, made, images)
  classes = made.shape(last)[3]
  new = made.constant(np.array([-1, classes], np.int32))
  logits = made.operator("RESHAPE", [last, new], (1, classes))
  graph = made.graph
  graph.inputs, graph.outputs = [images], [logits]
  graph.tensors[images].name = "images"
  graph.tensors[logits].name = "logits"
  model = schema.ModelT()
  model.version, model.description = 3, "nss_jax"
  model.subgraphs, model.buffers = [graph], made.buffers
  model.operatorCodes = [_code(code) for code in made.codes]
  model.signatureDefs = [_signature(images, logits)]
  builder = flatbuffers.Builder(sum(x.nbytes for x in tensors.values()) + 9999)
  builder.Finish(model.Pack(builder), b"TFL3")
  return bytes(builder.Output())


def _code(code: int) -> Any:
  made = schema.OperatorCodeT()
  made.builtinCode = made.deprecatedBuiltinCode = code
  made.version = 1
  return made


def _signature(images: int, logits: int) -> Any:
  signature = schema.SignatureDefT()
  signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
  ends = []
  for name, index in (("images", images), ("logits", logits)):
    end = schema.TensorMapT()
    end.name, end.tensorIndex = name, index
    ends.append([end])
  signature.inputs, signature.outputs = ends
  return signature
