"""Networks that a run has found and trained, read with suspicion."""

import pathlib
from collections.abc import Mapping
from typing import Any

from nss_jax.errors import UserError
from nss_jax.runtime import files
from nss_jax.runtime.report import fields
from nss_jax.spaces import cost
from nss_jax.spaces.metrics import UNITS
from nss_jax.spaces.search_space import SearchSpace
from nss_jax.spaces.text import format_arch, parse_arch

# Where networks come from: found inside the Elite Space and, by gradient, in
# the whole search space; the uniform draws that each is measured against; and
# what an engineer and RegNet's rule would take at that cost.
FOUND = "elite"
NAMES = (
  *(FOUND, "elite_uniform", "expanded", "expanded_uniform"),
  *("handmade", "regnet"),
)
_SEARCHED, _CONTROLS = NAMES[:4:2], ("elite_uniform", "expanded_uniform")
# Neither runs of before there were these, nor all search spaces have them.
_MORE_CONTROLS = NAMES[4:]
METHODS = ("evaluator", "gradient")

_NETWORK = {
  "arch": fields.TEXT,
  "depth": [fields.COUNT],
  "width": [fields.COUNT],
  "flops": fields.COUNT,
  "params": fields.COUNT,
  "seed": fields.WHOLE,
}
_DRAWS = {
  "num_samples_by_seed?": [fields.WHOLE],
  "num_samples_mean?": fields.NON_NEGATIVE,
  "num_samples_interval?": fields.pair(fields.NON_NEGATIVE),
}
_CONTROL = {
  **_NETWORK,
  **_DRAWS,
  # Null where the multiply-adds are no budget.
  "deviation": fields.maybe(fields.NUMBER),
  "deviations?": {},
  "off?": fields.NON_NEGATIVE,
  "chosen?": fields.TEXT,
  "by_cost?": fields.FLAG,
  "num_samples": fields.COUNT,
  "within_tolerance": fields.FLAG,
  # By the stand-alone supernet, where it was asked.
  "evaluator?": {"error": fields.SHARE, "loss": fields.NON_NEGATIVE},
}
_CONTENDER = {
  "arch": fields.TEXT,
  "loss": fields.NON_NEGATIVE,
  "errors": [fields.SHARE],
}
_ARCHITECTURE = {
  **_CONTROL,
  "learning_rate?": fields.POSITIVE,
  "method?": fields.one_of(*METHODS),
  "race?": [_CONTENDER],
  "target_flops": fields.maybe(fields.POSITIVE),
}
_ALL_CONTROLS = {
  **dict.fromkeys(_CONTROLS, _CONTROL),
  **{f"{name}?": _CONTROL for name in _MORE_CONTROLS},
}
# One learning rate of a search by gradient.
_RUN = {**_ARCHITECTURE, "learning_rate": fields.POSITIVE}
_TRAINED = {
  **_NETWORK,
  "name": fields.TEXT,
  "epochs": fields.COUNT,
  "test_error": fields.SHARE,
  "test_loss": fields.NON_NEGATIVE,
  "train_loss": fields.NON_NEGATIVE,
  "seconds": fields.NON_NEGATIVE,
}


def read_architecture(
  path: pathlib.Path, search_space: SearchSpace
) -> dict[str, Any]:
  """The `architecture.json` of one search by gradient in the nas phase.

  Raises:
    UserError: as `read_nas`, or if there is no file.
  """
  content = files.read_json(path)
  fields.check(path, content, {**_RUN, "chosen": fields.TEXT})
  _check_network(path, content, search_space)
  return content


def read_found_archs(
  path: pathlib.Path, search_space: SearchSpace
) -> dict[str, str]:
  """What `nas/summary.json` says was found, by name, in words.

  Raises:
    UserError: as `read_nas`, or if there is no file.
  """
  content = files.read_json(path)
  shape: dict[str, Any] = {FOUND: _CONTROL, "expanded?": _CONTROL}
  fields.check(path, content, {**shape, "controls": _ALL_CONTROLS})
  content |= content["controls"]
  names = [name for name in NAMES if name in content]
  for name in names:
    _check_network(path, content[name], search_space)
  return {name: content[name]["arch"] for name in names}


def read_nas(
  folder: pathlib.Path, search_space: SearchSpace
) -> dict[str, dict[str, Any]]:
  """The content of `nas/*/architecture.json` by `NAMES`, of those there are.

  Raises:
    UserError: one line with the file and the field.
  """
  found = {}
  for name in _SEARCHED:
    path = folder / name / "architecture.json"
    content = fields.read(path, {**_ARCHITECTURE, "runs?": [_RUN]})
    if content is not None:
      if "runs" in content:  # it is one of them
        fields.check(path, content, {"learning_rate": fields.POSITIVE})
      for network in (content, *content.get("runs", [])):
        _check_network(path, network, search_space)
      found[name] = content
  path = folder / "controls" / "architecture.json"
  content = fields.read(path, _ALL_CONTROLS)
  if content is not None:
    for name in (*_CONTROLS, *_MORE_CONTROLS):
      if name in content:
        _check_network(path, content[name], search_space)
        found[name] = content[name]
  return {name: found[name] for name in NAMES if name in found}


def expected(nas: Mapping[str, Any]) -> list[str]:
  """Names of the networks that a run has or is going to have."""
  absent = {"regnet"}
  if nas.get(FOUND, {}).get("method") == "evaluator":
    absent.add("expanded")
  return [name for name in NAMES if name in nas or name not in absent]


def read_trained(
  path: pathlib.Path, search_space: SearchSpace
) -> dict[str, Any]:
  """The `result.json` of one network in the train phase.

  Raises:
    UserError: as `read_nas`, or if there is no file.
  """
  content = files.read_json(path)
  fields.check(path, content, _TRAINED)
  _check_network(path, content, search_space)
  return content


def read_all_trained(
  folder: pathlib.Path, search_space: SearchSpace
) -> dict[str, list[dict[str, Any]]]:
  """The content of `train/<name>/seed_<k>/result.json` by name.

  Raises:
    UserError: as `read_nas`, or if a file is not that of its folder.
  """
  found: dict[str, list] = {}
  for path in sorted(folder.glob("*/seed_*/result.json")):
    content = read_trained(path, search_space)
    name, seed = path.parts[-3], path.parts[-2].removeprefix("seed_")
    for field, expected in (("name", name), ("seed", seed)):
      if str(content[field]) != expected:
        raise UserError(
          f"{path}: {field}: expected {expected} as its folder, got "
          f"{content[field]}"
        )
    others = found.setdefault(name, [])
    if others and others[0]["arch"] != content["arch"]:
      raise UserError(
        f"{path}: arch: {content['arch']}, but another seed of {name} has "
        f"{others[0]['arch']}"
      )
    others.append(content)
  order = [*(n for n in NAMES if n in found), *sorted(found)]
  return {
    name: sorted(found[name], key=lambda result: result["seed"])
    for name in dict.fromkeys(order)
  }


def _check_network(
  path: pathlib.Path, network: dict[str, Any], search_space: SearchSpace
) -> None:
  """The fields that follow from the arch must be what follows from it."""
  if "deviation" in network:
    names, each = fields.one_of(*UNITS), network.get("deviations", {})
    fields.check_each(path, each, names, fields.NUMBER, "deviations")
    if not each:  # then this is all there is to say how far it is off
      shape = {"deviation": fields.NUMBER}
      fields.check(path, network, shape)
  try:
    arch = parse_arch(network["arch"])
    expected = {
      "depth": arch.depth.tolist(),
      "width": arch.width.tolist(),
      "flops": int(cost.arch_macs(search_space, arch)),
      "params": int(cost.arch_params(search_space, arch)),
    }
  except (ValueError, IndexError) as error:
    raise UserError(f"{path}: arch: {error}") from error
  if len(arch.depth) != search_space.num_stages:
    raise UserError(
      f"{path}: arch: expected {search_space.num_stages} stages, got "
      f"{format_arch(arch)}"
    )
  for field, value in expected.items():
    if network[field] != value:
      raise UserError(
        f"{path}: {field}: {network[field]} is not that of the arch "
        f"{network['arch']}, {value}"
      )
