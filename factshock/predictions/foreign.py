"""Rows of predictions as other programs write them: other columns, numbers, nulls, lists as text.

Numbers are read as texts where texts are expected (of whole ones the digits alone), a prediction
that is null as no answer, lists as JSON, as Python prints them or as a|b.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from factshock.facts import listed
from factshock.runtime import json_text
from factshock.runtime.errors import UserError

Row: TypeAlias = dict[str, Any]
T = TypeVar("T")

_EXACT = 1 << 53  # whole numbers below it are exact as floats
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}")
_NEEDED = ("subject", "object", "prediction")  # the texts that every row has
NO_RELATION = "(none)"  # of rows that name none
_FLOATS = ("score", "popularity", "alpha")
_INTEGERS = ("seed", "step")
COLUMNS = (
  *("subject", "relation", "object", "prediction", "aliases", "arm", "split", "candidates"),
  *_FLOATS,
  *_INTEGERS,
)


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
  """Returns our name -> the file's of texts "our=theirs".

  Raises:
    UserError: one that is not written so, of a column that we don't have, or given twice.
  """
  columns: dict[str, str] = {}
  for pair in pairs:
    name, equals, theirs = pair.partition("=")
    if not equals or name not in COLUMNS or name in columns or not theirs:
      raise UserError(
        f"--columns={','.join(pairs)}: expected OURS=THEIRS with each of {', '.join(COLUMNS)} at "
        f"most once, got {pair!r}"
      )
    columns[name] = theirs
  return columns


def mapped(
  rows: Iterable[tuple[int, Any]],
  columns: Mapping[str, str],
  path: str,
) -> Iterator[tuple[int, Any]]:
  """Yields (line number, row) with our names of columns and values of our types.

  Args:
    rows: pairs of a line number and a row.
    columns: our name -> the file's; others are as they are named.
    path: the file, for messages.

  Raises:
    UserError: a column that no row has, or a cell that is no number where one is expected.
  """
  for line_number, row in renamed(rows, columns, path):
    is_row = isinstance(row, dict)
    yield line_number, typed(cast(Row, row), f"{path}:{line_number}") if is_row else row


def renamed(
  rows: Iterable[tuple[T, Any]],
  columns: Mapping[str, str],
  path: str,
) -> Iterator[tuple[T, Any]]:
  """Yields rows with our names of columns, in place of the file's, each with what stood before it.

  Args:
    rows: pairs of anything and a row.
    columns: our name -> the file's; others are as they are named.
    path: the file, for messages.

  Raises:
    UserError: a column that no row has.
  """
  missing = set(columns.values())
  replaced = missing - columns.keys()
  names: dict[str, None] = {}
  for key, row in rows:
    if not columns or not isinstance(row, dict):
      yield key, row
      continue
    own = cast(Row, row)
    if missing:
      missing.difference_update(own)
      names.update(dict.fromkeys(own))
      if missing == set(columns.values()) and not columns.keys().isdisjoint(_NEEDED):
        break  # a file that has our names, maybe
    kept = {name: value for name, value in own.items() if name not in replaced}
    yield key, {**kept, **{name: own.get(theirs) for name, theirs in columns.items()}}
  if missing:
    raise UserError(
      f"{path}: expected the columns {', '.join(sorted(missing))} that --columns names, got "
      f"{', '.join(names)} (--columns is for every file)"
    )


def of_one_model(
  rows: Iterable[tuple[T, Any]],
  path: str,
  *,
  several_arms: bool = False,
  firsts: dict[str, Any] | None = None,
) -> Iterator[tuple[T, Any]]:
  """Yields rows as they are, as long as no column names a second model.

  What no column tells can't be noticed: that two models answered different queries, say.

  Args:
    rows: pairs of anything and a row.
    path: the file, for the message.
    several_arms: whether a column `arm` may tell models apart.
    firsts: the first value of each column that tells models apart; where a file's rows come in
      several parts, the same one for all.

  Raises:
    UserError: a second model, or without `several_arms` a second arm or seed.
  """
  names = ("model",) if several_arms else ("arm", "seed", "model")
  firsts = {} if firsts is None else firsts
  for key, row in rows:
    own = cast(Row, row) if isinstance(row, dict) else Row()
    if not several_arms or own.get("arm") is None:
      for name in names:
        value = own.get(name)
        if value is not None and firsts.setdefault(name, value) != value:
          raise _several_models(path, name, firsts[name], value, several_arms)
    yield key, row


def _several_models(
  path: str,
  name: str,
  first: Any,
  second: Any,
  several_arms: bool,
) -> UserError:
  advice = "name them as arms, --columns=arm=model" if several_arms else "give each a file"
  return UserError(
    f"{path}: expected answers of one model, got {first!r} and {second!r} in column `{name}`; "
    f"{advice}"
  )


def typed(row: Row, context: str) -> Row:
  """Returns a row in which what is no text in our files is none, though it came from a table."""
  for names, convert in ((_FLOATS, _float), (_INTEGERS, _integer), (("candidates",), _json)):
    for name in row.keys() & set(names):
      value = row[name]
      if _is_null(value) or value == "":
        row[name] = None
      else:
        row[name] = convert(value, name, context)
  for name in row.keys() & {"arm", "split"}:
    if _is_null(row[name]) or row[name] == "":
      row[name] = None
  return with_texts(row)


def with_texts(row: Row) -> Row:
  """Returns a row whose subject, relation, object and prediction are texts where they can be."""
  texts = dict(row)
  texts["subject"] = _text(row.get("subject"))
  texts["relation"] = _text(row.get("relation", NO_RELATION))
  if "prediction" in row:
    prediction = _text(row["prediction"])
    texts["prediction"] = "" if prediction is None else prediction
  answers = _answers(row.get("object"))
  if answers:
    texts["object"] = answers[0]
    more = listed_texts(row.get("aliases"))
    texts["aliases"] = [*answers[1:], *(more or [])] if len(answers) > 1 else row.get("aliases")
  else:
    texts["object"] = _text(row.get("object"))
  return {name: value for name, value in texts.items() if value is not None or name in row}


def _answers(value: Any) -> list[str] | None:
  """Returns the answers of a list, or of a text that is one; None for other values."""
  if isinstance(value, str) and not value.lstrip().startswith("["):
    return None
  texts: Any = listed_texts(value) if isinstance(value, (str, list)) else None
  if not isinstance(texts, list):
    return None
  items = cast(list[Any], texts)
  return items if all(isinstance(item, str) for item in items) else None


def listed_texts(value: Any) -> Any:
  """Returns a list of texts, numbers among them as texts; [] for none; else the value itself."""
  if _is_null(value) or value == "":
    return []
  if isinstance(value, str):
    texts = listed.texts(value)
    return value if texts is None else texts
  if isinstance(value, list):
    return [_text(item) for item in cast(list[Any], value)]
  return value


def aliases(value: Any, context: str) -> list[str]:
  """Returns the texts of a column of aliases.

  Raises:
    UserError: it holds something else; `context` is where.
  """
  texts = listed_texts(value)
  if isinstance(texts, list):
    found = cast(list[Any], texts)
    if all(type(text) is str for text in found):
      return [text for text in found if text.strip()]
  raise bad_aliases(value, context)


def bad_aliases(value: Any, context: str) -> UserError:
  """Returns the error of a column of aliases that holds something else than texts."""
  return UserError(f"{context}: expected a list of texts in aliases, got {value!r}")


def _text(value: Any) -> Any:
  """Returns a number as text, None for null, and other values as they are."""
  if _is_null(value):
    return None
  if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
    value = int(value)  # a column of whole numbers with nulls is one of floats in many programs
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return str(value)
  return value


def _is_null(value: Any) -> bool:
  return value is None or (isinstance(value, float) and math.isnan(value))


def _float(value: Any, name: str, context: str) -> Any:
  if not isinstance(value, str):
    return value
  try:
    return float(value.replace("_", "?"))
  except ValueError:
    raise UserError(f"{context}: expected a number in {name}, got {value[:60]!r}") from None


def _integer(value: Any, name: str, context: str) -> Any:
  if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
    return int(value)  # a float would round those beyond 2**53
  number = _float(value, name, context)
  return int(number) if isinstance(number, float) and number.is_integer() else number


def _json(value: Any, name: str, context: str) -> Any:
  if not isinstance(value, str):
    return value
  try:
    return json_text.loads(value)
  except ValueError:
    raise UserError(f"{context}: expected JSON in {name}, got {value[:60]!r}") from None
