"""Design principles against the Elite Spaces' trend, in a table and in words.

The numbers are those of `principles/summary.json`, the picture is of
`principles/scores.csv`.
"""

from collections.abc import Iterator

from nss_jax.runtime import figures, populations
from nss_jax.runtime.log import format_macs
from nss_jax.runtime.populations import (
  ANY_COST,
  IN_WINDOW,
  MATCHED,
  PRINCIPLES,
  TREND,
)
from nss_jax.runtime.report import cells
from nss_jax.runtime.report.cells import Record, Table
from nss_jax.runtime.report.workdir import Results

_FIELDS = ("count", "mean_flops", "mean_error", "median_error", "min_error")
# Mean costs that differ by more are said to differ: as a pair's may.
_TOLERANCE = 0.02


def table(results: Results) -> Table | None:
  """Populations, the two trends first; a row for each that was scored."""
  if results.principles is None:
    return None
  found = {
    source: results.principles["groups"].get(source)
    for source in populations.SOURCES
  }
  pairs = results.principles["matched"]
  found |= {f"{n}_{MATCHED}": pairs.get(n) for n in (PRINCIPLES, TREND)}
  records = [
    {"population": name, **{field: group[field] for field in _FIELDS}}
    for name, group in found.items()
    if group is not None
  ]
  columns = (
    ("population", lambda r: _population(r["population"])),
    ("archs", cells.text("count")),
    ("mean cost", cells.macs("mean_flops")),
    ("mean error (%)", cells.percent("mean_error")),
    ("median (%)", cells.percent("median_error")),
    ("best (%)", cells.percent("min_error")),
  )
  title = "Archs of the design principles, the trend, RegNet and AnyNet"
  return Table("principles", title, records, columns)


def _population(source: str) -> str:
  for kind, words in figures.POPULATION_KINDS.items():
    if source.endswith(f"_{kind}"):
      name = source.removesuffix(f"_{kind}")
      return f"{figures.POPULATIONS[name][0]}, {words}"
  raise ValueError(f"{source!r} is no population")


def sentences(results: Results) -> Iterator[str]:
  """Mean errors where the costs are alike, then where they may not be."""
  content = results.principles
  groups, pairs = content["groups"], content["matched"]
  text = (
    "Against archs in the order of the Elite Spaces' trend, those in the order "
    "of the design principles have "
    f"{_against(groups, IN_WINDOW, 'in the window of cost')}"
  )
  if pairs["pairs"]:
    of_pairs = {f"{n}_{MATCHED}": pairs[n] for n in (PRINCIPLES, TREND)}
    where = f"over {pairs['pairs']} pairs of equal cost"
    yield f"{text}, and {_against(of_pairs, MATCHED, where)}."
  else:
    yield f"{text}; there are no pairs of equal cost."
  ours, trend = (groups[f"{n}_{ANY_COST}"] for n in (PRINCIPLES, TREND))
  text = f"They have {_against(groups, ANY_COST, 'at any cost')}"
  ratio = trend["mean_flops"] / ours["mean_flops"]
  if abs(ratio - 1) > _TOLERANCE:
    text += (
      f"; archs of the trend cost {ratio:.3g} times as much there, so that is "
      "no comparison of the orders alone"
    )
  yield f"{text}."


def _against(groups: dict[str, Record], kind: str, where: str) -> str:
  ours, trend = (groups[f"{name}_{kind}"] for name in (PRINCIPLES, TREND))
  errors = [100 * group["mean_error"] for group in (ours, trend)]
  words = "less" if errors[0] < errors[1] else "more"
  return (
    f"{abs(errors[0] - errors[1]):.2f} points {words} mean error {where} "
    f"({errors[0]:.2f} % against {errors[1]:.2f} %, at mean costs of "
    f"{format_macs(ours['mean_flops'])} against "
    f"{format_macs(trend['mean_flops'])})"
  )


def note(results: Results) -> str:
  """What the words mean, and what could not be drawn."""
  text = (
    "The design principles order the stages d1 ≤ d2 ≤ d3 and w1 ≤ w2 ≤ w3, "
    "the trend of the Elite Spaces d1 ≤ d3 ≤ d2 and w1 ≤ w3 ≤ w2. Pairs of "
    "equal cost are of archs of any cost, an arch in one pair at most. Errors "
    "are those of the evaluator's supernet."
  )
  missing = results.principles["too_few"]
  if missing:
    text += f" Too few to draw: {'; '.join(map(_population, missing))}."
  return text
