"""Acceptance of answers: by a promised precision, or by expected F1. Numpy on columns.

A promised precision is tested at a few thresholds, at sizes of what is accepted that grow by equal
factors, by the exact binomial lower bound (Clopper and Pearson 1934) from the highest threshold on.
A failure ends a sequence of tests, and STARTS of them begin at equal distances, each with its share
of the chance to fail (multi-start fixed sequence testing: Angelopoulos et al. 2021, "Learn then
Test"). Answers about one subject count as fewer by the design effect (Kish 1965); so do answers of
unequal weight.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import special  # pyright: ignore[reportMissingTypeStubs] - scipy has none

ERROR = 0.1  # how often, at most, a promised precision may fail to hold (a one-sided bound at 90%)
LOOKS = 12  # thresholds that are looked at,
STARTS = 3  # in as many sequences, each of which may fail in its share of the chance


@dataclasses.dataclass(frozen=True)
class Threshold:
  """Promised precision and the confidence from which on it holds.

  Attributes:
    target: the precision promised.
    value: answers with at least this confidence are accepted; None where no threshold keeps the
      promise.
    bound: lower confidence bound of their precision on new queries.
    precision: what it was on the calibration queries.
    accepted: answers of the calibration queries at or above the threshold.
    units: calibration answers looked at.
  """

  target: float
  value: float | None
  bound: float | None
  precision: float | None
  accepted: int
  units: int


def choose_threshold(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  cluster_N: np.ndarray,
  target: float,
  weight_N: np.ndarray | None = None,
  error: float = ERROR,
) -> Threshold:
  """Chooses the lowest threshold above which the precision on new queries is at least `target`.

  At most LOOKS thresholds are tested (see the head of this module).

  Args:
    confidence_N: of calibration answers, by curves that have not seen them.
    right_N: whether each is right.
    cluster_N: code of each one's subject.
    target: the precision to promise.
    weight_N: how many answers of the new queries one stands for; None: all alike.
    error: chance that the promise fails.
  """
  if weight_N is None:
    weight_N = np.ones(len(confidence_N))
  columns = _Columns(
    confidence_N,
    np.asarray(right_N, np.float64),
    cluster_N,
    np.asarray(weight_N, np.float64),
  )
  values = _tested_values(confidence_N, queries_needed(target, error))
  return _lowest_passed(columns, values, target, error / STARTS)


class _Columns(NamedTuple):
  """Columns of calibration answers [N], as `choose_threshold` takes them."""

  confidence_N: np.ndarray
  right_N: np.ndarray
  cluster_N: np.ndarray
  weight_N: np.ndarray


def _lowest_passed(
  columns: _Columns,
  values: np.ndarray,
  target: float,
  error: float,
) -> Threshold:
  """Tests thresholds from the highest on and returns the last that keeps the promise.

  Args:
    columns: of the calibration answers.
    values: the thresholds, falling.
    target: the precision to promise.
    error: chance to fail of each sequence of tests.
  """
  confidence_N, right_N, cluster_N, weight_N = columns
  units = len(confidence_N)
  chosen = Threshold(target, None, None, None, 0, units)
  goes_on = False
  for index, value in enumerate(values):
    is_start = index % (LOOKS // STARTS) == 0
    if not (goes_on or is_start):
      continue
    rows_N = confidence_N >= value
    precision, bound = lower_bound(
      right_N[rows_N],
      cluster_N[rows_N],
      weight_N[rows_N],
      error,
    )
    goes_on = bound >= target
    if goes_on:
      accepted = int(rows_N.sum())
      chosen = Threshold(target, float(value), bound, precision, accepted, units)
  return chosen


def lower_bound(
  right_N: np.ndarray,
  cluster_N: np.ndarray,
  weight_N: np.ndarray,
  error: float,
) -> tuple[float, float]:
  """Returns the weighted share right, and its lower confidence bound at 1 - error.

  Args:
    right_N: 1 where an answer is right, else 0.
    cluster_N: code of each answer's subject.
    weight_N: weight of each answer.
    error: chance that the share of new answers is below the bound.
  """
  total = weight_N.sum()
  share = float(weight_N @ right_N / total)
  cluster_index_N = np.unique(cluster_N, return_inverse=True)[1]
  if 0 < share < 1:
    deviation_N = weight_N * (right_N - share)
    cluster_sum = np.bincount(cluster_index_N, deviation_N)
    plain = share * (1 - share) * total
  else:  # nothing varies: as if all answers about a subject were one
    cluster_sum = np.bincount(cluster_index_N, weight_N)
    plain = total
  variance = (cluster_sum**2).sum()
  by_weights = total**2 / (weight_N @ weight_N)
  by_clusters = total * plain / variance
  count = min(by_weights, by_clusters)
  right = share * count
  if not right > 0:
    return share, 0.0
  return share, _binomial_lower_bound(right, count, error)


def _binomial_lower_bound(
  right: float,
  count: float,
  error: float,
) -> float:
  """Returns the share below which `right` of `count` or more have a chance under `error`."""
  return float(special.betaincinv(right, count - right + 1, error))


def accept_by_expected_f1(
  confidence_N: np.ndarray,
  query_N: np.ndarray,
  unlisted_N: np.ndarray,
  unanswerable_N: np.ndarray,
) -> np.ndarray:
  """Returns which answers to accept so that each query's expected F1 is greatest, bool [N].

  Of a query with confidences p_1 >= p_2 >= ... the first k are accepted, with the k that has the
  greatest 2 (p_1 + ... + p_k) / (k + E); E = sum of all p + the expected number of answers not
  listed. No answer at all is right with the probability that there is none.

  Args:
    confidence_N: best first within a query.
    query_N: query indices, never falling.
    unlisted_N: how many right answers that are not listed are expected of the answer's query.
    unanswerable_N: chance that the answer's query has no answer where none listed is right.
  """
  if not len(confidence_N):
    return np.zeros(0, bool)
  is_new_N = query_N[1:] != query_N[:-1]
  is_first_N = np.r_[True, is_new_N]
  first_Q = np.flatnonzero(is_first_N)
  size_Q = np.diff(np.r_[first_Q, len(query_N)])
  index_Q = np.arange(len(first_Q))
  index_N = np.repeat(index_Q, size_Q)
  position_N = np.arange(len(query_N))
  rank_N = position_N - first_Q[index_N] + 1
  sum_N = np.cumsum(confidence_N)
  before_Q = sum_N[first_Q] - confidence_N[first_Q]
  sum_N = sum_N - before_Q[index_N]
  expected_Q = np.bincount(index_N, confidence_N) + unlisted_N[first_Q]
  f1_N = 2 * sum_N / (rank_N + expected_Q[index_N])
  best_Q = np.maximum.reduceat(f1_N, first_Q)
  no_answer_Q = _chance_all_wrong(confidence_N, index_N) * unanswerable_N[first_Q]
  is_best_N = f1_N >= best_Q[index_N]
  best_rank_N = np.where(is_best_N, rank_N, len(rank_N) + 1)
  cut_Q = np.minimum.reduceat(best_rank_N, first_Q)
  has_answer_Q = best_Q > no_answer_Q
  return (rank_N <= cut_Q[index_N]) & has_answer_Q[index_N]


def _chance_all_wrong(confidence_N: np.ndarray, index_N: np.ndarray) -> np.ndarray:
  """Returns the chance that no listed answer of a query is right [Q]."""
  below_1_N = np.minimum(confidence_N, 1 - 1e-12)
  log_wrong_N = np.log1p(-below_1_N)
  return np.exp(np.bincount(index_N, log_wrong_N))


def queries_needed(target: float, error: float = ERROR) -> int:
  """Returns the least number of answers that, all right, have a lower bound of `target`."""
  log_error = np.log(error / STARTS)
  return int(np.ceil(log_error / np.log(target)))


def _tested_values(confidence_N: np.ndarray, fewest: int) -> np.ndarray:
  """Returns the thresholds to test, falling.

  They accept about `fewest` answers, more by equal factors, and all; equal confidences stay
  together.
  """
  if len(confidence_N) < fewest:
    return np.zeros(0)
  rising_N = np.sort(confidence_N)
  falling_N = rising_N[::-1]
  spaced = np.geomspace(fewest, len(falling_N), LOOKS)
  sizes = np.unique(spaced.round().astype(int))
  rising = np.unique(falling_N[sizes - 1])
  return rising[::-1]
