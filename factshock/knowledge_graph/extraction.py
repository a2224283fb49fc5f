"""From the answers of a model to accepted triples: calibrates, guards, sets the threshold, makes consistent. Numpy on columns."""

import collections
from typing import NamedTuple

import numpy as np

from factshock.knowledge_graph import answers as answer_room
from factshock.knowledge_graph import calibration, consistency, shock_guard, thresholds
from factshock.predictions import accuracy
from factshock.runtime.errors import UserError

RULES = ("precision", "f1")
_SEVERAL = 0.02  # a relation whose calibration queries have several right answers this often has several answers a query


class Judged(NamedTuple):
  """Answers with what is thought of each candidate: arrays [N], in the order of the Answers."""

  confidence_N: np.ndarray
  flagged_N: np.ndarray  # over-predicted answers
  chosen_N: np.ndarray  # candidates that may be accepted: the first of a query, or all where a query has several answers


class Fitted(NamedTuple):
  """What the calibration queries tell.

  Attributes:
    names: relations, in the order of their numbers. several: those with several answers a query.
    first, later: Calibration of first answers, and of all others (None where there are none).
    flags: {(relation, answer): Flagged}. lowering: slope and shift of the logits of their confidence.
    judged: the calibration answers themselves, each by what is fitted without its subject.
    right_N: whether each of these is right.
    unlisted, nothing: {relation: right answers of a query that are not listed, on average}, {relation: share without any answer among
      queries of which no listed answer is right}.
  """

  names: list
  several: set
  first: calibration.Calibration
  later: calibration.Calibration | None
  flags: dict
  lowering: tuple
  judged: Judged
  right_N: np.ndarray
  unlisted: dict
  nothing: dict


def fit(known, asked, *, counts=None, relations=None, method=None, fold_Q=None):
  """The Fitted of calibration answers `known` (with golds), for the answers `asked`.

  Args:
    counts: mentions in text for the shock guard, or None. relations: rows by name, whose `type` counts where nothing is known of a relation.
    method: one of calibration.METHODS, or None: the better. fold_Q: folds of the calibration queries; None: by subject.

  Raises:
    UserError: no calibration query of any relation asked, or none with an answer of the model.
  """
  names = list(dict.fromkeys([*known.relations, *asked.relations]))
  if not set(known.relations) & set(asked.relations):
    raise UserError(
      f"calibration: expected queries of the relations asked about, got those of {_few(known.relations)} where "
      f"{_few(asked.relations)} are asked; nothing would be promised for any"
    )
  if not len(known.texts):
    raise UserError("calibration: expected answers of the model, got none that says anything")
  right_N = answer_room.right(known)
  number = {name: i for i, name in enumerate(names)}
  relation_N = _of_queries([number[name] for name in known.relations], known)
  fold_Q = calibration.folds(known.subjects) if fold_Q is None else fold_Q
  fold_N = fold_Q[known.query_N]
  first_N = known.rank_N == 1
  said = _first_answers(known) + _first_answers(asked)
  flagged_N = np.zeros(len(right_N), bool)
  for fold in np.unique(fold_Q):
    flags = shock_guard.over_predicted(said, _golds(known, fold_Q != fold), counts)
    flagged_N |= (fold_N == fold) & _is_flagged(known, flags)
  confidence_N = np.empty(len(right_N))
  found = []
  for rows in (first_N, ~first_N):
    if not rows.any():
      found.append(None)
      continue
    curves, confidence_N[rows] = calibration.fit(
      known.score_N[rows], right_N[rows], relation_N[rows], fold_N[rows], method, ~flagged_N[rows]
    )  # what is lowered afterwards would pull the curves down
    found.append(curves)
  several = _several(known, asked, relations or {})
  those = flagged_N & first_N
  lowering = shock_guard.lowering(confidence_N[those], right_N[those])
  flags = shock_guard.over_predicted(said, _golds(known, fold_Q >= 0), counts)
  judged = Judged(
    shock_guard.lowered(confidence_N, flagged_N, lowering), flagged_N, np.zeros(0, bool)
  )
  judged = judged._replace(chosen_N=_chosen(known, judged.confidence_N, several))
  return Fitted(names, several, *found, flags, lowering, judged, right_N, *_absent(known, right_N))


def judge(fitted, asked):
  """The Judged of answers."""
  number = {name: i for i, name in enumerate(fitted.names)}
  relation_N = _of_queries([number[name] for name in asked.relations], asked)
  first_N = asked.rank_N == 1
  confidence_N = calibration.confidence(fitted.first, asked.score_N, relation_N)
  if fitted.later is not None:
    confidence_N[~first_N] = calibration.confidence(
      fitted.later, asked.score_N[~first_N], relation_N[~first_N]
    )
  flagged_N = _is_flagged(asked, fitted.flags)
  confidence_N = shock_guard.lowered(confidence_N, flagged_N, fitted.lowering)
  return Judged(confidence_N, flagged_N, _chosen(asked, confidence_N, fitted.several))


def threshold(fitted, known, asked, target):
  """The thresholds.Threshold that promises a precision for the answers to `asked`, of relations that were calibrated.

  A calibration answer stands for as many answers as its relation has queries asked over queries calibrated on.
  """
  wanted = collections.Counter(asked.relations)
  had = collections.Counter(known.relations)
  weight_N = _of_queries([wanted[name] / had[name] for name in known.relations], known)
  units = fitted.judged.chosen_N & (weight_N > 0)
  subject_N = _of_queries(answer_room.subject_numbers(known), known)
  return thresholds.by_precision(
    fitted.judged.confidence_N[units],
    fitted.right_N[units],
    subject_N[units],
    target,
    weight_N[units],
  )


def by_precision(judged, found):
  """The candidates that a Threshold accepts: bool [N]."""
  return judged.chosen_N & (judged.confidence_N >= (np.inf if found.value is None else found.value))


def by_f1(fitted, asked, judged):
  """The candidates that are accepted for the greatest expected F1 of each query: bool [N]."""
  order = np.lexsort((-judged.confidence_N, asked.query_N))
  order = order[judged.chosen_N[order]]
  of = lambda table, default: _of_queries(
    [table.get(name, default) for name in asked.relations], asked
  )[order]
  accepted_N = np.zeros(len(judged.chosen_N), bool)
  # of a relation that was not calibrated nothing is known: its listed answers are taken for all there are
  accepted_N[order] = thresholds.expected_f1_cut(
    judged.confidence_N[order],
    asked.query_N[order],
    of(fitted.unlisted, 0.0),
    of(fitted.nothing, 1.0),
  )
  return accepted_N


def consistent(asked, judged, accepted_N, rules, types):
  """(accepted [N] after consistency, implied Triples, Conflicts); see consistency.resolve."""
  if not any(
    rule.get(name)
    for rule in rules.values()
    for name in ("type", "inverse", "symmetric", "object_type", "subject_type")
  ):
    return accepted_N, [], []
  triples = [
    consistency.Triple(
      asked.subjects[asked.query_N[place]],
      asked.relations[asked.query_N[place]],
      asked.texts[place],
      float(judged.confidence_N[place]),
      place,
    )
    for place in np.flatnonzero(accepted_N).tolist()
  ]
  kept, implied, conflicts = consistency.resolve(
    triples, rules, types, set(zip(asked.subjects, asked.relations))
  )
  found_N = np.zeros(len(accepted_N), bool)
  found_N[[triple.place for triple in kept]] = True
  return found_N, implied, conflicts


def _several(known, asked, relations):
  """Relations with several answers a query: by the calibration queries, or, of relations without, by their type."""
  counts = collections.defaultdict(list)
  for relation, gold in zip(known.relations, known.golds):
    counts[relation].append(len(gold) > 1)
  return {
    name
    for name in {*known.relations, *asked.relations}
    if (
      np.mean(counts[name]) > _SEVERAL
      if name in counts
      else relations.get(name, {}).get("type") == "N-M"
    )
  }


def _chosen(answers, confidence_N, several):
  """Candidates that may be accepted: of a query with one answer the most confident, of others all."""
  open_N = _of_queries([name in several for name in answers.relations], answers)
  order = np.lexsort((answers.rank_N, -confidence_N, answers.query_N))
  query_N = answers.query_N[order]
  best_N = np.zeros(len(order), bool)
  best_N[order[np.r_[True, query_N[1:] != query_N[:-1]]] if len(order) else order] = True
  return open_N | best_N


def _absent(known, right_N):
  """({relation: right answers not listed, a query}, {relation: share without an answer, of queries without a listed right one})."""
  listed_Q = np.bincount(known.query_N, right_N, len(known.subjects))
  missing = collections.defaultdict(list)
  without = collections.defaultdict(list)
  for relation, gold, listed in zip(known.relations, known.golds, listed_Q.tolist()):
    missing[relation].append(max(0.0, len(gold) - listed))
    if not listed:
      without[relation].append(not gold)
  return (
    {name: float(np.mean(values)) for name, values in missing.items()},
    {name: float(np.mean(without[name])) if without[name] else 0.0 for name in missing},
  )


def _first_answers(answers):
  places = np.flatnonzero(answers.rank_N == 1).tolist()
  return [
    (answers.relations[answers.query_N[place]], accuracy.normalise(answers.texts[place]))
    for place in places
  ]


def _golds(known, wanted_Q):
  """Pairs (relation, a right answer's label) of some queries."""
  return [
    (relation, gold[0])
    for relation, golds, wanted in zip(known.relations, known.golds, wanted_Q)
    if wanted
    for gold in golds
  ]


def _is_flagged(answers, flags):
  keys = {(relation, answer) for relation, answer in flags}
  return (
    np.array(
      [
        (answers.relations[query], accuracy.normalise(text)) in keys
        for query, text in zip(answers.query_N.tolist(), answers.texts)
      ],
      bool,
    )
    if keys
    else np.zeros(len(answers.texts), bool)
  )


def _of_queries(values_Q, answers):
  return np.asarray(values_Q)[answers.query_N]


def _few(names):
  names = sorted(set(names))
  return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
