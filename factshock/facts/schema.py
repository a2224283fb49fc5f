"""Fact schema, and reading and writing files of facts.

A fact is a dict with `subject`, `relation`, `object` (non-empty strings) and, where known,
`aliases` (list of accepted answers), `subject_id`, `object_id`, `popularity` (finite number; of the
subject), `question` (text that replaces the relation's template) and `choices` (list). Other
columns are carried along. Files, by suffix:

- `.jsonl`, `.json`: one object a line, or in .json one array of objects; blank lines are skipped.
- `.csv`: a header; double quotes around cells that need them.
- `.tsv`: a header; a cell holds no tab and no newline. Quotes are text, but around a whole cell
  in which all others are doubled, as programs write that quote: "Bath", "say ""Heroes"" again".
- `.parquet`.

All but parquet also with .gz, .bz2, .xz or .zst behind it.

In csv and tsv `aliases` and `choices` are lists in JSON or as Python prints them, or texts with |
between them (facts/listed.py), and other columns are read as text. An optional column that is null,
or an empty cell, counts as not given. Text is kept to the letter; popularity becomes a float.
Errors name the line (the row in parquet), what was expected and what was got.
"""

import contextlib
import csv
import json
import math
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, TypeAlias, cast

from factshock.facts import listed, parquet
from factshock.runtime import files, json_text
from factshock.runtime.errors import UserError
from factshock.types import Fact, FilePath

Row: TypeAlias = dict[str, Any]  # a row of any table, by column
# With the number of its line, or in parquet of the row.
_NumberedRows: TypeAlias = Iterator[tuple[int, Row]]
# Line number and cells.
_Records: TypeAlias = Iterator[tuple[int, list[str]]]

REQUIRED = ("subject", "relation", "object")
_TEXTS = ("subject_id", "object_id", "question")
_LISTS = ("aliases", "choices")
COLUMNS = (*REQUIRED, "aliases", "subject_id", "object_id", "popularity", "question", "choices")
_OPTIONAL = frozenset(COLUMNS[3:])
JSON_SUFFIXES = files.with_compressions(".jsonl", ".json")
# What read_rows reads.
SUFFIXES = (*JSON_SUFFIXES, *files.with_compressions(".csv", ".tsv"), ".parquet")


_QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a whole cell in quotes
_BETWEEN = re.compile(r"[\s,]*")  # objects of an array


class Relations(Sized, Iterable[str], Container[str], Protocol):
  """Names of relations: a mapping by them, a set or a list."""


def read_facts(path: FilePath) -> list[Fact]:
  """Reads a file of facts.

  Raises:
    UserError: unknown suffix, missing or empty file, missing column, malformed line, value of the
      wrong kind, or a (subject, relation, object) given twice (both lines are named).
  """
  file_format = _format_of(path)
  rows = _READERS[file_format](path, REQUIRED)
  facts = _check_all(path, _unit_of(file_format), rows)
  if not facts:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  return facts


def located_facts(path: FilePath) -> Iterator[tuple[str, Fact]]:
  """Yields (file and line as errors name them, fact) of a file of facts, which may say some twice.

  Raises:
    UserError: as `read_facts`, but for an empty file and facts given twice.
  """
  file_format = _format_of(path)
  unit = _unit_of(file_format)
  for index, row in _READERS[file_format](path, REQUIRED):
    location = _location(path, unit, index)
    yield location, _checked_fact(row, location)


def read_rows(
  path: FilePath,
  columns: Sequence[str],
) -> Iterator[tuple[str, Row]]:
  """Yields (file and line as errors name them, row) of a table in any of the formats.

  In csv and tsv the columns of the schema that are lists or numbers are read as such.

  Args:
    path: the table.
    columns: those it must have (a jsonl row is not checked for them).

  Raises:
    UserError: as `read_facts`, and for a table that lacks one of the columns.
  """
  file_format = _format_of(path)
  unit = _unit_of(file_format)
  for index, row in _READERS[file_format](path, columns):
    yield _location(path, unit, index), row


def numbered_rows(path: FilePath) -> _NumberedRows:
  """Returns pairs of a line (in parquet of a row) and the row, as `read_rows` reads them."""
  return _READERS[_format_of(path)](path, ())


def write_facts(path: FilePath, facts: Iterable[Mapping[str, Any]]) -> None:
  """Writes facts in the format of the suffix; the file appears whole or not at all.

  Raises:
    UserError: unknown suffix, no facts, facts that `read_facts` would refuse, or a cell that the
      format cannot hold.
  """
  file_format = _format_of(path, _WRITERS)
  checked = _check_all(path, "fact", enumerate(facts, 1))
  if not checked:
    raise UserError(f"{path}: expected at least one fact to write, got none")
  try:
    _WRITERS[file_format](path, checked)
  except UnicodeEncodeError as error:
    raise UserError(
      f"{path}: expected text that UTF-8 can hold, got {error.object[:60]!r}"
    ) from error
  except TypeError as error:
    raise UserError(
      f"{path}: expected text, numbers and lists in every column, got: {error}"
    ) from error


def check_writable(path: FilePath) -> None:
  """Raises a UserError where `write_facts` has no format for a name."""
  _format_of(path, _WRITERS)


def check_facts(
  facts: Sequence[Fact],
  relations: Relations,
  source: object,
) -> None:
  """Checks that every fact's relation is one of the given relations.

  Args:
    facts: what is checked.
    relations: names of relations, or a mapping by them.
    source: file name or the like that opens the error.

  Raises:
    UserError: some are not; names the first and counts the rest.
  """
  unknown = [
    (index, fact) for index, fact in enumerate(facts, 1) if fact["relation"] not in relations
  ]
  if not unknown:
    return
  index, fact = unknown[0]
  raise UserError(
    f"{source}: fact {index} ({fact['subject']!r}): expected one of the {len(relations)} "
    f"given relations ({first_names(relations)}), got {fact['relation']!r}; {len(unknown)} of "
    f"{len(facts)} facts have an unknown relation; add its templates to the relations or remove "
    f"the facts"
  )


def first_names(relations: Relations) -> str:
  """Returns the first eight names in alphabetical order, as errors show them."""
  listed = ", ".join(sorted(relations)[:8])
  if len(relations) > 8:
    return f"{listed}, ..."
  return listed


def check_fact(fact: Mapping[str, Any], location: str) -> None:
  """Raises a UserError that begins with `location` if a mapping is not a fact."""
  problem = _problem(fact)
  if problem:
    raise UserError(f"{location}: {problem}")


def json_object(line: str, location: str) -> Row:
  """Returns the JSON object on a line.

  Raises:
    UserError: there is none; the error begins with `location`.
  """
  try:
    row: Any = json_text.loads(line)
  except json.JSONDecodeError as error:
    reason = f" ({error.msg} at column {error.colno})"
    raise _no_object(line, location, reason) from error
  except ValueError as error:
    raise _no_object(line, location, f" ({error})") from error
  if not isinstance(row, dict):
    raise _no_object(line, location)
  # JSON can escape half of a character, which no file could be written with again.
  if "\\u" in line and re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False)):
    raise UserError(
      f"{location}: expected text that UTF-8 can hold, got half a character in {line[:60]!r}"
    )
  return cast(Row, row)


def _no_object(
  line: str,
  location: str,
  reason: str = "",
) -> UserError:
  got = f"{line[:60]!r}{reason}{array_hint(line)}"
  return UserError(f"{location}: expected a JSON object, got {got}")


def array_hint(line: str) -> str:
  """Returns what to do where a line that should be an object begins an array; "" for others."""
  is_array = line.lstrip().startswith("[")
  return "; a file that is one JSON array has a name that ends with .json" if is_array else ""


def _check_all(
  path: FilePath,
  unit: str,
  rows: Iterable[tuple[int, Mapping[str, Any]]],
) -> list[Fact]:
  """Returns the facts of (index, row), each checked, without optional columns that are null."""
  facts: list[Fact] = []
  first: dict[tuple[str, str, str], int] = {}
  for index, row in rows:
    fact = _checked_fact(row, _location(path, unit, index))
    key = (fact["subject"], fact["relation"], fact["object"])
    if first.setdefault(key, index) != index:
      raise UserError(
        f"{_location(path, unit, index)}: expected each fact once, got {key} again (first in "
        f"{unit} {first[key]}); remove one"
      )
    facts.append(fact)
  return facts


def _checked_fact(row: Mapping[str, Any], location: str) -> Fact:
  """Returns the fact of a row, without optional columns that are null."""
  fact = _without_nulls(row)
  check_fact(fact, location)
  if "popularity" in fact:
    fact["popularity"] = float(fact["popularity"])
  return cast(Fact, fact)


def _without_nulls(row: Mapping[str, Any]) -> Row:
  return {
    column: value for column, value in row.items() if value is not None or column not in _OPTIONAL
  }


def _unit_of(file_format: str) -> str:
  return "row" if file_format == "parquet" else "line"


def _location(
  path: FilePath,
  unit: str,
  index: int,
) -> str:
  if unit == "line":
    return f"{path}:{index}"
  return f"{path}: {unit} {index}"


def _problem(fact: Mapping[str, Any]) -> str | None:
  """Returns what is wrong with a fact, as "expected ..., got ...", or None."""
  for column, value in fact.items():
    if column not in _CHECKS:
      continue
    accepts, expected = _CHECKS[column]
    if not accepts(value):
      return f"expected {expected} in column `{column}`, got {value!r}"
  missing = [column for column in REQUIRED if column not in fact]
  if missing:
    return f"expected a column `{missing[0]}`, got the columns {', '.join(fact) or '(none)'}"
  return None


def _is_text(value: Any) -> bool:
  return isinstance(value, str) and value != "" and not value.isspace()


def _is_texts(value: Any) -> bool:
  if not isinstance(value, list):
    return False
  return all(map(_is_text, cast(list[Any], value)))


def _is_finite(value: Any) -> bool:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return False
  try:
    return math.isfinite(value)
  except OverflowError:
    return False


# Each column's check, and what it expects.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
  **dict.fromkeys(REQUIRED + _TEXTS, (_is_text, "a non-empty string")),
  **dict.fromkeys(_LISTS, (_is_texts, "a list of non-empty strings")),
  "popularity": (_is_finite, "a finite number"),
}


def _format_of(path: FilePath, formats: Container[str] | None = None) -> str:
  """Returns the format that a file's name ends in, such as "csv"."""
  name = str(path)
  stem = name.removesuffix(files.compression(path))
  file_format = stem.rpartition(".")[2]
  if file_format not in (formats or _READERS) or (file_format == "parquet" and stem != name):
    raise UserError(
      f"{path}: expected a file name that ends in .jsonl, .csv, .tsv (each also with "
      f"{files.LISTED_COMPRESSIONS}) or .parquet; rename or convert the file"
    )
  return file_format


def _jsonl_rows(
  path: FilePath,
  _: Sequence[str],
) -> _NumberedRows:
  return json_rows(path)


def json_rows(path: FilePath, longest: int = files.LONGEST_LINE) -> _NumberedRows:
  """Yields (line number, object) of a file of JSON lines of at most so many characters."""
  for line_number, line in files.lines(path, longest):
    if line and not line.isspace():
      yield line_number, json_object(line, f"{path}:{line_number}")


def _json_rows(
  path: FilePath,
  _: Sequence[str],
) -> _NumberedRows:
  """Yields the objects of lines or of one array: other people's .json is either."""
  return array_rows(path) if holds_array(path) else json_rows(path)


def holds_array(path: FilePath) -> bool:
  """Returns whether a file is a JSON array, and not an object a line."""
  if not os.path.isfile(path):
    return False
  with contextlib.suppress(UserError):
    for _, line in files.lines(path):
      if line and not line.isspace():
        return line.lstrip().startswith("[")
  return False


def array_rows(path: FilePath) -> _NumberedRows:
  """Yields (line that an object begins in, object) of a file that is one JSON array of objects."""
  text = files.read_text(path)
  try:
    rows: list[Any] = json_text.loads(text)
  except json.JSONDecodeError as error:
    raise UserError(f"{path}:{error.lineno}: expected a JSON array, got {error.msg}") from error
  except ValueError as error:
    raise UserError(f"{path}: expected a JSON array of objects, got one with {error}") from error
  decoder = json.JSONDecoder()
  line_number = 1
  position = 0
  end = text.index("[") + 1
  for row in rows:
    begin = cast(re.Match[str], _BETWEEN.match(text, end)).end()
    line_number += text.count("\n", position, begin)
    position = begin
    if not isinstance(row, dict):
      raise _no_object(text[begin : begin + 60], f"{path}:{line_number}")
    _, end = decoder.raw_decode(text, begin)
    yield line_number, json_object(text[begin:end], f"{path}:{line_number}")


def _csv_rows(
  path: FilePath,
  required: Sequence[str],
) -> _NumberedRows:
  yield from _table_rows(path, csv_records(path), required)


def csv_records(path: FilePath) -> _Records:
  """Yields (line that a record begins in, its cells)."""
  if csv.field_size_limit() < files.LONGEST_LINE:  # Python's is 131,072 characters
    csv.field_size_limit(files.LONGEST_LINE)
  # `lines` takes the newline off, which a quoted cell may hold.
  lines = (line + "\n" for _, line in files.lines(path))
  reader = csv.reader(lines, strict=True)
  while True:
    start = reader.line_num + 1
    try:
      cells = next(reader, None)
    except csv.Error as error:
      raise UserError(
        f"{path}:{start}: expected comma-separated cells, got a malformed line ({error})"
      ) from error
    if cells is None:
      return
    yield start, cells


def _tsv_rows(
  path: FilePath,
  required: Sequence[str],
) -> _NumberedRows:
  yield from _table_rows(path, tsv_records(path), required)


def tsv_records(path: FilePath) -> _Records:
  """Yields (line number, cells) of a file with tabs between cells; none of a blank line.

  Quotes around a whole cell, all others in it doubled, are taken off.
  """
  for line_number, line in files.lines(path):
    cells = line.split("\t") if line else []
    if '"' in line:
      cells = list(map(_unquoted, cells))
    yield line_number, cells


def _unquoted(cell: str) -> str:
  return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def tsv_line(cells: Iterable[str]) -> str:
  """Returns a line that `tsv_records` reads these cells from; they hold no tab and no newline."""
  return "\t".join(map(_quoted, cells)) + "\n"


def _quoted(cell: str) -> str:
  """Returns a cell as it is, or in quotes where some would else be taken off."""
  if not _QUOTED.fullmatch(cell):
    return cell
  doubled = cell.replace('"', '""')
  return f'"{doubled}"'


def _table_rows(
  path: FilePath,
  records: _Records,
  required: Sequence[str],
) -> _NumberedRows:
  """Yields rows of (line, cells); the header names the columns.

  Empty cells of optional columns become None.
  """
  line_number, header = next(records, (1, None))
  if header is None:
    return
  separator = next((sign for sign in ";\t," if len(header) == 1 and sign in header[0]), None)
  if separator:
    raise UserError(
      f"{path}:{line_number}: expected commas between cells (.csv) or tabs (.tsv), got "
      f"{separator!r} in the header {header[0][:80]!r}; write it so, or mend its name"
    )
  if not set(required) <= set(header):
    raise UserError(
      f"{path}:{line_number}: expected a header with the columns {', '.join(required)}, got "
      f"{header}"
    )
  if len(set(header)) != len(header):
    raise UserError(f"{path}:{line_number}: expected each column once, got {header}")
  for line_number, cells in records:
    if not cells:
      continue
    if len(cells) != len(header):
      raise UserError(
        f"{path}:{line_number}: expected {len(header)} cells as in the header, got {len(cells)}: "
        f"{cells[:8]}"
      )
    row: Row = {}
    for column, cell in zip(header, cells):
      row[column] = _value(path, line_number, column, cell)
    yield line_number, row


def _value(
  path: FilePath,
  line_number: int,
  column: str,
  cell: str,
) -> Any:
  """Returns the value of a cell: a list or number where its column holds such."""
  if column not in _OPTIONAL:
    return cell
  if not cell:
    return None
  try:
    if column in _LISTS:
      return listed.parse(cell)
    if column == "popularity":
      # Python reads "1_000" as 1000; nobody who writes it in a table can be relied on to mean that.
      return float(cell.replace("_", "?"))
  except ValueError as error:
    expected = listed.EXPECTED if column in _LISTS else "a number"
    raise UserError(
      f"{path}:{line_number}: expected {expected} in column `{column}`, got {cell!r}"
    ) from error
  return cell


def _columns(facts: Iterable[Mapping[str, Any]]) -> list[str]:
  """Returns all columns of the facts: those of the schema first, then others as they appear."""
  seen = dict.fromkeys(column for fact in facts for column in fact)
  of_schema = [column for column in COLUMNS if column in seen]
  others = [column for column in seen if column not in COLUMNS]
  return of_schema + others


def _write_jsonl(path: FilePath, facts: Sequence[Fact]) -> None:
  with files.atomic_write(path) as file:
    for fact in facts:
      file.write(json.dumps(fact, ensure_ascii=False) + "\n")


def _write_csv(path: FilePath, facts: Sequence[Fact]) -> None:
  columns = _columns(facts)
  with files.atomic_write(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_cells(path, fact, columns, "\r") for fact in facts)


def _write_tsv(path: FilePath, facts: Sequence[Fact]) -> None:
  columns = _columns(facts)
  with files.atomic_write(path) as file:
    file.write(tsv_line(columns))
    for fact in facts:
      cells = _cells(path, fact, columns, "\t\n\r")
      file.write(tsv_line(cells))


def _cells(
  path: FilePath,
  fact: Mapping[str, Any],
  columns: Sequence[str],
  forbidden: str,
) -> list[str]:
  """Returns a fact's cells, checked to hold none of the forbidden characters."""
  cells: list[str] = []
  for column in columns:
    cell = _cell_of(fact.get(column))
    if any(letter in cell for letter in forbidden):
      raise UserError(
        f"{path}: expected cells without {' or '.join(map(repr, forbidden))}, got {cell!r} in "
        f"column `{column}`; write .jsonl instead"
      )
    cells.append(cell)
  return cells


def _cell_of(value: Any) -> str:
  """Returns a value as text: strings as they are, nothing for None, JSON for the rest."""
  if value is None:
    return ""
  if isinstance(value, str):
    return value
  return json.dumps(value, ensure_ascii=False)


def _write_parquet(
  path: FilePath,
  facts: Sequence[Mapping[str, Any]],
) -> None:
  columns: dict[str, list[Any]] = {}
  for column in _columns(facts):
    columns[column] = [fact.get(column) for fact in facts]
  parquet.write_columns(path, columns)


_Reader: TypeAlias = Callable[[FilePath, Sequence[str]], _NumberedRows]
_Writer: TypeAlias = Callable[[FilePath, Sequence[Fact]], None]

_READERS: dict[str, _Reader] = {
  "jsonl": _jsonl_rows,
  "json": _json_rows,
  "csv": _csv_rows,
  "tsv": _tsv_rows,
  "parquet": parquet.read_rows,
}
_WRITERS: dict[str, _Writer] = {
  "jsonl": _write_jsonl,
  "csv": _write_csv,
  "tsv": _write_tsv,
  "parquet": _write_parquet,
}
