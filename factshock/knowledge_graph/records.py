"""Records of an extraction: the rows of its candidates, and the summary for the report."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from factshock.knowledge_graph import batches, extraction
from factshock.knowledge_graph.answers import Answers, Names, Texts
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
  subject_ids = _ids_of_subjects(outcome.answers) if outcome.implied else {}
  further = _further_rows(outcome)
  after = outcome.answers.ends(np.array([query for query, _ in further], np.int64))
  place_F = after + np.arange(len(further))  # among all rows
  for first in range(0, len(outcome.answers.texts) + len(further), batches.ROWS):
    row_R = np.arange(first, min(first + batches.ROWS, len(outcome.answers.texts) + len(further)))
    columns = _columns(outcome, further, place_F, row_R)
    yield _batch(outcome.answers, columns, (names, subject_ids, labels), provenance)


class _Columns(NamedTuple):
  """Columns of some rows [R]."""

  query_R: np.ndarray
  texts: list[str]
  confidence_R: np.ndarray
  score_R: np.ndarray
  rank_R: np.ndarray  # 0: no candidate
  accepted_R: np.ndarray
  over_predicted_R: np.ndarray


def _columns(
  outcome: Outcome,
  further: "Sequence[tuple[int, Triple | None]]",
  place_F: np.ndarray,
  row_R: np.ndarray,
) -> _Columns:
  """Returns the columns of some rows: candidates, and after those of its query what is further.

  Args:
    outcome: what was decided.
    further: what is no candidate, of `_further_rows`.
    place_F: the places of these among all rows.
    row_R: the places of the rows that are wanted, one after the other.
  """
  begin, end = np.searchsorted(place_F, [row_R[0], row_R[-1] + 1]).tolist()
  is_further_R = np.isin(row_R, place_F[begin:end])
  before_R = begin + np.cumsum(is_further_R)
  candidate_C = (row_R - before_R)[~is_further_R]
  triples = [triple for _, triple in further[begin:end]]
  answers, assessment = outcome.answers, outcome.assessment

  def merged(of_candidates: np.ndarray, of_further: Any) -> np.ndarray:
    column_R = np.empty(len(row_R), of_candidates.dtype)
    column_R[~is_further_R] = of_candidates
    column_R[is_further_R] = of_further
    return column_R

  candidate_texts = np.array(Texts.of(answers.texts).take(candidate_C), object)
  confidences = [float(triple.confidence) if triple else 0.0 for triple in triples]
  return _Columns(
    merged(answers.query_N[candidate_C], [query for query, _ in further[begin:end]]),
    merged(candidate_texts, [triple.object if triple else "" for triple in triples]).tolist(),
    merged(assessment.confidence_N[candidate_C], confidences),
    merged(answers.score_N[candidate_C], 0),
    merged(answers.rank_N[candidate_C], 0),
    merged(outcome.accepted_N[candidate_C], [triple is not None for triple in triples]),
    merged(assessment.over_predicted_N[candidate_C], False),
  )


def _further_rows(outcome: Outcome) -> list[tuple[int, Triple | None]]:
  """Returns what is no candidate, by query: what is implied, or None, that there is nothing."""
  answers = outcome.answers
  implied: dict[Answer, list[Triple | None]] = collections.defaultdict(list)
  for triple in outcome.implied:
    implied[normalise(triple.subject), triple.relation].append(triple)
  ends_Q = answers.ends(np.arange(len(answers.subjects)))
  candidates_Q = np.diff(ends_Q, prepend=0)
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
  answers: Answers,
  columns: _Columns,
  known: tuple[Names, Mapping[str, str], Mapping[str, str]],
  provenance: Provenance,
) -> Batch:
  """Returns some rows.

  Args:
    answers: those that the rows are of.
    columns: of the rows.
    known: names of answers, ids of subjects by normalised name, and labels of relations.
    provenance: of every row.
  """
  names, subject_ids, labels = known
  queries: list[int] = columns.query_R.tolist()
  relations = Texts.of(answers.relations).take(columns.query_R)
  ids = list(map(names.ids.get, zip(relations, columns.texts)))
  ranks: list[int] = columns.rank_R.tolist()
  accepted: list[bool] = columns.accepted_R.tolist()
  flags = [_FLAGS.get(flag) for flag in columns.over_predicted_R.tolist()]
  for place in np.flatnonzero(columns.rank_R == 0).tolist():
    if accepted[place]:
      ids[place] = ids[place] or subject_ids.get(normalise(columns.texts[place]))
      flags[place] = ["implied"]
  scores = rounded(columns.score_R)
  return Batch(
    subject=Texts.of(answers.subjects).take(columns.query_R),
    subject_id=[answers.subject_ids[query] for query in queries],
    relation=relations,
    relation_label=list(map(labels.get, relations)),
    object=columns.texts,
    object_id=ids,
    confidence=rounded(columns.confidence_R),
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
  code_Q = extraction.relation_codes(answers, extractor.relations)
  code_of_accepted = code_Q[answers.query_N[accepted]]
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
    over_predicted_N = extraction.is_over_predicted(labelled, extractor.over_predicted)
    for position, key in _first_over_predicted(labelled, over_predicted_N):
      self.texts.setdefault(key, labelled.texts[position])
      self.given[key] += 1
      if extractor.right_N[position]:
        self.right[key] += 1
      else:
        golds = labelled.right_answers(int(labelled.query_N[position]))
        self.displaced[key].update(gold[0] for gold in golds)

  def add_answers(
    self,
    extractor: Extractor,
    answers: Answers,
    assessment: Assessment,
  ) -> None:
    """Adds the answers to the queries, with their confidence before and after the lowering."""
    found = list(_first_over_predicted(answers, assessment.over_predicted_N))
    places = np.array([position for position, _ in found], np.int64)
    before = extraction.confidence_before_lowering(extractor, answers, places)
    for (position, key), confidence in zip(found, before.tolist()):
      self.texts.setdefault(key, answers.texts[position])
      self.before[key].append(confidence)
      self.after[key].append(float(assessment.confidence_N[position]))


def _first_over_predicted(
  answers: Answers, over_predicted_N: np.ndarray
) -> Iterator[tuple[int, Answer]]:
  """Yields the positions of over-predicted first answers, with (relation, normalised name)."""
  positions: list[int] = np.flatnonzero((answers.rank_N == 1) & over_predicted_N).tolist()
  for position in positions:
    relation = answers.relations[int(answers.query_N[position])]
    yield position, (relation, normalise(answers.texts[position]))


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
