"""Which answers to accept: by a promised precision, or by expected F1. Numpy on columns."""

from typing import NamedTuple

import numpy as np
from scipy import special

ERROR = 0.1  # how often, at most, a promised precision may fail to hold (a one-sided bound at 90%)
LOOKS = 12  # thresholds that are looked at,
STARTS = 3  # in as many sequences, each of which may fail in its share of the chance


class Threshold(NamedTuple):
  """What was promised and found; `value` is None where no threshold keeps the promise."""

  target: float
  value: float | None  # answers with at least this confidence are accepted
  bound: float | None  # lower confidence bound of their precision on new queries
  precision: float | None  # and what it was on the calibration queries
  accepted: int  # answers of the calibration queries above it
  units: int  # answers looked at


def by_precision(confidence_N, right_N, cluster_N, target, weight_N=None, error=ERROR):
  """The lowest threshold above which the precision on new queries is at least `target`, but for a chance of `error`.

  At most LOOKS thresholds, at sizes of what is accepted that grow by equal factors, are tested by the exact binomial lower bound (Clopper
  and Pearson 1934) from the highest on; a failure ends a sequence of tests, and STARTS of them begin at equal distances, each with its
  share of `error` (multi-start fixed sequence testing: Angelopoulos et al. 2021, "Learn then Test"). Answers about one subject count
  as fewer by the design effect (Kish 1965); so do answers of unequal weight.

  Args:
    confidence_N: of calibration answers, by curves that have not seen them. right_N: whether each is right.
    cluster_N: numbers of their subjects. weight_N: how many answers of the new queries one stands for; None: all alike.

  Returns:
    A Threshold.
  """
  weight_N = np.ones(len(confidence_N)) if weight_N is None else np.asarray(weight_N, np.float64)
  right_N = np.asarray(right_N, np.float64)
  found = Threshold(target, None, None, None, 0, len(confidence_N))
  values = _looks(confidence_N, queries_needed(target, error))
  goes_on = False
  for number, value in enumerate(values):  # from the highest threshold on
    goes_on |= number % (LOOKS // STARTS) == 0
    if not goes_on:
      continue
    inside = confidence_N >= value
    precision, bound = lower_bound(
      right_N[inside], cluster_N[inside], weight_N[inside], error / STARTS
    )
    goes_on = bound >= target
    if goes_on:
      found = Threshold(
        target, float(value), bound, precision, int(inside.sum()), len(confidence_N)
      )
  return found


def lower_bound(right_N, cluster_N, weight_N, error):
  """(weighted share right, its lower confidence bound at 1 - error)."""

  total = weight_N.sum()
  share = float(weight_N @ right_N / total)
  _, place_N = np.unique(cluster_N, return_inverse=True)
  if 0 < share < 1:
    residual_N = weight_N * (right_N - share)
    variance = (np.bincount(place_N, residual_N) ** 2).sum()
    plain = share * (1 - share) * total
  else:  # nothing varies: as if all answers about a subject were one
    variance = (np.bincount(place_N, weight_N) ** 2).sum()
    plain = total
  count = min(total**2 / (weight_N @ weight_N), total * plain / variance)
  right = share * count
  return share, float(special.betaincinv(right, count - right + 1, error)) if right > 0 else 0.0


def expected_f1_cut(confidence_N, query_N, unlisted_N, nothing_N):
  """Which answers to accept so that each query's expected F1 is greatest: bool [N].

  Of a query with confidences p_1 >= p_2 >= ... the first k are accepted, with the k that has the greatest 2 (p_1 + ... + p_k) /
  (k + E); E = sum of all p + the expected number of answers not listed. No answer at all is right with the probability that there is none.

  Args:
    confidence_N: best first within a query. query_N: query numbers, never falling.
    unlisted_N: of the answer's query, how many right answers are expected that are not listed.
    nothing_N: of the answer's query, the chance that there is no answer where none of those listed is right.
  """
  if not len(confidence_N):
    return np.zeros(0, bool)
  first_N = np.flatnonzero(np.r_[True, query_N[1:] != query_N[:-1]])
  place_N = np.repeat(np.arange(len(first_N)), np.diff(np.r_[first_N, len(query_N)]))
  rank_N = np.arange(len(query_N)) - first_N[place_N] + 1
  sum_N = np.cumsum(confidence_N)
  sum_N = sum_N - (sum_N[first_N] - confidence_N[first_N])[place_N]
  gold_Q = np.bincount(place_N, confidence_N) + unlisted_N[first_N]
  f1_N = 2 * sum_N / (rank_N + gold_Q[place_N])
  best_Q = np.maximum.reduceat(f1_N, first_N)
  nothing_Q = (
    np.exp(np.bincount(place_N, np.log1p(-np.minimum(confidence_N, 1 - 1e-12))))
    * nothing_N[first_N]
  )
  cut_Q = np.minimum.reduceat(np.where(f1_N >= best_Q[place_N], rank_N, len(rank_N) + 1), first_N)
  return (rank_N <= cut_Q[place_N]) & (best_Q > nothing_Q)[place_N]


def queries_needed(target, error=ERROR):
  """The least number of answers that, all right, have a lower bound of at least `target`."""
  return int(np.ceil(np.log(error / STARTS) / np.log(target)))


def _looks(confidence_N, fewest):
  """Thresholds, falling, that accept about `fewest` answers, more by equal factors, and all; equal confidences stay together."""
  if len(confidence_N) < fewest:
    return np.zeros(0)
  falling_N = np.sort(confidence_N)[::-1]
  sizes = np.unique(np.geomspace(fewest, len(falling_N), LOOKS).round().astype(int))
  return np.unique(falling_N[sizes - 1])[::-1]
