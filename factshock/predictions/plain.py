"""Rows of predictions as this project writes them, many at a time, quickly.

Lines are plain where every column holds what reading.py takes as it is: texts, numbers, lists.
Where one line of many is not, none of them is taken here, and reading.py goes through them row by
row: it alone knows what is mended, and what is an error.
"""

import array
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from factshock.predictions import accuracy
from factshock.runtime import json_text

ROUNDING = 1e-6  # a log-probability may be above 0 by
# Rows that are held as objects at a time: of more the processor's cache would hold none, and
# Python's collector would go through them again and again.
_PIECE = 48
_EXACT = 2.0**53  # whole numbers from here on are not exact as floats
_TEXTS = ("subject", "relation", "object", "prediction")
_COLUMNS = (
  *_TEXTS,
  *("aliases", "arm", "step", "alpha", "split", "seed", "score", "popularity", "among", "model"),
)
_NONE = type(None)
_Types = set[type[Any]]
# Types of the values of a column; of a step and an alpha there may be but one beside none.
_TYPES: dict[str, _Types] = {
  **{name: {str} for name in _TEXTS},
  "aliases": {_NONE, list},
  "arm": {_NONE, str},
  "step": {_NONE, int},
  "split": {_NONE, str},
  "seed": {_NONE, int},
  "score": {_NONE, int, float},
  "popularity": {_NONE, int, float},
}


class Candidates(NamedTuple):
  """The candidates of all rows one after the other.

  Attributes:
    names: the answers, normalised.
    scores: their log-probabilities.
    lengths: how many each row has.
  """

  names: list[str]
  scores: "array.array[float]"
  lengths: list[int]


class Rows(NamedTuple):
  """Columns of plain rows, each a list [N]; None where a row gives none.

  Attributes:
    texts: (subject, relation, object, prediction) of each row.
    answers: accepted answers, the object first.
    arms: texts.
    steps: whole numbers.
    alphas: numbers of one type.
    splits: texts, or all None.
    seeds: int64 [N], 0 where a row gives none.
    scores: float64 [N], NaN where a row gives none.
    popularities: float64 [N], NaN where a row gives none.
    among: int32 [N], 0 where a row gives no number of candidates.
    candidates: None where no row has any.
  """

  texts: list[list[str]]
  answers: list[tuple[str, ...]]
  arms: list[str | None]
  steps: list[int | None]
  alphas: list[float | None]
  splits: list[str | None]
  seeds: np.ndarray
  scores: np.ndarray
  popularities: np.ndarray
  among: np.ndarray
  candidates: Candidates | None


def parse(lines: Sequence[str]) -> Rows | None:
  """Returns the rows of lines of JSON; None where one is not plain."""
  columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
  candidates = Candidates([], array.array("d"), [])
  try:
    for start in range(0, len(lines), _PIECE):
      rows = json_text.plain_loads(lines[start : start + _PIECE])
      for name, column in columns.items():
        column += [row.get(name) for row in rows]
      _add_candidates(candidates, [row.get("candidates") for row in rows])
    if not _are_plain(columns) or not _are_ordered(candidates):
      return None
    return _rows(columns, candidates)
  except (AttributeError, TypeError, ValueError, OverflowError):
    return None


def _add_candidates(candidates: Candidates, lists: Sequence[Any]) -> None:
  """Adds the candidates of rows, in place.

  Raises:
    TypeError, ValueError: they are not plain.
  """
  if lists.count(None) == len(lists):
    return
  lengths = list(map(len, lists))
  if set(map(type, lists)) != {list} or not all(lengths):
    raise TypeError
  pairs = list(itertools.chain.from_iterable(lists))
  texts = [text for text, _ in pairs]
  if set(map(type, texts)) != {str}:
    raise TypeError
  candidates.scores.fromlist([score for _, score in pairs])
  # Names are few: the texts themselves go with their rows, while the cache holds them.
  candidates.names.extend(map(accuracy.normalise, texts))
  candidates.lengths.extend(lengths)


def _are_ordered(candidates: Candidates) -> bool:
  """Returns whether the scores of each row are log-probabilities, best first."""
  scores = np.frombuffer(candidates.scores)
  lengths = np.array(candidates.lengths, np.int64)
  starts: np.ndarray = np.cumsum(lengths) - lengths
  is_fallen = np.ones(len(scores), bool)
  np.less_equal(scores[1:], scores[:-1], out=is_fallen[1:])
  is_fallen[starts] = scores[starts] <= ROUNDING
  return bool(is_fallen.all()) and _are_exact(scores)


def _are_exact(values: np.ndarray) -> bool:
  """Returns whether no number may have been a whole one that a float does not hold."""
  return bool((~np.isfinite(values) | (np.abs(values) < _EXACT)).all())


def _are_plain(columns: dict[str, list[Any]]) -> bool:
  """Returns whether the values of columns have the right types, and no row names a model alone."""
  for name, types in _TYPES.items():
    if not set(map(type, columns[name])) <= types:
      return False
  if set(map(type, columns["alpha"])) - {_NONE} not in (set[Any](), {float}, {int}):
    return False
  models = {model for model, arm in zip(columns["model"], columns["arm"]) if arm is None}
  splits = columns["split"]
  return models <= {None} and splits.count(None) in (0, len(splits))


def _rows(columns: dict[str, list[Any]], candidates: Candidates) -> Rows | None:
  """Returns rows of columns of the right types; None where a value is not plain."""
  count = len(columns["subject"])
  seeds = [0 if seed is None else seed for seed in columns["seed"]]
  alphas = columns["alpha"]
  numbers = [np.array(columns[name], np.float64) for name in ("score", "popularity", "alpha")]
  scores, popularities, _ = numbers
  given = [count - columns[name].count(None) for name in ("score", "popularity", "alpha")]
  is_plain = (
    len(candidates.lengths) in (0, count)
    and all(map(_are_exact, numbers))
    # What is no number is an error, and none at all is none.
    and given == [count - int(np.isnan(values).sum()) for values in numbers]
    and not np.isposinf(np.stack(numbers)).any()
    and not np.isneginf(np.stack([popularities, numbers[2]])).any()
    and not (scores > ROUNDING).any()
    and all(abs(seed) < 1 << 62 for seed in set(seeds))
  )
  answers = _accepted_answers(columns["object"], columns["aliases"])
  if not is_plain or answers is None:
    return None
  return Rows(
    texts=[columns[name] for name in _TEXTS],
    answers=answers,
    arms=columns["arm"],
    steps=columns["step"],
    alphas=alphas,
    splits=columns["split"],
    seeds=np.array(seeds, np.int64),
    scores=scores,
    popularities=popularities,
    among=np.array([among_of(value) for value in columns["among"]], np.int32),
    candidates=candidates if candidates.lengths else None,
  )


def _accepted_answers(
  objects: Sequence[str],
  aliases: Sequence[list[Any] | None],
) -> list[tuple[str, ...]] | None:
  """Returns the object and its aliases of each row; None where one is no text, or blank."""
  answers: list[tuple[Any, ...]] = [
    (name, *others) if others else (name,) for name, others in zip(objects, aliases)
  ]
  distinct = set(itertools.chain.from_iterable(set(answers)))
  types = set(map(type, distinct))
  return answers if types <= {str} and all(map(str.strip, distinct)) else None


def among_of(value: Any) -> int:
  """Returns a number of candidates, 0 where it is none: a column of this name may be another's."""
  return value if type(value) is int and 0 < value < 1 << 31 else 0
