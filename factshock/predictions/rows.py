"""Rows of predictions files as dicts: the one parser of these files, in any format of facts.

Rows of a .jsonl file may also be samples of the lm-evaluation-harness (harness_samples.py). What a
row's columns hold is checked by whoever uses them.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

from factshock.facts import schema
from factshock.predictions import accuracy, foreign, harness_samples
from factshock.runtime import files, json_text, messages
from factshock.runtime.errors import UserError

Row: TypeAlias = dict[str, Any]

TEXT_COLUMNS = ("subject", "relation", "object", "prediction")
EXPECTED = "a JSON object with the texts subject, relation, object, prediction"
_LINES = files.with_compressions(".jsonl")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_decoder = json.JSONDecoder()
# Less than half the overhead of `decode`, which is for lines that are not plain.
_scan = cast(Callable[[str, int], tuple[Any, int]], vars(_decoder)["scan_once"])


def read_rows(
  path: str,
  required: Sequence[str] = (),
  columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, Row]]:
  """Yields each row of one model's predictions with its context, the file and line for messages.

  Args:
    path: a file in any format of facts: .jsonl, .json, .csv, .tsv (compressed or not) or
      .parquet.
    required: columns that a table must have; a JSON row is not checked for them.
    columns: our names of columns -> the file's, where they differ.

  Raises:
    UserError: an unknown suffix, a file that cannot be read, a line that is no JSON object, a
      second model, arm or seed.
  """
  return foreign.of_one_model(_read_rows(str(path), required, columns or {}), path)


def _read_rows(
  path: str,
  required: Sequence[str],
  columns: Mapping[str, str],
) -> Iterator[tuple[str, Row]]:
  if not path.endswith(schema.JSON_SUFFIXES):
    table = schema.read_rows(path, [columns.get(name, name) for name in required])
    for context, row in foreign.renamed(table, columns, path):
      yield context, foreign.typed(row, context)
    return
  for line_number, row in _numbered_rows(path, columns):
    context = f"{path}:{line_number}"
    if not isinstance(row, dict):
      raise no_object(row, context)
    yield context, row


def no_object(value: Any, context: str) -> UserError:
  """Returns the error of a line that holds another JSON value than an object."""
  hint = schema.array_hint(json.dumps(value))
  return UserError(f"{context}: expected {EXPECTED}, got {type(value).__name__}{hint}")


def whole_rows(path: str, columns: Mapping[str, str] | None = None) -> Iterator[tuple[str, Row]]:
  """Yields each row of a predictions file with its context, as `read_rows`; each has a relation.

  Raises:
    UserError: a row without subject or object, columns that are no texts, no rows, or as
      `read_rows`.
  """
  context = ""
  for context, row in read_rows(path, columns=columns):
    missing = [name for name in ("subject", "object") if name not in row]
    if missing:
      raise UserError(
        f"{context}: expected a row with subject and object, got no {', '.join(missing)} "
        f"(columns: {', '.join(map(str, row))}); columns of other names: "
        f"--columns={missing[0]}=NAME"
      )
    whole = {"relation": foreign.NO_RELATION, **row}
    if not all(type(whole.get(name, "")) is str for name in TEXT_COLUMNS):
      whole = _with_texts(whole, context)
    if row.get("aliases"):
      whole["aliases"] = foreign.aliases(row["aliases"], context)
    yield context, whole
  if not context:
    raise UserError(f"{path}: expected predictions, got no rows")


def stem(path: str) -> str:
  """Returns a file's name without its folder and suffix: the arm of rows that name none."""
  name = os.path.basename(path)
  suffix = max(filter(name.endswith, schema.SUFFIXES), key=len, default="")
  return name.removesuffix(suffix)


def _with_texts(row: Row, context: str) -> Row:
  """Returns a row with texts where numbers, lists or null stood for them.

  Raises:
    UserError: something else stands there.
  """
  texts = foreign.with_texts(row)
  for name in TEXT_COLUMNS:
    if not isinstance(texts.get(name, ""), str):
      raise UserError(f"{context}: expected a text in {name}, got {row[name]!r}")
  return texts


def predicts_likeliest(row: Row) -> bool:
  """Returns whether a row's prediction is the likeliest of its candidates, if it has both."""
  listed: Any = row.get("candidates")
  prediction = row.get("prediction")
  if isinstance(listed, dict):
    listed = list(cast(dict[str, float], listed).items())
  if not listed or not isinstance(prediction, str):
    return True
  largest = max(score for _, score in listed)
  if listed[0][0] == prediction and listed[0][1] >= largest:  # as in most rows
    return True
  likeliest = {accuracy.normalise(text) for text, score in listed if score >= largest}
  return accuracy.normalise(prediction) in likeliest


def say_unlike(context: str, count: int) -> None:
  """Prints that rows predict another answer than the likeliest of their candidates.

  Args:
    context: the first such row's.
    count: how many there are.
  """
  messages.say(
    f"  {context}: `prediction` is not the likeliest of `candidates`, as in {count:,} rows; the "
    "candidates count here"
  )


def read_all_rows(path: str, columns: Mapping[str, str] | None = None) -> list[Row]:
  """Returns all rows of a predictions file.

  Args:
    path: the file.
    columns: our names of columns -> the file's, where they differ.

  Raises:
    UserError: a row without subject or object, no rows, or as `read_rows`.
  """
  return [row for _, row in whole_rows(path, columns)]


def rows_to_go_through_again(
  path: str, columns: Mapping[str, str] | None = None
) -> Callable[[], Iterable[tuple[str, Row]]]:
  """Returns what gives `whole_rows` as often as it is called; of a pipe they are held."""
  if os.path.isfile(path):
    return lambda: whole_rows(path, columns)
  held = list(whole_rows(path, columns))
  return lambda: held


def numbered_rows(
  path: str,
  columns: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, Any]]:
  """Returns (line number, row) of a predictions file in any format; samples of the harness as rows.

  Args:
    path: the file.
    columns: our names of columns -> the file's, where they differ.

  Raises:
    UserError: an unknown suffix, a line that is not JSON, or holds half of a character, a second
      model and no arms.
  """
  rows = _numbered_rows(path, columns or {})
  return foreign.of_one_model(rows, path, several_arms=True)


def _numbered_rows(path: str, columns: Mapping[str, str]) -> Iterator[tuple[int, Any]]:
  if not path.endswith(schema.JSON_SUFFIXES):
    return foreign.mapped(schema.numbered_rows(path), columns, path)
  is_array = not path.endswith(_LINES) and schema.holds_array(path)
  parsed: Iterator[tuple[int, Any]]
  parsed = schema.array_rows(path) if is_array else parsed_lines(files.lines(path), path)
  rows = harness_samples.as_predictions(parsed, path)
  return foreign.mapped(rows, columns, path) if columns else rows


def holds_own_lines(path: str) -> bool:
  """Returns whether a file is of lines, none of a harness's samples, and can be read twice.

  Raises:
    UserError: its first row cannot be read.
  """
  if not path.endswith(_LINES) or not os.path.isfile(path):
    return False
  _, first = next(parsed_lines(files.lines(path), path), (0, None))
  return not harness_samples.is_sample(first)


def parsed_lines(
  numbered_lines: Iterable[tuple[int, str]],
  path: str,
) -> Iterator[tuple[int, Any]]:
  """Yields (line number, parsed line) of numbered lines, blank ones left out.

  Args:
    numbered_lines: pairs of a line number and a line.
    path: their file, for messages.

  Raises:
    UserError: a line that is not JSON, or holds half of a character.
  """
  scan = _scan
  for line_number, line in numbered_lines:
    try:
      row, end = scan(line, 0)
      if end != len(line):
        row = _decoder.decode(line)
      json_text.check_depth(line, row)
    except (StopIteration, ValueError, RecursionError):
      if not line.strip():
        continue
      row = _decode(line, path, line_number)
    # JSON can escape half of a character, which no file could be written with again.
    if "\\u" in line and _SURROGATE_ESCAPE.search(line):
      _check_characters(row, line, path, line_number)
    yield line_number, row


def _decode(
  line: str,
  path: str,
  line_number: int,
) -> Any:
  try:
    return json_text.loads(line)
  except ValueError as error:
    raise UserError(
      f"{path}:{line_number}: expected {EXPECTED}, got a line that is not JSON ({error}): "
      f"{line[:60]!r}{schema.array_hint(line)}"
    ) from None


def _check_characters(
  row: Any,
  line: str,
  path: str,
  line_number: int,
) -> None:
  if _SURROGATE.search(json.dumps(row, ensure_ascii=False)):
    raise UserError(
      f"{path}:{line_number}: expected text that UTF-8 can hold, got half a character in "
      f"{line[:60]!r}"
    )
