"""Candidate answers of queries: read from a predictions file, names of one answer merged.

A query is a subject and a relation; it may have several right answers, one or none. Rows of a
predictions file with the same subject and relation are one query, and their objects its right
answers.
"""

import array
import collections
import dataclasses
import itertools
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload

import numpy as np

from factshock.predictions import overlap, plain
from factshock.predictions import rows as prediction_rows
from factshock.predictions.accuracy import normalise
from factshock.predictions.foreign import NO_RELATION
from factshock.predictions.rows import Row
from factshock.runtime import messages
from factshock.runtime.errors import UserError

LISTED = 10  # candidates of a query that are kept, best first
_PART = 1 << 18  # candidates that are gone through at a time

Query: TypeAlias = tuple[str, str]  # subject and relation
Gold: TypeAlias = tuple[str, ...]  # normalised names of a right answer, its label's first
ByRelation: TypeAlias = Mapping[tuple[str, str], str]  # (relation, name of an answer) -> text
_Candidate: TypeAlias = tuple[str, float]  # text and log-probability

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Names:
  """Names and ids of answers.

  Attributes:
    labels: label of each (relation, normalised name).
    ids: id of each (relation, label).
  """

  labels: ByRelation = dataclasses.field(default_factory=dict[Any, str])
  ids: ByRelation = dataclasses.field(default_factory=dict[Any, str])


class Texts(Sequence[str]):
  """Texts of which each distinct one is held once: 4 bytes a text beside these.

  Attributes:
    names: the distinct texts.
    code_N: int32 indices into them.
  """

  def __init__(self, names: list[str], code_N: np.ndarray) -> None:
    self.names = names
    self.code_N = code_N

  @classmethod
  def of(cls, texts: Iterable[str]) -> "Texts":
    """Returns texts so held; those that are so already as they are."""
    if isinstance(texts, Texts):
      return texts
    codes = overlap.Codes()
    code_N = np.array([codes[text] for text in texts], np.int32)
    return cls(list(codes), code_N)

  def __len__(self) -> int:
    return len(self.code_N)

  @overload
  def __getitem__(self, place: int) -> str: ...

  @overload
  def __getitem__(self, place: slice) -> "Texts": ...

  def __getitem__(self, place: "int | slice") -> "str | Texts":
    if isinstance(place, slice):
      return Texts(self.names, self.code_N[place])
    return self.names[int(self.code_N[place])]

  def __iter__(self) -> Iterator[str]:
    for first in range(0, len(self), _PART):
      codes: list[int] = self.code_N[first : first + _PART].tolist()
      yield from map(self.names.__getitem__, codes)

  def where(self, wanted_N: np.ndarray) -> "Texts":
    """Returns the texts that are wanted (bool [N])."""
    return Texts(self.names, self.code_N[wanted_N])

  def take(self, places: np.ndarray) -> list[str]:
    """Returns the texts at some places."""
    codes: list[int] = self.code_N[places].tolist()
    return list(map(self.names.__getitem__, codes))


@dataclasses.dataclass(frozen=True)
class Answers:
  """Candidates of queries, best first within a query: columns [Q] of queries, [N] of candidates.

  Attributes:
    subjects: texts [Q].
    relations: texts [Q].
    subject_ids: texts or None [Q].
    golds: right answers of each query; None where nothing is known [Q].
    query_N: index of the query, int32, never falling.
    texts: the answers [N].
    rank_N: place among the query's candidates, from 1, int16.
    score_N: log-probabilities, float64; of a query with several candidates their probabilities add
      up to at most 1.
  """

  subjects: Sequence[str]
  relations: Sequence[str]
  subject_ids: list[str | None]
  golds: list[list[Gold] | None]
  query_N: np.ndarray
  texts: Sequence[str]
  rank_N: np.ndarray
  score_N: np.ndarray

  def parts(self) -> Iterator[slice]:
    """Yields the places of some candidates at a time, all those of a query together."""
    first = 0
    while first < len(self.query_N):
      last = min(first + _PART, len(self.query_N)) - 1
      end = int(self.ends(self.query_N[[last]])[0])
      yield slice(first, end)
      first = end

  def ends(self, query_K: np.ndarray) -> np.ndarray:
    """Returns how many candidates some queries and all before them have [K]."""
    return np.searchsorted(self.query_N, query_K.astype(self.query_N.dtype), "right")

  def right_answers(self, query: int) -> list[Gold]:
    """Returns the right answers of a query; none where nothing is known."""
    return self.golds[query] or []

  def of_queries(self, values_Q: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Returns for each candidate the value of its query [N]."""
    return np.asarray(values_Q)[self.query_N]

  def subject_codes(self) -> np.ndarray:
    """Returns a number for each query's subject, int64 [Q], equal for equal subjects."""
    distinct = dict.fromkeys(self.subjects)
    codes = {name: code for code, name in enumerate(distinct)}
    codes_Q = [codes[name] for name in self.subjects]
    return np.array(codes_Q, np.int64)

  def queries(self) -> Iterator[Query]:
    """Returns subject and relation of each query."""
    return zip(self.subjects, self.relations)


def collect_names(facts: Iterable[Mapping[str, Any]]) -> Names:
  """Collects the names of the answers of facts.

  Each answer goes by the object's label under which it came first. A name of two answers is taken
  for neither.

  Args:
    facts: rows with relation, object, and where known aliases and object_id. A wrong value is
      passed over: the row is checked where it is read as an answer.
  """
  labels: dict[tuple[str, str], str] = {}
  ids: dict[tuple[str, str], str] = {}
  shared: set[tuple[str, str]] = set()
  for fact in facts:
    relation = fact["relation"]
    given = fact.get("object")
    if not isinstance(given, str) or not given:
      continue
    label = labels.get((relation, normalise(given)), given)
    for name in (label, given, *_aliases(fact)):
      key = relation, normalise(name)
      known = labels.setdefault(key, label)
      if known != label and key[1] != normalise(known):
        shared.add(key)
    if fact.get("object_id"):
      ids.setdefault((relation, label), fact["object_id"])
  for key in shared:
    del labels[key]
  return Names(labels, ids)


def _aliases(fact: Mapping[str, Any]) -> list[str]:
  """Returns the aliases of a fact that are texts."""
  aliases: Any = fact.get("aliases")
  if not isinstance(aliases, list):
    return []
  values = cast(list[Any], aliases)
  return [value for value in values if _is_text(value)]


def read(
  path: str,
  names: Names | None = None,
  labelled: bool = False,
  only: Collection[Query] | None = None,
  columns: Mapping[str, str] | None = None,
  left_out: set[Query] | None = None,
) -> Answers:
  """Reads the answers in a predictions file.

  What is held of a row are its numbers and codes (`Answers`); each distinct text is held once.

  Args:
    path: the predictions file.
    names: names by which answers are merged; None: each has one name.
    labelled: each row must say what is right (`object`; null: there is no answer).
    only: the queries that are wanted; None: all.
    columns: our names of columns -> the file's, where they differ.
    left_out: gets the queries that are not wanted.

  Raises:
    UserError: rows that are no predictions, without score, with a score above 0 or NaN, or two
      answers to one query.
  """
  builder = _Builder(names or Names(), labelled)
  required = ("subject", "relation", "prediction")
  for context, row in prediction_rows.read_rows(path, required, columns):
    query = _query(context, row)
    if only is None or query in only:
      builder.add(context, row, query)
    elif left_out is not None:
      left_out.add(query)
  builder.check_scored()
  builder.say_what_is_odd()
  if not builder.sizes:
    of_queries = " of the queries" if only is not None else ""
    raise UserError(f"{path}: expected predictions, a JSON object a line, got no rows{of_queries}")
  return builder.answers()


class _Builder:
  """Collects the answers of rows, query by query."""

  def __init__(self, names: Names, labelled: bool) -> None:
    self.names = names
    self.labelled = labelled
    # Index of each query by the codes of its relation and its subject.
    self.indices: dict[int, dict[int, int]] = collections.defaultdict(dict)
    self.subjects = _Coded()
    self.relations = _Coded()
    self.first_sizes = array.array("i")  # outlines of each query's first row
    self.first_bests = array.array("d")
    self.subject_ids: list[str | None] = []
    self.golds: list[list[Gold] | None] = []
    self.sizes = array.array("i")  # how many candidates of each query are kept
    self.texts = _Coded()
    self.score_N = array.array("d")
    self.unscored: list[str] = []  # contexts of the rows without a score
    self.repeated: list[str] = []  # contexts of rows that say again what one before says
    self.unlike: list[str] = []  # contexts of rows whose prediction is not their likeliest answer
    self._ids: dict[str, str] = {}  # each distinct id of a subject
    self._lists: dict[Gold, list[Gold]] = {}  # of each distinct right answer the list of it alone

  def add(
    self,
    context: str,
    row: Row,
    query: Query,
  ) -> None:
    """Adds a row's answer; of a further row of a query its right answer alone."""
    candidates = _candidates(context, row)
    if candidates is None:
      self.unscored.append(context)
      return
    if not prediction_rows.predicts_likeliest(row):
      self.unlike.append(context)
    has_gold = self.labelled or bool(row.get("object"))
    gold = _gold(context, row, self.names) if has_gold else None
    subject, relation = query
    subject_code = self.subjects.codes[subject]
    of_relation = self.indices[self.relations.codes[relation]]
    known = of_relation.get(subject_code)
    if known is not None:
      self._add_gold(context, query, known, candidates, gold)
      return
    of_relation[subject_code] = len(self.sizes)
    self._add_query(query, row, candidates, self._listed(gold) if has_gold else None)

  def _add_query(
    self,
    query: Query,
    row: Row,
    candidates: list[_Candidate],
    golds: list[Gold] | None,
  ) -> None:
    """Adds a query that was not there before, by its first row."""
    subject, relation = query
    self.subjects.add(subject)
    self.relations.add(relation)
    size, best = _outline(candidates)
    self.first_sizes.append(size)
    self.first_bests.append(best)
    self.subject_ids.append(self._id_of(row))
    self.golds.append(golds)
    texts, scores = _merge_names(relation, candidates, self.names)
    self.sizes.append(min(len(texts), LISTED))
    self.texts.extend(texts[:LISTED])
    self.score_N.extend(scores[:LISTED])

  def _id_of(self, row: Row) -> Any:
    """Returns a row's id of the subject, the same text for the same one."""
    subject_id = row.get("subject_id")
    return self._ids.setdefault(subject_id, subject_id) if type(subject_id) is str else subject_id

  def _listed(self, gold: Gold | None) -> list[Gold]:
    """Returns the list of a right answer alone, the same one for the same answer."""
    return self._lists.setdefault(gold, [gold]) if gold else []

  def _add_gold(
    self,
    context: str,
    query: Query,
    index: int,
    candidates: list[_Candidate],
    gold: Gold | None,
  ) -> None:
    """Adds a right answer to a query that was there before."""
    first_row = _Outline(self.first_sizes[index], self.first_bests[index])
    if not _is_same_answer(first_row, _outline(candidates)):
      raise UserError(
        f"{context}: expected one answer to a query, got another one for {query} than before; give "
        "the predictions of one model (one arm, one seed) in a file"
      )
    golds = self.golds[index]
    if gold and golds is not None:
      if any(gold[0] in other for other in golds):
        self.repeated.append(context)
      else:
        self.golds[index] = [*golds, gold]  # other queries may have the same list

  def say_what_is_odd(self) -> None:
    """Prints how many rows are repeated, and how many predict another answer than they list."""
    if self.repeated:
      messages.say(
        f"  {self.repeated[0]}: says again what a row before says, as {len(self.repeated):,} rows "
        "do; counted once"
      )
    if self.unlike:
      prediction_rows.say_unlike(self.unlike[0], len(self.unlike))

  def check_scored(self) -> None:
    """Raises a UserError where rows had no score."""
    if self.unscored:
      total = len(self.unscored) + len(self.sizes)
      raise UserError(
        f"{self.unscored[0]}: expected a score or candidates with scores in every row, got none in "
        f"{len(self.unscored):,} of {total:,}; confidence cannot be had without: write the "
        "log-probability of each prediction"
      )

  def answers(self) -> Answers:
    """Returns what was collected."""
    size_Q = np.frombuffer(self.sizes, np.int32)
    count = int(size_Q.sum(dtype=np.int64))
    first_Q = np.cumsum(size_Q, dtype=np.int32) - size_Q
    place_N = np.arange(1, count + 1, dtype=np.int32)
    place_N -= np.repeat(first_Q, size_Q)
    return Answers(
      self.subjects.texts(),
      self.relations.texts(),
      self.subject_ids,
      self.golds,
      np.repeat(np.arange(len(size_Q), dtype=np.int32), size_Q),
      self.texts.texts(),
      place_N.astype(np.int16),
      np.frombuffer(self.score_N, np.float64),
    )


class _Coded:
  """Collects texts as codes of the distinct ones."""

  def __init__(self) -> None:
    self.codes = overlap.Codes()
    self._codes_N = array.array("i")

  def add(self, text: str) -> None:
    """Adds a text."""
    self._codes_N.append(self.codes[text])

  def extend(self, texts: Iterable[str]) -> None:
    """Adds texts."""
    self._codes_N.extend(map(self.codes.__getitem__, texts))

  def texts(self) -> Texts:
    """Returns what was collected."""
    return Texts(list(self.codes), np.frombuffer(self._codes_N, np.int32))


def is_right(answers: Answers) -> np.ndarray:
  """Returns whether each candidate is an accepted answer of its query, bool [N].

  Of two names of one answer the better ranked counts.
  """
  right_N = np.zeros(len(answers.texts), bool)
  met: set[tuple[int, int]] = set()  # query and index of the right answer
  queries: list[int] = answers.query_N.tolist()
  for position, (query, text) in enumerate(zip(queries, answers.texts)):
    name = normalise(text)
    for index, gold in enumerate(answers.right_answers(query)):
      if name in gold and (query, index) not in met:
        met.add((query, index))
        right_N[position] = True
        break
  return right_N


def take(answers: Answers, wanted_Q: np.ndarray) -> Answers:
  """Returns the answers of some queries, in their order.

  Args:
    answers: of all queries.
    wanted_Q: whether each query is wanted, bool [Q].
  """
  new_index_Q = np.cumsum(wanted_Q) - 1
  wanted_N = wanted_Q[answers.query_N]
  return Answers(
    Texts.of(answers.subjects).where(wanted_Q),
    Texts.of(answers.relations).where(wanted_Q),
    _wanted(answers.subject_ids, wanted_Q),
    _wanted(answers.golds, wanted_Q),
    new_index_Q[answers.query_N[wanted_N]],
    Texts.of(answers.texts).where(wanted_N),
    answers.rank_N[wanted_N],
    answers.score_N[wanted_N],
  )


def _wanted(values: Sequence[T], wanted_Q: np.ndarray) -> list[T]:
  """Returns the values of the wanted queries."""
  return [value for value, wanted in zip(values, wanted_Q.tolist()) if wanted]


def check_separate_queries(
  calibration: Iterable[Query],
  others: Iterable[Query],
  kind: str,
) -> None:
  """Checks that calibration queries are not among others.

  Confidence would be judged by what the model was finetuned on, or by what it is asked.

  Args:
    calibration: the calibration queries.
    others: other queries.
    kind: what the others are, for the message.

  Raises:
    UserError: some are.
  """
  queries = set(calibration)
  shared = queries.intersection(others)
  if shared:
    raise UserError(
      f"calibration: expected queries apart from the {kind}, got {len(shared):,} of "
      f"{len(queries):,} shared, such as {min(shared)}; take them out of the calibration file"
    )


def queries_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[Query]:
  """Yields subject and relation of rows."""
  for row in rows:
    yield row["subject"], row["relation"]


def _query(context: str, row: Row) -> Query:
  """Returns subject and relation of a row."""
  for name in ("subject", "relation"):
    value = row.get(name)
    if not isinstance(value, str) or not value.strip() or value == NO_RELATION:
      raise UserError(f"{context}: expected a non-empty text in `{name}`, got {value!r}")
  return row["subject"], row["relation"]


def _gold(
  context: str,
  row: Row,
  names: Names,
) -> Gold:
  """Returns a row's right answer; () where it says that there is none."""
  if "object" not in row:
    raise UserError(
      f"{context}: expected `object`, the right answer (null where there is none), "
      f"got only {', '.join(row)}"
    )
  label = row["object"]
  if label is None:
    return ()
  aliases: Any = row.get("aliases") or []
  if not _is_text(label) or not _is_list_of_texts(aliases):
    raise UserError(
      f"{context}: expected a text in `object` and a list of texts in `aliases`, got {label!r} and "
      f"{aliases!r}"
    )
  normalised = [normalise(text) for text in (label, *aliases)]
  key = row["relation"], normalised[0]
  merged_label = names.labels.get(key, label)
  return tuple(dict.fromkeys([normalise(merged_label), *normalised]))


def _is_list_of_texts(value: Any) -> bool:
  """Returns whether a value is a list of texts that are not empty."""
  if not isinstance(value, list):
    return False
  items = cast(list[Any], value)
  return all(map(_is_text, items))


def _is_text(value: Any) -> bool:
  """Returns whether a value is a text that is not empty."""
  return isinstance(value, str) and value != ""


def _candidates(context: str, row: Row) -> list[_Candidate] | None:
  """Returns the candidates of a row; None where it gives no score."""
  listed: Any = row.get("candidates")
  if listed is None:
    if row.get("score") is None:
      return None
    listed = [[row.get("prediction"), row["score"]]]
  try:
    pairs: list[tuple[Any, float]] = [(text, float(score)) for text, score in listed]
  except (TypeError, ValueError):
    raise UserError(
      f"{context}: expected candidates as [text, log-probability], got {str(listed)[:80]}"
    ) from None
  if not all(isinstance(text, str) and score <= plain.ROUNDING for text, score in pairs):
    raise _wrong_pair(context, pairs)
  # A probability of 0 is that of no answer.
  return [pair for pair in pairs if pair[1] > -math.inf]


def _wrong_pair(context: str, pairs: Iterable[tuple[Any, float]]) -> UserError:
  """Returns what is wrong with the first of some candidates that is none."""
  text, score = next(
    (text, score)
    for text, score in pairs
    if not (isinstance(text, str) and score <= plain.ROUNDING)  # NaN is not
  )
  if not isinstance(text, str):
    return UserError(f"{context}: expected a text in `prediction` and candidates, got {text!r}")
  return UserError(
    f"{context}: expected log-probabilities, at most 0, as scores, got {score!r} for {text!r}; "
    "take the logarithm of a probability"
  )


class _Outline(NamedTuple):
  """Number of candidates of a row, and the greatest log-probability; 0 where there is none."""

  size: int
  best: float


def _outline(candidates: list[_Candidate]) -> _Outline:
  """Returns what a row's candidates are compared by."""
  return _Outline(len(candidates), max([score for _, score in candidates], default=0.0))


def _is_same_answer(row: _Outline, other: _Outline) -> bool:
  """Returns whether two rows are one model's answer to one query.

  They are equal but for the rounding of another batch, which may exchange near ties.
  """
  if row == other:
    return True
  difference = abs(row.best - other.best)
  return row.size == other.size and difference <= 1e-3 * max(1.0, abs(row.best))


def _merge_names(
  relation: str,
  candidates: list[_Candidate],
  names: Names,
) -> tuple[list[str], list[float]]:
  """Returns the texts and log-probabilities of candidates with one name each, best first.

  Probabilities of names of one answer are added up; those of several answers are normalised. What
  has an empty name is left out.
  """
  keys, texts, scores = _named(relation, candidates, names)
  if len(set(keys)) < len(keys):
    texts, scores = _add_up(keys, texts, scores)
  if len(candidates) > 1 and scores:
    total = _log_sum(scores)
    scores = [score - total for score in scores]
  if not all(map(operator.gt, scores, scores[1:])):  # they nearly always are
    merged = sorted(zip(texts, scores), key=_best_first)
    texts = [text for text, _ in merged]
    scores = [score for _, score in merged]
  return texts, scores


def _named(
  relation: str,
  candidates: list[_Candidate],
  names: Names,
) -> tuple[list[str], list[str], list[float]]:
  """Returns normalised labels, labels and log-probabilities of candidates that are not empty."""
  texts = [text for text, _ in candidates]
  keys = list(map(normalise, texts))
  if "" in keys:
    return _named(relation, [pair for pair, key in zip(candidates, keys) if key], names)
  labels = list(map(names.labels.get, zip(itertools.repeat(relation), keys)))
  if any(labels):
    texts = [label or text for label, text in zip(labels, texts)]
    keys = [normalise(label) if label else key for label, key in zip(labels, keys)]
  return keys, texts, [score for _, score in candidates]


def _add_up(
  keys: Sequence[str],
  texts: Sequence[str],
  scores: Sequence[float],
) -> tuple[list[str], list[float]]:
  """Returns the texts and log-probabilities of candidates, those of one key as one."""
  sums: dict[str, _Candidate] = {}
  for key, text, score in zip(keys, texts, scores):
    if key in sums:
      first_text, before = sums[key]
      both = np.logaddexp(before, score)
      sums[key] = first_text, float(both)
    else:
      sums[key] = text, score
  return [text for text, _ in sums.values()], [score for _, score in sums.values()]


def _best_first(candidate: _Candidate) -> tuple[float, str]:
  """Returns the sorting key of candidates: the best first, ties by their texts."""
  text, score = candidate
  return -score, text


def _log_sum(scores: Sequence[float]) -> float:
  """Returns the logarithm of a sum of probabilities, of their logarithms."""
  greatest = max(scores)
  total = sum([math.exp(score - greatest) for score in scores])
  return math.log(total) + greatest
