"""The model card of a saved network: a page for who finds the folder."""

import json
import math
from collections.abc import Mapping
from typing import Any

from nss_jax.errors import one_line

# Names of classes that are listed; a thousand of them are no page to read.
_LISTED = 100


def write_card(content: Mapping[str, Any]) -> str:
  """Returns Markdown, with the fields that hubs read before it.

  Args:
    content: `network.json`, see `saved.describe`.
  """
  about, costs = content["about"], content["costs"]
  form, names = content["preprocessing"], content["classes"]
  kind = {1: "grey", 3: "RGB"}.get(
    form["channels"], f"{form['channels']} channels"
  )
  listed = ", ".join(one_line(name, 80) for name in names[:_LISTED])
  more = ", and others, see `network.json`" if len(names) > _LISTED else ""
  lines = [
    "---",
    "library_name: nss_jax",
    "pipeline_tag: image-classification",
    "tags: [image-classification, jax, neural-architecture-search]",
    "---",
    "",
    f"# Image classifier {content['arch']}",
    "",
    f"Tells {len(names)} classes of images apart, with {costs['flops']:,} "
    f"multiply-adds an image and {costs['params']:,} parameters. Its "
    f"architecture ({content['block']['name'].replace('_', ' ')} blocks; d: "
    "how many in each stage, w: how many channels) was found and its weights "
    "were trained with nss_jax, Network Space Search in JAX.",
    "",
    f"**Classes**: {listed}{more}.",
    "",
    *_told(about),
    "No licence is given here: whoever publishes this folder adds one.",
    "",
    "## Use",
    "",
    "```python",
    "import nss_jax",
    "",
    'network = nss_jax.load_network("path/of/this/folder")',
    'print(network.predict("image.jpg"))',
    "```",
    "",
    "For other runtimes: `nss export path/of/this/folder --format=onnx` (or "
    "tflite, torch, stablehlo, npz).",
    "",
    "## What it takes",
    "",
    f"Images of {form['height']} x {form['width']} pixels (height x width), "
    f"{kind}, 8 bits a channel. `predict` takes any image and",
    "",
    "1. turns it upright, as its EXIF orientation says,",
    f"2. puts what is transparent on grey of level {form['background']},",
    "3. cuts the largest part of that shape out of its middle and resizes it,",
    "4. computes (pixel / 255 - mean) / std of each channel, with mean "
    f"{_round(form['mean'])} and std {_round(form['std'])}.",
    "",
    "Exports take such images after step 3, uint8, and do step 4 themselves.",
    "",
    "## Without nss_jax",
    "",
    "`model.safetensors` has the weights, float32; `network.json` has the "
    "classes, the numbers of step 4 in full and, as `layers`, what is computed "
    "in which order: the stem; the blocks, each its layers one after the other "
    "plus its shortcut, then its activation; the mean over all pixels; the "
    "head.",
    "",
    "- A convolution NAME has NAME.kernel `[height, width, in / groups, out]`, "
    "no bias, and (size - 1) / 2 zeros around its input. Then comes (x - "
    "NAME.mean) / sqrt(NAME.variance + epsilon) * NAME.scale + NAME.offset, "
    "and its activation.",
    "- A squeeze-excite NAME multiplies each channel by sigmoid(relu(mean over "
    "pixels @ NAME.squeeze.kernel + NAME.squeeze.bias) @ NAME.excite.kernel + "
    "NAME.excite.bias).",
    "- The head's outputs are x @ head.kernel + head.bias; their softmax are "
    "the probabilities.",
    "",
  ]
  return "\n".join(lines)


def _round(values: list[float]) -> str:
  return ", ".join(f"{x:.4g}" for x in values)


def _told(about: Mapping[str, Any]) -> list[str]:
  """Returns what is known of a network beside its description, in words.

  Anything can be in it; what is not understood is left out.
  """
  told, error = [], about.get("test_error")
  if _is_share(error):
    told.append(f"**Test error**: {error:.1%}{_interval(about)}.")
  mean, deviation = (about.get(x) for x in ("mean_error", "standard_error"))
  if about.get("num_seeds", 1) != 1 and _is_share(mean):
    noise = f" ± {deviation:.1%}" if _is_share(deviation) else ""
    told.append(
      f"**Trained from {about['num_seeds']} seeds**, of which this is one: "
      f"{mean:.1%}{noise} test error on average."
    )
  titles = {
    "data": "Data",
    "found": "How it was found",
    "space": "Found in the Elite Space",
  }
  told += [
    f"**{title}**: {one_line(_text(about[name]))}"
    for name, title in titles.items()
    if about.get(name)
  ]
  return [line for part in told for line in (part, "")]


def _interval(about: Mapping[str, Any]) -> str:
  images, ends = about.get("test_images"), about.get("test_error_interval")
  text = f" of {images:,} images" if isinstance(images, int) else ""
  if isinstance(ends, list | tuple) and list(map(_is_share, ends)) == 2 * [
    True
  ]:
    text += f" (95 % interval {ends[0]:.1%} to {ends[1]:.1%})"
  return text


def _is_share(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value, default=str)
