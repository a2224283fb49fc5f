"""Records of an extraction: the rows of its candidates, and the summary for the report."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from factshock.knowledge_graph import batches, extraction, shock_guard
from factshock.knowledge_graph.answers import Answers, Names
from factshock.knowledge_graph.batches import Batch, Provenance
from factshock.knowledge_graph.consistency import Conflict, Triple
from factshock.knowledge_graph.extraction import Assessment, Extractor
from factshock.predictions.accuracy import normalise
from factshock.types import Answer

_FLAGS: Mapping[bool, list[str]] = {True: ["over_predicted"]}  # by whether they are that
_SHOWN = 50  # over-predicted answers and conflicts that the summary lists


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


def row_batches(
  outcome: Outcome,
  names: Names,
  labels: Mapping[str, str],
  provenance: Provenance,
) -> Iterator[Batch]:
  """Yields the canonical rows (canonical.py), query by query.

  A query has its candidates, best first, and then what other statements imply. One without either
  has one row with an empty object.

  Args:
    outcome: what was decided.
    names: for the objects' ids.
    labels: labels of relations.
    provenance: of every row.
  """
  columns = _columns(outcome)
  subject_ids = _ids_of_subjects(outcome.answers) if outcome.implied else {}
  order = np.argsort(columns.query_R, kind="stable")
  for first in range(0, len(order), batches.ROWS):
    row_R = order[first : first + batches.ROWS]
    yield _batch(outcome, columns, row_R, (names, subject_ids, labels), provenance)


class _Columns(NamedTuple):
  """Columns of all rows of an outcome [R]: those of its candidates, then the further ones."""

  query_R: np.ndarray
  texts: list[str]
  confidence_R: np.ndarray
  score_R: np.ndarray
  rank_R: np.ndarray  # 0: no candidate
  accepted_R: np.ndarray
  over_predicted_R: np.ndarray


def _columns(outcome: Outcome) -> _Columns:
  """Returns the columns of all rows of an outcome."""
  answers = outcome.answers
  further = _further_rows(outcome)
  triples = [triple for _, triple in further]
  nothing_R = np.zeros(len(further), np.int64)
  return _Columns(
    np.r_[answers.query_N, np.array([query for query, _ in further], np.int64)],
    answers.texts + [triple.object if triple else "" for triple in triples],
    np.r_[
      outcome.assessment.confidence_N,
      [float(triple.confidence) if triple else 0.0 for triple in triples],
    ],
    np.r_[answers.score_N, nothing_R],
    np.r_[answers.rank_N, nothing_R],
    np.r_[outcome.accepted_N, np.array([triple is not None for triple in triples], bool)],
    np.r_[outcome.assessment.over_predicted_N, nothing_R.astype(bool)],
  )


def _further_rows(outcome: Outcome) -> list[tuple[int, Triple | None]]:
  """Returns what is no candidate, by query: what is implied, or None, that there is nothing."""
  answers = outcome.answers
  implied: dict[Answer, list[Triple | None]] = collections.defaultdict(list)
  for triple in outcome.implied:
    implied[normalise(triple.subject), triple.relation].append(triple)
  candidates_Q = np.bincount(answers.query_N, minlength=len(answers.subjects))
  rows: list[tuple[int, Triple | None]] = []
  for query, candidates in enumerate(candidates_Q.tolist()):
    of_query: list[Triple | None] = [] if candidates else [None]
    if implied:
      key = normalise(answers.subjects[query]), answers.relations[query]
      of_query = implied.get(key, of_query)
    rows += [(query, triple) for triple in of_query]
  return rows


def _ids_of_subjects(answers: Answers) -> dict[str, str]:
  """Returns the ids of subjects by their normalised names."""
  pairs = zip(answers.subjects, answers.subject_ids)
  return {normalise(subject): subject_id for subject, subject_id in pairs if subject_id}


def _batch(
  outcome: Outcome,
  columns: _Columns,
  row_R: np.ndarray,
  known: tuple[Names, Mapping[str, str], Mapping[str, str]],
  provenance: Provenance,
) -> Batch:
  """Returns some rows.

  Args:
    outcome: what was decided.
    columns: of all rows.
    row_R: which ones.
    known: names of answers, ids of subjects by normalised name, and labels of relations.
    provenance: of every row.
  """
  answers = outcome.answers
  names, subject_ids, labels = known
  queries: list[int] = columns.query_R[row_R].tolist()
  relations = [answers.relations[query] for query in queries]
  texts = [columns.texts[int(row)] for row in row_R]
  ids = list(map(names.ids.get, zip(relations, texts)))
  ranks: list[int] = columns.rank_R[row_R].tolist()
  accepted: list[bool] = columns.accepted_R[row_R].tolist()
  flags = [_FLAGS.get(bool(flag)) for flag in columns.over_predicted_R[row_R]]
  for place in np.flatnonzero(columns.rank_R[row_R] == 0).tolist():
    if accepted[place]:
      ids[place] = ids[place] or subject_ids.get(normalise(texts[place]))
      flags[place] = ["implied"]
  scores = rounded(columns.score_R[row_R])
  return Batch(
    subject=[answers.subjects[query] for query in queries],
    subject_id=[answers.subject_ids[query] for query in queries],
    relation=relations,
    relation_label=list(map(labels.get, relations)),
    object=texts,
    object_id=ids,
    confidence=rounded(columns.confidence_R[row_R]),
    score=[score if rank else None for score, rank in zip(scores, ranks)],
    rank=[rank or None for rank in ranks],
    accepted=accepted,
    flags=flags,
    provenance=provenance,
  )


def rounded(value_N: np.ndarray) -> list[float]:
  """Returns what `round(value, 6)` returns of each value.

  Where the seventh digit is not near a 5, a whole number of millionths is the nearest one, and the
  quotient is the float nearest to it.
  """
  with np.errstate(invalid="ignore", over="ignore"):  # of infinite ones
    millionth_N = value_N * 1e6
    nearest_N = np.rint(millionth_N)
    is_clear_N = (np.abs(millionth_N - nearest_N) < 0.499) & (np.abs(millionth_N) < 1e9)
  values: list[float] = (nearest_N / 1e6).tolist()
  for place in np.flatnonzero(~is_clear_N).tolist():
    values[place] = round(float(value_N[place]), 6)
  return values


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
  accepted = np.flatnonzero(outcome.accepted_N)
  code_of_accepted = extraction.relation_codes(answers, extractor.relations)[accepted]
  queries = collections.Counter(answers.relations)
  calibrated = set(labelled.relations)
  summaries: list[dict[str, Any]] = []
  for code, name in enumerate(extractor.relations):
    if name not in queries:
      continue
    own = accepted[code_of_accepted == code]
    confidence_N = outcome.assessment.confidence_N[own]
    summaries.append(
      {
        "relation": name,
        "label": labels.get(name, name),
        "queries": queries[name],
        "accepted": len(own),
        "answers": "several" if name in extractor.multi_answer else "one",
        "calibration_units": extractor.first.units.get(code, 0),
        "pooled": name not in calibrated,
        "method": extractor.first.method,
        "expected_precision": float(confidence_N.mean()) if len(own) else None,
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
