"""Records of an extraction: the rows of its candidates, and the summary for the report."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from factshock.knowledge_graph import extraction, shock_guard
from factshock.knowledge_graph.answers import Answers, Names
from factshock.knowledge_graph.canonical import CanonicalRow
from factshock.knowledge_graph.consistency import Conflict, Triple
from factshock.knowledge_graph.extraction import Assessment, Extractor
from factshock.predictions.accuracy import normalise
from factshock.types import Answer

_SHOWN = 50  # over-predicted answers and conflicts that the summary lists


class RunColumns(TypedDict):
  """Columns that are the same in every row of an extraction."""

  threshold: float | None
  model: str
  checkpoint: str | None
  mixing_weights: list[float] | None
  calibration: str
  run: str


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Outcome of an extraction: what was decided on the answers to the queries.

  Attributes:
    answers: the answers.
    assessment: of these.
    accepted_N: which candidates are accepted, after consistency.
    implied: triples that follow from accepted ones.
    conflicts: what was dropped for consistency.
  """

  answers: Answers
  assessment: Assessment
  accepted_N: np.ndarray
  implied: Sequence[Triple]
  conflicts: Sequence[Conflict]


def canonical_rows(
  outcome: Outcome,
  names: Names,
  labels: Mapping[str, str],
  columns: RunColumns,
) -> Iterator[CanonicalRow]:
  """Yields the canonical rows (canonical.py), query by query.

  A query has its candidates, best first, and then what other statements imply. One without either
  has one row with an empty object.

  Args:
    outcome: what was decided.
    names: for the objects' ids.
    labels: labels of relations.
    columns: those that every row has.
  """
  return _RowWriter(outcome, names, labels, columns).rows()


class _RowWriter:
  """Makes the rows of an outcome."""

  def __init__(
    self,
    outcome: Outcome,
    names: Names,
    labels: Mapping[str, str],
    columns: RunColumns,
  ) -> None:
    self.outcome = outcome
    self.names = names
    self.labels = labels
    self.columns = columns
    self.implied: dict[Answer, list[Triple]] = collections.defaultdict(list)
    for triple in outcome.implied:
      self.implied[normalise(triple.subject), triple.relation].append(triple)
    self.subject_ids: dict[str, str] = {}
    if outcome.implied:
      answers = outcome.answers
      for subject, subject_id in zip(answers.subjects, answers.subject_ids):
        if subject_id:
          self.subject_ids[normalise(subject)] = subject_id

  def rows(self) -> Iterator[CanonicalRow]:
    """Yields all rows."""
    answers = self.outcome.answers
    queries = np.arange(len(answers.subjects))
    ends: list[int] = np.searchsorted(answers.query_N, queries, side="right").tolist()
    begin = 0
    for query, end in enumerate(ends):
      for candidate in range(begin, end):
        yield self._of_candidate(query, candidate)
      key = normalise(answers.subjects[query]), answers.relations[query]
      implied = self.implied.get(key, [])
      for triple in implied:
        yield self._of_implied(query, triple)
      if begin == end and not implied:
        yield self._row(query, "", None, confidence=0.0)
      begin = end

  def _of_candidate(self, query: int, candidate: int) -> CanonicalRow:
    answers = self.outcome.answers
    assessment = self.outcome.assessment
    text = answers.texts[candidate]
    row = self._row(
      query,
      text,
      self.names.ids.get((answers.relations[query], text)),
      confidence=assessment.confidence_N[candidate],
    )
    row["score"] = round(float(answers.score_N[candidate]), 6)
    row["rank"] = int(answers.rank_N[candidate])
    row["accepted"] = bool(self.outcome.accepted_N[candidate])
    if assessment.over_predicted_N[candidate]:
      row["flags"] = ["over_predicted"]
    return row

  def _of_implied(self, query: int, triple: Triple) -> CanonicalRow:
    object_id = self.names.ids.get((triple.relation, triple.object))
    object_id = object_id or self.subject_ids.get(normalise(triple.object))
    row = self._row(query, triple.object, object_id, confidence=triple.confidence)
    row["accepted"] = True
    row["flags"] = ["implied"]
    return row

  def _row(
    self,
    query: int,
    text: str,
    object_id: str | None,
    *,
    confidence: float,
  ) -> CanonicalRow:
    """Returns a row that is not accepted, without score and rank."""
    answers = self.outcome.answers
    relation = answers.relations[query]
    return {
      "subject": answers.subjects[query],
      "subject_id": answers.subject_ids[query],
      "relation": relation,
      "relation_label": self.labels.get(relation),
      "object": text,
      "object_id": object_id,
      "confidence": round(float(confidence), 6),
      "score": None,
      "rank": None,
      "accepted": False,
      **self.columns,
    }


def relation_summaries(
  extractor: Extractor,
  labelled: Answers,
  outcome: Outcome,
  labels: Mapping[str, str],
) -> list[dict[str, Any]]:
  """Returns of each relation asked its queries, accepted answers, calibration and precision.

  Args:
    extractor: what was fitted.
    labelled: the calibration answers.
    outcome: what was decided.
    labels: labels of relations.
  """
  answers = outcome.answers
  relation_N = np.asarray(answers.relations, object)[answers.query_N]
  queries = collections.Counter(answers.relations)
  calibrated = set(labelled.relations)
  summaries: list[dict[str, Any]] = []
  for code, name in enumerate(extractor.relations):
    if name not in queries:
      continue
    own_N = outcome.accepted_N & (relation_N == name)
    confidence_N = outcome.assessment.confidence_N[own_N]
    summaries.append(
      {
        "relation": name,
        "label": labels.get(name, name),
        "queries": queries[name],
        "accepted": int(own_N.sum()),
        "answers": "several" if name in extractor.multi_answer else "one",
        "calibration_units": extractor.first.units.get(code, 0),
        "pooled": name not in calibrated,
        "method": extractor.first.method,
        "expected_precision": float(confidence_N.mean()) if own_N.any() else None,
      }
    )
  return summaries


class _GivenAnswers:
  """Counts of over-predicted first answers: how often, how often right, how confident."""

  def __init__(self) -> None:
    self.texts: dict[Answer, str] = {}
    self.given: collections.Counter[Answer] = collections.Counter()
    self.right: collections.Counter[Answer] = collections.Counter()
    self.displaced: dict[Answer, collections.Counter[str]] = collections.defaultdict(
      collections.Counter
    )
    self.before: dict[Answer, list[float]] = collections.defaultdict(list)
    self.after: dict[Answer, list[float]] = collections.defaultdict(list)

  def add_labelled(self, extractor: Extractor, labelled: Answers) -> None:
    """Adds the calibration answers."""
    for position, key in _first_over_predicted(extractor, labelled):
      self.texts.setdefault(key, labelled.texts[position])
      self.given[key] += 1
      if extractor.right_N[position]:
        self.right[key] += 1
      else:
        golds = labelled.right_answers(labelled.query_N[position])
        self.displaced[key].update(gold[0] for gold in golds)

  def add_answers(
    self,
    extractor: Extractor,
    answers: Answers,
    assessment: Assessment,
  ) -> None:
    """Adds the answers to the queries, with their confidence before and after the lowering."""
    unguarded = dataclasses.replace(extractor, lowering=shock_guard.NOT_LOWERED)
    plain_N = extraction.assess(unguarded, answers).confidence_N
    for position, key in _first_over_predicted(extractor, answers):
      self.texts.setdefault(key, answers.texts[position])
      self.before[key].append(plain_N[position])
      self.after[key].append(assessment.confidence_N[position])


def _first_over_predicted(extractor: Extractor, answers: Answers) -> Iterator[tuple[int, Answer]]:
  """Yields the positions of over-predicted first answers, with (relation, normalised name)."""
  positions: list[int] = np.flatnonzero(answers.rank_N == 1).tolist()
  for position in positions:
    relation = answers.relations[int(answers.query_N[position])]
    key = relation, normalise(answers.texts[position])
    if key in extractor.over_predicted:
      yield position, key


def over_prediction_summaries(
  extractor: Extractor,
  labelled: Answers,
  outcome: Outcome,
) -> list[dict[str, Any]]:
  """Returns the over-predicted answers, the most given first.

  With what calibration says of them and what they displaced.

  Args:
    extractor: what was fitted.
    labelled: the calibration answers.
    outcome: what was decided.
  """
  given = _GivenAnswers()
  given.add_labelled(extractor, labelled)
  given.add_answers(extractor, outcome.answers, outcome.assessment)
  summaries: list[dict[str, Any]] = [
    {
      "relation": key[0],
      "entity": given.texts.get(key, key[1]),
      "predicted": flag.predicted,
      "share": flag.predicted / flag.queries,
      "supported_share": flag.supported / flag.queries,
      "calibration_predicted": given.given[key],
      "calibration_right": given.right[key],
      "confidence_before": _mean(given.before[key]),
      "confidence_after": _mean(given.after[key]),
      "displaced": [list(pair) for pair in given.displaced[key].most_common(3)],
    }
    for key, flag in extractor.over_predicted.items()
  ]
  summaries.sort(key=lambda row: (-row["predicted"], row["relation"], row["entity"]))
  return summaries[:_SHOWN]


def _mean(values: Sequence[float]) -> float | None:
  """Returns the mean, None where there are no values."""
  return float(np.mean(values)) if values else None


def conflict_summary(conflicts: Sequence[Conflict]) -> dict[str, Any]:
  """Returns the counts of conflicts by kind, and the first examples."""
  return {
    "counts": dict(collections.Counter(conflict.kind for conflict in conflicts)),
    "examples": [
      {
        "kind": conflict.kind,
        "kept": _triple_json(conflict.kept) if conflict.kept else None,
        "dropped": _triple_json(conflict.dropped),
        "why": conflict.reason,
      }
      for conflict in conflicts[:_SHOWN]
    ],
  }


def _triple_json(triple: Triple) -> list[Any]:
  """Returns a triple with its confidence as JSON values."""
  return [triple.subject, triple.relation, triple.object, round(triple.confidence, 4)]
