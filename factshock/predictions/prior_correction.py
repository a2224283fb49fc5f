"""Answer-prior correction: predictions moved back to the answer frequencies of a reference.

p'(o|q) is proportional to p(o|q) (prior_reference(o) / prior(o))^tau within the candidates of q's
relation, where prior(o) is the mean of p(o|q) over the queries of the relation: no labels needed.
(Label shift: Saerens et al. 2002; for prompted models: Zhao et al. 2021, "Calibrate before use".)
Numpy on rows.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from factshock.facts.counts import count_of
from factshock.predictions import accuracy, writing
from factshock.predictions.rows import Row
from factshock.runtime.errors import UserError
from factshock.types import Answer

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FLOOR = 1e-9  # the least a prior can be; what is below is counted


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Queries of one relation, with their candidates.

  Attributes:
    names: candidate answers, sorted [C].
    indices: index of each query's row [Q].
    log_p_QxC: log p(candidate | query), natural log, normalised.
  """

  names: list[str]
  indices: list[int]
  log_p_QxC: np.ndarray


Tables: TypeAlias = Mapping[str, Table]  # by relation
Priors: TypeAlias = Mapping[str, np.ndarray]  # relation -> p of its candidates [C]

_ROUNDING = 1e-6  # a log-probability may be above 0 by
ANSWER_COLUMNS = ("prediction", "score", "candidates")


class AnswerChange(NamedTuple):
  """Counts of an answer among the predictions, before and after the correction."""

  answer: str
  relation: str
  before: int
  after: int


def tables_of(rows: Sequence[Row], path: str) -> dict[str, Table]:
  """Returns the table of each relation of rows with candidates, the same ones in all its rows.

  Args:
    rows: rows of a predictions file.
    path: the file, for messages.

  Raises:
    UserError: rows without candidates, or candidates that differ within a relation; says how many
      and how to get them.
  """
  without = sum(not row.get("candidates") for row in rows)
  if without:
    raise UserError(
      f"{path}: expected candidates in every row, got none in {without:,} of {len(rows):,}; rank "
      "the answers (answer --method=rank) instead of generating them"
    )
  indices: dict[str, list[int]] = collections.defaultdict(list)
  for index, row in enumerate(rows):
    indices[row["relation"]].append(index)
  return {
    relation: _table(relation, rows, its_indices, path) for relation, its_indices in indices.items()
  }


def _table(
  relation: str,
  rows: Sequence[Row],
  indices: list[int],
  path: str,
) -> Table:
  first = rows[indices[0]]
  names = sorted(name for name, _ in first["candidates"])
  column = {name: i for i, name in enumerate(names)}
  differing = [index for index in indices if not _has_candidates(rows[index], column, len(names))]
  if differing or len(column) < len(names):
    raise UserError(
      f"{path}: relation {relation!r}: expected the same candidates in each of {len(indices):,} "
      f"rows, got others in {len(differing):,}; write all of them, not the best few "
      "(answer --top=0, or config.answering.top=0)"
    )
  log_p_QxC = np.empty((len(indices), len(names)))
  for query, index in enumerate(indices):
    for name, score in rows[index]["candidates"]:
      log_p_QxC[query, column[name]] = score
  if log_p_QxC.max(initial=0.0) > _ROUNDING:
    raise UserError(
      f"{path}: relation {relation!r}: expected log-probabilities, at most 0, in candidates, got "
      f"{log_p_QxC.max():g}; are they probabilities? write their natural logarithms"
    )
  return Table(names, indices, _normalised(log_p_QxC))


def _has_candidates(
  row: Row,
  known: Mapping[str, int],
  count: int,
) -> bool:
  candidates = row["candidates"]
  if len(candidates) != count:
    return False
  return all(name in known for name, _ in candidates)


def priors_of(tables: Tables) -> dict[str, np.ndarray]:
  """Returns the mean of p(candidate | query) over the queries of each relation [C]."""
  priors: dict[str, np.ndarray] = {}
  for relation, table in tables.items():
    p_QxC = np.exp(table.log_p_QxC)
    priors[relation] = p_QxC.mean(axis=0)
  return priors


def counted_priors(tables: Tables, counts: Mapping[Answer, int]) -> dict[str, np.ndarray]:
  """Returns priors from mentions in text, each count plus 1.

  Args:
    tables: the candidates of each relation.
    counts: mentions of (relation or "", entity).

  Raises:
    UserError: the text names no candidate of any relation, which would make all of them alike.
  """
  priors: dict[str, np.ndarray] = {}
  is_named = False
  for relation, table in tables.items():
    counts_C = [count_of(counts, relation, name) for name in table.names]
    is_named |= any(counts_C)
    mentions = np.array(counts_C, float) + 1
    priors[relation] = mentions / mentions.sum()
  if priors and not is_named:
    name = next(name for table in tables.values() for name in table.names)
    raise UserError(
      f"entity counts: expected some candidates among them, got none, not even {name!r}; are they "
      "of the right text?"
    )
  return priors


def uniform_priors(tables: Tables) -> dict[str, np.ndarray]:
  """Returns priors in which all candidates of a relation are alike."""
  priors: dict[str, np.ndarray] = {}
  for relation, table in tables.items():
    count = len(table.names)
    priors[relation] = np.full(count, 1 / count)
  return priors


def estimated_priors(
  tables: Tables,
  finetuning: Iterable[Answer],
  rounds: int = 100,
) -> dict[str, np.ndarray]:
  """Returns priors of the queries' own answers by expectation maximisation.

  Source: Saerens et al. 2002, section 2.2.

  Args:
    tables: the queries.
    finetuning: answers (relation, object) of the finetuning facts, whose frequencies (each plus 1)
      are the model's prior.
    rounds: steps of the expectation maximisation.
  """
  seen = collections.Counter(finetuning)
  priors: dict[str, np.ndarray] = {}
  for relation, table in tables.items():
    seen_C = [seen[relation, name] for name in table.names]
    trained_C = np.array(seen_C, float) + 1
    trained_C = trained_C / trained_C.sum()
    p_QxC = np.exp(table.log_p_QxC)
    prior_C = p_QxC.mean(axis=0)
    for _ in range(rounds):
      shifted_QxC = p_QxC * (prior_C / trained_C)
      total_Qx1 = shifted_QxC.sum(axis=1, keepdims=True)
      prior_C = (shifted_QxC / total_Qx1).mean(axis=0)
    priors[relation] = prior_C
  return priors


def log_ratios(tables: Tables, reference: Priors) -> tuple[dict[str, np.ndarray], int]:
  """Returns log(prior_reference / prior) of each relation's candidates, and how many were raised.

  Args:
    tables: the queries, whose own prior is the mean of their probabilities.
    reference: the prior wanted.

  Returns:
    (relation -> natural log of the ratios [C], how many priors were below FLOOR and raised to it).
  """
  own = priors_of(tables)
  ratios: dict[str, np.ndarray] = {}
  raised = 0
  for relation in tables:
    both_2xC = np.stack([reference[relation], own[relation]])
    raised += int((both_2xC < FLOOR).sum())
    log_reference_C, log_own_C = np.log(np.maximum(both_2xC, FLOOR))
    ratios[relation] = log_reference_C - log_own_C
  return ratios, raised


def correct(
  tables: Tables,
  ratios: Priors,
  tau: float,
) -> dict[str, Table]:
  """Returns the tables with log p(o|q) + tau log ratio(o), normalised.

  Args:
    tables: the queries.
    ratios: logs of ratios, as from `log_ratios`.
    tau: strength of the correction; 0 changes nothing, 1 is Bayes' rule.
  """
  corrected: dict[str, Table] = {}
  for relation, table in tables.items():
    log_p_QxC = table.log_p_QxC + tau * ratios[relation]
    corrected[relation] = dataclasses.replace(table, log_p_QxC=_normalised(log_p_QxC))
  return corrected


def share_right(tables: Tables, rows: Sequence[Row]) -> float:
  """Returns the share of rows whose likeliest candidate is the object or an alias.

  By exact match, as diagnose has it.
  """
  right = 0.0
  for table in tables.values():
    best_Q: list[int] = table.log_p_QxC.argmax(axis=1).tolist()
    for index, best in zip(table.indices, best_Q):
      row = rows[index]
      aliases: list[str] = row.get("aliases") or []
      accepted = [row["object"], *aliases]
      scores = accuracy.score(table.names[best], accepted)
      right += scores.exact_match
  return right / len(rows)


def choose_tau(
  tables: Tables,
  rows: Sequence[Row],
  ratios: Priors,
  taus: Iterable[float] = TAUS,
) -> tuple[float, list[tuple[float, float]]]:
  """Chooses the tau with the most development rows right; of equals the nearest to 1, the smaller.

  Args:
    tables: of the development rows.
    rows: the development rows.
    ratios: logs of ratios, as from `log_ratios`.
    taus: the values tried.

  Returns:
    (tau, [(tau, share right)]).
  """
  curve: list[tuple[float, float]] = []
  for tau in taus:
    corrected = correct(tables, ratios, tau)
    curve.append((tau, share_right(corrected, rows)))
  best_share = max(share for _, share in curve)
  best_taus = [tau for tau, share in curve if share == best_share]
  best_tau = min(best_taus, key=lambda tau: (abs(tau - 1), tau))
  return best_tau, curve


def corrected_rows(
  tables: Tables,
  rows: Sequence[Row],
  top: int | None = None,
  **labels: Any,
) -> list[Row]:
  """Returns the rows with prediction, score and candidates of the corrected tables.

  Args:
    tables: corrected, as from `correct`.
    rows: the rows that the tables were made of.
    top: how many candidates a row keeps; None: all.
    **labels: columns written to every row.
  """
  corrected: list[Row] = [{} for _ in rows]
  for relation, table in tables.items():
    facts = [_carried(rows[index]) for index in table.indices]
    answers = writing.prediction_rows(
      facts,
      {relation: table.names},
      list(table.log_p_QxC),
      top=top,
      arm="",
      seed=0,
      split="",
    )
    for index, answer in zip(table.indices, answers):
      columns = {name: answer[name] for name in ANSWER_COLUMNS}
      corrected[index] = {**rows[index], **columns, **labels}
  return corrected


def _carried(row: Row) -> Row:
  return {name: row[name] for name in writing.CARRIED if name in row}


def prior_distance(tables: Tables, reference: Priors) -> float:
  """Returns the total variation between the tables' prior and a reference.

  It is the mean over relations, weighted by their queries.
  """
  own = priors_of(tables)
  distances: list[float] = []
  queries: list[int] = []
  for relation, table in tables.items():
    difference_C = np.abs(own[relation] - reference[relation])
    distances.append(difference_C.sum() / 2)
    queries.append(len(table.indices))
  return float(np.average(distances, weights=queries))


def most_changed_answers(
  before: Iterable[Row],
  after: Iterable[Row],
  most: int = 5,
) -> tuple[list[AnswerChange], list[AnswerChange]]:
  """Returns the answers that gained most and those that lost most, by how often they are predicted.

  Args:
    before: rows before the correction.
    after: rows after it.
    most: how many of each are returned.
  """
  count_before = _prediction_counts(before)
  count_after = _prediction_counts(after)
  changes: list[AnswerChange] = []
  for relation, answer in count_before | count_after:
    key = relation, answer
    changes.append(AnswerChange(answer, relation, count_before[key], count_after[key]))
  changes.sort(key=_most_gained_first)
  gained = [change for change in changes if change.after > change.before]
  lost = [change for change in changes if change.after < change.before]
  lost.reverse()
  return gained[:most], lost[:most]


def _most_gained_first(change: AnswerChange) -> tuple[int, str, str]:
  loss = change.before - change.after
  return loss, change.relation, change.answer


def _prediction_counts(rows: Iterable[Row]) -> collections.Counter[Answer]:
  return collections.Counter((row["relation"], row["prediction"]) for row in rows)


def check_same_queries(
  rows: Sequence[Row],
  path: str,
  others: Sequence[Row],
  other_path: str,
) -> None:
  """Checks that two files hold the same queries.

  Raises:
    UserError: they do not; says how many differ.
  """
  queries = _query_counts(rows)
  other_queries = _query_counts(others)
  if queries != other_queries:
    missing = (queries - other_queries).total()
    extra = (other_queries - queries).total()
    raise UserError(
      f"{other_path}: expected the queries of {path}, got {missing:,} of its {len(rows):,} missing "
      f"and {extra:,} others; ask both models the same facts"
    )


def _query_counts(rows: Iterable[Row]) -> collections.Counter[tuple[str, str, str]]:
  return collections.Counter((row["subject"], row["relation"], row["object"]) for row in rows)


def check_same_candidates(
  tables: Tables,
  path: str,
  others: Tables,
  other_path: str,
) -> None:
  """Checks that two files have the same candidates in each relation.

  Raises:
    UserError: they do not; says how many differ.
  """
  for relation, table in tables.items():
    if table.names == others[relation].names:
      continue
    names = set(table.names)
    other_names = set(others[relation].names)
    extra = len(other_names - names)
    missing = len(names - other_names)
    raise UserError(
      f"{other_path}: relation {relation!r}: expected the candidates of {path}, got "
      f"{extra:,} others and {missing:,} missing; rank the "
      "same candidates (answer --candidates)"
    )


def check_separate_subjects(
  rows: Iterable[Mapping[str, Any]],
  path: str,
  others: Iterable[Mapping[str, Any]],
  other_path: str,
) -> None:
  """Checks that two sets share no subject in a relation: one must not tell about the other.

  Raises:
    UserError: they share some; says how many.
  """
  subjects = _subject_keys(rows)
  shared = subjects & _subject_keys(others)
  if shared:
    raise UserError(
      f"{other_path}: expected subjects that are not asked about in {path}, got {len(shared):,} "
      f"shared, such as {min(shared)[0]!r}; what is chosen on them would be chosen on the test"
    )


def _subject_keys(rows: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
  return {(row["subject"], row["relation"]) for row in rows}


def _normalised(scores_QxC: np.ndarray) -> np.ndarray:
  total_Qx1 = np.logaddexp.reduce(scores_QxC, axis=1, keepdims=True)
  return scores_QxC - total_Qx1
