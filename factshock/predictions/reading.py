"""Reads predictions files into columns of integer codes; every row is checked on the way."""

import array
import dataclasses
import json
import math
import operator
import os

import numpy as np

from factshock.predictions import accuracy, harness_samples
from factshock.runtime import files
from factshock.runtime.errors import UserError

TEXT_COLUMNS = ("subject", "relation", "object", "prediction")
EXPECTED = "a JSON object with the texts subject, relation, object, prediction"
SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """What one file (or one arm and seed of it) answers, a row a query; columns are arrays [N].

  Attributes:
    path: the file, for messages.
    strings: list of the distinct texts; the int32 columns below are places in it.
    answers: list of the distinct sets of accepted answers (tuples of texts, the object first).
    subject, relation, object, prediction, label, split: int32 codes into `strings`; split is -1 where a row
      names none; label is the arm with "@value" of a `step` or `alpha` column.
    answer: int32 codes into `answers`.
    score: float64 log-probability of the prediction; NaN where a row gives none.
    seed: int64; 0 where a row gives none.
    rank: int32 place of the gold answer among the candidates, 0 where it is not listed; None without any.
    listed: length of the longest list of candidates.
    popularity: float64, NaN where a row gives none; None where no row does.
  """

  path: str
  strings: list
  answers: list
  subject: np.ndarray
  relation: np.ndarray
  object: np.ndarray
  prediction: np.ndarray
  answer: np.ndarray
  label: np.ndarray
  split: np.ndarray
  seed: np.ndarray
  score: np.ndarray
  rank: np.ndarray | None
  listed: int
  popularity: np.ndarray | None

  def __len__(self):
    return len(self.subject)


CODED = ("subject", "relation", "object", "prediction", "answer", "label", "split", "rank")
COLUMNS = (*CODED, "seed", "score", "popularity")


def read(path):
  """Reads a predictions file (.jsonl, .jsonl.gz); rows need no arm, seed, score, aliases or candidates.

  The lm-evaluation-harness's samples_*.jsonl is read too (samples.py).

  Raises:
    UserError: empty file, malformed line, missing column, wrong type, NaN score, candidates not best first or
      only in some rows; names file and line, what was expected and what was got.
  """
  path = str(path)
  if not path.endswith(SUFFIXES):
    raise UserError(
      f"{path}: expected predictions in a .jsonl or .jsonl.gz file; convert or rename it"
    )
  return from_rows(harness_samples.as_predictions(_parsed(path), path), path)


def from_rows(numbered_rows, path="rows"):
  """Predictions from (line number, row dict) pairs; see `read` for what is refused.

  Candidate lists are not kept: only the rank of the gold answer in them is.
  """
  strings = {}
  answers = {}
  accepted = []
  codes = {name: array.array("i") for name in CODED}
  add = [column.append for column in codes.values()]
  (
    add_subject,
    add_relation,
    add_object,
    add_prediction,
    add_answer,
    add_label,
    add_split,
    add_rank,
  ) = add
  seeds = array.array("q")
  scores = array.array("d")
  popularities = array.array("d")
  code = strings.setdefault
  default = _stem(path)
  listed = 0
  for number, row in numbered_rows:
    try:
      subject = row["subject"]
      relation = row["relation"]
      gold = row["object"]
      prediction = row["prediction"]
      get = row.get
    except (KeyError, TypeError, IndexError, AttributeError):
      raise _bad_row(path, number, row) from None
    if not type(subject) is type(relation) is type(gold) is type(prediction) is str:
      raise _bad_row(path, number, row)
    key = _accepted(gold, get("aliases"), path, number)
    answer = answers.get(key)
    if answer is None:
      answer = answers[key] = len(answers)
      accepted.append(_normalised(key, path, number))
    add_subject(code(subject, len(strings)))
    add_relation(code(relation, len(strings)))
    add_object(code(gold, len(strings)))
    add_prediction(code(prediction, len(strings)))
    add_answer(answer)
    add_label(code(label_of(row, default, path, number), len(strings)))
    split = get("split")
    add_split(-1 if split is None else code(str(split), len(strings)))
    seeds.append(seed_of(get("seed"), path, number))
    scores.append(_number(get("score"), "score", path, number))
    popularities.append(_number(get("popularity"), "popularity", path, number))
    candidates = get("candidates")
    if candidates is None:
      add_rank(-1)
    else:
      add_rank(_gold_rank(candidates, accepted[answer], path, number))
      listed = max(listed, len(candidates))
  if not seeds:
    raise UserError(f"{path}: expected predictions, a JSON object a line, got no rows")
  columns = {name: np.frombuffer(column, np.int32) for name, column in codes.items()}
  columns["rank"] = _rank(columns["rank"], path)
  return Predictions(
    path,
    list(strings),
    list(answers),
    **columns,
    listed=listed,
    seed=np.frombuffer(seeds, np.int64),
    score=np.frombuffer(scores, np.float64),
    popularity=_popularity(np.frombuffer(popularities, np.float64)),
  )


def take(predictions, rows):
  """The given rows (an index array), in that order; the texts are shared."""
  columns = {name: getattr(predictions, name) for name in COLUMNS}
  return dataclasses.replace(
    predictions,
    **{name: column if column is None else column[rows] for name, column in columns.items()},
  )


def of_split(predictions, split=None):
  """Only the rows of one split; without a name, all rows, which must then be of one split.

  Raises:
    UserError: no row of that split, or several splits and none named.
  """
  codes = np.unique(predictions.split).tolist()
  names = sorted("(none)" if code < 0 else predictions.strings[code] for code in codes)
  if split is None:
    if len(codes) > 1:
      raise UserError(
        f"{predictions.path}: expected rows of one split, got {', '.join(names)}; choose one "
        "with --split"
      )
    return predictions
  if split not in names:
    raise UserError(f"{predictions.path}: expected rows of split {split!r}, got {', '.join(names)}")
  return take(predictions, np.flatnonzero(predictions.split == predictions.strings.index(split)))


def arms(many):
  """Groups rows by arm and seed: dict label -> dict seed -> Predictions, in the order they occur.

  Raises:
    UserError: the same arm and seed in two files.
  """
  found = {}
  for predictions in many:
    labels = predictions.label.astype(np.int64)
    seeds = predictions.seed
    distinct_seeds, seed_N = np.unique(seeds, return_inverse=True)
    pair_N = labels * len(distinct_seeds) + seed_N
    pairs, first = np.unique(pair_N, return_index=True)
    for pair in pairs[np.argsort(first)].tolist():
      label = predictions.strings[pair // len(distinct_seeds)]
      seed = int(distinct_seeds[pair % len(distinct_seeds)])
      part = predictions if len(pairs) == 1 else take(predictions, np.flatnonzero(pair_N == pair))
      other = found.setdefault(label, {}).setdefault(seed, part)
      if other is not part:
        raise UserError(
          f"{predictions.path}: expected an arm and seed that no other file has, got arm "
          f"{label!r} seed {seed} as in {other.path}; name arms in a column `arm` or by file "
          "name"
        )
  return found


def match(reference, other, labels=("the reference", "the other")):
  """Rows of `other` in the order of `reference`, by (subject, relation, object) and n-th occurrence.

  Returns:
    Index array [N] into `other`.

  Raises:
    UserError: the two do not hold the same queries; says how many differ.
  """
  table = {text: code for code, text in enumerate(reference.strings)}
  recode = np.array([table.setdefault(text, len(table)) for text in other.strings], np.int64)
  left = [getattr(reference, name).astype(np.int64) for name in TEXT_COLUMNS[:3]]
  right = [recode[getattr(other, name)] for name in TEXT_COLUMNS[:3]]
  _, pair = np.unique(
    np.concatenate([left[1] * len(table) + left[2], right[1] * len(table) + right[2]]),
    return_inverse=True,
  )
  keys = np.concatenate([left[0], right[0]]) * (int(pair.max()) + 1) + pair
  left = keys[: len(reference)]
  right = keys[len(reference) :]
  order = np.argsort(left, kind="stable")
  other_order = np.argsort(right, kind="stable")
  if len(left) != len(right) or (left[order] != right[other_order]).any():
    raise _different(left, right, reference, other, labels)
  rows = np.empty(len(left), np.int64)
  rows[order] = other_order
  return rows


def canonical_order(predictions):
  """Index array [N] that sorts rows by (subject, relation, object), so that file order changes nothing."""
  place = np.empty(len(predictions.strings), np.int64)
  used = np.unique(
    np.concatenate([getattr(predictions, name) for name in TEXT_COLUMNS[:3]])
  ).tolist()
  place[sorted(used, key=predictions.strings.__getitem__)] = np.arange(len(used))
  return np.lexsort(
    [place[getattr(predictions, name)] for name in ("object", "relation", "subject")]
  )


def _different(left, right, reference, other, labels):
  keys, side = np.unique(np.concatenate([left, right]), return_inverse=True)
  counts = [
    np.bincount(part, minlength=len(keys)) for part in (side[: len(left)], side[len(left) :])
  ]
  missing, extra = (int(np.maximum(a - b, 0).sum()) for a, b in (counts, counts[::-1]))
  return UserError(
    f"{other.path}: expected the same queries (subject, relation, object) in {labels[1]} as "
    f"in {labels[0]} of {reference.path}, got {missing} of its {len(left)} queries missing "
    f"and {extra} others in their place; compare arms on one test set only"
  )


def _parsed(path):
  """Yields (line number, parsed line); blank lines are passed over."""
  decoder = json.JSONDecoder()
  scan = decoder.scan_once  # less than half the overhead of decode, which is for what is not plain
  for number, line in files.lines(path):
    try:
      row, end = scan(line, 0)
      yield number, row if end == len(line) else decoder.decode(line)
    except (StopIteration, ValueError):
      if line.strip():
        yield number, _decoded(decoder, line, path, number)


def _decoded(decoder, line, path, number):
  try:
    return decoder.decode(line)
  except ValueError as error:
    raise UserError(
      f"{path}:{number}: expected {EXPECTED}, got a line that is not JSON ({error}): {line[:60]!r}"
    ) from None


def _stem(path):
  name = os.path.basename(path)
  return next(
    (name.removesuffix(suffix) for suffix in SUFFIXES[::-1] if name.endswith(suffix)), name
  )


def _bad_row(path, number, row):
  if not isinstance(row, dict):
    return UserError(f"{path}:{number}: expected {EXPECTED}, got {type(row).__name__}")
  missing = [name for name in TEXT_COLUMNS if name not in row]
  if missing:
    return UserError(
      f"{path}:{number}: expected {EXPECTED}, got no {', '.join(missing)} (columns: "
      f"{', '.join(map(str, row))})"
    )
  wrong = next(name for name in TEXT_COLUMNS if type(row[name]) is not str)
  return UserError(f"{path}:{number}: expected a text in {wrong}, got {row[wrong]!r}")


def _accepted(gold, aliases, path, number):
  """The accepted answers as a key; what the aliases are is checked once, when the key is new."""
  if aliases is None:
    return (gold,)
  if type(aliases) is list:
    try:
      key = (gold, *aliases)
      hash(key)
      return key
    except TypeError:
      pass
  raise _bad_aliases(aliases, path, number)


def _normalised(key, path, number):
  if any(type(answer) is not str for answer in key):
    raise _bad_aliases(list(key[1:]), path, number)
  return frozenset(map(accuracy.normalise, key))


def _bad_aliases(aliases, path, number):
  return UserError(f"{path}:{number}: expected a list of texts in aliases, got {aliases!r}")


def label_of(row, default, path, number):
  """The row's arm, with "@value" for a step or an alpha, unless its name ends so already."""
  get = row.get
  label = get("arm")
  step = get("step")
  alpha = get("alpha")
  if label is None:
    label = default
  elif type(label) is not str:
    raise UserError(f"{path}:{number}: expected a text in arm, got {label!r}")
  if step is None and alpha is None:
    return label
  for value in (step, alpha):
    if value is not None:
      point = f"@{value:g}" if type(value) in (int, float) else f"@{value}"
      label = label if label.endswith(point) else label + point
  return label


def seed_of(seed, path, number):
  """The seed a row gives, 0 where it gives none. Raises: UserError where it is no whole number."""
  if seed is None:
    return 0
  if type(seed) is not int or abs(seed) >= 1 << 62:
    raise UserError(f"{path}:{number}: expected a whole number in seed, got {seed!r}")
  return seed


def _number(value, name, path, number):
  if value is None:
    return math.nan
  if type(value) not in (float, int) or value != value or value == math.inf:
    raise UserError(
      f"{path}:{number}: expected a number in {name}, got {value!r}; leave it out where unknown"
    )
  return value


def _gold_rank(candidates, accepted, path, number):
  """Place of the gold answer; comparing and adding up the numbers also shows what is no number."""
  try:
    texts, numbers = zip(*candidates) if candidates else ((), ())
    total = sum(numbers)
    if type(candidates) is list and total == total and all(map(operator.ge, numbers, numbers[1:])):
      return accuracy.gold_rank(texts, accepted)
  except (TypeError, ValueError, AttributeError):
    pass
  raise UserError(
    f"{path}:{number}: expected candidates as a list of [text, log-probability], best first, "
    f"got {str(candidates)[:80]}"
  )


def _rank(rank_N, path):
  given = rank_N >= 0
  if given.all():
    return rank_N
  if given.any():
    raise UserError(
      f"{path}: expected candidates in every row or in none, got them in {int(given.sum())} of "
      f"{len(rank_N)} rows"
    )
  return None


def _popularity(popularity_N):
  return None if np.isnan(popularity_N).all() else popularity_N
