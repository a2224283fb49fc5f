"""Predictions files as columns of integer codes; every row is checked on the way."""

import array
import dataclasses
import itertools
import math
import operator
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from factshock.predictions import accuracy, foreign, overlap, plain, points
from factshock.predictions.plain import Candidates, Rows
from factshock.predictions.rows import (
  TEXT_COLUMNS,
  holds_own_lines,
  no_object,
  numbered_rows,
  parsed_lines,
  stem,
)
from factshock.runtime import files, progress, second_process
from factshock.runtime.errors import UserError


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """Answers of one file (or of one arm and seed of it), a row a query; columns are arrays [N].

  Attributes:
    path: the file, for messages.
    strings: the distinct texts; the int32 columns below are indices into it.
    answers: the distinct sets of accepted answers (tuples of texts, the object first).
    subject, relation, object, prediction, label, split: int32 codes into `strings`; split is -1
      where a row names none; label is the arm with "@value" of a `step` or `alpha` column.
    answer: int32 codes into `answers`.
    seed: int64; 0 where a row gives none.
    score: float64 log-probability of the prediction; NaN where a row gives none.
    rank: int32 rank of the gold answer among the candidates, from 1, 0 where it is not listed; None
      without any candidates.
    listed: length of the longest list of candidates.
    popularity: float64, NaN where a row gives none; None where no row does.
    among: int32, how many candidates the prediction was ranked among; 0 where a row does not say.
  """

  path: str
  strings: list[str]
  answers: list[tuple[str, ...]]
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
  among: np.ndarray

  def __len__(self) -> int:
    """Returns the number of queries."""
    return len(self.subject)


# Predictions by arm (or point of an arm) and seed.
PredictionsByArm: TypeAlias = Mapping[str, Mapping[int, Predictions]]

_LARGEST = sys.float_info.max  # JSON's integers have no bound
_HALVED = 1 << 26  # bytes of a file from which on a second process reads the half of it
_LINES = ".jsonl"
_missing: Any = None
_texts_of = operator.itemgetter(*TEXT_COLUMNS)
QUERY_COLUMNS = ("subject", "relation", "object")
CODED = ("subject", "relation", "object", "prediction", "answer", "label", "split", "rank", "among")
COLUMNS = (*CODED, "seed", "score", "popularity")


def read(
  path: str | os.PathLike[str],
  arm: str | None = None,
  columns: Mapping[str, str] | None = None,
) -> Predictions:
  """Reads a predictions file (.jsonl, .json, .csv, .tsv, compressed or not, or .parquet).

  Rows need no relation, arm, seed, score, aliases or candidates. The lm-evaluation-harness's
  samples_*.jsonl is read too (harness_samples.py).

  Args:
    path: the file.
    arm: names the arm of its rows, which must be one.
    columns: our names of columns -> the file's, where they differ.

  Raises:
    UserError: empty file, malformed line, missing column, wrong type, a score that is NaN or above
      0, candidates not best first or only in some rows, rows of several arms with `arm`; names file
      and line, what was expected and what was got.
  """
  path = str(path)
  if not columns and holds_own_lines(path):
    predictions = _read_lines(path)
  else:
    predictions = from_rows(numbered_rows(path, columns), path)
  return _with_arm(predictions, arm)


def read_all(
  named: Sequence[tuple[str | None, str]],
  columns: Mapping[str, str] | None = None,
) -> Iterator[Predictions]:
  """Reads predictions files in turn, as `read` does, and shows how far it is.

  A second process reads every other one of many small files.

  Args:
    named: (name of the arm or None, path) of each.
    columns: as of `read`.
  """
  paths = [path for _, path in named]
  is_shared = not columns and _are_shared(paths)
  every_other = [(path, files.Span()) for path in paths[1::2]] if is_shared else []
  with second_process.results(_read_plain, every_other) as receive:
    for index, path in enumerate(progress.over_files("reading predictions", paths)):
      arm = named[index][0]
      plain_columns = receive() if index % 2 else None
      if plain_columns is None:
        yield read(path, arm, columns)
      else:
        yield _with_arm(plain_columns.predictions(), arm)


def _with_arm(predictions: Predictions, arm: str | None) -> Predictions:
  """Returns predictions of one arm under another name, if any; points of its curve stay such."""
  if arm is None:
    return predictions
  strings = list(predictions.strings)
  codes: list[int] = np.unique(predictions.label).tolist()
  stems = {points.Point.parse(strings[code]).arm for code in codes}
  if len(stems) > 1:
    raise UserError(
      f"{predictions.path}: expected rows of one arm, to be named {arm!r}, got "
      f"{', '.join(sorted(stems))}"
    )
  code_of = np.arange(len(strings) + len(codes))
  for code in codes:
    code_of[code] = len(strings)
    strings.append(arm + strings[code].removeprefix(*stems))
  label_N = code_of[predictions.label].astype(np.int32)
  return dataclasses.replace(predictions, strings=strings, label=label_N)


def from_rows(rows: Iterable[tuple[int, Any]], path: str = "rows") -> Predictions:
  """Returns the predictions of (line number, row) pairs; see `read` for what is refused.

  Candidate lists are not kept: only the rank of the gold answer in them is.

  Args:
    rows: pairs of a line number, for messages, and a row as parsed from JSON.
    path: the file, for messages; its name is the arm of rows that name none.
  """
  columns = _Columns(path)
  columns.extend(rows)
  return columns.predictions()


def _read_lines(path: str) -> Predictions:
  """Returns the predictions of a file of lines: plain ones many at a time, others row by row.

  A second process reads the second half of a large file.
  """
  columns = _Columns(path)
  if not _is_halved(path):
    columns.extend_lines(files.Span())
    return columns.predictions()
  middle = files.middle(path)
  with second_process.results(_read_plain, [(path, files.Span(middle))]) as receive:
    after = columns.extend_lines(files.Span(end=middle))
    second = receive()
  if second is None:
    columns.extend_lines(files.Span(middle, line=after))
  else:
    columns.append(second)
  return columns.predictions()


def _is_halved(path: str) -> bool:
  """Returns whether two processes are to read a file."""
  return path.endswith(_LINES) and os.path.getsize(path) >= _HALVED and second_process.may_be_made()


def _are_shared(paths: Sequence[str]) -> bool:
  """Returns whether two processes are to read files, each of them some: they are many and small."""
  if not all(path.endswith(_LINES) and os.path.isfile(path) for path in paths):
    return False
  sizes = [os.path.getsize(path) for path in paths]
  return max(sizes, default=0) < _HALVED <= sum(sizes) and second_process.may_be_made()


def _read_plain(part: tuple[str, files.Span]) -> "_Columns | None":
  """Returns columns of a part of a file; None where not all of it is plain."""
  path, span = part
  if not holds_own_lines(path):
    return None
  columns = _Columns(path)
  for _, lines in files.line_batches(path, span=span):
    rows = plain.parse(lines)
    if rows is None:
      return None
    columns.extend_plain(rows)
  return columns


class _Columns:
  """Columns of a predictions file while it is read: codes of texts as they are first met."""

  def __init__(self, path: str) -> None:
    self.path = path
    self.strings = overlap.Codes()
    self.answers: dict[tuple[str, ...], int] = {}
    self.accepted: list[frozenset[str]] = []  # normalised, by the code of the answers
    self.codes = {name: array.array("i") for name in CODED}
    self.seeds = array.array("q")
    self.scores = array.array("d")
    self.popularities = array.array("d")
    self.listed = 0
    self.firsts: dict[str, Any] = {}  # what tells models apart (foreign.of_one_model)

  def extend_lines(self, span: files.Span) -> int:
    """Adds the rows of a part of the file; returns the number of the line after it."""
    firsts = self.firsts
    after = span.line
    for first, lines in files.line_batches(self.path, span=span):
      rows = plain.parse(lines)
      if rows is None:
        parsed = parsed_lines(enumerate(lines, first), self.path)
        self.extend(foreign.of_one_model(parsed, self.path, several_arms=True, firsts=firsts))
      else:
        self.extend_plain(rows)
      after = first + len(lines)
    return after

  def append(self, other: "_Columns") -> None:
    """Adds the rows of other columns, of which each text gets its code here."""
    strings = [self.strings[text] for text in other.strings]
    answers = [self._code_of_answers(key) for key in other.answers]
    recode = {
      **dict.fromkeys(CODED, np.array([*strings, -1], np.int32)),  # -1, the last, stays as it is
      "answer": np.array(answers, np.int32),
    }
    for name, codes in other.codes.items():
      code_N = np.frombuffer(codes, np.int32)
      if name not in ("rank", "among"):
        code_N = recode[name][code_N]
      self.codes[name].frombytes(code_N.tobytes())
    self.seeds += other.seeds
    self.scores += other.scores
    self.popularities += other.popularities
    self.listed = max(self.listed, other.listed)

  def extend(self, rows: Iterable[tuple[int, Any]]) -> None:
    """Adds rows, each checked; one long loop, as a call per column would double the time."""
    path = self.path
    strings = self.strings
    answers = self.answers
    code = strings.setdefault
    accepted = self.accepted
    (
      add_subject,
      add_relation,
      add_object,
      add_prediction,
      add_answer,
      add_label,
      add_split,
      add_rank,
      add_among,
    ) = [column.append for column in self.codes.values()]
    add_seed = self.seeds.append
    add_score = self.scores.append
    add_popularity = self.popularities.append
    listed = self.listed
    default = stem(path)
    for line_number, row_as_read in rows:
      row = row_as_read
      try:
        subject, relation, gold, prediction = _texts_of(row)
      except (KeyError, TypeError, IndexError):
        subject = relation = gold = prediction = _missing
      if not type(subject) is type(relation) is type(gold) is type(prediction) is str:
        row = _with_texts(path, line_number, row)
        subject, relation, gold, prediction = _texts_of(row)
      get = row.get
      key = _accepted_answers(gold, get("aliases"), path, line_number)
      answer = answers.get(key)
      if answer is None:
        key = _with_numbers_as_texts(key)
        answer = answers.setdefault(key, len(accepted))
        if answer == len(accepted):
          accepted.append(_normalised_answers(key, path, line_number))
      add_subject(code(subject, len(strings)))
      add_relation(code(relation, len(strings)))
      add_object(code(gold, len(strings)))
      add_prediction(code(prediction, len(strings)))
      add_answer(answer)
      add_label(code(label_of(row, default, path, line_number), len(strings)))
      split = get("split")
      add_split(-1 if split is None else code(str(split), len(strings)))
      add_seed(seed_of(get("seed"), path, line_number))
      score = _number(get("score"), "score", path, line_number)
      if score > plain.ROUNDING:
        raise _no_log_probability(score, path, line_number)
      add_score(score)
      add_popularity(_number(get("popularity"), "popularity", path, line_number))
      add_among(plain.among_of(get("among")))
      candidates = get("candidates")
      if candidates is None:
        add_rank(-1)
      else:
        add_rank(_gold_rank(candidates, accepted[answer], path, line_number))
        listed = max(listed, len(candidates))
    self.listed = listed

  def extend_plain(self, rows: Rows) -> None:
    """Adds plain rows, column by column; what comes of it is that of `extend`."""
    labels = _labels(rows, stem(self.path))
    texts = [*rows.texts, labels]
    names = ["subject", "relation", "object", "prediction", "label"]
    if None in rows.splits:
      self.codes["split"].extend([-1] * len(labels))
    else:
      texts.append(cast(list[str], rows.splits))
      names.append("split")
    in_order = itertools.chain.from_iterable(zip(*texts))
    codes = array.array("i", map(self.strings.__getitem__, in_order))
    code_NxT = np.frombuffer(codes, np.int32).reshape(-1, len(texts))
    for name, code_N in zip(names, code_NxT.T):
      self.codes[name].frombytes(code_N.tobytes())
    answers = [self._code_of_answers(key) for key in rows.answers]
    self.codes["answer"].extend(answers)
    self.codes["among"].frombytes(rows.among.tobytes())
    self.codes["rank"].extend(self._gold_ranks(answers, rows.candidates))
    self.seeds.frombytes(rows.seeds.tobytes())
    self.scores.frombytes(rows.scores.tobytes())
    self.popularities.frombytes(rows.popularities.tobytes())

  def _code_of_answers(self, key: tuple[str, ...]) -> int:
    answer = self.answers.get(key)
    if answer is None:
      answer = self.answers[key] = len(self.accepted)
      self.accepted.append(frozenset(map(accuracy.normalise, key)))
    return answer

  def _gold_ranks(
    self,
    answers: Sequence[int],
    candidates: Candidates | None,
  ) -> Iterable[int]:
    """Returns each row's rank of the gold answer among its candidates; -1 where there are none."""
    if candidates is None:
      return [-1] * len(answers)
    self.listed = max(self.listed, *candidates.lengths)
    names = candidates.names
    ends = list(itertools.accumulate(candidates.lengths))
    starts = [0, *ends]
    accepted = [self.accepted[answer] for answer in answers]
    return [
      0 if right.isdisjoint(listed) else accuracy.rank_of_name(listed, right)
      for right, listed in zip(accepted, map(names.__getitem__, map(slice, starts, ends)))
    ]

  def predictions(self) -> Predictions:
    """Returns what was added.

    Raises:
      UserError: there is no row, or candidates are only in some.
    """
    if not self.seeds:
      raise UserError(f"{self.path}: expected predictions, a JSON object a line, got no rows")
    columns = {name: np.frombuffer(codes, np.int32) for name, codes in self.codes.items()}
    rank_N = columns.pop("rank")
    popularity_N = np.frombuffer(self.popularities, np.float64)
    none = self.strings.get(foreign.NO_RELATION)
    without = int((columns["relation"] == none).sum()) if none is not None else 0
    if 0 < without < len(self.seeds):
      raise UserError(
        f"{self.path}: expected a relation in every row or in none, got none in {without:,} of "
        f"{len(self.seeds):,} rows"
      )
    return Predictions(
      self.path,
      list(self.strings),
      list(self.answers),
      **columns,
      seed=np.frombuffer(self.seeds, np.int64),
      score=np.frombuffer(self.scores, np.float64),
      rank=_ranks_of_all(rank_N, self.path),
      listed=self.listed,
      popularity=None if np.isnan(popularity_N).all() else popularity_N,
    )


def _labels(rows: Rows, default: str) -> list[str]:
  """Returns the label of each plain row (see `label_of`)."""
  points_of_rows = list(zip(rows.arms, rows.steps, rows.alphas))
  labels: dict[Any, str] = {}
  distinct = set(points_of_rows)
  for arm, step, alpha in distinct:
    row = {"arm": arm, "step": step, "alpha": alpha}
    labels[arm, step, alpha] = label_of(row, default, "", 0)
  if len(distinct) == 1:
    return list(labels.values()) * len(points_of_rows)
  return [labels[point] for point in points_of_rows]


def take(predictions: Predictions, rows: np.ndarray) -> Predictions:
  """Returns the given rows (an index array), in that order; the texts are shared."""
  taken: dict[str, np.ndarray | None] = {}
  for name in COLUMNS:
    column = getattr(predictions, name)
    taken[name] = None if column is None else column[rows]
  return dataclasses.replace(predictions, **taken)


def select_split(predictions: Predictions, split: str | None = None) -> Predictions:
  """Returns the rows of one split; without a name all rows, which must then be of one split.

  Raises:
    UserError: no row of that split, or several splits and none named.
  """
  codes: list[int] = np.unique(predictions.split).tolist()
  strings = predictions.strings
  names = sorted("(none)" if code < 0 else strings[code] for code in codes)
  if split is None:
    if len(codes) > 1:
      raise UserError(
        f"{predictions.path}: expected rows of one split, got {', '.join(names)}; choose one "
        "with --split"
      )
    return predictions
  if split not in names:
    raise UserError(f"{predictions.path}: expected rows of split {split!r}, got {', '.join(names)}")
  is_wanted_N = predictions.split == strings.index(split)
  return take(predictions, np.flatnonzero(is_wanted_N))


def group_by_arm(of_files: Iterable[Predictions]) -> dict[str, dict[int, Predictions]]:
  """Groups rows by arm and seed: label -> seed -> Predictions, in the order they occur.

  Raises:
    UserError: the same arm and seed in two files.
  """
  arms: dict[str, dict[int, Predictions]] = {}
  for predictions in of_files:
    distinct_seeds, seed_N = np.unique(predictions.seed, return_inverse=True)
    pair_N = predictions.label.astype(np.int64) * len(distinct_seeds) + seed_N
    pairs, first = np.unique(pair_N, return_index=True)
    for pair in map(int, pairs[np.argsort(first)]):
      label = predictions.strings[pair // len(distinct_seeds)]
      seed = int(distinct_seeds[pair % len(distinct_seeds)])
      group = predictions
      if len(pairs) > 1:
        group = take(predictions, np.flatnonzero(pair_N == pair))
      other = arms.setdefault(label, {}).setdefault(seed, group)
      if other is not group:
        raise UserError(
          f"{predictions.path}: expected an arm and seed that no other file has, got arm "
          f"{label!r} seed {seed} as in {other.path}; give --predictions=NAME=FILE,..., "
          "or name arms in a column `arm`"
        )
  return arms


def candidates_note(arms: PredictionsByArm) -> str | None:
  """Returns a line where arms are ranked among different numbers of candidates; else None.

  Their shares right are not of one task then. Arms that say no number are passed over.

  Args:
    arms: predictions by label and seed, of the same queries.
  """
  by_label: dict[str, float] = {}
  for label, by_seed in arms.items():
    among = [seed.among for seed in by_seed.values() if seed.among.all()]
    if among:
      by_label[label] = float(np.concatenate(among).mean())
  if len(set(by_label.values())) < 2:
    return None
  numbers = ", ".join(f"{label} {mean:,.6g}" for label, mean in by_label.items())
  return (
    f"arms are ranked among different numbers of candidates (mean of a query: {numbers}): fewer "
    "are easier; rank all among the same (--candidates)"
  )


def match(
  reference: Predictions,
  other: Predictions,
  labels: tuple[str, str] = ("the reference", "the other"),
) -> np.ndarray:
  """Returns the rows of `other` in the order of `reference`: index array [N] into `other`.

  Rows are matched by (subject, relation, object) and n-th occurrence.

  Args:
    reference: predictions in the order wanted.
    other: predictions of the same queries.
    labels: names of the two, for the message.

  Raises:
    UserError: the two do not hold the same queries; says how many differ.
  """
  code_of = {text: code for code, text in enumerate(reference.strings)}
  recode = np.array([code_of.setdefault(text, len(code_of)) for text in other.strings], np.int64)
  columns = [getattr(reference, name).astype(np.int64) for name in QUERY_COLUMNS]
  other_columns = [recode[getattr(other, name)] for name in QUERY_COLUMNS]
  subjects, relations, objects = (
    np.concatenate(pair) for pair in zip(columns, other_columns, strict=True)
  )
  pairs = relations * len(code_of) + objects
  _, pair = np.unique(pairs, return_inverse=True)
  count = int(pair.max()) + 1
  keys = subjects * count + pair
  left = keys[: len(reference)]
  right = keys[len(reference) :]
  order = np.argsort(left, kind="stable")
  other_order = np.argsort(right, kind="stable")
  if len(left) != len(right) or (left[order] != right[other_order]).any():
    context = f"{labels[1]} as in {labels[0]} of {reference.path}"
    difference = _difference(left, right, context)
    examples = _example(labels[0], reference, left, right) + _example(labels[1], other, right, left)
    raise UserError(f"{other.path}: {difference}{examples}")
  rows = np.empty(len(left), np.int64)
  rows[order] = other_order
  return rows


def canonical_order(predictions: Predictions) -> np.ndarray:
  """Returns the index array [N] that sorts rows by subject, then relation, then object.

  By it the order of a file changes nothing.
  """
  columns = [getattr(predictions, name) for name in QUERY_COLUMNS]
  used: list[int] = np.unique(np.concatenate(columns)).tolist()
  rank_of_code = np.empty(len(predictions.strings), np.int64)
  by_name = sorted(used, key=predictions.strings.__getitem__)
  rank_of_code[by_name] = np.arange(len(used))
  ranks = [rank_of_code[column] for column in columns[::-1]]
  return np.lexsort(ranks)


def _difference(
  left: np.ndarray,
  right: np.ndarray,
  context: str,
) -> str:
  """Returns how many keys of queries two files do not share, in words."""
  both = np.concatenate([left, right])
  keys, code = np.unique(both, return_inverse=True)
  left_code = code[: len(left)]
  right_code = code[len(left) :]
  count = np.bincount(left_code, minlength=len(keys))
  other_count = np.bincount(right_code, minlength=len(keys))
  missing = int(np.maximum(count - other_count, 0).sum())
  extra = int(np.maximum(other_count - count, 0).sum())
  return (
    f"expected the same queries (subject, relation, object) in {context}, got {missing} of its "
    f"{len(left)} queries missing and {extra} others in their place; compare arms on one test set "
    "only"
  )


def _example(label: str, predictions: Predictions, keys: np.ndarray, others: np.ndarray) -> str:
  """Returns in words the first query whose key is not among others; "" where all are."""
  rows = np.flatnonzero(~np.isin(keys, others))
  if not len(rows):
    return ""
  columns = (getattr(predictions, name) for name in QUERY_COLUMNS)
  query = tuple(predictions.strings[int(column[rows[0]])] for column in columns)
  return f"; {label} alone has {query}"


def _with_texts(
  path: str,
  line_number: int,
  row: Any,
) -> dict[str, Any]:
  """Returns a row whose numbers are texts and whose relation may be missing.

  Raises:
    UserError: something else is no text.
  """
  mended = foreign.with_texts(cast(dict[str, Any], row)) if isinstance(row, dict) else None
  if mended is None or any(type(mended.get(name)) is not str for name in TEXT_COLUMNS):
    raise _bad_row(path, line_number, row)
  return mended


def _bad_row(
  path: str,
  line_number: int,
  row: Any,
) -> UserError:
  context = f"{path}:{line_number}"
  if not isinstance(row, dict):
    return no_object(row, context)
  columns = cast(dict[str, Any], row)
  missing = [name for name in TEXT_COLUMNS if name not in columns and name != "relation"]
  if missing:
    own = [name for name in columns if columns[name] != foreign.NO_RELATION]  # not one of ours
    return UserError(
      f"{context}: expected the texts subject, object, prediction (and relation, if there are "
      f"several), got no {', '.join(missing)} (columns: {', '.join(map(str, own))}); columns of "
      f"other names: --columns={missing[0]}=NAME"
    )
  texts = foreign.with_texts(columns)
  wrong = next(name for name in TEXT_COLUMNS if type(texts.get(name)) is not str)
  return UserError(f"{context}: expected a text in {wrong}, got {columns[wrong]!r}")


def _accepted_answers(
  gold: str,
  aliases: Any,
  path: str,
  line_number: int,
) -> tuple[str, ...]:
  """Returns the accepted answers as a key; whether they are texts is checked when it is new."""
  if aliases is None:
    return (gold,)
  if type(aliases) is str:
    aliases = foreign.listed_texts(aliases)
  try:
    key: tuple[str, ...] = (gold, *aliases)
    hash(key)
  except TypeError:
    raise foreign.bad_aliases(aliases, f"{path}:{line_number}") from None
  if type(aliases) is not list:
    raise foreign.bad_aliases(aliases, f"{path}:{line_number}")
  return key


def _with_numbers_as_texts(key: tuple[Any, ...]) -> tuple[Any, ...]:
  """Returns accepted answers, numbers among them as texts, without blank aliases."""
  if not all(type(answer) is str for answer in key):
    key = tuple(foreign.listed_texts(list(key)))
  # A blank alias would be what an empty prediction says.
  return (key[0], *(alias for alias in key[1:] if str(alias).strip()))


def _normalised_answers(
  key: tuple[Any, ...],
  path: str,
  line_number: int,
) -> frozenset[str]:
  if any(type(answer) is not str for answer in key):
    raise foreign.bad_aliases(list(key[1:]), f"{path}:{line_number}")
  if not key[0].strip():
    raise UserError(
      f"{path}:{line_number}: expected the right answer in object, got {key[0]!r}; leave out rows "
      "of which it is not known"
    )
  return frozenset(map(accuracy.normalise, key))


def label_of(
  row: Mapping[str, Any],
  default: str,
  path: str,
  line_number: int,
) -> str:
  """Returns a row's arm, with "@value" for a step or an alpha, unless its name ends so already.

  Args:
    row: as parsed from JSON.
    default: the arm of a row that names none.
    path: the file, for the message.
    line_number: of the row, for the message.

  Raises:
    UserError: the arm is no text.
  """
  get = row.get
  label: Any = get("arm")
  step = get("step")
  alpha = get("alpha")
  if label is None:
    label = default
  elif type(label) is not str:
    raise UserError(f"{path}:{line_number}: expected a text in arm, got {label!r}")
  if step is None and alpha is None:
    return label
  for value in (step, alpha):
    if value is not None:
      label = points.with_value(label, value)
  return label


def seed_of(
  seed: Any,
  path: str,
  line_number: int,
) -> int:
  """Returns the seed a row gives, 0 where it gives none.

  Raises:
    UserError: the seed is no whole number.
  """
  if seed is None:
    return 0
  if isinstance(seed, float) and seed.is_integer():  # pandas' column with some missing
    seed = int(seed)
  if type(seed) is not int or abs(seed) >= 1 << 62:
    raise UserError(f"{path}:{line_number}: expected a whole number in seed, got {seed!r}")
  return seed


def _number(
  value: Any,
  name: str,
  path: str,
  line_number: int,
) -> float:
  if value is None:
    return math.nan
  is_number = type(value) in (float, int)
  if not is_number or not (-_LARGEST <= value <= _LARGEST or value == -math.inf):
    raise UserError(
      f"{path}:{line_number}: expected a number in {name}, got {value!r}; leave it out "
      "where unknown"
    )
  return value


def _gold_rank(
  candidates: Any,
  accepted: frozenset[str],
  path: str,
  line_number: int,
) -> int:
  """Returns the gold answer's rank; comparing and adding the scores shows what is no number too."""
  try:
    texts: tuple[Any, ...]
    scores: tuple[Any, ...]
    texts, scores = zip(*candidates) if candidates else ((), ())
    total = sum(scores)
    best = scores[0] if scores else 0.0
    is_ordered = total == total and all(map(operator.ge, scores, scores[1:]))
    if type(candidates) is list and is_ordered and best <= plain.ROUNDING:
      return accuracy.gold_rank(texts, accepted)
  except (TypeError, ValueError, AttributeError, OverflowError):
    best = 0.0
  if best > plain.ROUNDING:
    raise _no_log_probability(best, path, line_number)
  raise UserError(
    f"{path}:{line_number}: expected candidates as a list of [text, log-probability], best first, "
    f"got {str(cast(Any, candidates))[:80]}"
  )


def _no_log_probability(
  score: float,
  path: str,
  line_number: int,
) -> UserError:
  return UserError(
    f"{path}:{line_number}: expected a log-probability, at most 0, as score, got {score!r}; is it "
    "a probability? write its natural logarithm"
  )


def _ranks_of_all(rank_N: np.ndarray, path: str) -> np.ndarray | None:
  """Returns the ranks, or None where no row has candidates (-1)."""
  given_N = rank_N >= 0
  if given_N.all():
    return rank_N
  if given_N.any():
    raise UserError(
      f"{path}: expected candidates in every row or in none, got them in {int(given_N.sum())} of "
      f"{len(rank_N)} rows"
    )
  return None
