"""Calibration quality: all measures of calibration, with intervals, for each relation too."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from factshock.diagnosis import calibration, notes, statistics
from factshock.diagnosis.calibration import BINS
from factshock.diagnosis.ranking import Ranking, Units, check_units, rank_units
from factshock.diagnosis.shock import Measures, divide
from factshock.diagnosis.statistics import DEFAULT_BOOTSTRAP, Bootstrap, none_if_nan
from factshock.runtime.errors import UserError
from factshock.types import Estimate

PRECISIONS = (0.8, 0.9, 0.95)
UNITS_A_BIN = 10  # fewer bins are taken where there would be fewer units in one
MEANS = ("share_right", "mean_confidence", "overconfidence", "brier", "auroc", "aurc")
GRID = 40  # coverages at which the risk-coverage curve is written
ENTRIES = 1 << 18  # of weights [R, N] at a time, which the processor's cache holds

Json: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Settings:
  """Settings of all groups of units."""

  precisions: Sequence[float]
  bins: int
  bootstrap: Bootstrap


def quality(
  units: Units,
  relations: Sequence[str],
  queries: Sequence[int] | np.ndarray | None = None,
  *,
  precisions: Sequence[float] = PRECISIONS,
  bins: int = BINS,
  bootstrap: Bootstrap = DEFAULT_BOOTSTRAP,
) -> Json:
  """Returns all measures, pooled and for each relation, with intervals; `notes` define them.

  What is undefined is None, with the number of units beside it.

  Args:
    units: held out, not those that the calibration was fitted on.
    relations: names of the relations, in the order of their codes.
    queries: how many were asked of each relation, those without a unit too (default: those that
      have a unit).
    precisions: of the yields.
    bins: of reliability and ECE, fewer where units are few.
    bootstrap: over clusters, the codes of `units.query`.

  Raises:
    UserError: confidences outside [0, 1], NaN, codes that name no relation, fewer queries than have
      units.
  """
  units = check_units(units, relations)
  asked_K = _asked_queries(units, len(relations), queries)
  settings = _Settings(precisions, bins, bootstrap)
  return {
    "units": len(units.right),
    "queries": int(asked_K.sum()),
    "confidence": bootstrap.confidence,
    "resamples": bootstrap.resamples,
    "bins": bins,
    "precisions": list(precisions),
    **_all_groups(units, relations, asked_K, settings),
    "notes": notes.CALIBRATION,
  }


def _all_groups(
  units: Units,
  relations: Sequence[str],
  asked_K: np.ndarray,
  settings: _Settings,
) -> Json:
  """Returns the measures of all units, and of those of each relation."""
  rng = np.random.default_rng(settings.bootstrap.seed)
  asked = int(asked_K.sum())
  pooled = _group(units, asked, settings, rng)
  by_relation: dict[str, Json] = {}
  for code, relation in enumerate(relations):
    own = _of_relation(units, code)
    by_relation[relation] = _group(own, int(asked_K[code]), settings, rng)
  return {
    "pooled": pooled,
    "relations": by_relation,
  }


def _of_relation(units: Units, code: int) -> Units:
  is_chosen_N = units.relation == code
  return Units(*(column[is_chosen_N] for column in units))


def _asked_queries(
  units: Units,
  relations: int,
  queries: Sequence[int] | np.ndarray | None,
) -> np.ndarray:
  """Returns how many queries were asked of each relation [K]."""
  first_N = calibration.first_of_code(_query_codes(units))
  seen_K = np.bincount(units.relation, first_N, minlength=relations).astype(int)
  asked_K = seen_K if queries is None else np.asarray(queries)
  if asked_K.shape != seen_K.shape or (asked_K < seen_K).any():
    raise UserError(
      "calibration: expected for each relation at least as many queries as have an answer, "
      f"{seen_K.tolist()}; got {asked_K.tolist()}"
    )
  return asked_K


def _query_codes(units: Units) -> np.ndarray:
  """Returns a code for each pair of relation and query that a unit has [N]."""
  queries, query_N = np.unique(units.query, return_inverse=True)
  return units.relation * len(queries) + query_N


def _group(
  units: Units,
  asked: int,
  settings: _Settings,
  rng: np.random.Generator,
) -> Json:
  """Returns the measures of one set of units with their intervals; None where there is no unit."""
  count = len(units.right)
  head = {"units": count, "right": int(np.sum(units.right)), "queries": asked}
  if not count:
    return {**head, **_no_measures(settings.precisions)}
  confidence = settings.bootstrap.confidence
  bins = max(1, min(settings.bins, count // UNITS_A_BIN))
  ranking = rank_units(units.confidence, units.right, units.score, bins)
  first_N = calibration.first_of_code(_query_codes(units)[ranking.order])
  ones_1xN = np.ones((1, count))
  exact = _measures(ranking, first_N, ones_1xN, np.array([asked]), settings.precisions)
  chunks = [
    _measures(ranking, first_N, weights_RxN, queries_R, settings.precisions)
    for weights_RxN, queries_R in _resampled(
      units.query[ranking.order], first_N, asked, settings.bootstrap.resamples, rng
    )
  ]
  samples = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in exact}
  return {
    **head,
    "bins": bins,
    **{name: _estimate(exact[name][0], samples[name], confidence) for name in MEANS},
    **_ece_estimates(exact["ece"][0], samples["ece"], confidence),
    "yields": [
      _yield_row(precision, ranking, exact, samples, confidence)
      for precision in settings.precisions
    ],
    "reliability": _reliability_rows(units, bins, samples["bin_right"], confidence),
    "risk_coverage": _curve_rows(ranking, exact["risk"][0], samples["risk"], confidence),
  }


def _no_measures(precisions: Sequence[float]) -> Json:
  empty = dict.fromkeys(("share", "right", "answers", "threshold"))
  return {
    "bins": 0,
    **dict.fromkeys((*MEANS, "ece", "ece_debiased")),
    "reliability": [],
    "risk_coverage": [],
    "yields": [{"precision": precision, **empty} for precision in precisions],
  }


def _resampled(
  code_N: np.ndarray,
  first_N: np.ndarray,
  asked: int,
  resamples: int,
  rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (weights [r, N], queries asked [r]) of resampled clusters, a few resamples at a time.

  Queries without a unit are clusters of their own. Clusters are numbered as the ranking meets them,
  so that weights are read in nearly the order of their counts.
  """
  _, first_index, cluster_N = np.unique(code_N, return_index=True, return_inverse=True)
  new_code_C = np.empty(len(first_index), np.int64)
  new_code_C[np.argsort(first_index)] = np.arange(len(first_index))
  cluster_N = new_code_C[cluster_N]
  without_unit = np.ones(asked - int(first_N.sum()))
  queries_C = np.append(np.bincount(cluster_N, first_N), without_unit)
  clusters = len(queries_C)
  step = max(1, ENTRIES // max(clusters, len(code_N)))
  for start in range(0, resamples, step):
    rows = min(step, resamples - start)
    picks_RxC = rng.integers(0, clusters, (rows, clusters)) + np.arange(rows)[:, None] * clusters
    counts = np.bincount(picks_RxC.ravel(), minlength=rows * clusters)
    counts_RxC = counts.reshape(rows, clusters).astype(float)
    yield counts_RxC[:, cluster_N], counts_RxC @ queries_C


def _measures(
  ranking: Ranking,
  first_N: np.ndarray,
  weights_RxN: np.ndarray,
  queries_R: np.ndarray,
  precisions: Sequence[float],
) -> Measures:
  """Returns every measure for each row of weights: [R], or [R, B] for bins, [R, G] for coverages.

  Args:
    ranking: of the units.
    first_N: 1 for the first unit of a query.
    weights_RxN: how often each unit counts.
    queries_R: how many queries were asked.
    precisions: of the yields.
  """
  count_RxK, right_RxK = calibration.cumulative_sums(ranking, weights_RxN)
  answered_RxK = calibration.answered_queries(ranking, first_N, weights_RxN)
  units_R = count_RxK[:, -1]
  gap_N = ranking.confidence - ranking.right
  gaps_RxB = np.add.reduceat(weights_RxN * gap_N, ranking.starts, axis=1)
  bin_right_RxB = np.add.reduceat(weights_RxN * ranking.right, ranking.starts, axis=1)
  bin_units_RxB = np.add.reduceat(weights_RxN, ranking.starts, axis=1)
  measures = {
    "share_right": divide(right_RxK[:, -1], units_R),
    "auroc": calibration.auroc_of(count_RxK, right_RxK),
    "mean_confidence": divide(weights_RxN @ ranking.confidence, units_R),
    "overconfidence": divide(weights_RxN @ gap_N, units_R),
    "brier": divide(weights_RxN @ gap_N**2, units_R),
    "aurc": calibration.risk_area_of(count_RxK, right_RxK),
    "ece": divide(np.abs(gaps_RxB).sum(axis=1), units_R),
    "bin_right": divide(bin_right_RxB, bin_units_RxB),
    "risk": _risks(count_RxK, right_RxK),
  }
  for precision in precisions:
    cut = calibration.last_cut(count_RxK, right_RxK, answered_RxK, precision)
    measures[f"answers@{precision}"] = cut.answers
    measures[f"right@{precision}"] = cut.right
    measures[f"share@{precision}"] = divide(cut.queries, queries_R)
  return measures


def _risks(count_RxK: np.ndarray, right_RxK: np.ndarray) -> np.ndarray:
  """Returns the share wrong at the first cut that reaches each coverage i / GRID: [R, GRID]."""
  wanted_RxG = np.ceil(count_RxK[:, -1:] * np.arange(1, GRID + 1) / GRID)
  cuts: list[np.ndarray] = [
    np.searchsorted(count_K, wanted_G) for count_K, wanted_G in zip(count_RxK, wanted_RxG)
  ]
  cut_RxG = np.stack(cuts)
  count_RxG = np.take_along_axis(count_RxK, cut_RxG, axis=1)
  right_RxG = np.take_along_axis(right_RxK, cut_RxG, axis=1)
  return 1 - divide(right_RxG, count_RxG)


def _estimate(
  value: float,
  samples_R: np.ndarray,
  confidence: float,
) -> Estimate:
  low, high = np.nan, np.nan
  if not np.isnan(value):
    low, high = statistics.interval(samples_R, confidence)
  return {
    "mean": none_if_nan(value),
    "low": none_if_nan(low),
    "high": none_if_nan(high),
  }


def _ece_estimates(
  ece: float,
  samples_R: np.ndarray,
  confidence: float,
) -> dict[str, Estimate]:
  """Returns ECE, and less its bias, each with resamples moved so that their mean is the measure."""
  middle = float(statistics.nan_mean(samples_R))
  debiased = max(0.0, 2 * ece - middle)

  def centred(value: float) -> Estimate:
    return _estimate(value, np.clip(samples_R - middle + value, 0, 1), confidence)

  return {
    "ece": centred(ece),
    "ece_debiased": centred(debiased),
  }


def _yield_row(
  precision: float,
  ranking: Ranking,
  exact: Measures,
  samples: Measures,
  confidence: float,
) -> Json:
  share = f"share@{precision}"
  right = f"right@{precision}"
  answers = int(exact[f"answers@{precision}"][0])
  return {
    "precision": precision,
    "share": _estimate(exact[share][0], samples[share], confidence),
    "right": _estimate(exact[right][0], samples[right], confidence),
    "answers": answers,
    "threshold": none_if_nan(calibration.threshold(ranking, answers)),
  }


def _reliability_rows(
  units: Units,
  bins: int,
  right_RxB: np.ndarray,
  confidence: float,
) -> list[Json]:
  columns = calibration.reliability(units.confidence, units.right, bins)
  rising = right_RxB.T[::-1]
  return [
    {
      "low": float(low),
      "high": float(high),
      "confidence": float(mean),
      "units": int(count),
      "right": _estimate(right, right_R, confidence),
    }
    for low, high, mean, right, count, right_R in zip(*columns, rising)
  ]


def _curve_rows(
  ranking: Ranking,
  risk_G: np.ndarray,
  risk_RxG: np.ndarray,
  confidence: float,
) -> list[Json]:
  """Returns the curve at the cuts that first reach each coverage of the grid.

  Rows have the cuts' own coverage; equal cuts are there once.
  """
  count = len(ranking.order)
  ends = ranking.ends + 1
  wanted_G = -(-count * np.arange(1, GRID + 1) // GRID)
  cut_G = np.searchsorted(ends, wanted_G)
  rows: dict[int, Json] = {}
  for cut, risk, risk_R in zip(cut_G.tolist(), risk_G, risk_RxG.T):
    rows[cut] = {
      "coverage": float(ends[cut] / count),
      "risk": _estimate(risk, risk_R, confidence),
      "confidence": float(ranking.confidence[ends[cut] - 1]),
    }
  return list(rows.values())
