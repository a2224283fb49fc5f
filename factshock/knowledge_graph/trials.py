"""Trials of a promised precision on labelled predictions, split at random by subject.

In each trial half of the subjects calibrate (curves, guard, threshold) and the other half are
asked, as `extract` would; then the answers accepted there are compared with the right ones. So one
sees whether the promise holds and what it yields.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypedDict

import numpy as np

from factshock.diagnosis import calibration, statistics, table
from factshock.knowledge_graph import extraction
from factshock.knowledge_graph.answers import Answers, is_right, take
from factshock.runtime.errors import UserError
from factshock.types import Answer, Estimate

MEASURES = ("yield", "reachable", "accepted_share", "precision", "first_right")
_DIFFERENCES = ("yield", "reachable")
_HEADER = [
  "arm",
  "held",
  "nothing accepted",
  "precision",
  "yield",
  "reachable",
  "right",
  "yield - first",
  "reachable - first",
]


class Trial(NamedTuple):
  """Counts of the half that was asked.

  Attributes:
    queries: how many were asked.
    accepted: answers accepted.
    right: right ones among these.
    first_right: right first answers where all are accepted.
    reachable: right answers at the lowest threshold that has the precision on this half itself:
      what no rule could promise.
  """

  queries: int
  accepted: int
  right: int
  first_right: int
  reachable: int


# Keys of JSON in promise.json (`yield` is a word of Python, so that no class can have it):
# - `splits`: trials; `held`: those in which the promise held; `held_by_seed`; `empty`: those in
#   which nothing was accepted: the promise holds and says nothing;
# - shares of queries with an accepted right answer (`yield`), with one at the best threshold by the
#   asked half's own labels (`reachable`, what no rule can promise), with an accepted answer
#   (`accepted_share`), and with a right first answer (`first_right`);
# - `precision`, of all accepted answers;
# - `difference`, of yield and reachable, from the first arm; None for that one.
Comparison = TypedDict(
  "Comparison",
  {
    "splits": int,
    "held": int,
    "empty": int,
    "held_by_seed": list[int],
    "yield": Estimate,
    "reachable": Estimate,
    "accepted_share": Estimate,
    "precision": Estimate,
    "first_right": Estimate,
    "difference": dict[str, Estimate] | None,
  },
)


class _Draw(NamedTuple):
  """Draw of the bootstrap: seeds, and for each drawn one the splits drawn of it."""

  seeds: list[int]
  splits: list[np.ndarray]


# Of each of MEASURES the mean, and that of every draw of the bootstrap [R].
_Measured: TypeAlias = dict[str, tuple[float, np.ndarray]]


def run(
  labelled: Answers,
  target: float,
  *,
  splits: int = 10,
  seed: int = 0,
  counts: Mapping[Answer, int] | None = None,
  method: str | None = None,
) -> list[Trial]:
  """Returns the trials of a precision; the splits depend on subjects and seed alone.

  Args:
    labelled: answers with their right ones.
    target: the precision promised.
    splits: how many trials.
    seed: of the random splits.
    counts: mentions in text for the shock guard, or None.
    method: one of calibration.METHODS, or None: the better.
  """
  subjects = sorted(set(labelled.subjects))  # so that splits do not depend on the order of rows
  codes = {subject: code for code, subject in enumerate(subjects)}
  subject_Q = np.array([codes[subject] for subject in labelled.subjects])
  trials: list[Trial] = []
  for split in range(splits):
    order_S = np.random.default_rng([seed, split]).permutation(len(subjects))
    calibrates_S = order_S < len(subjects) // 2
    trials.append(_trial(labelled, calibrates_S[subject_Q], target, counts, method))
  return trials


def _trial(
  labelled: Answers,
  calibrates_Q: np.ndarray,
  target: float,
  counts: Mapping[Answer, int] | None,
  method: str | None,
) -> Trial:
  """Calibrates on some queries, extracts from the others, and counts what is right."""
  known = take(labelled, calibrates_Q)
  answers = take(labelled, ~calibrates_Q)
  extractor = extraction.fit(known, answers, counts=counts, method=method)
  assessment = extraction.assess(extractor, answers)
  threshold = extraction.choose_threshold(extractor, known, answers, target)
  accepted_N = extraction.accept_by_precision(assessment, threshold)
  right_N = is_right(answers)
  units_N = assessment.eligible_N
  reachable = 0
  if units_N.any():
    best = calibration.yield_at(
      target, assessment.confidence_N[units_N], right_N[units_N], answers.score_N[units_N]
    )
    reachable = best.right
  return Trial(
    len(answers.subjects),
    int(accepted_N.sum()),
    int(right_N[accepted_N].sum()),
    int(right_N[answers.rank_N == 1].sum()),
    reachable,
  )


def is_held(trial: Trial, target: float) -> bool:
  """Returns whether the accepted answers were as precise as promised; so where there are none."""
  return trial.right >= target * trial.accepted - 1e-9


def compare(
  arms: Mapping[str, Mapping[int, Sequence[Trial]]],
  target: float,
  *,
  resamples: int = 2000,
  confidence: float = 0.95,
  seed: int = 0,
) -> dict[str, Comparison]:
  """Compares the trials of arms with those of the first arm.

  Intervals are percentiles of a bootstrap that draws seeds, and of each drawn seed its splits, the
  same for every arm. The splits of one seed share their queries, so that with one seed the interval
  is of splits alone.

  Args:
    arms: trials by label and seed.
    target: the precision promised.
    resamples: draws of the bootstrap.
    confidence: level of the intervals.
    seed: of the bootstrap.

  Returns:
    The comparison of each arm by its label.

  Raises:
    UserError: arms of other seeds than the first.
  """
  _check_seeds(arms)
  rng = np.random.default_rng(seed)
  first_label = next(iter(arms))
  sizes = [len(trials) for trials in arms[first_label].values()]
  draws = [_draw(sizes, rng) for _ in range(resamples)]
  measured = {label: _measure(list(by_seed.values()), draws) for label, by_seed in arms.items()}
  comparisons: dict[str, Comparison] = {}
  for label, by_seed in arms.items():
    base = None if label == first_label else measured[first_label]
    trials_by_seed = list(by_seed.values())
    comparisons[label] = _comparison(trials_by_seed, target, measured[label], base, confidence)
  return comparisons


def _measure(trials_by_seed: Sequence[Sequence[Trial]], draws: Sequence[_Draw]) -> _Measured:
  """Measures the trials of an arm."""
  tables = _tables(trials_by_seed)
  means = _measures(np.concatenate(tables))
  samples = _resampled(tables, draws)
  return {name: (means[name], samples[name]) for name in MEASURES}


def _comparison(
  trials_by_seed: Sequence[Sequence[Trial]],
  target: float,
  measured: _Measured,
  base: _Measured | None,
  confidence: float,
) -> Comparison:
  """Returns what promise.json holds of an arm.

  Args:
    trials_by_seed: its trials.
    target: the precision promised.
    measured: of the arm.
    base: of the first arm; None: this is the first.
    confidence: level of the intervals.
  """
  held_by_seed = [_count_held(trials, target) for trials in trials_by_seed]
  trials = [trial for of_seed in trials_by_seed for trial in of_seed]
  estimates = {name: _estimate(*measured[name], confidence) for name in MEASURES}
  difference = None
  if base is not None:
    difference = {
      name: _estimate_difference(measured[name], base[name], confidence) for name in _DIFFERENCES
    }
  return {
    "splits": len(trials),
    "held": sum(held_by_seed),
    "empty": sum(trial.accepted == 0 for trial in trials),
    "held_by_seed": held_by_seed,
    "yield": estimates["yield"],
    "reachable": estimates["reachable"],
    "accepted_share": estimates["accepted_share"],
    "precision": estimates["precision"],
    "first_right": estimates["first_right"],
    "difference": difference,
  }


def _count_held(trials: Sequence[Trial], target: float) -> int:
  """Returns in how many trials the promise held."""
  return sum(is_held(trial, target) for trial in trials)


def _estimate_difference(
  measure: tuple[float, np.ndarray],
  base: tuple[float, np.ndarray],
  confidence: float,
) -> Estimate:
  """Returns how far a measure is from that of the first arm."""
  mean, samples_R = measure
  base_mean, base_R = base
  return _estimate(mean - base_mean, samples_R - base_R, confidence)


def summary_lines(
  comparisons: Mapping[str, Comparison],
  target: float,
  width: int | None = table.WIDTH,
) -> list[str]:
  """Returns the comparison as lines of a table of at most so many characters; None for any."""
  rows = [_HEADER]
  for label, comparison in comparisons.items():
    difference = comparison["difference"] or {}
    estimates = [
      comparison["precision"],
      comparison["yield"],
      comparison["reachable"],
      comparison["first_right"],
      difference.get("yield"),
      difference.get("reachable"),
    ]
    held = f"{comparison['held']}/{comparison['splits']}"
    empty = f"{comparison['empty']}/{comparison['splits']}"
    rows.append([label, held, empty, *map(table.estimate, estimates)])
  title = f"A precision of {target:.0%} promised on half of the subjects, and what it gave on the "
  return [title + "other half", *table.fitted(rows, width)]


def _check_seeds(arms: Mapping[str, Mapping[int, Sequence[Trial]]]) -> None:
  """Raises a UserError where an arm has other seeds than the first."""
  first = next(iter(arms.values()))
  for label, by_seed in arms.items():
    if by_seed.keys() != first.keys():
      raise UserError(
        f"arm {label!r}: expected the seeds of the first arm, {sorted(first)}, "
        f"got {sorted(by_seed)}"
      )


def _draw(sizes: Sequence[int], rng: np.random.Generator) -> _Draw:
  """Draws seeds, and splits of each drawn seed, with replacement."""
  seeds: list[int] = rng.integers(0, len(sizes), len(sizes)).tolist()
  drawn_sizes = [sizes[index] for index in seeds]
  splits = [rng.integers(0, size, size) for size in drawn_sizes]
  return _Draw(seeds, splits)


def _tables(trials_by_seed: Sequence[Sequence[Trial]]) -> list[np.ndarray]:
  """Returns counts [trial, 5] of each seed: right, reachable, accepted, first right, queries."""
  return [
    np.array(
      [
        [trial.right, trial.reachable, trial.accepted, trial.first_right, trial.queries]
        for trial in trials
      ],
      float,
    )
    for trials in trials_by_seed
  ]


def _measures(counts_Tx5: np.ndarray) -> dict[str, float]:
  """Returns the measures of trials.

  Shares of queries are means over trials; precision is of all accepted answers.
  """
  right, reachable, accepted, first, queries = counts_Tx5.T
  return {
    "yield": np.mean(right / queries),
    "reachable": np.mean(reachable / queries),
    "accepted_share": np.mean(accepted / queries),
    "precision": right.sum() / accepted.sum() if accepted.any() else np.nan,
    "first_right": np.mean(first / queries),
  }


def _resampled(tables: Sequence[np.ndarray], draws: Sequence[_Draw]) -> dict[str, np.ndarray]:
  """Returns each measure of every draw [R]."""
  samples: list[dict[str, float]] = []
  for draw in draws:
    drawn = [tables[index][splits] for index, splits in zip(draw.seeds, draw.splits)]
    samples.append(_measures(np.concatenate(drawn)))
  return {name: np.array([sample[name] for sample in samples]) for name in MEASURES}


def _estimate(
  mean: float,
  samples_R: np.ndarray,
  confidence: float,
) -> Estimate:
  """Returns a mean with its interval; None for what is undefined."""
  low, high = statistics.interval(samples_R, confidence)
  return {
    "mean": _or_none(mean),
    "low": _or_none(low),
    "high": _or_none(high),
  }


def _or_none(value: float) -> float | None:
  """Returns a number, None for NaN."""
  return None if np.isnan(value) else float(value)
