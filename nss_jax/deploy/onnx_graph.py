"""A trained network as ONNX, built node by node; needs the library onnx.

Not by jax2onnx: that traces a function and asks for an orbax older than ours,
and a network is ten kinds of layers.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nss_jax.deploy import walk

# Of 2022: runtimes of all makers read them.
_OPSET, _IR_VERSION = 17, 8


class _Graph:
  """Nodes and constants so far; a value is the name of a tensor, NCHW."""

  def __init__(self) -> None:
    self.nodes: list[onnx.NodeProto] = []
    self.constants: list[onnx.TensorProto] = []

  def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node with one output; returns its name."""
    output = f"{kind.lower()}_{len(self.nodes)}"
    self.nodes.append(
      helper.make_node(kind, list(inputs), [output], output, **attributes)
    )
    return output

  def constant(self, value: np.ndarray) -> str:
    """Adds a constant; returns its name."""
    name = f"constant_{len(self.constants)}"
    self.constants.append(numpy_helper.from_array(value.copy(), name))
    return name

  def normal(self, images: str, mean: np.ndarray, std: np.ndarray) -> str:
    x = self.node("Cast", images, to=TensorProto.FLOAT)
    x = self.node("Div", x, self.constant(np.array(255, np.float32)))
    x = self.node("Sub", x, self.constant(mean))
    x = self.node("Div", x, self.constant(std))
    return self.node("Transpose", x, perm=[0, 3, 1, 2])

  def conv(
    self,
    x: str,
    layer: dict[str, Any],
    kernel: np.ndarray,
    bias: np.ndarray,
  ) -> str:
    weights = self.constant(kernel.transpose(3, 2, 0, 1))
    return self.node(
      "Conv",
      x,
      weights,
      self.constant(bias),
      kernel_shape=[layer["size"]] * 2,
      strides=[layer["stride"]] * 2,
      pads=[(layer["size"] - 1) // 2] * 4,
      group=layer["groups"],
    )

  def activate(self, x: str, name: str) -> str:
    if name == "silu":
      return self.node("Mul", x, self.node("Sigmoid", x))
    if name == "relu6":
      ends = (self.constant(np.array(end, np.float32)) for end in (0, 6))
      return self.node("Clip", x, *ends)
    return self.node({"relu": "Relu", "sigmoid": "Sigmoid"}[name], x)

  def add(self, x: str, y: str) -> str:
    return self.node("Add", x, y)

  def scale(self, x: str, factors: str) -> str:
    return self.node("Mul", x, factors)

  def pool(self, x: str) -> str:
    return self.node("GlobalAveragePool", x)

  def linear(self, x: str, kernel: np.ndarray, bias: np.ndarray) -> str:
    weights = self.constant(kernel.T[..., None, None])
    return self.node("Conv", x, weights, self.constant(bias))


def build(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
  """Returns the content of the file.

  Args:
    content: `network.json`, see `saved.describe`.
    tensors: by their names.
  """
  form, graph = content["preprocessing"], _Graph()
  logits = walk.walk(content["layers"], form, tensors, graph, "images")
  last = helper.make_node("Flatten", [logits], ["logits"], "logits", axis=1)
  shape = ("batch", form["height"], form["width"], form["channels"])
  ends = (
    helper.make_tensor_value_info("images", TensorProto.UINT8, shape),
    helper.make_tensor_value_info(
      "logits", TensorProto.FLOAT, ("batch", len(content["classes"]))
    ),
  )
  made = helper.make_graph(
    [*graph.nodes, last], "network", [ends[0]], [ends[1]], graph.constants
  )
  model = helper.make_model(
    made,
    opset_imports=[helper.make_opsetid("", _OPSET)],
    ir_version=_IR_VERSION,
    producer_name="nss_jax",
  )
  helper.set_model_props(model, {"classes": "\n".join(content["classes"])})
  onnx.checker.check_model(model, full_check=True)
  return model.SerializeToString(deterministic=True)
