"""Documents of text, in parts: lines of text files, rows of tables, of hub data sets and of TFDS.

A corpus is written as the path of a file or a glob pattern; as hub:NAME?split=train (further keys:
config, data_files and column) or as tfds:NAME?split=train (further key: column); or as several of
these with commas between. Files are text, a document a line, or tables (.jsonl, .json of an object
a line, .csv, .tsv, .parquet) with a column `text` or `sentence`; compressed too (.gz, .bz2, .xz,
.zst), but for parquet.
"""

import itertools
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

from factshock.facts import hub, schema
from factshock.runtime import files
from factshock.runtime.errors import UserError

FIELDS = ("text", "sentence")  # the columns that hold the text, the first there is
PART_BYTES = 64 << 20  # of a text file that is not compressed; other files are one part each
PART_ROWS = 50_000  # of a data set
_PIECE = 1 << 20  # bytes of a line that is skipped, at a time
_ROW_BYTES = 1000  # of a data set that does not say how large it is
_KEYS = {
  "hub": ("split", "config", "data_files", "column"),
  "tfds": ("split", "column"),
}


class Part(NamedTuple):
  """Part of a corpus that is read at one go.

  `path` is a file, or a data set as it is written in the corpus. `begin` is the first byte of a
  text file, or the first row of a data set; `end` the byte or row to stop before, None for the
  whole file. `size` is in bytes, of a data set an estimate. `version` differs where the part's text
  may.
  """

  path: str
  begin: int
  end: int | None
  size: int
  version: str


def corpora(pattern: str) -> list[str]:
  """Returns the corpora that a text names: those between its commas."""
  stripped = [corpus.strip() for corpus in pattern.split(",")]
  return [corpus for corpus in stripped if corpus]


def parts(pattern: str) -> list[Part]:
  """Returns the parts of one corpus or more, in order.

  Raises:
    UserError: there are no such files or data sets.
  """
  all_parts: list[Part] = []
  for corpus in corpora(pattern):
    if is_data_set(corpus):
      all_parts += _rows_parts(corpus)
    else:
      all_parts += _file_parts(corpus)
  return all_parts


def read(pattern: str) -> Iterator[str]:
  """Yields the documents of a corpus, empty ones left out.

  Raises:
    UserError: a table without a column of text, or a file that is broken (naming the line).
  """
  return itertools.chain.from_iterable(map(read_part, parts(pattern)))


def read_part(part: Part) -> Iterator[str]:
  """Yields the documents of a part.

  Raises:
    UserError: as `read`.
  """
  texts = _texts(part)
  return (text for text in texts if text and not text.isspace())


def _texts(part: Part) -> Iterable[str]:
  if is_data_set(part.path):
    return _rows(part)
  if part.end is not None:
    return _lines(part, part.end)
  if part.path.endswith(schema.JSON_SUFFIXES):
    rows = schema.json_rows(part.path, files.LONGEST_DOCUMENT)
    return (text_of(row, f"{part.path}:{line_number}") for line_number, row in rows)
  if part.path.endswith(schema.SUFFIXES):
    rows = schema.read_rows(part.path, ())
    return (text_of(row, location) for location, row in rows)
  return (line for _, line in files.lines(part.path, files.LONGEST_DOCUMENT))


def paths(pattern: str) -> list[str]:
  """Returns the files that a glob pattern names, sorted.

  Raises:
    UserError: there is none.
  """
  matches = files.matching(pattern)
  if not matches:
    columns = " or ".join(FIELDS)
    raise UserError(
      f"{pattern}: no such file; a corpus is text files, .jsonl, .csv or .tsv (each also with "
      f"{files.LISTED_COMPRESSIONS}) or .parquet with a column {columns}, or a data "
      "set as hub:NAME or tfds:NAME"
    )
  return matches


def is_data_set(corpus: str) -> bool:
  """Returns whether a corpus is a data set of the hub or of TFDS, and not files."""
  prefix, _, _ = corpus.partition(":")
  return prefix in _KEYS


def text_of(
  row: Mapping[str, Any],
  location: str,
  column: str | None = None,
) -> str:
  """Returns the text of a table's row.

  Args:
    row: by column.
    location: opens the error.
    column: holds the text; by default the first of FIELDS there is.

  Raises:
    UserError: there is none.
  """
  if not column:
    known_columns = (name for name in FIELDS if name in row)
    column = next(known_columns, None)
  text = row.get(column) if column else None
  if isinstance(text, bytes):
    text = text.decode("utf-8")
  if not isinstance(text, str):
    expected = " or ".join(FIELDS)
    columns = ", ".join(map(str, row))
    raise UserError(
      f"{location}: expected text in a column {expected}, got the columns {columns[:200]}"
    )
  return text


def _file_parts(pattern: str) -> list[Part]:
  file_parts: list[Part] = []
  for path in paths(pattern):
    status = os.stat(path)
    size = status.st_size
    version = f"{size} bytes of {status.st_mtime_ns}"
    if path.endswith((*schema.SUFFIXES, *files.COMPRESSIONS)):
      file_parts.append(Part(path, 0, None, size, version))
      continue
    begins = range(0, max(1, size), PART_BYTES)
    for begin, end in itertools.pairwise([*begins, size]):
      file_parts.append(Part(path, begin, end, end - begin, version))
  return file_parts


def _rows_parts(corpus: str) -> list[Part]:
  data_set, _ = _open(corpus)
  size = len(data_set)
  at_least_1 = max(1, size)
  version = str(getattr(data_set, "_fingerprint", size))
  known_bytes = getattr(data_set, "dataset_size", None)
  total_bytes = known_bytes or size * _ROW_BYTES
  row_bytes = total_bytes / at_least_1
  begins = range(0, at_least_1, PART_ROWS)
  row_parts: list[Part] = []
  for begin, end in itertools.pairwise([*begins, size]):
    part_bytes = round((end - begin) * row_bytes)
    row_parts.append(Part(corpus, begin, end, part_bytes, version))
  return row_parts


def _open(corpus: str) -> tuple[hub.DataSet, str | None]:
  """Opens a corpus written hub:NAME?... or tfds:NAME?...; returns its column of text too."""
  prefix, _, rest = corpus.partition(":")
  name, _, query = rest.partition("?")
  options = dict(urllib.parse.parse_qsl(query))
  keys = _KEYS[prefix]
  if not name or not options.keys() <= set(keys):
    listed = ", ".join(keys)
    raise UserError(
      f"{corpus}: expected {prefix}:NAME?split=... with keys of {listed}, got {rest!r}"
    )
  column = options.pop("column", None)
  if prefix == "hub":
    return hub.open_hub(name, **options), column
  split = options.get("split", "train")
  return hub.open_tfds(name, split), column


def _rows(part: Part) -> Iterator[str]:
  data_set, column = _open(part.path)
  end = len(data_set) if part.end is None else part.end
  for index in range(part.begin, end):
    location = f"{part.path}: row {index + 1}"
    yield text_of(data_set[index], location, column)


def _lines(part: Part, end: int) -> Iterator[str]:
  """Yields the lines of a text file that begin in its bytes from part.begin up to before `end`."""
  with open(part.path, "rb") as file:
    file.seek(max(0, part.begin - 1))
    if part.begin:
      _skip_line(file)  # the rest of a line of the part before, or its line break
    longest = files.LONGEST_DOCUMENT
    while (position := file.tell()) < end and (line := file.readline(longest + 1)):
      if len(line) > longest:
        raise files.too_long(f"{part.path}: byte {position}", longest)
      try:
        text = line.decode("utf-8" if position else "utf-8-sig")
      except UnicodeDecodeError as error:
        raise files.not_utf8(part.path, error) from error
      yield from text.rstrip("\r\n").split("\r")  # a return alone ends a line, as in `files.lines`


def _skip_line(file: IO[bytes]) -> None:
  """Reads up to the next line break, a piece at a time."""
  while (piece := file.readline(_PIECE)) and not piece.endswith(b"\n"):
    pass
