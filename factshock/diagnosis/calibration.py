"""Calibration of confidences: reliability, ECE, Brier, AUROC, risk against coverage, yields.

A unit is an answer with its confidence; a query has no, one or several units. Units are ranked by
confidence, equal confidences (isotonic calibration makes many) by raw score; units that tie in both
are taken together, so that no number hangs on the order of a file. Every measure is a function of
weights [R, N]: ones for the measure itself, and how often each unit was drawn for its bootstrap
resamples.
"""

from typing import NamedTuple

import numpy as np

from factshock.diagnosis.ranking import Ranking, rank_units
from factshock.diagnosis.shock import divide

BINS = 15


class Reliability(NamedTuple):
  """Bins by rising confidence, arrays [B].

  Attributes:
    low: lowest confidence of each bin.
    high: highest confidence.
    confidence: mean confidence.
    right: share right.
    units: how many units.
  """

  low: np.ndarray
  high: np.ndarray
  confidence: np.ndarray
  right: np.ndarray
  units: np.ndarray


class Yield(NamedTuple):
  """Queries that can be answered at a precision.

  Attributes:
    queries: how many get an answer.
    share: of all queries.
    right: right answers.
    answers: answers given.
    threshold: lowest confidence given, or NaN.
  """

  queries: int
  share: float
  right: int
  answers: int
  threshold: float


def reliability(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  bins: int = BINS,
) -> Reliability:
  """Returns mean confidence and share right in bins of equal mass.

  A unit's bin is floor(bins x the mean position of its tie / N), so that equal confidences are
  never split: bins may be fewer than asked for, and unequal.

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    bins: how many.

  Raises:
    UserError: no units, lengths that differ, or confidences outside [0, 1].
  """
  ranking = rank_units(confidence_N, right_N, bins=bins)
  starts = ranking.starts
  ends = np.append(starts, len(ranking.order))
  units_B = np.diff(ends)
  falling = Reliability(
    low=ranking.confidence[starts + units_B - 1],
    high=ranking.confidence[starts],
    confidence=np.add.reduceat(ranking.confidence, starts) / units_B,
    right=np.add.reduceat(ranking.right, starts) / units_B,
    units=units_B,
  )
  return Reliability(*(column[::-1] for column in falling))


def expected_calibration_error(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  bins: int = BINS,
) -> float:
  """Returns the mean over units of |mean confidence - share right| in bins of equal mass.

  Biased upwards where units are few: perfect confidences give about .8 sqrt(p (1 - p) bins / N) in
  place of 0 (Kumar et al. 2019, arXiv 1909.10155). Equal mass: Nguyen and O'Connor 2015.

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    bins: how many.

  Raises:
    UserError: as `reliability`.
  """
  table = reliability(confidence_N, right_N, bins)
  gap_B = np.abs(table.confidence - table.right)
  total_gap = np.sum(table.units * gap_B)
  return float(total_gap / table.units.sum())


def brier(confidence_N: np.ndarray, right_N: np.ndarray) -> float:
  """Returns the mean of (confidence - right)^2 (Brier 1950).

  Raises:
    UserError: as `reliability`.
  """
  ranking = rank_units(confidence_N, right_N)
  gap_N = ranking.confidence - ranking.right
  return float(np.mean(gap_N**2))


def auroc(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  score_N: np.ndarray | None = None,
) -> float:
  """Returns the chance that a right unit ranks above a wrong one, ties counted half.

  NaN where all are right or all wrong.

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    score_N: what ranks equal confidences.

  Raises:
    UserError: as `reliability`, and where scores are NaN.
  """
  ranking = rank_units(confidence_N, right_N, score_N)
  ones_1xN = np.ones((1, len(ranking.order)))
  count_1xK, right_1xK = cumulative_sums(ranking, ones_1xN)
  return float(auroc_of(count_1xK, right_1xK)[0])


def risk_coverage(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  score_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns the share wrong among the units answered as the cut falls, one point for each tie.

  The area is the mean over units of the risk at the end of a unit's tie (Geifman and El-Yaniv 2018,
  arXiv 1805.08206, where nothing ties).

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    score_N: what ranks equal confidences.

  Returns:
    (coverage [K], risk [K], area).

  Raises:
    UserError: as `auroc`.
  """
  ranking = rank_units(confidence_N, right_N, score_N)
  ones_1xN = np.ones((1, len(ranking.order)))
  count_1xK, right_1xK = cumulative_sums(ranking, ones_1xN)
  coverage_1xK = count_1xK / count_1xK[:, -1:]
  risk_1xK = 1 - right_1xK / count_1xK
  area_1 = risk_area_of(count_1xK, right_1xK)
  return coverage_1xK[0], risk_1xK[0], float(area_1[0])


def yield_at(
  precision: float,
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  score_N: np.ndarray | None = None,
  query_N: np.ndarray | None = None,
  queries: int | None = None,
) -> Yield:
  """Returns how many queries get an answer while the share right is at least `precision`.

  Units are taken in order of confidence, then score, ties together, down to the last cut where the
  share right so far is at least the precision; a query counts once however many answers it gets.

  Args:
    precision: in (0, 1].
    confidence_N: in [0, 1].
    right_N: bool.
    score_N: what ranks equal confidences.
    query_N: code of each unit's query (default: each unit is a query of its own).
    queries: how many were asked (default: those that have a unit).

  Raises:
    UserError: as `auroc`.
  """
  ranking = rank_units(confidence_N, right_N, score_N)
  if query_N is None:
    query_N = np.arange(len(ranking.order))
  first_N = first_of_code(np.asarray(query_N)[ranking.order])
  cut = _cut_of_ranking(ranking, first_N, precision)
  answered = int(cut.queries[0])
  answers = int(cut.answers[0])
  if queries is None:
    queries = int(first_N.sum())
  share = answered / queries
  return Yield(answered, share, int(cut.right[0]), answers, threshold(ranking, answers))


class Cut(NamedTuple):
  """Last cut at a precision: queries answered, right answers and answers, arrays [R]."""

  queries: np.ndarray
  right: np.ndarray
  answers: np.ndarray


def _cut_of_ranking(
  ranking: Ranking,
  first_N: np.ndarray,
  precision: float,
) -> Cut:
  """Returns the last cut at a precision, each unit counted once: arrays [1]."""
  ones_1xN = np.ones((1, len(ranking.order)))
  count_1xK, right_1xK = cumulative_sums(ranking, ones_1xN)
  queries_1xK = answered_queries(ranking, first_N, ones_1xN)
  return last_cut(count_1xK, right_1xK, queries_1xK, precision)


def first_of_code(code_N: np.ndarray) -> np.ndarray:
  """Returns 1 where a code stands for the first time, else 0: float [N]."""
  first_N = np.zeros(len(code_N))
  _, first_index = np.unique(code_N, return_index=True)
  first_N[first_index] = 1
  return first_N


def cumulative_sums(ranking: Ranking, weights_RxN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns units, and right ones, down to the end of each tie: two arrays [R, K]."""
  count_RxK = _at_ends(ranking, np.cumsum(weights_RxN, axis=1))
  right_weights_RxN = weights_RxN * ranking.right
  right_RxK = _at_ends(ranking, np.cumsum(right_weights_RxN, axis=1))
  return count_RxK, right_RxK


def answered_queries(
  ranking: Ranking,
  first_N: np.ndarray,
  weights_RxN: np.ndarray,
) -> np.ndarray:
  """Returns queries with an answer down to the end of each tie [R, K].

  Args:
    ranking: of the units.
    first_N: 1 for the first unit of each query.
    weights_RxN: how often each unit counts.
  """
  return _at_ends(ranking, np.cumsum(weights_RxN * first_N, axis=1))


def _at_ends(ranking: Ranking, values_RxN: np.ndarray) -> np.ndarray:
  if len(ranking.ends) == values_RxN.shape[1]:
    return values_RxN
  return values_RxN[:, ranking.ends]


def auroc_of(count_RxK: np.ndarray, right_RxK: np.ndarray) -> np.ndarray:
  """Returns the area under the ROC curve by trapezoids, which count ties half: [R].

  Args:
    count_RxK: units down to the end of each tie.
    right_RxK: right ones.
  """
  wrong_RxK = np.diff(count_RxK - right_RxK, axis=1, prepend=0)
  tied_RxK = np.diff(right_RxK, axis=1, prepend=0)
  above_RxK = right_RxK - tied_RxK / 2
  above_R = np.sum(wrong_RxK * above_RxK, axis=1)
  right_R = right_RxK[:, -1]
  wrong_R = count_RxK[:, -1] - right_R
  return divide(above_R, right_R * wrong_R)


def risk_area_of(count_RxK: np.ndarray, right_RxK: np.ndarray) -> np.ndarray:
  """Returns the area under the risk-coverage curve: [R].

  Args:
    count_RxK: units down to the end of each tie.
    right_RxK: right ones.
  """
  risk_RxK = 1 - right_RxK / np.maximum(count_RxK, 1)
  units_RxK = np.diff(count_RxK, axis=1, prepend=0)
  total_R = np.sum(units_RxK * risk_RxK, axis=1)
  return divide(total_R, count_RxK[:, -1])


def last_cut(
  count_RxK: np.ndarray,
  right_RxK: np.ndarray,
  queries_RxK: np.ndarray,
  precision: float,
) -> Cut:
  """Returns the last cut whose share right is at least `precision`; zeros where there is none.

  Args:
    count_RxK: units down to the end of each tie.
    right_RxK: right ones.
    queries_RxK: queries with an answer.
    precision: in (0, 1].
  """
  slack = 1e-9 * count_RxK[:, -1:]  # 7 of 10 are 70%, whatever 0.7 * 10 is in floating point
  wanted_RxK = precision * count_RxK - slack
  is_enough_RxK = (right_RxK >= wanted_RxK) & (right_RxK > 0)
  from_end_R = np.argmax(is_enough_RxK[:, ::-1], axis=1)
  last_R = is_enough_RxK.shape[1] - 1 - from_end_R
  any_R = is_enough_RxK.any(axis=1)

  def at_cut(values_RxK: np.ndarray) -> np.ndarray:
    values_Rx1 = np.take_along_axis(values_RxK, last_R[:, None], axis=1)
    return np.where(any_R, values_Rx1[:, 0], 0)

  return Cut(
    at_cut(queries_RxK),
    at_cut(right_RxK),
    at_cut(count_RxK),
  )


def threshold(ranking: Ranking, answers: int) -> float:
  """Returns the confidence of the last of the answers given; NaN where none is."""
  if not answers:
    return np.nan
  return float(ranking.confidence[answers - 1])
