"""Blocks of the network's body, each described once.

A block is a residual branch of layers, whose numbers of channels are multiples
of two widths: that of the stage and that of what comes in. From this one
description come the network (its forward pass, masks and slices, see
`supernet/residual.py`) and what it costs (here), so that they cannot drift
apart.

Sources: basic and bottleneck, He et al. 2015 (ResNet), the stride at the 3x3
convolution as in Goyal et al. 2017; inverted residual, Sandler et al. 2018
(MobileNetV2); squeeze-excite, Hu et al. 2018, in an inverted residual and with
a quarter of the block's input, Tan and Le 2019 (EfficientNet).
"""

import hashlib
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Activation = Literal["none", "relu", "relu6", "silu"]
ACTIVATIONS = get_args(Activation)


class Channels(NamedTuple):
  """A number of channels, `ceil(times * n / over)` of a width n.

  Attributes:
    of: "width", that of the stage, or "before", that of the block's input; the
      two are the same in all blocks of a stage but the first.
    times: a positive integer.
    over: a positive integer.
  """

  of: Literal["width", "before"]
  times: int = 1
  over: int = 1

  def number(self, before: Any, width: Any) -> Any:
    """Returns the number for two widths, integers or integer arrays."""
    n = before if self.of == "before" else width
    return -(-n * self.times // self.over)

  def sources(self, count: int) -> np.ndarray:
    """Returns for each channel the one of the width that switches it.

    Channel j is there from the first n on whose number is above j. A prefix
    mask of a width, indexed so, is the mask of this number of channels, and a
    mixture of prefix masks becomes the mixture of these, in the same weights.
    """
    return np.arange(count) * self.over // self.times


WIDTH, BEFORE = Channels("width"), Channels("before")


class Conv(NamedTuple):
  """Convolution, batch normalisation and activation.

  Attributes:
    name: of its parameters.
    size: side of the kernel, odd.
    outputs: channels.
    strided: whether it takes the stride of the stage's first block.
    activation: after the normalisation.
  """

  name: str
  size: int
  outputs: Channels
  strided: bool = False
  activation: Activation = "relu"


class Depthwise(NamedTuple):
  """One kernel for each channel, batch normalisation and activation.

  It puts out as many channels as come in; its attributes are those of `Conv`.
  """

  name: str
  size: int
  strided: bool = False
  activation: Activation = "relu"


class SqueezeExcite(NamedTuple):
  """Scales each channel by a number that is computed from all their means.

  Two fully connected layers with biases, ReLU between them, sigmoid after.

  Attributes:
    name: of its parameters.
    hidden: channels between the two layers.
  """

  name: str
  hidden: Channels


class Block(NamedTuple):
  """A residual block: its branch, its shortcut and the activation of the sum.

  The shortcut is the identity where that fits: stride 1, and as many channels
  as come in.

  Attributes:
    layers: of the branch, in their order; one of them is strided, the last
      convolution puts out the stage's width.
    projects: where the identity does not fit, whether a 1x1 convolution with
      normalisation replaces it; otherwise there is no shortcut.
    activation: of the sum.
  """

  layers: tuple[Conv | Depthwise | SqueezeExcite, ...]
  projects: bool = True
  activation: Activation = "relu"

  def channels(self) -> tuple[Channels, ...]:
    """Returns what goes into each layer, and what comes out of the last."""
    found = [BEFORE]
    for layer in self.layers:
      found.append(layer.outputs if isinstance(layer, Conv) else found[-1])
    return tuple(found)


def block_cost(
  block: Block,
  metric: str,
  before: np.ndarray,
  width: np.ndarray,
  pixels: tuple[int, int],
  project: Any = False,
) -> np.ndarray:
  """Returns what one block costs, exact for integers.

  "flops" are multiply-adds of convolutions and of fully connected layers with
  their biases; "params" trainable numbers, scales and offsets included;
  "activations" the numbers that those layers put out. `before` channels come
  in, the stage has `width` (integers or int64 arrays, which are broadcast);
  pixels are those of an image that comes in and of one that goes out; `project`
  is 1 where the identity does not fit.
  """
  entering, leaving = pixels
  counts = [c.number(before, width) for c in block.channels()]
  total: Any = 0
  here = entering
  for layer, inputs, outputs in zip(
    block.layers, counts[:-1], counts[1:], strict=True
  ):
    if isinstance(layer, SqueezeExcite):
      hidden = layer.hidden.number(before, width)
      total = total + linear_cost(metric, inputs, hidden)
      total = total + linear_cost(metric, hidden, inputs)
      continue
    here = leaving if layer.strided else here
    seen = 1 if isinstance(layer, Depthwise) else inputs
    total = total + conv_cost(metric, here, layer.size, seen, outputs)
  if block.projects:
    total = total + project * conv_cost(metric, leaving, 1, before, width)
  return total


def conv_cost(
  metric: str,
  pixels: int,
  size: int,
  inputs: int | np.ndarray,
  outputs: int | np.ndarray,
) -> int | np.ndarray:
  """Returns what a convolution with normalisation costs.

  Each of its windows has `inputs` channels.
  """
  if metric == "flops":
    return pixels * size**2 * inputs * outputs
  if metric == "params":
    return size**2 * inputs * outputs + 2 * outputs
  return pixels * outputs


def linear_cost(
  metric: str, inputs: int | np.ndarray, outputs: int | np.ndarray
) -> int | np.ndarray:
  """Returns what a fully connected layer with its bias costs."""
  return outputs if metric == "activations" else (inputs + 1) * outputs


def _inverted(*excite: SqueezeExcite) -> Block:
  return Block(
    layers=(
      Conv("expand", 1, Channels("before", times=6), activation="relu6"),
      Depthwise("depthwise", 3, strided=True, activation="relu6"),
      *excite,
      Conv("reduce", 1, WIDTH, activation="none"),
    ),
    projects=False,
    activation="none",
  )


BLOCKS = {
  "basic": Block(
    (
      Conv("first", 3, WIDTH, strided=True),
      Conv("second", 3, WIDTH, activation="none"),
    )
  ),
  "bottleneck": Block(
    (
      Conv("reduce", 1, Channels("width", over=4)),
      Conv("middle", 3, Channels("width", over=4), strided=True),
      Conv("expand", 1, WIDTH, activation="none"),
    )
  ),
  "inverted_residual": _inverted(
    SqueezeExcite("excite", Channels("before", over=4))
  ),
  "mobilenet_v2": _inverted(),
}


def block_names() -> tuple[str, ...]:
  """Returns the blocks that `SearchSpace.block` can name."""
  return tuple(BLOCKS)


def find_block(name: str) -> Block:
  """Returns the description of a block; refuses a name that is none.

  Raises:
    ValueError: if there is no such block.
  """
  if not isinstance(name, str) or name not in BLOCKS:
    raise ValueError(f"block must be one of {', '.join(BLOCKS)}; got {name!r}")
  return BLOCKS[name]


def block_digest(block: str | Block) -> str:
  """Returns twelve hexadecimal digits of a block's description.

  Files of a run name their block by it too: a block that is edited keeps its
  name, and its weights may keep their shapes.
  """
  text = repr(block if isinstance(block, Block) else find_block(block))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def register_block(name: str, block: Block) -> None:
  """Makes a block known, so that `SearchSpace(block=name)` can use it.

  Do so in every process, before the search space is made; a config file is
  Python and is a good place. The same block may be registered again.

  Raises:
    ValueError: if the name is taken by another block, or the description is
      not that of a block.
  """
  if not isinstance(name, str) or not name.isidentifier():
    raise ValueError(f"the name of a block must be a word; got {name!r}")
  _check(name, block)
  if BLOCKS.setdefault(name, block) != block:
    raise ValueError(f"block {name} is registered already, and is another one")


def _check(name: str, block: Block) -> None:
  def need(right, what):
    if not right:
      raise ValueError(f"block {name}: {what}")

  need(isinstance(block, Block), f"must be a Block; got {block!r}")
  kinds = (Conv, Depthwise, SqueezeExcite)
  layers = block.layers
  need(
    isinstance(layers, tuple) and all(isinstance(x, kinds) for x in layers),
    f"layers must be a tuple of Conv, Depthwise, SqueezeExcite; got {layers!r}",
  )
  names = [layer.name for layer in layers]
  need(
    len({*names, "project"}) == len(names) + 1
    and all(isinstance(n, str) and n.isidentifier() for n in names),
    f'layers must have different words, and not "project", for names; got '
    f"{names}",
  )
  convolutions = [x for x in layers if not isinstance(x, SqueezeExcite)]
  strided = sum(bool(x.strided) for x in convolutions)
  need(strided == 1, f"one layer must be strided; got {strided}")
  for layer in convolutions:
    need(
      isinstance(layer.size, int) and layer.size % 2 == 1 and layer.size > 0,
      f"{layer.name}: size must be odd and positive; got {layer.size!r}",
    )
  for part in (block, *convolutions):
    need(
      part.activation in ACTIVATIONS,
      f"activation must be one of {', '.join(ACTIVATIONS)}; got "
      f"{part.activation!r}",
    )
  hidden = [x.hidden for x in layers if isinstance(x, SqueezeExcite)]
  for channels in (*hidden, *block.channels()):
    need(
      isinstance(channels, Channels)
      and channels.of in ("width", "before")
      and all(isinstance(n, int) and n > 0 for n in channels[1:]),
      f'channels must be positive multiples of "width" or "before"; got '
      f"{channels!r}",
    )
  last = block.channels()[-1]
  need(last == WIDTH, f"must put out the stage's width; got {last!r}")
