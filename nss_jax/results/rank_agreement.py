"""Does a score rank archs? `rank_check/`, its numbers, table and picture.

The truths are errors of archs trained alone, each with several seeds; held
against them are the scores of the same archs. The scores of another supernet
can be compared with truths that are kept.
"""

import itertools
import pathlib
from typing import Annotated

import numpy as np
from matplotlib.figure import Figure

from nss_jax.errors import UserError
from nss_jax.results import (
  fields,
  plots,
  predictors,
  statistics,
  tables,
  truths,
)
from nss_jax.results.artifact import Artifact
from nss_jax.results.plots import Picture
from nss_jax.results.predictors import JUDGED, NAMES, TRIVIAL
from nss_jax.results.scores import Scores
from nss_jax.results.tables import Table
from nss_jax.results.truths import RankScores

_CEILING = "ceiling"
_DEVIATIONS = 2


class Tau(Artifact):
  """Kendall's tau-b, and its interval; null where it is undefined."""

  tau: fields.MaybeTau
  interval: Annotated[list[float] | None, fields.TAU.pair().or_null()]


class Predictor(Tau):
  """The tau of a predictor with the mean over the seeds.

  Attributes:
    share: of the ceiling; it can be above 1, as a mean is less noisy than a
      seed.
  """

  share: fields.MaybeNumber


class AgainstTrivial(Artifact):
  """The supernet's loss beside the best of the trivial predictors.

  Attributes:
    best: which it is.
    difference: of the two taus.
    deviation: of that, when archs are drawn anew and the best is chosen anew.
    tells_more: whether the difference is above two of these.
  """

  best: Annotated[str, fields.one_of(*TRIVIAL)]
  difference: fields.MaybeNumber
  deviation: fields.MaybeNonNegative
  tells_more: fields.Flag


class Agreement(Artifact):
  """What each predictor is worth in a group of archs.

  Attributes:
    ceiling: the mean tau between two seeds of the truth.
    verdict: whether the supernet tells more than a count, in a sentence.
  """

  count: fields.Count
  num_seeds: fields.Count
  ceiling: Tau
  predictors: dict[Annotated[str, fields.one_of(*NAMES)], Predictor]
  against_trivial: AgainstTrivial
  verdict: fields.Text


class RankCheck(Artifact, extra="forbid"):
  """`rank_check/summary.json`: groups of two archs or more."""

  spread: Agreement | None = None
  near_target: Agreement | None = None

  def check(self, search_space: object) -> None:
    """Raises ValueError for a group without the tau that its picture shows."""
    for name, group in self.groups.items():
      if "error" not in group.predictors:
        raise ValueError(f"{name}.predictors.error: this field is missing")

  @property
  def groups(self) -> dict[str, Agreement]:
    """Those that there are, by name."""
    found = {name: getattr(self, name) for name in truths.GROUPS}
    return {name: group for name, group in found.items() if group is not None}


def summarize(
  scored: Scores,
  known: Scores,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
) -> RankCheck:
  """Sums up what each predictor is worth in each group that is there."""
  groups = [name for name in truths.GROUPS if name in scored.source]
  errors = {x: truths.by_seed(known, x, scored.group(x)) for x in groups}
  for name in groups:
    if not errors[name].size or np.isnan(errors[name]).any():
      raise UserError(
        f"truths of {name}: not all of its {len(scored.group(name))} archs are "
        "trained alone with each seed"
      )
  scored = scored.select(
    np.concatenate([np.flatnonzero(scored.source == x) for x in groups])
  )
  said = predictors.predict(
    scored, np.concatenate([errors[name].mean(1) for name in groups])
  )
  return RankCheck(
    **{
      name: rank_group(
        name,
        {key: x[scored.source == name] for key, x in said.items()},
        errors[name],
        num_resamples=num_resamples,
        seed=seed,
      )
      for name in groups
      if len(errors[name]) > 1  # one has no order
    }
  )


def rank_group(
  group: str,
  said: dict[str, np.ndarray],
  errors: np.ndarray,
  *,
  num_resamples: int,
  seed: int = 0,
) -> Agreement:
  """Computes tau-b of each predictor `[N]` with errors `[N, R]` of R seeds."""
  count, num_seeds = errors.shape
  rng = np.random.default_rng(seed)
  drawn = rng.multinomial(count, np.full(count, 1 / count), num_resamples)
  # The archs as they are, then how often each is drawn.
  weights = np.concatenate([np.ones((1, count)), drawn])

  def told(values: np.ndarray) -> Tau:
    interval = statistics.quantiles(values[1:])
    return Tau(tau=statistics.finite(values[0]), interval=interval)

  truth = errors.mean(1)
  taus = {x: statistics.kendall(said[x], truth, weights) for x in said}
  pairs = [
    statistics.kendall(one, other, weights)
    for one, other in itertools.combinations(errors.T, 2)
  ]
  unknown = np.full(len(weights), np.nan)
  ceiling = told(np.mean(pairs, axis=0) if pairs else unknown)
  entries = {}
  for name, values in taus.items():
    entry, share = told(values), None
    if entry.tau is not None and ceiling.tau is not None and ceiling.tau > 0:
      share = entry.tau / ceiling.tau
    entries[name] = Predictor(**entry.to_json(), share=share)
  against = _against_trivial(taus)
  return Agreement(
    count=count,
    num_seeds=num_seeds,
    ceiling=ceiling,
    predictors=entries,
    against_trivial=against,
    verdict=_verdict(against, group),
  )


def _against_trivial(taus: dict[str, np.ndarray]) -> AgainstTrivial:
  trivial = np.stack([taus[name] for name in TRIVIAL])
  trivial = np.where(np.isnan(trivial), -np.inf, trivial)
  differences = taus[JUDGED] - trivial.max(0)
  known = differences[1:][np.isfinite(differences[1:])]
  difference = statistics.finite(differences[0])
  deviation = float(known.std(ddof=1)) if known.size > 1 else None
  more = False
  if difference is not None and deviation is not None:
    more = difference > _DEVIATIONS * deviation
  return AgainstTrivial(
    best=TRIVIAL[int(trivial[:, 0].argmax())],
    difference=difference,
    deviation=deviation,
    tells_more=more,
  )


def _verdict(found: AgainstTrivial, group: str) -> str:
  where = "near the target" if group == "near_target" else "over all costs"
  name = NAMES[found.best]
  if found.difference is None or found.deviation is None:
    return f"Too few archs {where} to tell the supernet from {name}."
  says = "tells more" if found.tells_more else "does not tell more"
  return (
    f"The supernet {says} than {name} {where}: the tau of its loss less that "
    f"of the count is {found.difference:+.2f}, and {_DEVIATIONS} standard "
    f"deviations of that are {_DEVIATIONS * found.deviation:.2f}."
  )


def table(result: RankCheck) -> Table:
  """Returns Kendall's tau of each predictor, as the file has it."""
  records = []
  for name, group in result.groups.items():
    for kind, found in ((_CEILING, group.ceiling), *group.predictors.items()):
      low, high = found.interval or (None, None)
      records.append(
        {
          "archs": name,
          "count": group.count,
          "predictor": kind,
          "tau": found.tau,
          "tau_low": low,
          "tau_high": high,
          "share": getattr(found, "share", None),
        }
      )
  names = {_CEILING: "another seed of training alone", **NAMES}
  columns = (
    ("archs", lambda r: truths.GROUPS[r["archs"]]),
    ("number", tables.text("count")),
    ("order by", lambda r: names[r["predictor"]]),
    ("tau", lambda r: "undefined" if r["tau"] is None else f"{r['tau']:+.2f}"),
    ("interval (bootstrap)", tables.interval("tau", "+.2f")),
    ("share of the ceiling (%)", tables.percent("share", ".0f")),
  )
  return Table("rank_check", "Does the supernet rank?", records, columns)


def picture(scores: RankScores, result: RankCheck | None) -> Picture | None:
  """Returns a dot per arch, the mean of its seeds, and a bar of their range."""
  if not len(scores.truths):
    return None

  def draw() -> Figure:
    figure = Figure(figsize=(plots.WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, color, marker in (
      ("spread", plots.OTHERS_COLOR, "o"),
      ("near_target", plots.ELITE_COLOR, "s"),
    ):
      scored = scores.supernet.group(name)
      errors = 100 * truths.by_seed(scores.truths, name, scored)
      errors = errors[~np.isnan(errors).all(-1)] if errors.size else errors[:0]
      if not len(errors):
        continue
      mean = np.nanmean(errors, -1)
      bars = [mean - np.nanmin(errors, -1), np.nanmax(errors, -1) - mean]
      label = f"{truths.GROUPS[name]}: {len(mean)} archs"
      group = result.groups.get(name) if result else None
      tau = group.predictors["error"].tau if group else None
      if tau is not None:
        label += f", Kendall's tau {tau:+.2f}"
      axes.errorbar(
        100 * scored.error[: len(mean)],
        mean,
        yerr=bars,
        fmt=marker,
        color=color,
        alpha=0.8,
        markersize=4.5,
        markeredgewidth=0,
        elinewidth=1,
        label=label,
      )
    axes.set(
      xlabel="error by the supernet (%)",
      ylabel="error of the arch trained alone (%)",
    )
    figure.legend(loc="outside upper center", ncols=1)
    return figure

  text = (
    "Error of archs trained alone over the error by the supernet; the bars "
    "reach from the least to the most of the seeds"
  )
  return Picture("rank_check", text, draw)


def describe(result: RankCheck, folder: pathlib.Path) -> list[str]:
  """Returns what a terminal shows: the table, and what to think of it."""
  return tables.describe(
    folder,
    "truths.csv, scores.csv, summary.json",
    [table(result)],
    (group.verdict for group in result.groups.values()),
  )
