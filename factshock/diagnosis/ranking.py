"""Units (answers with a confidence) ranked by confidence, for the measures of calibration."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from factshock.runtime.errors import UserError


class Units(NamedTuple):
  """Answers: arrays [N].

  Attributes:
    confidence: in [0, 1].
    right: bool.
    score: raw score, larger is better; it ranks equal confidences.
    relation: code of the relation.
    query: code of the query, or of the subject: units of one code are resampled together, and units
      of one code and one relation answer one query.
  """

  confidence: np.ndarray
  right: np.ndarray
  score: np.ndarray
  relation: np.ndarray
  query: np.ndarray


class Ranking(NamedTuple):
  """Units by falling confidence, then score.

  Attributes:
    order: index of each unit [N].
    confidence: in this order [N].
    right: 1 or 0, in this order [N].
    ends: position of the last unit of each tie [K].
    starts: position of the first unit of each bin [B].
  """

  order: np.ndarray
  confidence: np.ndarray
  right: np.ndarray
  ends: np.ndarray
  starts: np.ndarray


def rank_units(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  score_N: np.ndarray | None = None,
  bins: int = 15,
) -> Ranking:
  """Returns the ranking of units, with bins of equal mass that split no tie of confidence.

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    score_N: what ranks equal confidences.
    bins: how many.

  Raises:
    UserError: no units, lengths that differ, confidences outside [0, 1], or scores that are NaN.
  """
  confidence_N, right_N, score_N = check_columns(confidence_N, right_N, score_N)
  if not len(confidence_N):
    raise UserError("calibration: expected at least one answer with a confidence, got none")
  order_N = np.lexsort((-score_N, -confidence_N))
  confidence_N = confidence_N[order_N]
  right_N = right_N[order_N]
  score_N = score_N[order_N]
  last_K = _ends([confidence_N])
  size_K = np.diff(last_K, prepend=-1)
  twice_middle_K = 2 * (last_K + 1) - size_K
  twice_middle_N = np.repeat(twice_middle_K, size_K)
  bin_N = bins * twice_middle_N // (2 * len(twice_middle_N))  # in whole numbers: exact
  is_new_N = bin_N[1:] != bin_N[:-1]
  starts_B = np.flatnonzero(np.append(True, is_new_N))
  ends_K = _ends([confidence_N, score_N])
  return Ranking(order_N, confidence_N, right_N, ends_K, starts_B)


def check_units(units: Units, relations: Sequence[str]) -> Units:
  """Returns the units with arrays of numbers in every column.

  Args:
    units: the units.
    relations: names of the relations, in the order of their codes.

  Raises:
    UserError: columns of different lengths, confidences outside [0, 1], scores that are NaN, codes
      that name no relation.
  """
  confidence_N, right_N, score_N = check_columns(
    units.confidence,
    units.right,
    units.score,
  )
  relation_N = np.asarray(units.relation, np.int64)
  query_N = np.asarray(units.query, np.int64)
  if not len(relation_N) == len(query_N) == len(confidence_N):
    raise UserError(
      f"calibration: expected a relation and a query for each of {len(confidence_N)} units, got "
      f"{len(relation_N)} and {len(query_N)}"
    )
  if len(relation_N) and not 0 <= relation_N.min() <= relation_N.max() < len(relations):
    raise UserError(
      f"calibration: expected codes of {len(relations)} relations, got {relation_N.min()} to "
      f"{relation_N.max()}"
    )
  return Units(confidence_N, right_N, score_N, relation_N, query_N)


def check_columns(
  confidence_N: np.ndarray,
  right_N: np.ndarray,
  score_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the columns as arrays of floats; scores are 0 where none are given.

  Args:
    confidence_N: in [0, 1].
    right_N: bool.
    score_N: what ranks equal confidences.

  Raises:
    UserError: lengths that differ, confidences outside [0, 1], or scores that are NaN.
  """
  confidence_N = np.asarray(confidence_N, float)
  right_N = np.asarray(right_N, float)
  if score_N is None:
    score_N = np.zeros(len(confidence_N))
  score_N = np.asarray(score_N, float)
  if not confidence_N.shape == right_N.shape == score_N.shape:
    raise UserError(
      f"calibration: expected a confidence, right or wrong, and a score for each unit, got "
      f"{len(confidence_N)}, {len(right_N)} and {len(score_N)}"
    )
  inside_N = (confidence_N >= 0) & (confidence_N <= 1)
  if not inside_N.all():
    outside_N = ~inside_N
    first = int(np.argmax(outside_N))
    count = int(outside_N.sum())
    raise UserError(
      f"calibration: expected confidences in [0, 1], got {confidence_N[first]:g} (unit "
      f"{first} from 0; {count} of {len(outside_N)} are outside)"
    )
  unknown = int(np.isnan(score_N).sum())
  if unknown:
    raise UserError(f"calibration: expected scores that are numbers, got {unknown} NaN")
  return confidence_N, right_N, score_N


def _ends(columns: Sequence[np.ndarray]) -> np.ndarray:
  """Returns the position of the last unit of each run that is equal in all columns."""
  changes = [column[1:] != column[:-1] for column in columns]
  differ_N = np.any(changes, axis=0)
  last = len(columns[0]) - 1
  return np.append(np.flatnonzero(differ_N), last)
