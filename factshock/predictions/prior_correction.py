"""Answer-prior correction: predictions moved back to the answer frequencies of a reference.

p'(o|q) is proportional to p(o|q) (prior_reference(o) / prior(o))^tau within the candidates of q's
relation, where prior(o) is the mean of p(o|q) over the queries of the relation: no labels needed.
(Label shift: Saerens et al. 2002; for prompted models: Zhao et al. 2021, "Calibrate before use".)
A file is gone through twice: first for its numbers and codes (`Rankings`: 8 bytes a candidate, and
some 30 a row), then, row by row, to write it again. Numpy on rows.
"""

import array
import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from factshock.facts.counts import count_of
from factshock.facts.word_frequencies import WordFrequencies
from factshock.predictions import accuracy, overlap, writing
from factshock.predictions.rows import Row, predicts_likeliest, say_unlike
from factshock.runtime.errors import UserError
from factshock.types import Answer

TAUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FLOOR = 1e-9  # the least a prior can be; what is below is counted


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Queries of one relation, with their candidates.

  Attributes:
    names: candidate answers, sorted [C].
    indices: index of each query's row, rising [Q].
    log_p_QxC: log p(candidate | query), natural log, normalised.
  """

  names: list[str]
  indices: Sequence[int]
  log_p_QxC: np.ndarray


Tables: TypeAlias = Mapping[str, Table]  # by relation
Priors: TypeAlias = Mapping[str, np.ndarray]  # relation -> p of its candidates [C]

_ROUNDING = 1e-6  # a log-probability may be above 0 by
ANSWER_COLUMNS = ("prediction", "score", "candidates")
_BLOCK = 1 << 12  # rows that are corrected at a time


class AnswerChange(NamedTuple):
  """Counts of an answer among the predictions, before and after the correction."""

  answer: str
  relation: str
  before: int
  after: int


@dataclasses.dataclass(frozen=True, eq=False)
class Rankings:
  """What the correction needs of the rows of a file [N].

  Attributes:
    tables: the candidates by relation.
    codes: codes of texts, those of other files too.
    subject_N, relation_N, object_N: int32 codes of each query.
    accepted: the object and its aliases, each distinct tuple held once.
    predicted: how often each (relation, answer) is predicted.
  """

  tables: dict[str, Table]
  codes: overlap.Codes
  subject_N: np.ndarray
  relation_N: np.ndarray
  object_N: np.ndarray
  accepted: "list[tuple[str, ...]]"
  predicted: collections.Counter[Answer]

  def __len__(self) -> int:
    return len(self.accepted)

  def subjects(self) -> Iterator[tuple[str, str]]:
    """Yields subject and relation of each row."""
    texts = list(self.codes)
    for subject, relation in zip(self.subject_N.tolist(), self.relation_N.tolist()):
      yield texts[subject], texts[relation]


class Gatherer:
  """Gathers the rankings of rows that are gone through once."""

  def __init__(self, path: str, codes: overlap.Codes | None = None) -> None:
    self._tables = _Tables(path)
    self._codes = overlap.Codes() if codes is None else codes
    self._columns = [array.array("i") for _ in range(3)]
    self._accepted: list[tuple[str, ...]] = []
    self._distinct: dict[tuple[str, ...], tuple[str, ...]] = {}
    self._predicted: collections.Counter[Answer] = collections.Counter()
    self._unlike: list[str] = []  # contexts of rows that predict no likeliest candidate

  def __len__(self) -> int:
    return len(self._accepted)

  def add(self, rows: Iterable[tuple[str, Row]]) -> "Gatherer":
    """Adds rows, each with its context for messages."""
    codes = self._codes
    for context, row in rows:
      self._tables.add(context, row)
      for column, name in zip(self._columns, ("subject", "relation", "object")):
        column.append(codes[row[name]])
      key = (row["object"], *(row.get("aliases") or ()))
      self._accepted.append(self._distinct.setdefault(key, key))
      if not predicts_likeliest(row):
        self._unlike.append(context)
      if "prediction" in row:
        self._predicted[row["relation"], row["prediction"]] += 1
    return self

  def rankings(self) -> Rankings:
    """Returns what was gathered; errors are those of `tables_of`."""
    if self._unlike:
      say_unlike(self._unlike[0], len(self._unlike))
    subject_N, relation_N, object_N = (np.frombuffer(codes, np.int32) for codes in self._columns)
    return Rankings(
      self._tables.tables(),
      self._codes,
      subject_N,
      relation_N,
      object_N,
      self._accepted,
      self._predicted,
    )


def tables_of(rows: Iterable[Row], path: str) -> dict[str, Table]:
  """Returns the table of each relation of rows with candidates, the same ones in all its rows.

  Args:
    rows: rows of a predictions file.
    path: the file, for messages.

  Raises:
    UserError: rows without candidates, or candidates that differ within a relation; says how many
      and how to get them.
  """
  tables = _Tables(path)
  for number, row in enumerate(rows, 1):
    tables.add(f"{path}: row {number}", row)
  return tables.tables()


class _Tables:
  """Collects the tables of rows, and counts the rows that do not fit."""

  def __init__(self, path: str) -> None:
    self._path = path
    self._rows = 0
    self._without = 0
    self._relations: dict[str, _Ranked] = {}

  def add(self, context: str, row: Row) -> None:
    """Adds a row."""
    index = self._rows
    self._rows += 1
    candidates: Any = row.get("candidates")
    if not candidates:
      self._without += 1
      return
    try:
      by_name = dict[str, float](candidates)
      is_possible = max(by_name.values()) > -math.inf and not any(map(math.isnan, by_name.values()))
      ranked = self._relations.get(row["relation"])
      if ranked is None:
        ranked = self._relations[row["relation"]] = _Ranked(sorted(by_name))
      ranked.add(index, by_name, len(candidates))
    except (TypeError, ValueError):
      raise UserError(
        f"{context}: expected candidates as a list of [text, log-probability], got "
        f"{str(candidates)[:80]}"
      ) from None
    if not is_possible:
      raise UserError(
        f"{context}: expected log-probabilities in candidates, one of them finite at least, got "
        f"{str(candidates)[:80]}"
      )

  def tables(self) -> dict[str, Table]:
    """Returns the tables."""
    if self._without:
      raise UserError(
        f"{self._path}: expected candidates in every row, got none in {self._without:,} of "
        f"{self._rows:,}; rank the answers (answer --method=rank) instead of generating them"
      )
    return {
      relation: ranked.table(f"{self._path}: relation {relation!r}")
      for relation, ranked in self._relations.items()
    }


class _Ranked:
  """Rows of one relation: their scores in the order of the candidates' names."""

  def __init__(self, names: list[str]) -> None:
    self._names = names
    self._indices = array.array("i")
    self._scores = array.array("d")
    self._differing = 0

  def add(
    self,
    index: int,
    by_name: Mapping[str, float],
    listed: int,
  ) -> None:
    """Adds a row with so many candidates listed; a TypeError where a score is no number."""
    self._indices.append(index)
    try:
      scores = [by_name[name] for name in self._names]
    except KeyError:
      scores = []
    if listed == len(by_name) == len(scores):
      self._scores.fromlist(scores)
    else:
      self._differing += 1

  def table(self, context: str) -> Table:
    """Returns the table, in the place of the scores."""
    if self._differing:
      raise UserError(
        f"{context}: expected the same candidates in each of {len(self._indices):,} rows, got "
        f"others in {self._differing:,}; write all of them, not the best few (answer --top=0, or "
        "config.answering.top=0)"
      )
    log_p_QxC = np.frombuffer(self._scores).reshape(len(self._indices), len(self._names))
    if log_p_QxC.max(initial=0.0) > _ROUNDING:
      raise UserError(
        f"{context}: expected log-probabilities, at most 0, in candidates, got "
        f"{log_p_QxC.max():g}; are they probabilities? write their natural logarithms"
      )
    log_p_QxC -= _total(log_p_QxC)
    return Table(self._names, self._indices, log_p_QxC)


def priors_of(tables: Tables) -> dict[str, np.ndarray]:
  """Returns the mean of p(candidate | query) over the queries of each relation [C]."""
  priors: dict[str, np.ndarray] = {}
  for relation, table in tables.items():
    p_QxC = np.exp(table.log_p_QxC)
    priors[relation] = p_QxC.mean(axis=0)
  return priors


def _counter(counts: Mapping[Answer, int]) -> Callable[[str, str], int]:
  """Returns what counts an answer of a relation, by the form in which answers are compared.

  wordfreq lists no names and takes any as it is written.
  """
  if isinstance(counts, WordFrequencies):
    return functools.partial(count_of, counts)
  by_form: collections.Counter[Answer] = collections.Counter()
  for (relation, name), count in counts.items():
    by_form[relation, accuracy.normalise(name)] += count
  return lambda relation, name: count_of(by_form, relation, accuracy.normalise(name))


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
  count = _counter(counts)
  for relation, table in tables.items():
    counts_C = [count(relation, name) for name in table.names]
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
  return dict(Corrected(tables, ratios, tau))


class Corrected(Mapping[str, Table]):
  """The tables of `correct`, each made when it is asked for, so that few are held."""

  def __init__(
    self,
    tables: Tables,
    ratios: Priors,
    tau: float,
  ) -> None:
    self._tables = tables
    self._ratios = ratios
    self._tau = tau

  def __getitem__(self, relation: str) -> Table:
    return self.part(relation, self._tables[relation])

  def __iter__(self) -> Iterator[str]:
    return iter(self._tables)

  def __len__(self) -> int:
    return len(self._tables)

  def part(self, relation: str, table: Table) -> Table:
    """Returns the corrected table of some queries of a relation."""
    log_p_QxC = table.log_p_QxC + self._tau * self._ratios[relation]
    log_p_QxC -= _total(log_p_QxC)
    return dataclasses.replace(table, log_p_QxC=log_p_QxC)

  def predicted(self) -> collections.Counter[Answer]:
    """Returns how often each (relation, answer) is predicted, as `corrected_rows` has it."""
    counter: collections.Counter[Answer] = collections.Counter()
    for relation, table in self.items():
      best_Q = writing.rounded(table.log_p_QxC).argmax(axis=1)
      counts: list[int] = np.bincount(best_Q, minlength=len(table.names)).tolist()
      counter.update({(relation, name): count for name, count in zip(table.names, counts) if count})
    return counter

  def rows(
    self,
    again: Iterable[Row],
    path: str,
  ) -> Iterator[Row]:
    """Yields the corrected rows of the rows that the tables were made of, gone through again.

    Args:
      again: the rows, in their order.
      path: the file, for the message.

    Raises:
      UserError: they are not those of the tables.
    """
    rows = iter(again)
    done: collections.Counter[str] = collections.Counter()
    while block := list(itertools.islice(rows, _BLOCK)):
      yield from corrected_rows(self._block(block, done, path), block)
    if any(done[relation] < len(table.indices) for relation, table in self._tables.items()):
      raise _changed(path)

  def _block(
    self,
    block: Sequence[Row],
    done: collections.Counter[str],
    path: str,
  ) -> dict[str, Table]:
    """Returns the corrected tables of some rows; counts the queries of each relation in `done`."""
    places: dict[str, list[int]] = collections.defaultdict(list)
    for place, row in enumerate(block):
      places[row["relation"]].append(place)
    tables: dict[str, Table] = {}
    for relation, indices in places.items():
      first = done[relation]
      done[relation] += len(indices)
      whole = self._tables.get(relation)
      if whole is None or len(whole.indices) < done[relation]:
        raise _changed(path)
      log_p_QxC = whole.log_p_QxC[first : done[relation]]
      tables[relation] = self.part(relation, Table(whole.names, indices, log_p_QxC))
    return tables


def _changed(path: str) -> UserError:
  return UserError(f"{path}: expected the rows read before, got others; is it being written?")


def share_right(tables: Tables, accepted: Sequence[Sequence[str]]) -> float:
  """Returns the share of rows whose likeliest candidate is the object or an alias.

  By exact match, as diagnose has it.

  Args:
    tables: the candidates.
    accepted: the object and its aliases of each row.
  """
  right = 0.0
  for table in tables.values():
    best_Q: list[int] = table.log_p_QxC.argmax(axis=1).tolist()
    for index, best in zip(table.indices, best_Q):
      scores = accuracy.score(table.names[best], accepted[index])
      right += scores.exact_match
  return right / len(accepted)


def choose_tau(
  tables: Tables,
  accepted: Sequence[Sequence[str]],
  ratios: Priors,
  taus: Iterable[float] = TAUS,
) -> tuple[float, list[tuple[float, float]]]:
  """Chooses the tau with the most development rows right; of equals the nearest to 1, the smaller.

  Args:
    tables: of the development rows.
    accepted: the object and its aliases of each of these.
    ratios: logs of ratios, as from `log_ratios`.
    taus: the values tried.

  Returns:
    (tau, [(tau, share right)]).
  """
  curve: list[tuple[float, float]] = []
  for tau in taus:
    curve.append((tau, share_right(Corrected(tables, ratios, tau), accepted)))
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
  before: collections.Counter[Answer],
  after: collections.Counter[Answer],
  most: int = 5,
) -> tuple[list[AnswerChange], list[AnswerChange]]:
  """Returns the answers that gained most and those that lost most, by how often they are predicted.

  Args:
    before: how often each (relation, answer) was predicted before the correction.
    after: the same after it.
    most: how many of each are returned.
  """
  changes: list[AnswerChange] = []
  for relation, answer in before | after:
    key = relation, answer
    changes.append(AnswerChange(answer, relation, before[key], after[key]))
  changes.sort(key=_most_gained_first)
  gained = [change for change in changes if change.after > change.before]
  lost = [change for change in changes if change.after < change.before]
  lost.reverse()
  return gained[:most], lost[:most]


def _most_gained_first(change: AnswerChange) -> tuple[int, str, str]:
  loss = change.before - change.after
  return loss, change.relation, change.answer


def check_same_queries(
  rankings: Rankings,
  path: str,
  others: Rankings,
  other_path: str,
) -> None:
  """Checks that two files hold the same queries; their codes must be of one kind.

  Raises:
    UserError: they do not; says how many differ.
  """
  subject_N, relation_N, object_N = (
    np.concatenate([getattr(one, name) for one in (rankings, others)]).astype(np.int64)
    for name in ("subject_N", "relation_N", "object_N")
  )
  answers, answer_N = np.unique(relation_N * len(rankings.codes) + object_N, return_inverse=True)
  _, key_N = np.unique(subject_N * len(answers) + answer_N, return_inverse=True)
  count = int(key_N.max(initial=-1)) + 1
  own, other = (
    np.bincount(keys, minlength=count) for keys in (key_N[: len(rankings)], key_N[len(rankings) :])
  )
  missing = int(np.maximum(own - other, 0).sum())
  extra = int(np.maximum(other - own, 0).sum())
  if missing or extra:
    raise UserError(
      f"{other_path}: expected the queries of {path}, got {missing:,} of its {len(rankings):,} "
      f"missing and {extra:,} others; ask both models the same facts"
    )


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
  subjects: Iterable[tuple[str, str]],
  path: str,
  others: Iterable[tuple[str, str]],
  other_path: str,
) -> None:
  """Checks that two sets share no (subject, relation): one must not tell about the other.

  Raises:
    UserError: they share some; says how many.
  """
  shared = set(others).intersection(subjects)
  if shared:
    raise UserError(
      f"{other_path}: expected subjects that are not asked about in {path}, got {len(shared):,} "
      f"shared, such as {min(shared)[0]!r}; what is chosen on them would be chosen on the test"
    )


def _total(scores_QxC: np.ndarray) -> np.ndarray:
  """Returns the logarithm of the sum of each query's probabilities [Q, 1]."""
  return np.logaddexp.reduce(scores_QxC, axis=1, keepdims=True)
