"""Canonical rows: candidate triples with all that is known of them, and their file, triples.jsonl.

A row is a dict with these keys, in this order:

- `subject`, `subject_id` (optional), `relation`, `relation_label` (optional), `object`,
  `object_id` (optional);
- `confidence`: probability that the triple is true, 0 to 1; `score`: log-probability before
  calibration;
- `rank`: place among the query's candidates, from 1 (it and the score are null where another
  triple implies this one);
- `accepted`: whether it is in the graph; `threshold`: the confidence that took (null where there
  was none);
- `model`, `checkpoint` (its digest, or null), `mixing_weights` (list, or null), `calibration` and
  `run` (ids);
- `flags` (optional): list of strings, what speaks against the triple.

Further keys are carried along. The object of a row that is not accepted may be empty: a model that
answered nothing. A text is kept to the letter, and an optional key that is null counts as not
given.
"""

import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from factshock.facts import schema
from factshock.runtime import files, json_text
from factshock.runtime.errors import UserError

FILE = "triples.jsonl"
KEYS = (
  "subject",
  "subject_id",
  "relation",
  "relation_label",
  "object",
  "object_id",
  "confidence",
  "score",
  "rank",
  "accepted",
  "threshold",
  "model",
  "checkpoint",
  "mixing_weights",
  "calibration",
  "run",
  "flags",
)
OPTIONAL_TEXTS = ("subject_id", "relation_label", "object_id")
_OPTIONAL = frozenset((*OPTIONAL_TEXTS, "flags"))
_STR = frozenset([str])
_scan = cast(Callable[[str, int], tuple[Any, int]], vars(json.JSONDecoder())["scan_once"])


class CanonicalRow(TypedDict):
  """Row of a candidate triple; the head of this module says what each key holds."""

  subject: str
  subject_id: NotRequired[str | None]
  relation: str
  relation_label: NotRequired[str | None]
  object: str
  object_id: NotRequired[str | None]
  confidence: float
  score: float | None
  rank: int | None
  accepted: bool
  threshold: float | None
  model: str
  checkpoint: str | None
  mixing_weights: list[float] | None
  calibration: str
  run: str
  flags: NotRequired[list[str] | None]


class Run(TypedDict):
  """Where rows come from: times in ISO 8601, and the precision promised, or None."""

  id: str
  started: NotRequired[str]
  ended: NotRequired[str]
  model: str
  checkpoint: NotRequired[str | None]
  mixing_weights: NotRequired[list[float] | None]
  calibration: str
  precision: NotRequired[float | None]
  software: str
  revision: NotRequired[str]


def read(path: str) -> Iterator[CanonicalRow]:
  """Yields the rows of a file of canonical rows, each checked; blank lines are passed over.

  Raises:
    UserError: missing file, malformed line, missing key or value of the wrong kind; names file and
      line.
  """
  for line_number, row in parse(path):
    check(row, f"{path}:{line_number}")
    yield row


def parse(path: str) -> Iterator[tuple[int, CanonicalRow]]:
  """Yields (line number, JSON object) of a file, which are still to be checked.

  Raises:
    UserError: missing file, or a line that is no JSON object.
  """
  for line_number, line in files.lines(path):
    row = _parsed(line)
    if row is None:
      if not line or line.isspace():
        continue
      row = schema.json_object(line, f"{path}:{line_number}")
    yield line_number, cast(CanonicalRow, row)


def _parsed(line: str) -> Any:
  """Returns the JSON object on a line as `schema.json_object` does, or None: it may say why."""
  if "\\u" in line or line.count("[") + line.count("{") > json_text.DEEPEST:
    return None
  try:
    row, end = _scan(line, 0)
  except (StopIteration, ValueError, RecursionError):
    return None
  return cast(Any, row) if end == len(line) and type(row) is dict else None


def is_right(key: str, value: Any) -> bool:
  """Returns whether a value is what a canonical key holds."""
  return _IS_RIGHT[key](value)


def check(row: Mapping[str, Any], context: str) -> None:
  """Raises a UserError that begins with `context` if a dict is not a canonical row."""
  if _is_usual(row):  # a third of the time that reading took
    return
  for key, is_right, expected in _CHECKS:
    value = row.get(key)
    if not is_right(value) and not (value is None and key in _OPTIONAL):
      got = repr(value) if key in row else f"a row without it (keys: {', '.join(map(str, row))})"
      raise UserError(f"{context}: expected {expected} in `{key}`, got {got}")
  if row["accepted"] and not row["object"]:
    raise UserError(
      f"{context}: expected an object in an accepted row, got the empty text; leave the row out or "
      "set `accepted` to false"
    )


_pick_texts = operator.itemgetter("subject", "relation", "object", "model", "calibration", "run")
_pick_others = operator.itemgetter(
  "confidence", "score", "threshold", "rank", "accepted", "checkpoint", "mixing_weights"
)


def _is_usual(row: Mapping[str, Any]) -> bool:
  """Returns whether a row is right in the usual way; one that is not may be right too."""
  try:
    texts = _pick_texts(row)
    confidence, score, threshold, rank, accepted, checkpoint, weights = _pick_others(row)
  except KeyError:
    return False
  names = [row[key] for key in OPTIONAL_TEXTS if key in row]
  numbers_are_right = (
    type(confidence) is type(score) is type(threshold) is float
    and 0 <= confidence <= 1
    and score - score == 0 == threshold - threshold  # finite
    and type(rank) is int
    and rank > 0
    and type(accepted) is bool
  )
  return bool(
    _are_texts(texts)
    and _are_texts(names)
    and numbers_are_right
    and (checkpoint is None or (type(checkpoint) is str and checkpoint))
    and (weights is None or _is_numbers(weights))
    and "flags" not in row
  )


def _are_texts(values: Sequence[Any]) -> bool:
  """Returns whether all values are texts that are not empty."""
  return set(map(type, values)) <= _STR and all(values)


def _is_any_text(value: Any) -> bool:
  return type(value) is str


def _is_text(value: Any) -> bool:
  return type(value) is str and value != ""


def _is_text_or_none(value: Any) -> bool:
  return value is None or _is_text(value)


def _is_probability(value: Any) -> bool:
  return type(value) in (float, int) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
  return (type(value) is float and math.isfinite(value)) or type(value) is int


def _is_number_or_none(value: Any) -> bool:
  return value is None or _is_number(value)


def _is_rank_or_none(value: Any) -> bool:
  return value is None or (type(value) is int and value >= 1)


def _is_bool(value: Any) -> bool:
  return type(value) is bool


def _is_numbers(value: Any) -> bool:
  return value is None or (isinstance(value, list) and _all_of(value, _is_number))


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and _all_of(value, _is_text)


def _all_of(values: Any, is_right: Callable[[Any], bool]) -> bool:
  """Returns whether all values of a list from JSON are right."""
  return all(is_right(value) for value in values)


class _Check(NamedTuple):
  """Requirement on the value of a key."""

  key: str
  is_right: Callable[[Any], bool]
  expected: str


_CHECKS = (
  _Check("subject", _is_text, "a non-empty text"),
  _Check("subject_id", _is_text, "a non-empty text"),
  _Check("relation", _is_text, "a non-empty text"),
  _Check("relation_label", _is_text, "a non-empty text"),
  _Check("object", _is_any_text, "a text"),
  _Check("object_id", _is_text, "a non-empty text"),
  _Check("confidence", _is_probability, "a probability from 0 to 1"),
  _Check("score", _is_number_or_none, "a finite number or null"),
  _Check("rank", _is_rank_or_none, "a whole number from 1 or null"),
  _Check("accepted", _is_bool, "true or false"),
  _Check("threshold", _is_number_or_none, "a finite number or null"),
  _Check("model", _is_text, "a non-empty text"),
  _Check("checkpoint", _is_text_or_none, "a digest or null"),
  _Check("mixing_weights", _is_numbers, "a list of numbers or null"),
  _Check("calibration", _is_text, "an id"),
  _Check("run", _is_text, "an id"),
  _Check("flags", _is_texts, "a list of non-empty texts"),
)
_IS_RIGHT = {key: is_right_value for key, is_right_value, _ in _CHECKS}
