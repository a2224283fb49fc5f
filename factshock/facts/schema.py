"""The fact schema, and reading and writing files of facts.

A fact is a dict with `subject`, `relation`, `object` (non-empty strings) and, where known, `aliases` (list
of accepted answers), `subject_id`, `object_id`, `popularity` (finite number; of the subject), `question`
(text that replaces the relation's template) and `choices` (list). Other columns are carried along. Files,
by suffix:

- `.jsonl`, `.jsonl.gz`: one object a line; blank lines are skipped.
- `.csv`, `.csv.gz`: a header; double quotes around cells that need them.
- `.tsv`, `.tsv.gz`: a header; no quoting, so a cell holds no tab and no newline.
- `.parquet`.

In csv and tsv `aliases` and `choices` are JSON lists, and other columns are read as text. An optional
column that is null, or an empty cell, counts as not given. Text is kept to the letter; popularity becomes
a float. Errors name the line (the row in parquet), what was expected and what was got.
"""

import csv
import json
import math
import re

from factshock.runtime import files
from factshock.runtime.errors import UserError

REQUIRED = ("subject", "relation", "object")
_TEXTS = ("subject_id", "object_id", "question")
_LISTS = ("aliases", "choices")
COLUMNS = REQUIRED + ("aliases", "subject_id", "object_id", "popularity", "question", "choices")
_OPTIONAL = frozenset(COLUMNS[3:])
SUFFIXES = (
  ".jsonl",
  ".jsonl.gz",
  ".json",
  ".json.gz",
  ".csv",
  ".csv.gz",
  ".tsv",
  ".tsv.gz",
  ".parquet",
)  # what read_rows reads


def read_facts(path):
  """Reads a file of facts into a list of dicts.

  Raises:
    UserError: unknown suffix, missing or empty file, missing column, malformed line, value of the wrong kind,
      or a (subject, relation, object) given twice (both lines are named).
  """
  kind = _kind(path)
  facts = _checked(path, "row" if kind == "parquet" else "line", _ROWS[kind](path, REQUIRED))
  if not facts:
    raise UserError(f"{path}: expected at least one fact, got an empty file")
  return facts


def read_rows(path, columns):
  """Yields (place as errors name it, row dict) of a table in any of the formats, its columns whatever they are.

  In csv and tsv the columns of the schema that are lists or numbers are read as such.

  Raises:
    UserError: as `read_facts`, for a table that lacks one of `columns` (a jsonl row is not checked for them).
  """
  # Other people's .json is often an object a line, as C4's .json.gz is.
  kind = "jsonl" if str(path).endswith((".json", ".json.gz")) else _kind(path)
  for place, row in _ROWS[kind](path, columns):
    yield _where(path, "row" if kind == "parquet" else "line", place), row


def write_facts(path, facts):
  """Writes facts in the format of the suffix; the file appears whole or not at all.

  Raises:
    UserError: unknown suffix, no facts, facts that `read_facts` would refuse, or a cell that the format
      cannot hold.
  """
  kind = _kind(path)
  facts = _checked(path, "fact", enumerate(facts, 1))
  if not facts:
    raise UserError(f"{path}: expected at least one fact to write, got none")
  try:
    _WRITERS[kind](path, facts)
  except UnicodeEncodeError as error:
    raise UserError(
      f"{path}: expected text that UTF-8 can hold, got {error.object[:60]!r}"
    ) from error
  except TypeError as error:
    raise UserError(
      f"{path}: expected text, numbers and lists in every column, got: {error}"
    ) from error


def check_facts(facts, relations, where):
  """Checks that every fact's relation is one of `relations`; `where` (a file name) opens the error.

  Raises:
    UserError: some are not; names the first and counts the rest.
  """
  unknown = [
    (number, fact) for number, fact in enumerate(facts, 1) if fact["relation"] not in relations
  ]
  if unknown:
    number, fact = unknown[0]
    shown = ", ".join(sorted(relations)[:8]) + (", ..." if len(relations) > 8 else "")
    raise UserError(
      f"{where}: fact {number} ({fact['subject']!r}): expected one of the {len(relations)} "
      f"given relations ({shown}), got {fact['relation']!r}; {len(unknown)} of {len(facts)} "
      f"facts have an unknown relation; add its templates to the relations or remove the facts"
    )


def check_fact(fact, where):
  """Raises a UserError that begins with `where` if a dict is not a fact."""
  problem = _problem(fact)
  if problem:
    raise UserError(f"{where}: {problem}")


def json_object(line, where):
  """The JSON object on a line, as a dict; a UserError that begins with `where` if there is none."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError) as error:
    reason = (
      f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
    )
    raise UserError(f"{where}: expected a JSON object, got {line[:60]!r} ({reason})") from error
  if not isinstance(row, dict):
    raise UserError(f"{where}: expected a JSON object, got {line[:60]!r}")
  # JSON can escape half of a character, which no file could be written with again.
  if "\\u" in line and re.search("[\ud800-\udfff]", json.dumps(row, ensure_ascii=False)):
    raise UserError(
      f"{where}: expected text that UTF-8 can hold, got half a character in {line[:60]!r}"
    )
  return row


def _checked(path, unit, rows):
  """List of facts from (place, row), each checked, without the optional columns that are null."""
  facts = []
  first = {}
  for place, row in rows:
    fact = {
      column: value for column, value in row.items() if value is not None or column not in _OPTIONAL
    }
    problem = _problem(fact)
    if problem:
      raise UserError(f"{_where(path, unit, place)}: {problem}")
    if "popularity" in fact:
      fact["popularity"] = float(fact["popularity"])
    key = (fact["subject"], fact["relation"], fact["object"])
    if first.setdefault(key, place) != place:
      raise UserError(
        f"{_where(path, unit, place)}: expected each fact once, got {key} again (first in "
        f"{unit} {first[key]}); remove one"
      )
    facts.append(fact)
  return facts


def _where(path, unit, place):
  return f"{path}:{place}" if unit == "line" else f"{path}: {unit} {place}"


def _problem(fact):
  """What is wrong with a fact, as "expected ..., got ...", or None."""
  for column, value in fact.items():
    check = _CHECKS.get(column)
    if check and not check[0](value):
      return f"expected {check[1]} in column `{column}`, got {value!r}"
  missing = [column for column in REQUIRED if column not in fact]
  if missing:
    return f"expected a column `{missing[0]}`, got the columns {', '.join(fact) or '(none)'}"
  return None


def _is_text(value):
  return isinstance(value, str) and value != "" and not value.isspace()


def _is_texts(value):
  return isinstance(value, list) and all(map(_is_text, value))


def _is_finite(value):
  try:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
  except OverflowError:
    return False


_CHECKS = {
  **{column: (_is_text, "a non-empty string") for column in REQUIRED + _TEXTS},
  **{column: (_is_texts, "a list of non-empty strings") for column in _LISTS},
  "popularity": (_is_finite, "a finite number"),
}


def _kind(path):
  name = str(path)
  stem = name[:-3] if name.endswith(".gz") else name
  kind = stem.rpartition(".")[2]
  if kind not in _ROWS or (kind == "parquet" and stem != name):
    raise UserError(
      f"{path}: expected a file name that ends in .jsonl, .csv, .tsv (each also with .gz) or "
      f".parquet; rename or convert the file"
    )
  return kind


def _jsonl_rows(path, _):
  for number, line in files.lines(path):
    if line and not line.isspace():
      yield number, json_object(line, f"{path}:{number}")


def _csv_rows(path, required):
  yield from _table_rows(path, _csv_records(path), required)


def _csv_records(path):
  """(line a record begins in, its cells)."""
  # `lines` takes the newline off, which a quoted cell may hold.
  reader = csv.reader((line + "\n" for _, line in files.lines(path)), strict=True)
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


def _tsv_rows(path, required):
  records = ((number, line.split("\t") if line else []) for number, line in files.lines(path))
  yield from _table_rows(path, records, required)


def _table_rows(path, records, required):
  """Rows from (line, cells): the header names the columns; empty cells of optional columns become None."""
  number, header = next(records, (1, None))
  if header is None:
    return
  if not set(required) <= set(header):
    raise UserError(
      f"{path}:{number}: expected a header with the columns {', '.join(required)}, got {header}"
    )
  if len(set(header)) != len(header):
    raise UserError(f"{path}:{number}: expected each column once, got {header}")
  for number, cells in records:
    if not cells:
      continue
    if len(cells) != len(header):
      raise UserError(
        f"{path}:{number}: expected {len(header)} cells as in the header, got {len(cells)}: "
        f"{cells[:8]}"
      )
    yield number, {column: _cell(path, number, column, cell) for column, cell in zip(header, cells)}


def _cell(path, number, column, cell):
  if column not in _OPTIONAL:
    return cell
  if not cell:
    return None
  try:
    if column in _LISTS:
      return json.loads(cell)
    # Python reads "1_000" as 1000; nobody who writes it in a table can be relied on to mean that.
    return float(cell.replace("_", "?")) if column == "popularity" else cell
  except (ValueError, RecursionError) as error:
    kind = "a JSON list of strings" if column in _LISTS else "a number"
    raise UserError(
      f"{path}:{number}: expected {kind} in column `{column}`, got {cell!r}"
    ) from error


def _parquet_rows(path, required):
  import pyarrow
  import pyarrow.parquet

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      missing = [column for column in required if column not in file.schema_arrow.names]
      if missing:
        raise UserError(
          f"{path}: expected the columns {', '.join(required)}, got {file.schema_arrow.names}"
        )
      number = 0
      for batch in file.iter_batches():
        for number, row in enumerate(batch.to_pylist(), number + 1):
          yield number, row
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(
      f"{path}: expected a parquet file, got an error on reading it: {error}"
    ) from error


def _columns(facts):
  """All columns of the facts: those of the schema first, then others as they appear."""
  seen = dict.fromkeys(column for fact in facts for column in fact)
  return [column for column in COLUMNS if column in seen] + [
    column for column in seen if column not in COLUMNS
  ]


def _write_jsonl(path, facts):
  with files.atomic_write(path) as file:
    for fact in facts:
      file.write(json.dumps(fact, ensure_ascii=False) + "\n")


def _write_csv(path, facts):
  columns = _columns(facts)
  with files.atomic_write(path) as file:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(_texts(path, fact, columns, "\r") for fact in facts)


def _write_tsv(path, facts):
  columns = _columns(facts)
  with files.atomic_write(path) as file:
    file.write("\t".join(columns) + "\n")
    for fact in facts:
      file.write("\t".join(_texts(path, fact, columns, "\t\n\r")) + "\n")


def _texts(path, fact, columns, forbidden):
  """A fact's cells as text: strings as they are, nothing where a column is absent, JSON for the rest."""
  cells = []
  for column in columns:
    value = fact.get(column)
    cell = (
      ""
      if value is None
      else value
      if isinstance(value, str)
      else json.dumps(value, ensure_ascii=False)
    )
    if any(letter in cell for letter in forbidden):
      raise UserError(
        f"{path}: expected cells without {' or '.join(map(repr, forbidden))}, got {cell!r} in "
        f"column `{column}`; write .jsonl instead"
      )
    cells.append(cell)
  return cells


def _write_parquet(path, facts):
  import pyarrow
  import pyarrow.parquet

  try:
    table = pyarrow.table(
      {column: [fact.get(column) for fact in facts] for column in _columns(facts)}
    )
  except pyarrow.ArrowException as error:
    raise UserError(
      f"{path}: expected values of one type in each column, got: {error}; write .jsonl instead"
    ) from error
  with files.atomic_write(path, binary=True) as file:
    pyarrow.parquet.write_table(table, file)


_ROWS = {"jsonl": _jsonl_rows, "csv": _csv_rows, "tsv": _tsv_rows, "parquet": _parquet_rows}
_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "tsv": _write_tsv, "parquet": _write_parquet}
