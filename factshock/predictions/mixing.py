"""Mixing of answers: a weighted average of the probabilities that several models give candidates.

It needs no weights: for models that are served, or of different sizes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from factshock.predictions import prior_correction
from factshock.predictions.prior_correction import Gatherer, Rankings, Table, Tables
from factshock.predictions.rows import Row, rows_to_go_through_again, stem
from factshock.runtime.errors import UserError


def check_weights(weights: Sequence[float] | str, count: int) -> list[float]:
  """Returns `count` weights as floats; "uniform" gives equal ones.

  Raises:
    UserError: their number is not `count`, one is not finite, or they do not sum to 1.
  """
  if isinstance(weights, str) and weights == "uniform":
    return [1.0 / count] * count
  numbers = [float(weight) for weight in weights]
  if len(numbers) != count:
    raise UserError(
      f"expected {count} weights, one for each, got {len(numbers)}; give as many of both"
    )
  total = sum(numbers)
  if not abs(total - 1.0) <= 1e-6:  # also false where a weight is not a number
    terms = " + ".join(map(str, numbers))
    raise UserError(
      f"expected weights that sum to 1, got {terms} = {total:.6g}; scale them so that the sum is 1"
    )
  return numbers


def mix_probabilities(
  scores_a: npt.ArrayLike,
  scores_b: npt.ArrayLike,
  alpha: float,
) -> np.ndarray:
  """Returns log((1 - alpha) softmax(a) + alpha softmax(b)) over a query's candidates.

  Args:
    scores_a: log-probabilities [..., candidates], not necessarily normalised.
    scores_b: the same candidates' scores by another model or prompt.
    alpha: share of `b`, 0 to 1.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f"expected alpha between 0 and 1, got {alpha}")
  log_p_a = _normalise(scores_a)
  log_p_b = _normalise(scores_b)
  with np.errstate(divide="ignore"):  # log 0 = -inf is the right limit at alpha 0 and 1
    log_share_a = np.log(1 - np.float64(alpha))
    log_share_b = np.log(np.float64(alpha))
    return np.logaddexp(log_share_a + log_p_a, log_share_b + log_p_b)


def _normalise(scores: npt.ArrayLike) -> np.ndarray:
  scores = np.asarray(scores, np.float64)
  return scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)


def mix_files(paths: Sequence[str], weights: Sequence[float]) -> list[Row]:
  """Returns the first file's rows with the answers of all mixed; the arm's name ends in _mixed.

  Args:
    paths: predictions of the same queries, each with all candidates of its relation.
    weights: of each, at least 0; they sum to 1.

  Raises:
    UserError: files of other queries or candidates, or without candidates; a weight below 0.
  """
  if min(weights) < 0:
    raise UserError(f"--weights: expected shares of at least 0, got {min(weights)}")
  first, *others = paths
  located = list(rows_to_go_through_again(first)())
  rankings = Gatherer(first).add(located).rankings()
  mixed: Tables = rankings.tables
  mixed_weight = weights[0]
  for path, weight in zip(others, weights[1:]):
    mixed_weight += weight
    alpha = weight / mixed_weight if mixed_weight else 0.0
    mixed = _mixed(mixed, _log_p_of(path, rankings, first), alpha)
  answers = prior_correction.corrected_rows(mixed, [row for _, row in located])
  return [{**row, "arm": f"{row.get('arm') or stem(first)}_mixed"} for row in answers]


def _mixed(tables: Tables, others: Mapping[str, np.ndarray], alpha: float) -> Tables:
  """Returns tables whose probabilities are mixed with others', log p [Q, C] by relation."""
  mixed: dict[str, Table] = {}
  for relation, table in tables.items():
    log_p_QxC = mix_probabilities(table.log_p_QxC, others[relation], alpha)
    mixed[relation] = dataclasses.replace(table, log_p_QxC=log_p_QxC)
  return mixed


def _log_p_of(path: str, first: Rankings, first_path: str) -> dict[str, np.ndarray]:
  """Returns what a file gives the candidates of each relation, its queries in the first's order.

  Args:
    path: the file.
    first: the rankings of the first file.
    first_path: its path, for errors.

  Raises:
    UserError: other queries or candidates.
  """
  read_rows = rows_to_go_through_again(path)
  rankings = Gatherer(path, first.codes).add(read_rows()).rankings()
  prior_correction.check_same_queries(first, first_path, rankings, path)
  prior_correction.check_same_candidates(first.tables, first_path, rankings.tables, path)
  ordered: dict[str, np.ndarray] = {}
  for relation, table in first.tables.items():
    other = rankings.tables[relation]
    place_Q = np.empty(len(table.indices), np.int64)
    place_Q[_by_query(first, table)] = _by_query(rankings, other)
    ordered[relation] = other.log_p_QxC[place_Q]
  return ordered


def _by_query(rankings: Rankings, table: Table) -> np.ndarray:
  """Returns the order of a table's queries [Q] by codes of subject and object."""
  indices = np.asarray(table.indices)
  return np.lexsort((rankings.object_N[indices], rankings.subject_N[indices]))
