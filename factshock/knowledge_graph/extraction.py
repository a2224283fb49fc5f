"""Decisions on a model's answers: confidence, over-predicted answers, threshold, consistency.

Numpy on columns. `Answers` with right answers, of the calibration queries, are called `labelled`.
"""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from factshock.knowledge_graph import calibration, consistency, shock_guard, thresholds
from factshock.knowledge_graph.answers import Answers, Texts, is_right
from factshock.knowledge_graph.calibration import Calibration
from factshock.knowledge_graph.shock_guard import Lowering, OverPrediction
from factshock.predictions.accuracy import normalise
from factshock.runtime.errors import UserError
from factshock.types import Answer

RULES = ("precision", "f1")
# A relation has several answers a query if at least so many calibration queries have several.
_SEVERAL = 0.02


@dataclasses.dataclass(frozen=True)
class Assessment:
  """Assessment of each candidate of some answers: arrays [N], in their order.

  Attributes:
    confidence_N: probability that it is right.
    over_predicted_N: whether it is an over-predicted answer.
    eligible_N: whether it may be accepted: the most confident of a query, or all where a query has
      several answers.
  """

  confidence_N: np.ndarray
  over_predicted_N: np.ndarray
  eligible_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Extractor:
  """All that was fitted to the calibration queries.

  Attributes:
    relations: names, in the order of their codes.
    multi_answer: relations with several answers a query.
    first: calibration of first answers.
    later: calibration of all others; None where there are none.
    over_predicted: over-predicted answers by (relation, normalised name).
    lowering: of the confidence of over-predicted answers.
    assessment: of the calibration answers themselves, each by what is fitted without its subject.
    right_N: whether each of these is right.
    unlisted: how many right answers of a query are not listed, on average, by relation.
    unanswerable: share without any answer among queries of which no listed answer is right, by
      relation.
  """

  relations: list[str]
  multi_answer: set[str]
  first: Calibration
  later: Calibration | None
  over_predicted: Mapping[Answer, OverPrediction]
  lowering: Lowering
  assessment: Assessment
  right_N: np.ndarray
  unlisted: Mapping[str, float]
  unanswerable: Mapping[str, float]


def fit(
  labelled: Answers,
  answers: Answers,
  *,
  counts: Mapping[Answer, int] | None = None,
  rules: consistency.Rules | None = None,
  method: str | None = None,
  fold_Q: np.ndarray | None = None,
) -> Extractor:
  """Fits an extractor to calibration answers.

  Args:
    labelled: the calibration answers.
    answers: those to be assessed: their relations and how often an answer comes first count.
    counts: mentions in text for the shock guard, or None.
    rules: rows by relation, whose `type` counts where calibration has no query of a relation.
    method: one of calibration.METHODS, or None: the better.
    fold_Q: folds of the calibration queries; None: by subject.

  Raises:
    UserError: no calibration query of any relation asked, or none with an answer of the model.
  """
  _check_labelled(labelled, answers)
  relations = list(dict.fromkeys([*labelled.relations, *answers.relations]))
  multi_answer = _multi_answer_relations(labelled, answers, rules or {})
  if fold_Q is None:
    fold_Q = calibration.assign_folds(labelled.subjects)
  guard = _Guard(labelled, answers, counts)
  return _fit_extractor(labelled, guard, relations, multi_answer, method, fold_Q)


def _fit_extractor(
  labelled: Answers,
  guard: "_Guard",
  relations: list[str],
  multi_answer: set[str],
  method: str | None,
  fold_Q: np.ndarray,
) -> Extractor:
  """Fits an extractor to calibration answers; relations are named in the order of their codes."""
  right_N = is_right(labelled)
  over_predicted_N = guard.held_out(fold_Q)
  relation_N = labelled.of_queries(relation_codes(labelled, relations))
  first, later, confidence_N = _fit_calibrations(
    labelled, right_N, relation_N, fold_Q, over_predicted_N, method
  )
  flagged_first_N = over_predicted_N & (labelled.rank_N == 1)
  flagged_confidence = confidence_N[flagged_first_N]
  lowering = shock_guard.fit_lowering(flagged_confidence, right_N[flagged_first_N])
  confidence_N = shock_guard.lower(confidence_N, over_predicted_N, lowering)
  is_multi_Q = _is_multi_answer(labelled, multi_answer)
  eligible_N = _eligible(labelled.query_N, labelled.rank_N, confidence_N, is_multi_Q)
  unlisted, unanswerable = _absent_answers(labelled, right_N)
  return Extractor(
    relations,
    multi_answer,
    first,
    later,
    guard.find(fold_Q >= 0),
    lowering,
    Assessment(confidence_N, over_predicted_N, eligible_N),
    right_N,
    unlisted,
    unanswerable,
  )


def _check_labelled(labelled: Answers, answers: Answers) -> None:
  """Raises a UserError where calibration has no query of a relation asked, or no answer."""
  if not set(labelled.relations) & set(answers.relations):
    raise UserError(
      "calibration: expected queries of the relations asked about, got those of "
      f"{_few(labelled.relations)} where {_few(answers.relations)} are asked; nothing would be "
      "promised for any"
    )
  if not len(labelled.texts):
    raise UserError("calibration: expected answers of the model, got none that says anything")


class _Guard:
  """Finds over-predicted answers by the first answers to all queries, calibration's too."""

  def __init__(
    self,
    labelled: Answers,
    answers: Answers,
    counts: Mapping[Answer, int] | None,
  ) -> None:
    self.labelled = labelled
    self.first_answers = _first_answers(labelled)
    self.first_answers.update(_first_answers(answers))
    self.counts = counts

  def find(self, wanted_Q: np.ndarray) -> dict[Answer, OverPrediction]:
    """Returns the over-predicted answers by the right answers of some calibration queries."""
    golds = _right_answers(self.labelled, wanted_Q)
    return shock_guard.find_over_predicted(self.first_answers, golds, self.counts)

  def held_out(self, fold_Q: np.ndarray) -> np.ndarray:
    """Returns whether each calibration answer is over-predicted by other folds, bool [N]."""
    fold_N = fold_Q[self.labelled.query_N]
    over_predicted_N = np.zeros(len(self.labelled.texts), bool)
    for fold in np.unique(fold_Q):
      flagged = self.find(fold_Q != fold)
      flagged_N = is_over_predicted(self.labelled, flagged)
      over_predicted_N |= (fold_N == fold) & flagged_N
    return over_predicted_N


def _fit_calibrations(
  labelled: Answers,
  right_N: np.ndarray,
  relation_N: np.ndarray,
  fold_Q: np.ndarray,
  over_predicted_N: np.ndarray,
  method: str | None,
) -> tuple[Calibration, Calibration | None, np.ndarray]:
  """Fits the curves of first answers and of all others.

  Returns:
    (calibration of first answers, of others or None, confidences by held-out curves [N]).
  """
  confidence_N = np.empty(len(right_N))
  fold_N = fold_Q[labelled.query_N]

  def fit_to(rows_N: np.ndarray) -> Calibration:
    # What is lowered afterwards would pull the curves down.
    fitted_N = ~over_predicted_N[rows_N]
    curves, confidence_N[rows_N] = calibration.fit(
      labelled.score_N[rows_N],
      right_N[rows_N],
      relation_N[rows_N],
      fold_N[rows_N],
      method,
      fitted_N,
    )
    return curves

  first_N = labelled.rank_N == 1
  first = fit_to(first_N)  # of every query that has an answer
  later = fit_to(~first_N) if not first_N.all() else None
  return first, later, confidence_N


def assess(extractor: Extractor, answers: Answers) -> Assessment:
  """Returns the assessment of answers, some at a time: 10 bytes a candidate, and little beside."""
  over_predicted_N = is_over_predicted(answers, extractor.over_predicted)
  is_multi_Q = _is_multi_answer(answers, extractor.multi_answer)
  code_Q = relation_codes(answers, extractor.relations)
  confidence_N = np.empty(len(answers.texts))
  eligible_N = np.empty(len(answers.texts), bool)
  for part in answers.parts():
    plain_P = _confidence_before(extractor, answers, code_Q, part)
    lowered_P = shock_guard.lower(plain_P, over_predicted_N[part], extractor.lowering)
    confidence_N[part] = lowered_P
    eligible_N[part] = _eligible(answers.query_N[part], answers.rank_N[part], lowered_P, is_multi_Q)
  return Assessment(confidence_N, over_predicted_N, eligible_N)


def confidence_before_lowering(
  extractor: Extractor,
  answers: Answers,
  places: np.ndarray,
) -> np.ndarray:
  """Returns the confidences of some candidates as if none were over-predicted."""
  code_Q = relation_codes(answers, extractor.relations)
  return _confidence_before(extractor, answers, code_Q, places)


def _confidence_before(
  extractor: Extractor,
  answers: Answers,
  code_Q: np.ndarray,
  places: "np.ndarray | slice",
) -> np.ndarray:
  """Returns the confidences of some candidates by the curves; `code_Q` are those of relations."""
  score_P = answers.score_N[places]
  relation_P = code_Q[answers.query_N[places]]
  confidence_P = calibration.confidence(extractor.first, score_P, relation_P)
  if extractor.later is not None:
    later_P = answers.rank_N[places] != 1
    confidence_P[later_P] = calibration.confidence(
      extractor.later, score_P[later_P], relation_P[later_P]
    )
  return confidence_P


def choose_threshold(
  extractor: Extractor,
  labelled: Answers,
  answers: Answers,
  target: float,
) -> thresholds.Threshold:
  """Chooses the threshold that promises a precision for answers of relations that were calibrated.

  A calibration answer stands for as many answers as its relation has queries asked over queries
  calibrated on.

  Args:
    extractor: fitted to `labelled`.
    labelled: the calibration answers.
    answers: those that the promise is about.
    target: the precision.
  """
  wanted = collections.Counter(answers.relations)
  given = collections.Counter(labelled.relations)
  weight_N = labelled.of_queries([wanted[name] / given[name] for name in labelled.relations])
  units_N = extractor.assessment.eligible_N & (weight_N > 0)
  subject_N = labelled.of_queries(labelled.subject_codes())
  return thresholds.choose_threshold(
    extractor.assessment.confidence_N[units_N],
    extractor.right_N[units_N],
    subject_N[units_N],
    target,
    weight_N[units_N],
  )


def accept_by_precision(assessment: Assessment, threshold: thresholds.Threshold) -> np.ndarray:
  """Returns the candidates that a threshold accepts, bool [N]."""
  least = np.inf if threshold.value is None else threshold.value
  return assessment.eligible_N & (assessment.confidence_N >= least)


def accept_by_f1(
  extractor: Extractor,
  answers: Answers,
  assessment: Assessment,
) -> np.ndarray:
  """Returns the candidates accepted for the greatest expected F1 of each query, bool [N]."""
  order = np.lexsort((-assessment.confidence_N, answers.query_N))
  order = order[assessment.eligible_N[order]]
  # Of a relation that was not calibrated nothing is known: its listed answers are taken for all.
  unlisted_N = answers.of_queries([extractor.unlisted.get(name, 0.0) for name in answers.relations])
  unanswerable_N = answers.of_queries(
    [extractor.unanswerable.get(name, 1.0) for name in answers.relations]
  )
  accepted_N = np.zeros(len(assessment.eligible_N), bool)
  accepted_N[order] = thresholds.accept_by_expected_f1(
    assessment.confidence_N[order],
    answers.query_N[order],
    unlisted_N[order],
    unanswerable_N[order],
  )
  return accepted_N


def make_consistent(
  answers: Answers,
  assessment: Assessment,
  accepted_N: np.ndarray,
  rules: consistency.Rules,
  types: consistency.Types,
) -> tuple[np.ndarray, list[consistency.Triple], list[consistency.Conflict]]:
  """Drops accepted answers that contradict more confident ones (consistency.resolve).

  Args:
    answers: the answers.
    assessment: of these.
    accepted_N: whether each candidate is accepted.
    rules: of consistency.complete_rules.
    types: types of each entity.

  Returns:
    (accepted candidates [N], implied triples, conflicts).
  """
  if not any(rule.get(name) for rule in rules.values() for name in consistency.RULE_COLUMNS):
    return accepted_N, [], []
  triples = [
    _triple(answers, assessment, candidate) for candidate in np.flatnonzero(accepted_N).tolist()
  ]
  queries = set(zip(answers.subjects, answers.relations))
  kept, implied, conflicts = consistency.resolve(triples, rules, types, queries)
  kept_N = np.zeros(len(accepted_N), bool)
  kept_N[[triple.candidate for triple in kept if triple.candidate is not None]] = True
  return kept_N, implied, conflicts


def _triple(
  answers: Answers,
  assessment: Assessment,
  candidate: int,
) -> consistency.Triple:
  """Returns the statement that a candidate makes."""
  query = int(answers.query_N[candidate])
  return consistency.Triple(
    answers.subjects[query],
    answers.relations[query],
    answers.texts[candidate],
    float(assessment.confidence_N[candidate]),
    candidate,
  )


def _multi_answer_relations(
  labelled: Answers,
  answers: Answers,
  rules: consistency.Rules,
) -> set[str]:
  """Returns the relations with several answers a query.

  By the calibration queries, or, of relations without, by their type.
  """
  has_several: dict[str, list[bool]] = collections.defaultdict(list)
  for query, relation in enumerate(labelled.relations):
    has_several[relation].append(len(labelled.right_answers(query)) > 1)

  def is_multi_answer(name: str) -> bool:
    if name in has_several:
      return bool(np.mean(has_several[name]) > _SEVERAL)
    rule: Mapping[str, Any] = rules.get(name, {})
    return rule.get("type") == "N-M"

  return {name for name in {*labelled.relations, *answers.relations} if is_multi_answer(name)}


def _is_multi_answer(answers: Answers, multi_answer: Collection[str]) -> np.ndarray:
  """Returns whether each query may have several answers, bool [Q]."""
  relations = Texts.of(answers.relations)
  return np.array([name in multi_answer for name in relations.names], bool)[relations.code_N]


def _eligible(
  query_N: np.ndarray,
  rank_N: np.ndarray,
  confidence_N: np.ndarray,
  is_multi_Q: np.ndarray,
) -> np.ndarray:
  """Returns the candidates that may be accepted, bool [N].

  Of a query with one answer the most confident, of others all.
  """
  order = np.lexsort((rank_N, -confidence_N, query_N))
  best_N = np.zeros(len(order), bool)
  if len(order):
    ordered_N = query_N[order]
    is_first_N = np.r_[True, ordered_N[1:] != ordered_N[:-1]]
    best_N[order[is_first_N]] = True
  return is_multi_Q[query_N] | best_N


def _absent_answers(
  labelled: Answers, right_N: np.ndarray
) -> tuple[dict[str, float], dict[str, float]]:
  """Returns how often right answers are not among the candidates, by relation.

  Returns:
    (right answers not listed, a query; share without an answer, of queries without a listed right
    one).
  """
  listed_Q = np.bincount(labelled.query_N, right_N, len(labelled.subjects))
  missing: dict[str, list[float]] = collections.defaultdict(list)
  has_none: dict[str, list[bool]] = collections.defaultdict(list)
  for query, relation in enumerate(labelled.relations):
    golds = labelled.right_answers(query)
    listed = float(listed_Q[query])
    missing[relation].append(max(0.0, len(golds) - listed))
    if not listed:
      has_none[relation].append(not golds)
  unlisted = {name: _mean(values) for name, values in missing.items()}
  unanswerable = {name: _mean(has_none[name]) for name in missing}
  return unlisted, unanswerable


def _mean(values: Sequence[float]) -> float:
  """Returns the mean, 0 where there are no values."""
  return float(np.mean(values)) if values else 0.0


def _first_answers(answers: Answers) -> collections.Counter[Answer]:
  """Returns how often each (relation, normalised name) is first, in the order they first are."""
  relations = Texts.of(answers.relations)
  texts = Texts.of(answers.texts)
  first = np.flatnonzero(answers.rank_N == 1)
  relation_F = relations.code_N[answers.query_N[first]]
  pair_F = relation_F.astype(np.int64) * len(texts.names) + texts.code_N[first]
  pairs, place_P, count_P = np.unique(pair_F, return_index=True, return_counts=True)
  counter: collections.Counter[Answer] = collections.Counter()
  for pair in np.argsort(place_P).tolist():
    relation, text = divmod(int(pairs[pair]), len(texts.names))
    counter[relations.names[relation], normalise(texts.names[text])] += int(count_P[pair])
  return counter


def _right_answers(labelled: Answers, wanted_Q: np.ndarray) -> list[Answer]:
  """Returns (relation, label) of the right answers of some queries."""
  return [
    (labelled.relations[query], gold[0])
    for query in np.flatnonzero(wanted_Q).tolist()
    for gold in labelled.right_answers(query)
  ]


def is_over_predicted(
  answers: Answers, over_predicted: Mapping[Answer, OverPrediction]
) -> np.ndarray:
  """Returns whether each candidate is among the over-predicted answers, bool [N]."""
  flagged_N = np.zeros(len(answers.texts), bool)
  relations, texts = Texts.of(answers.relations), Texts.of(answers.texts)
  flagged_pairs = _flagged_pairs(relations.names, texts.names, over_predicted)
  if not len(flagged_pairs):
    return flagged_N
  for part in answers.parts():
    relation_P = relations.code_N[answers.query_N[part]].astype(np.int64)
    pair_P = relation_P * len(texts.names) + texts.code_N[part]
    flagged_N[part] = np.isin(pair_P, flagged_pairs)
  return flagged_N


def _flagged_pairs(
  relations: Sequence[str],
  texts: Sequence[str],
  over_predicted: Mapping[Answer, OverPrediction],
) -> np.ndarray:
  """Returns the pairs of indices that are flagged, relation * number of texts + text: int64."""
  relations_of: dict[str, list[str]] = collections.defaultdict(list)
  for relation, name in over_predicted:
    relations_of[name].append(relation)
  code_of = {name: code for code, name in enumerate(relations)}
  pairs = [
    code_of[relation] * len(texts) + text
    for text, name in enumerate(texts if relations_of else ())
    for relation in relations_of.get(normalise(name), ())
    if relation in code_of
  ]
  return np.array(pairs, np.int64)


def relation_codes(answers: Answers, relations: Sequence[str]) -> np.ndarray:
  """Returns the code of each query's relation, int32 [Q]."""
  codes = {name: code for code, name in enumerate(relations)}
  own = Texts.of(answers.relations)
  return np.array([codes[name] for name in own.names], np.int32)[own.code_N]


def _few(names: Iterable[str]) -> str:
  """Returns the first few of some names."""
  distinct = sorted(set(names))
  shown = ", ".join(map(repr, distinct[:5]))
  more = ", ..." if len(distinct) > 5 else ""
  return shown + more
