"""The documents of text files: a line each, or a row each of a table with a column of text."""

import glob
import os

from factshock import files
from factshock.console import UserError
from factshock.facts import schema

FIELDS = ("text", "sentence")  # the columns that hold the text, the first there is
_TABLES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def paths(pattern):
  """The files that a glob pattern names, sorted. Raises: UserError where there is none."""
  found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
  if not found:
    raise UserError(f"{pattern}: no such file; a corpus is text files (.gz too), or .jsonl, .csv, .tsv or .parquet with a column "
                    f"{' or '.join(FIELDS)}")
  return found


def is_table(path):
  """Whether a file is read as a table; else each line is a document."""
  return path.endswith(_TABLES)


def read(path):
  """Yields the documents of a file, empty ones left out.

  Raises:
    UserError: a table without a column of text, or a file that is broken (naming the line).
  """
  if not is_table(path):
    yield from (line for _, line in files.lines(path) if line and not line.isspace())
    return
  field = None
  for place, row in schema.read_rows(path, ()):
    field = field or next((name for name in FIELDS if name in row), None)
    if not isinstance(row.get(field), str):
      raise UserError(f"{place}: expected text in a column {' or '.join(FIELDS)}, got the columns {', '.join(map(str, row))[:200]}")
    if row[field] and not row[field].isspace():
      yield row[field]
