"""`nss find`, `nss predict` and `nss export`: what the library does, by words.

No config and none of its flags: `nss --config=...` is the command of runs, see
`main.py`, which sends here what begins with one of the three words.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from nss_jax import command
from nss_jax.deploy import exports, runtimes
from nss_jax.deploy.trained_network import Prediction, TrainedNetwork
from nss_jax.errors import Diverged, Interrupted, UserError
from nss_jax.results import load
from nss_jax.runtime.preemption import EXIT_SAVED

WORDS = ("find", "predict", "export")
# Images that are read before their predictions are printed.
_AT_ONCE = 64
_SHOWN = 3


class _Parser(argparse.ArgumentParser):
  """Answers what is wrong in one line, not with its usage."""

  def error(self, message: str) -> NoReturn:
    raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


def main(argv: Sequence[str]) -> int:
  """Runs `find`, `predict` or `export`; returns the exit code.

  Args:
    argv: the word and what follows it.

  Raises:
    OSError: if a file cannot be written.
  """
  try:
    given = _parser().parse_args(argv)
    return given.run(given)
  except UserError as error:
    for line in error.details:
      print(line, file=sys.stderr)
    return command.refuse(str(error))
  except Diverged as error:
    return command.refuse(str(error), 1)
  except Interrupted as error:
    return command.refuse(str(error), EXIT_SAVED)


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(prog="nss", allow_abbrev=False)
  words = parser.add_subparsers(required=True, parser_class=_Parser)
  fixed: dict[str, Any] = {
    "allow_abbrev": False,
    "formatter_class": argparse.RawDescriptionHelpFormatter,
  }

  find = words.add_parser(
    "find",
    description="Finds and trains the best network that costs at most so "
    "much,\nfrom your images. At least one limit is needed.",
    epilog="example: nss find photos/ --flops=5e6 --params=60e3\n\nThe same "
    "command goes on where it was stopped.",
    **fixed,
  )
  find.add_argument(
    "images",
    help="a folder with a folder of images for each class (or with train/ and "
    "test/), a .npz file, or the name of a data set, such as digits",
  )
  for name, what in (
    ("flops", "multiply-adds an image, such as 5e6"),
    ("params", "trainable numbers, such as 60e3"),
    ("activations", "numbers that layers put out"),
    ("latency", "seconds an image on this device, measured first"),
  ):
    find.add_argument(f"--{name}", type=float, help=f"at most so many {what}")
  find.add_argument(
    "--effort",
    default="quick",
    help="quick (minutes for 1,000 small images; the default), normal or "
    "thorough",
  )
  find.add_argument(
    "--image_size",
    type=int,
    help="pixels of a side that pictures of a folder are resized to",
  )
  find.add_argument("--seed", type=int, default=0, help="of the run")
  find.add_argument(
    "--workdir",
    help="folder of the run (default: in runs/, by the images and the limits)",
  )
  find.set_defaults(run=_find)

  predict = words.add_parser(
    "predict",
    description="Says which classes images are of, the most probable three of "
    "each,\none line an image.",
    epilog="example: nss predict net/ cat.jpg dog.png",
    **fixed,
  )
  _add_network(predict)
  predict.add_argument("images", nargs="+", help="image files of any size")
  predict.add_argument(
    "--json",
    action="store_true",
    help="print a JSON object a line, with the probabilities of all classes",
  )
  predict.set_defaults(run=_predict)

  export = words.add_parser(
    "export",
    description="Writes a network for other runtimes. Its input is images "
    "[batch, height,\nwidth, channels] of uint8, its output logits [batch, "
    "classes].",
    epilog="example: nss export net/ --format=onnx,tflite --measure",
    **fixed,
  )
  _add_network(export)
  export.add_argument(
    "--format",
    required=True,
    help=f"one or several, with commas, of {', '.join(exports.FORMATS)}",
  )
  export.add_argument(
    "--output", help="folder to write to (default: that of the network)"
  )
  export.add_argument(
    "--measure",
    action="store_true",
    help="print the size of each file and, in its own runtime on this machine, "
    "the milliseconds that an image takes alone",
  )
  export.set_defaults(run=_export)
  return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "network",
    help="folder of a saved network, or of a run, for the best that it found",
  )


def _find(given: argparse.Namespace) -> int:
  from nss_jax.phases import find

  fields = {k: x for k, x in vars(given).items() if k not in ("run", "images")}
  print(find.find(given.images, **fields))
  return 0


def _predict(given: argparse.Namespace) -> int:
  """Prints what there is to say of all images that can be read."""
  network, code = load.load_network(given.network), 0
  for start in range(0, len(given.images), _AT_ONCE):
    ready = []
    for path in given.images[start : start + _AT_ONCE]:
      try:
        ready.append((path, network.prepare(path)))
      except UserError as error:
        code = command.refuse(str(error))
    told = network.predict([image for _, image in ready])
    for (path, _), prediction in zip(ready, told, strict=True):
      line = _as_json if given.json else _as_words
      print(line(path, prediction), flush=True)
  return code


def _as_json(path: str, prediction: Prediction) -> str:
  return json.dumps({"image": path, **prediction._asdict()})


def _as_words(path: str, prediction: Prediction) -> str:
  first = list(prediction.probabilities.items())[:_SHOWN]
  return f"{path}: {', '.join(f'{name} {x:.1%}' for name, x in first)}"


def _export(given: argparse.Namespace) -> int:
  network = load.load_network(given.network)
  output = pathlib.Path(given.output or given.network)
  names = given.format.split(",")
  exports.check(names)
  for name in names:
    path = network.export(output, name)
    print(_measured(network, path, name) if given.measure else path, flush=True)
  return 0


def _measured(network: TrainedNetwork, path: pathlib.Path, name: str) -> str:
  found = runtimes.measure(path, name, network.search_space.image_shape)
  took = "not run by itself"
  if found.seconds is not None:
    took = f"{1e3 * found.seconds:.3f} ms an image, {found.runtime}"
  return f"{name:9}  {found.bytes:>11,} bytes  {took}  {path}"
