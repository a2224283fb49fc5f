"""Whether confidences mean what they say: reliability, ECE, Brier, AUROC, risk against coverage, yield at a precision.

A unit is an answer with its confidence; a query has no, one or several units. Units are ranked by confidence, equal
confidences (isotonic calibration makes many) by raw score; units that tie in both are taken together, so that no
number hangs on the order of a file. Every measure is a function of weights [R, N]: ones for the measure itself, and
how often each unit was drawn for its bootstrap resamples.
"""

import typing

import numpy as np

from factshock.diagnosis import notes, statistics
from factshock.diagnosis.shock import divide
from factshock.runtime.errors import UserError

BINS = 15
PRECISIONS = (0.8, 0.9, 0.95)
UNITS_A_BIN = 10  # `quality` takes fewer bins where there would be fewer units in one
MEANS = ("share_right", "mean_confidence", "overconfidence", "brier", "auroc", "aurc")
GRID = 40  # coverages at which the curve of `quality` is written
ENTRIES = 1 << 18  # of weights [R, N] at a time, which the processor's cache holds


class Units(typing.NamedTuple):
  """Answers: arrays [N].

  confidence: in [0, 1]. right: bool. score: raw score, larger is better; what ranks equal confidences.
  relation: code of the relation. query: code of the query, or of the subject: units of one code are resampled
  together, and units of one code and one relation answer one query.
  """

  confidence: np.ndarray
  right: np.ndarray
  score: np.ndarray
  relation: np.ndarray
  query: np.ndarray


class Reliability(typing.NamedTuple):
  """Bins by rising confidence, arrays [B]: lowest, highest and mean confidence, share right, units."""

  low: np.ndarray
  high: np.ndarray
  confidence: np.ndarray
  right: np.ndarray
  units: np.ndarray


class Yield(typing.NamedTuple):
  """What can be answered at a precision: queries, their share, right answers, answers, lowest confidence (or NaN)."""

  queries: int
  share: float
  right: int
  answers: int
  threshold: float


class _Ranking(typing.NamedTuple):
  """Units by falling confidence, then score: their order, confidences and 1 for right [N]; the place of the last
  unit of each tie [K] and of the first unit of each bin [B]."""

  order: np.ndarray
  confidence: np.ndarray
  right: np.ndarray
  ends: np.ndarray
  starts: np.ndarray


def reliability(confidence_N, right_N, bins=BINS):
  """Mean confidence and share right in bins of equal mass: a Reliability.

  A unit's bin is floor(bins x the mean place of its tie / N), so that equal confidences are never split: bins may be
  fewer than asked for, and unequal.

  Args:
    confidence_N: in [0, 1]. right_N: bool. bins: how many.

  Raises:
    UserError: no units, lengths that differ, or confidences outside [0, 1].
  """
  ranking = _rank(confidence_N, right_N, None, bins)
  units_B = np.diff(np.append(ranking.starts, len(ranking.order)))
  found = Reliability(
    ranking.confidence[ranking.starts + units_B - 1],
    ranking.confidence[ranking.starts],
    np.add.reduceat(ranking.confidence, ranking.starts) / units_B,
    np.add.reduceat(ranking.right, ranking.starts) / units_B,
    units_B,
  )
  return Reliability(*(column[::-1] for column in found))


def expected_calibration_error(confidence_N, right_N, bins=BINS):
  """Mean over units of |mean confidence - share right| in bins of equal mass (`reliability`), 15 unless told.

  Biased upwards where units are few: perfect confidences give about .8 sqrt(p (1 - p) bins / N) in place of 0
  (Kumar et al. 2019, arXiv 1909.10155). Equal mass: Nguyen and O'Connor 2015. Raises as `reliability`.
  """
  found = reliability(confidence_N, right_N, bins)
  return float(np.sum(found.units * np.abs(found.confidence - found.right)) / found.units.sum())


def brier(confidence_N, right_N):
  """Mean of (confidence - right)^2 (Brier 1950). Raises as `reliability`."""
  ranking = _rank(confidence_N, right_N)
  return float(np.mean((ranking.confidence - ranking.right) ** 2))


def auroc(confidence_N, right_N, score_N=None):
  """Chance that a right unit ranks above a wrong one, ties counted half; NaN where all are right or all wrong.

  Ranked by confidence, equal confidences by `score_N` where given. Raises as `reliability`, and where scores are NaN.
  """
  ranking = _rank(confidence_N, right_N, score_N)
  return float(_auroc(*_sums(ranking, np.ones((1, len(ranking.order)))))[0])


def risk_coverage(confidence_N, right_N, score_N=None):
  """Share wrong among the units answered as the cut falls: (coverage_K, risk_K, area); one point for each tie.

  The area is the mean over units of the risk at the end of a unit's tie (Geifman and El-Yaniv 2018, arXiv 1805.08206,
  where nothing ties). Raises as `auroc`.
  """
  ranking = _rank(confidence_N, right_N, score_N)
  count_1xK, right_1xK = _sums(ranking, np.ones((1, len(ranking.order))))
  coverage_K = (count_1xK / count_1xK[:, -1:])[0]
  risk_K = (1 - right_1xK / count_1xK)[0]
  return coverage_K, risk_K, float(_area(count_1xK, right_1xK)[0])


def yield_at(precision, confidence_N, right_N, score_N=None, query_N=None, queries=None):
  """The most queries that get an answer while the share right of the answers is at least `precision`: a Yield.

  Units are taken in order of confidence, then score, ties together, down to the last place where the share right so
  far is at least the precision; a query counts once however many answers it gets.

  Args:
    precision: in (0, 1]. confidence_N, right_N, score_N: as for `auroc`.
    query_N: code of each unit's query (default: each unit is a query of its own).
    queries: how many were asked (default: those that have a unit).

  Raises:
    UserError: as `auroc`.
  """
  ranking = _rank(confidence_N, right_N, score_N)
  query_N = np.arange(len(ranking.order)) if query_N is None else np.asarray(query_N)
  first_N = _first(query_N[ranking.order])
  ones_1xN = np.ones((1, len(ranking.order)))
  found = _yields(*_sums(ranking, ones_1xN), _queries(ranking, first_N, ones_1xN), precision)
  answered, right, answers = (int(found[name][0]) for name in ("queries", "right", "answers"))
  queries = int(first_N.sum()) if queries is None else queries
  return Yield(answered, answered / queries, right, answers, _threshold(ranking, answers))


def quality(
  units,
  relations,
  queries=None,
  *,
  precisions=PRECISIONS,
  bins=BINS,
  resamples=1000,
  confidence=0.95,
  seed=0,
):
  """All measures, pooled and for each relation, with bootstrap intervals over clusters; `notes` define them.

  Args:
    units: Units, held out: not those that the calibration was fitted on.
    relations: names of the relations, in the order of their codes.
    queries: how many were asked of each relation, those without a unit too (default: those that have a unit).
    precisions: of the yields. bins: of reliability and ECE, fewer where units are few.
    resamples, confidence, seed: of the bootstrap.

  Returns:
    A dict of plain values, no NaN: what is undefined is None, with the number of units beside it.

  Raises:
    UserError: confidences outside [0, 1], NaN, codes that name no relation, fewer queries than have units.
  """
  units = _check_units(units, relations)
  asked_K = _asked(units, relations, queries)
  rng = np.random.default_rng(seed)

  def group(chosen, asked):
    some = Units(*(column[chosen] for column in units))
    return _group(some, int(asked), precisions, bins, resamples, confidence, rng)

  return {
    "units": len(units.right),
    "queries": int(asked_K.sum()),
    "confidence": confidence,
    "resamples": resamples,
    "bins": bins,
    "precisions": list(precisions),
    "pooled": group(slice(None), asked_K.sum()),
    "relations": {
      name: group(units.relation == code, asked_K[code]) for code, name in enumerate(relations)
    },
    "notes": notes.CALIBRATION,
  }


def _check(confidence_N, right_N, score_N=None):
  """The columns as arrays of floats; scores are 0 where none are given."""
  confidence_N = np.asarray(confidence_N, float)
  right_N = np.asarray(right_N, float)
  score_N = np.zeros(len(confidence_N)) if score_N is None else np.asarray(score_N, float)
  if not confidence_N.shape == right_N.shape == score_N.shape:
    raise UserError(
      f"calibration: expected a confidence, right or wrong, and a score for each unit, got "
      f"{len(confidence_N)}, {len(right_N)} and {len(score_N)}"
    )
  wrong_N = ~((confidence_N >= 0) & (confidence_N <= 1))
  if wrong_N.any():
    raise UserError(
      f"calibration: expected confidences in [0, 1], got {confidence_N[wrong_N][0]:g} "
      f"(unit {int(np.argmax(wrong_N))} from 0; {int(wrong_N.sum())} of {len(wrong_N)} are outside)"
    )
  if np.isnan(score_N).any():
    raise UserError(
      f"calibration: expected scores that are numbers, got {int(np.isnan(score_N).sum())} NaN"
    )
  return confidence_N, right_N, score_N


def _check_units(units, relations):
  columns = _check(units.confidence, units.right, units.score)
  relation_N = np.asarray(units.relation, np.int64)
  query_N = np.asarray(units.query, np.int64)
  if not len(relation_N) == len(query_N) == len(columns[0]):
    raise UserError(
      f"calibration: expected a relation and a query for each of {len(columns[0])} units, got "
      f"{len(relation_N)} and {len(query_N)}"
    )
  if len(relation_N) and not 0 <= relation_N.min() <= relation_N.max() < len(relations):
    raise UserError(
      f"calibration: expected codes of {len(relations)} relations, got {relation_N.min()} to "
      f"{relation_N.max()}"
    )
  return Units(*columns, relation_N, query_N)


def _asked(units, relations, queries):
  """How many queries were asked of each relation [K]."""
  seen_K = np.bincount(
    units.relation, _first(_query_codes(units)), minlength=len(relations)
  ).astype(int)
  asked_K = seen_K if queries is None else np.asarray(queries)
  if asked_K.shape != seen_K.shape or (asked_K < seen_K).any():
    raise UserError(
      "calibration: expected for each relation at least as many queries as have an answer, "
      f"{seen_K.tolist()}; got {asked_K.tolist()}"
    )
  return asked_K


def _query_codes(units):
  """A code for each pair of relation and query that a unit has."""
  query, query_N = np.unique(units.query, return_inverse=True)
  return units.relation * len(query) + query_N


def _rank(confidence_N, right_N, score_N=None, bins=BINS):
  confidence_N, right_N, score_N = _check(confidence_N, right_N, score_N)
  if not len(confidence_N):
    raise UserError("calibration: expected at least one answer with a confidence, got none")
  order_N = np.lexsort((-score_N, -confidence_N))
  confidence_N = confidence_N[order_N]
  right_N = right_N[order_N]
  score_N = score_N[order_N]
  last_K = _ends(confidence_N)
  size_K = np.diff(last_K, prepend=-1)
  middle_N = np.repeat(last_K + 1 - size_K / 2, size_K)
  bin_N = np.floor(bins * (middle_N / len(middle_N)))
  starts_B = np.flatnonzero(np.append(True, bin_N[1:] != bin_N[:-1]))
  return _Ranking(order_N, confidence_N, right_N, _ends(confidence_N, score_N), starts_B)


def _ends(*columns):
  """Place of the last unit of each run that is equal in all columns."""
  differ_N = np.any([column[1:] != column[:-1] for column in columns], axis=0)
  return np.append(np.flatnonzero(differ_N), len(columns[0]) - 1)


def _first(code_N):
  """1 where a code stands for the first time, else 0: float [N]."""
  found_N = np.zeros(len(code_N))
  found_N[np.unique(code_N, return_index=True)[1]] = 1
  return found_N


def _sums(ranking, weights_RxN):
  """Units, and right ones, down to the end of each tie: two arrays [R, K]."""
  return tuple(
    _at_ends(ranking, np.cumsum(values_RxN, axis=1))
    for values_RxN in (weights_RxN, weights_RxN * ranking.right)
  )


def _queries(ranking, first_N, weights_RxN):
  """Queries with an answer down to the end of each tie [R, K]."""
  return _at_ends(ranking, np.cumsum(weights_RxN * first_N, axis=1))


def _at_ends(ranking, values_RxN):
  return values_RxN if len(ranking.ends) == values_RxN.shape[1] else values_RxN[:, ranking.ends]


def _auroc(count_RxK, right_RxK):
  """The area under the ROC curve by trapezoids, which count ties half: [R]."""
  wrong_RxK = np.diff(count_RxK - right_RxK, axis=1, prepend=0)
  above_R = np.sum(wrong_RxK * (right_RxK - np.diff(right_RxK, axis=1, prepend=0) / 2), axis=1)
  return divide(above_R, right_RxK[:, -1] * (count_RxK[:, -1] - right_RxK[:, -1]))


def _area(count_RxK, right_RxK):
  """The area under the risk-coverage curve: [R]."""
  risk_RxK = 1 - right_RxK / np.maximum(count_RxK, 1)
  return divide(np.sum(np.diff(count_RxK, axis=1, prepend=0) * risk_RxK, axis=1), count_RxK[:, -1])


def _yields(count_RxK, right_RxK, queries_RxK, precision):
  """Queries, right answers and answers at the last cut whose share right is at least `precision`: arrays [R]."""
  slack = 1e-9 * count_RxK[:, -1:]  # 7 of 10 are 70%, whatever 0.7 * 10 is in floating point
  enough_RxK = (right_RxK >= precision * count_RxK - slack) & (right_RxK > 0)
  place_Rx1 = (enough_RxK.shape[1] - 1 - np.argmax(enough_RxK[:, ::-1], axis=1))[:, None]
  any_R = enough_RxK.any(axis=1)
  return {
    name: np.where(any_R, np.take_along_axis(values_RxK, place_Rx1, axis=1)[:, 0], 0)
    for name, values_RxK in (("queries", queries_RxK), ("right", right_RxK), ("answers", count_RxK))
  }


def _threshold(ranking, answers):
  return float(ranking.confidence[answers - 1]) if answers else np.nan


def _measures(ranking, first_N, weights_RxN, queries_R, precisions):
  """Every measure for each row of weights: dict name -> [R], or [R, B] for bins, [R, G] for coverages.

  Args:
    first_N: 1 for the first unit of a query. queries_R: how many queries were asked.
  """
  count_RxK, right_RxK = _sums(ranking, weights_RxN)
  answered_RxK = _queries(ranking, first_N, weights_RxN)
  units_R = count_RxK[:, -1]
  gap_N = ranking.confidence - ranking.right
  found = {
    "share_right": divide(right_RxK[:, -1], units_R),
    "auroc": _auroc(count_RxK, right_RxK),
    "mean_confidence": divide(weights_RxN @ ranking.confidence, units_R),
    "overconfidence": divide(weights_RxN @ gap_N, units_R),
    "brier": divide(weights_RxN @ gap_N**2, units_R),
    "aurc": _area(count_RxK, right_RxK),
  }
  gaps_RxB = np.add.reduceat(weights_RxN * gap_N, ranking.starts, axis=1)
  found["ece"] = divide(np.abs(gaps_RxB).sum(axis=1), units_R)
  found["bin_right"] = divide(
    *(
      np.add.reduceat(values_RxN, ranking.starts, axis=1)
      for values_RxN in (weights_RxN * ranking.right, weights_RxN)
    )
  )
  found["risk"] = _risks(count_RxK, right_RxK)
  for precision in precisions:
    cut = _yields(count_RxK, right_RxK, answered_RxK, precision)
    found |= {
      f"answers@{precision}": cut["answers"],
      f"right@{precision}": cut["right"],
      f"share@{precision}": divide(cut["queries"], queries_R),
    }
  return found


def _risks(count_RxK, right_RxK):
  """Share wrong at the first cut that reaches each coverage i / GRID: [R, GRID]."""
  wanted_RxG = np.ceil(count_RxK[:, -1:] * (np.arange(1, GRID + 1) / GRID) - 1e-9)
  place_RxG = np.stack(
    [np.searchsorted(count_K, wanted_G) for count_K, wanted_G in zip(count_RxK, wanted_RxG)]
  )
  count_RxG, right_RxG = (
    np.take_along_axis(values, place_RxG, axis=1) for values in (count_RxK, right_RxK)
  )
  return 1 - divide(right_RxG, count_RxG)


def _group(units, asked, precisions, bins, resamples, confidence, rng):
  """The measures of one set of units with their intervals; None for all where there is no unit."""
  count = len(units.right)
  head = {"units": count, "right": int(np.sum(units.right)), "queries": asked}
  if not count:
    empty = dict.fromkeys(("share", "right", "answers", "threshold"))
    return {
      **head,
      "bins": 0,
      **dict.fromkeys((*MEANS, "ece", "ece_debiased")),
      "reliability": [],
      "risk_coverage": [],
      "yields": [{"precision": precision, **empty} for precision in precisions],
    }
  bins = max(1, min(bins, count // UNITS_A_BIN))
  ranking = _rank(*units[:3], bins)
  first_N = _first(_query_codes(units)[ranking.order])
  exact = _measures(ranking, first_N, np.ones((1, count)), np.array([asked]), precisions)
  parts = [
    _measures(ranking, first_N, *drawn, precisions)
    for drawn in _resampled(units.query[ranking.order], first_N, asked, resamples, rng)
  ]
  samples = {name: np.concatenate([part[name] for part in parts]) for name in exact}
  return {
    **head,
    "bins": bins,
    **{name: _estimate(exact[name][0], samples[name], confidence) for name in MEANS},
    **_ece(exact["ece"][0], samples["ece"], confidence),
    "yields": [
      _yield_row(precision, ranking, exact, samples, confidence) for precision in precisions
    ],
    "reliability": _reliability_rows(units, bins, samples["bin_right"], confidence),
    "risk_coverage": _curve_rows(ranking, exact["risk"][0], samples["risk"], confidence),
  }


def _resampled(code_N, first_N, asked, resamples, rng):
  """Yields (weights [r, N], queries asked [r]) of resampled clusters, a few resamples at a time.

  Queries without a unit are clusters of their own. Clusters are numbered as the ranking meets them, so that weights
  are read in nearly the order of their counts.
  """
  _, place, cluster_N = np.unique(code_N, return_index=True, return_inverse=True)
  number_C = np.empty(len(place), np.int64)
  number_C[np.argsort(place)] = np.arange(len(place))
  cluster_N = number_C[cluster_N]
  queries_C = np.append(np.bincount(cluster_N, first_N), np.ones(asked - int(first_N.sum())))
  clusters = len(queries_C)
  step = max(1, ENTRIES // max(clusters, len(code_N)))
  for start in range(0, resamples, step):
    rows = min(step, resamples - start)
    picks_RxC = rng.integers(0, clusters, (rows, clusters)) + np.arange(rows)[:, None] * clusters
    counts_RxC = (
      np.bincount(picks_RxC.ravel(), minlength=rows * clusters)
      .reshape(rows, clusters)
      .astype(float)
    )
    yield counts_RxC[:, cluster_N], counts_RxC @ queries_C


def _estimate(value, samples_R, confidence):
  low, high = (
    statistics.interval(samples_R, confidence) if not np.isnan(value) else (np.nan, np.nan)
  )
  return {"mean": _plain(value), "low": _plain(low), "high": _plain(high)}


def _plain(value):
  return None if np.isnan(value) else float(value)


def _ece(value, samples_R, confidence):
  """ECE, and less its bias, each with resamples moved so that their mean is the measure."""
  middle = float(statistics.nan_mean(samples_R))
  debiased = max(0.0, 2 * value - middle)
  return {
    name: _estimate(measure, np.clip(samples_R - middle + measure, 0, 1), confidence)
    for name, measure in (("ece", value), ("ece_debiased", debiased))
  }


def _yield_row(precision, ranking, exact, samples, confidence):
  answers = int(exact[f"answers@{precision}"][0])
  found = {
    name: _estimate(exact[f"{name}@{precision}"][0], samples[f"{name}@{precision}"], confidence)
    for name in ("share", "right")
  }
  return {
    "precision": precision,
    **found,
    "answers": answers,
    "threshold": _plain(_threshold(ranking, answers)),
  }


def _reliability_rows(units, bins, right_RxB, confidence):
  found = reliability(units.confidence, units.right, bins)
  return [
    {
      "low": float(low),
      "high": float(high),
      "confidence": float(mean),
      "units": int(count),
      "right": _estimate(right, right_R, confidence),
    }
    for low, high, mean, right, count, right_R in zip(*found, right_RxB.T[::-1])
  ]


def _curve_rows(ranking, risk_G, risk_RxG, confidence):
  """The curve at the cuts that first reach each coverage of the grid: their own coverage, equal cuts once."""
  count = len(ranking.order)
  ends = ranking.ends + 1
  place_G = np.searchsorted(ends, np.ceil(count * np.arange(1, GRID + 1) / GRID - 1e-9))
  rows = {
    int(place): {
      "coverage": float(ends[place] / count),
      "risk": _estimate(risk, risk_R, confidence),
      "confidence": float(ranking.confidence[ends[place] - 1]),
    }
    for place, risk, risk_R in zip(place_G, risk_G, risk_RxG.T)
  }
  return list(rows.values())
