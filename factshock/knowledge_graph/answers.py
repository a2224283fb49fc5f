"""What a model answered, as candidates of queries: read from a predictions file, names of one answer merged.

A query is a subject and a relation; it may have several right answers, one or none. Rows of a predictions file with the same subject
and relation are one query, and their objects its right answers.
"""

import math
from typing import NamedTuple

import numpy as np

from factshock.predictions import accuracy, rows
from factshock.runtime.errors import UserError

LISTED = 10  # candidates of a query that are kept, best first
_QUERY = ("subject_id", "subject")  # columns of a query that go with it into the graph


class Names(NamedTuple):
  """What answers are called: the label of each (relation, normalised name), and the ids of labels."""

  labels: dict  # (relation, name) -> label
  ids: dict  # (relation, label) -> id


class Answers(NamedTuple):
  """Candidates of queries, best first within a query; arrays [N] over candidates, lists [Q] over queries.

  Attributes:
    subjects, relations: texts [Q]. subject_ids: texts or None [Q].
    golds: for each query the list of its right answers, each a tuple of normalised names, its label's first; None where nothing is known.
    query_N: int64, never falling. texts: list [N] of answers. rank_N: from 1.
    score_N: float64, log-probabilities; of a query with several candidates their probabilities add up to at most 1.
  """

  subjects: list
  relations: list
  subject_ids: list
  golds: list
  query_N: np.ndarray
  texts: list
  rank_N: np.ndarray
  score_N: np.ndarray


def names_of(many):
  """Names of the answers of facts: each goes by the object's label under which it came first; a name of two answers is nobody's."""
  labels = {}
  ids = {}
  shared = set()
  for fact in many:
    relation = fact["relation"]
    label = fact.get("object")
    if (
      not isinstance(label, str) or not label
    ):  # what is wrong with a row is said where it is read as an answer
      continue
    label = labels.get((relation, accuracy.normalise(label)), label)
    aliases = fact.get("aliases")
    for name in (
      label,
      fact["object"],
      *(filter(_is_text, aliases) if isinstance(aliases, list) else ()),
    ):
      key = relation, accuracy.normalise(name)
      if labels.setdefault(key, label) != label and key[1] != accuracy.normalise(labels[key]):
        shared.add(key)
    if fact.get("object_id"):
      ids.setdefault((relation, label), fact["object_id"])
  return Names({key: label for key, label in labels.items() if key not in shared}, ids)


def read(path, names=Names({}, {}), labelled=False, only=None):
  """The Answers in a predictions file.

  Args:
    names: how answers are called. labelled: whether each row must say what is right (`object`; null: there is no answer).
    only: set of (subject, relation) that are wanted, or None: all.

  Raises:
    UserError: rows that are no predictions, without score, with a score above 0 or NaN, or two answers to one query.
  """
  found = Answers([], [], [], [], [], [], [], [])
  places = {}
  unscored = 0
  first_unscored = None
  for where, row in rows.read_rows(path, ("subject", "relation", "prediction")):
    key = _key(where, row)
    if only is not None and key not in only:
      continue
    listed = _listed(where, row)
    if listed is None:
      unscored = unscored + 1
      first_unscored = first_unscored or where
      continue
    gold = _gold(where, row, names) if labelled or row.get("object") else None
    if key in places:
      place, before = places[key]
      if not _same(before, listed):
        raise UserError(
          f"{where}: expected one answer to a query, got another one for {key} than before; give the predictions of one "
          "model (one arm, one seed) in a file"
        )
      if gold and found.golds[place] is not None:
        found.golds[place].append(gold)
      continue
    places[key] = len(places), listed
    _add(found, len(places) - 1, row, key, gold, labelled or gold is not None, listed, names)
  if unscored:
    raise UserError(
      f"{first_unscored}: expected a score or candidates with scores in every row, got none in {unscored:,} of "
      f"{unscored + len(places):,}; confidence cannot be had without: write the log-probability of each prediction"
    )
  if not places:
    raise UserError(
      f"{path}: expected predictions, a JSON object a line, got no rows"
      + (" of the queries" if only is not None else "")
    )
  return found._replace(
    query_N=np.array(found.query_N, np.int64),
    rank_N=np.array(found.rank_N, np.int64),
    score_N=np.array(found.score_N, np.float64),
  )


def right(answers):
  """Whether each candidate is an accepted answer of its query: bool [N]. Two names of one answer do not count twice."""
  found = np.zeros(len(answers.texts), bool)
  met = set()
  for place, (query, text) in enumerate(zip(answers.query_N.tolist(), answers.texts)):
    name = accuracy.normalise(text)
    for number, gold in enumerate(answers.golds[query] or ()):
      if name in gold and (query, number) not in met:
        met.add((query, number))
        found[place] = True
        break
  return found


def take(answers, wanted_Q):
  """The Answers of some queries (bool [Q]), in their order."""
  number_Q = np.cumsum(wanted_Q) - 1
  inside_N = wanted_Q[answers.query_N]
  some = lambda values: [value for value, wanted in zip(values, wanted_Q.tolist()) if wanted]
  return Answers(
    *map(some, answers[:4]),
    number_Q[answers.query_N[inside_N]],
    [answers.texts[place] for place in np.flatnonzero(inside_N).tolist()],
    answers.rank_N[inside_N],
    answers.score_N[inside_N],
  )


def subject_numbers(answers):
  """A number for each query's subject, int64 [Q], equal for equal subjects."""
  number = {name: i for i, name in enumerate(dict.fromkeys(answers.subjects))}
  return np.array([number[name] for name in answers.subjects], np.int64)


def rows_of(answers):
  """[{subject, relation}] of the queries."""
  return [
    {"subject": subject, "relation": relation}
    for subject, relation in zip(answers.subjects, answers.relations)
  ]


def check_apart(known, others, what):
  """Raises a UserError where calibration queries are asked about, or were finetuned on: confidence would be judged by what was learnt.

  Args:
    known, others: rows with subject and relation. what: what the others are.
  """
  queries = {(row["subject"], row["relation"]) for row in known}
  shared = queries & {(row["subject"], row["relation"]) for row in others}
  if shared:
    raise UserError(
      f"calibration: expected queries apart from the {what}, got {len(shared):,} of {len(queries):,} shared, such as "
      f"{min(shared)}; take them out of the calibration file"
    )


def _key(where, row):
  for name in ("subject", "relation"):
    if not isinstance(row.get(name), str) or not row[name].strip():
      raise UserError(f"{where}: expected a non-empty text in `{name}`, got {row.get(name)!r}")
  return row["subject"], row["relation"]


def _gold(where, row, names):
  """The normalised names of a row's right answer, its label's first; none where it says that there is none."""
  if "object" not in row:
    raise UserError(
      f"{where}: expected `object`, the right answer (null where there is none), got only {', '.join(row)}"
    )
  if row["object"] is None:
    return ()
  aliases = row.get("aliases") or []
  if (
    not _is_text(row["object"]) or not isinstance(aliases, list) or not all(map(_is_text, aliases))
  ):
    raise UserError(
      f"{where}: expected a text in `object` and a list of texts in `aliases`, got {row['object']!r} and {aliases!r}"
    )
  texts = [row["object"], *aliases]
  found = list(map(accuracy.normalise, texts))
  return tuple(
    dict.fromkeys(
      [accuracy.normalise(names.labels.get((row["relation"], found[0]), row["object"])), *found]
    )
  )


def _is_text(value):
  return isinstance(value, str) and value != ""


def _listed(where, row):
  """[(text, log-probability)] of a row; None where it gives no score."""
  listed = row.get("candidates")
  if listed is None:
    if row.get("score") is None:
      return None
    listed = [[row.get("prediction"), row["score"]]]
  try:
    pairs = [(text, float(score)) for text, score in listed]
  except (TypeError, ValueError):
    raise UserError(
      f"{where}: expected candidates as [text, log-probability], got {str(listed)[:80]}"
    ) from None
  for text, score in pairs:
    if not isinstance(text, str):
      raise UserError(f"{where}: expected a text in `prediction` and candidates, got {text!r}")
    if not score <= 1e-6 or math.isnan(score):
      raise UserError(
        f"{where}: expected log-probabilities, at most 0, as scores, got {score!r} for {text!r}; take the logarithm of a "
        "probability"
      )
  return pairs


def _same(one, other):
  """Whether two rows are one model's answer to one query: equal but for the rounding of another batch, which may exchange near ties."""
  scores = [max((score for _, score in listed), default=0.0) for listed in (one, other)]
  return (
    one == other
    or len(one) == len(other)
    and abs(scores[0] - scores[1]) <= 1e-3 * max(1.0, abs(scores[0]))
  )


def _add(found, query, row, key, gold, known, listed, names):
  found.subjects.append(key[0])
  found.relations.append(key[1])
  found.subject_ids.append(row.get("subject_id"))
  found.golds.append(([gold] if gold else []) if known else None)
  for rank, (text, score) in enumerate(_merged(key[1], listed, names)[:LISTED], 1):
    found.query_N.append(query)
    found.texts.append(text)
    found.rank_N.append(rank)
    found.score_N.append(score)


def _merged(relation, listed, names):
  """Candidates with one name each, best first; probabilities of names of one answer are added up, those of several answers shared out."""
  sums = {}
  for text, score in listed:
    name = accuracy.normalise(text)
    if name:  # nothing said is no answer
      label = names.labels.get((relation, name))
      key = name if label is None else accuracy.normalise(label)
      before = sums.get(key)
      sums[key] = (
        (label or text, score)
        if before is None
        else (before[0], float(np.logaddexp(before[1], score)))
      )
  if len(listed) > 1 and sums:
    total = math.log(
      sum(math.exp(score - max(s for _, s in sums.values())) for _, score in sums.values())
    ) + max(s for _, s in sums.values())
    sums = {key: (text, score - total) for key, (text, score) in sums.items()}
  return sorted(sums.values(), key=lambda pair: (-pair[1], pair[0]))
