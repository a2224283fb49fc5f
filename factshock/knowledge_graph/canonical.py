"""Canonical rows: candidate triples with all that is known of them, and their file, triples.jsonl.

A row is a dict with these keys, in this order:

- `subject`, `subject_id` (optional), `relation`, `relation_label` (optional), `object`, `object_id` (optional);
- `confidence`: probability that the triple is true, 0 to 1; `score`: log-probability before calibration;
- `rank`: place among the query's candidates, from 1 (it and the score are null where another triple implies this one);
- `accepted`: whether it is in the graph; `threshold`: the confidence that took (null where there was none);
- `model`, `checkpoint` (its digest, or null), `mixing_weights` (list, or null), `calibration` and `run` (ids);
- `flags` (optional): list of strings, what speaks against the triple.

Further keys are carried along. The object of a row that is not accepted may be empty: a model that answered
nothing. A text is kept to the letter, and an optional key that is null counts as not given.
"""

import functools
import json
import math
import operator

from factshock.facts import schema
from factshock.runtime import files
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
_NAMED = ("subject_id", "relation_label", "object_id")
_OPTIONAL = frozenset(("subject_id", "relation_label", "object_id", "flags"))
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def read(path):
  """Yields the rows of a file of canonical rows, each checked; blank lines are passed over.

  Raises:
    UserError: missing file, malformed line, missing key or value of the wrong kind; names file and line.
  """
  for number, line in files.lines(path):
    if line and not line.isspace():
      row = schema.json_object(line, f"{path}:{number}")
      check(row, f"{path}:{number}")
      yield row


def write(path, rows):
  """Writes an iterable of rows, keys in canonical order; returns how many. The file is whole or absent.

  Raises:
    UserError: a row that `read` would refuse, or one with text that UTF-8 cannot hold.
  """
  number = 0
  with files.atomic_write(path) as file:
    for number, row in enumerate(rows, 1):
      check(row, f"{path}: row {number}")
      file.write(_ENCODER.encode(_ordered(row)) + "\n")
  return number


def check(row, where):
  """Raises a UserError that begins with `where` if a dict is not a canonical row."""
  if _is_usual(row):  # a third of the time that reading took
    return
  for key, is_right, expected in _CHECKS:
    value = row.get(key)
    if not is_right(value) and not (value is None and key in _OPTIONAL):
      got = repr(value) if key in row else f"a row without it (keys: {', '.join(map(str, row))})"
      raise UserError(f"{where}: expected {expected} in `{key}`, got {got}")
  if row["accepted"] and not row["object"]:
    raise UserError(
      f"{where}: expected an object in an accepted row, got the empty text; leave the row out or set "
      "`accepted` to false"
    )


_PICK = operator.itemgetter(
  "subject",
  "relation",
  "object",
  "model",
  "calibration",
  "run",
  "confidence",
  "score",
  "threshold",
  "rank",
  "accepted",
  "checkpoint",
  "mixing_weights",
)


def _is_usual(row):
  """Whether a row is right in the usual way; one that is not may be right too."""
  try:
    (
      subject,
      relation,
      object_,
      model,
      calibration,
      run,
      confidence,
      score,
      threshold,
      rank,
      accepted,
      checkpoint,
      weights,
    ) = _PICK(row)
    return bool(
      type(subject)
      is type(relation)
      is type(object_)
      is type(model)
      is type(calibration)
      is type(run)
      is str
      and subject
      and relation
      and object_
      and model
      and calibration
      and run
      and type(confidence) is type(score) is type(threshold) is float
      and 0 <= confidence <= 1
      and score - score == 0 == threshold - threshold
      and type(rank) is int
      and rank > 0
      and type(accepted) is bool
      and (checkpoint is None or type(checkpoint) is str and checkpoint)
      and (weights is None or _is_numbers(weights))
      and "flags" not in row
      and all(type(row[key]) is str and row[key] for key in _NAMED if key in row)
    )
  except KeyError:
    return False


def _ordered(row):
  """The row without what is not given, keys in canonical order, others after them."""
  return {
    key: row[key] for key in _order(tuple(row)) if row[key] is not None or key not in _OPTIONAL
  }


@functools.lru_cache(maxsize=64)  # rows of a file differ little in their keys
def _order(keys):
  return tuple(key for key in KEYS if key in keys) + tuple(key for key in keys if key not in KEYS)


def _is_text(value):
  return type(value) is str and value != ""


def _is_number(value):
  return type(value) is float and math.isfinite(value) or type(value) is int


def _is_numbers(value):
  return value is None or type(value) is list and all(map(_is_number, value))


_CHECKS = (
  ("subject", _is_text, "a non-empty text"),
  ("subject_id", _is_text, "a non-empty text"),
  ("relation", _is_text, "a non-empty text"),
  ("relation_label", _is_text, "a non-empty text"),
  ("object", lambda value: type(value) is str, "a text"),
  ("object_id", _is_text, "a non-empty text"),
  (
    "confidence",
    lambda value: type(value) in (float, int) and 0 <= value <= 1,
    "a probability from 0 to 1",
  ),
  ("score", lambda value: value is None or _is_number(value), "a finite number or null"),
  (
    "rank",
    lambda value: value is None or type(value) is int and value >= 1,
    "a whole number from 1 or null",
  ),
  ("accepted", lambda value: type(value) is bool, "true or false"),
  ("threshold", lambda value: value is None or _is_number(value), "a finite number or null"),
  ("model", _is_text, "a non-empty text"),
  ("checkpoint", lambda value: value is None or _is_text(value), "a digest or null"),
  ("mixing_weights", _is_numbers, "a list of numbers or null"),
  ("calibration", _is_text, "an id"),
  ("run", _is_text, "an id"),
  (
    "flags",
    lambda value: type(value) is list and all(map(_is_text, value)),
    "a list of non-empty texts",
  ),
)
