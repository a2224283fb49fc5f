"""The documents of text, in parts: lines of text files, rows of tables, of hub data sets and of TFDS.

A corpus is written as the path of a file or a glob pattern; as hub:NAME?split=train (further keys:
config, data_files and column) or as tfds:NAME?split=train (further key: column); or as several of
these with commas between. Files are text, a document a line, or tables (.jsonl, .json of an object
a line, .csv, .tsv, .parquet) with a column `text` or `sentence`; .gz too but for parquet.
"""

import glob
import itertools
import os
import urllib.parse
from typing import NamedTuple

from factshock.facts import hub, schema
from factshock.runtime import files
from factshock.runtime.errors import UserError

FIELDS = ("text", "sentence")  # the columns that hold the text, the first there is
PART_BYTES = 64 << 20  # of a text file that is not compressed; other files are one part each
PART_ROWS = 50_000  # of a data set
_ROW_BYTES = 1000  # of a data set that does not say how large it is
_KEYS = {"hub": ("split", "config", "data_files", "column"), "tfds": ("split", "column")}


class Part(NamedTuple):
  """A part of a corpus that is read at one go."""

  where: str  # a file, or a data set as it is written in the corpus
  begin: int  # the first byte of a text file, or the first row of a data set
  end: object  # the byte or row to stop before; None: the whole file
  size: int  # bytes, of a data set an estimate
  version: str  # differs where the part's text may


def corpora(pattern):
  """The corpora that a text names: those between its commas."""
  return [one.strip() for one in pattern.split(",") if one.strip()]


def parts(pattern):
  """The parts of a corpus or several, in order. Raises: UserError where there are no such files or data sets."""
  return [
    part
    for one in corpora(pattern)
    for part in (_rows_parts(one) if is_data_set(one) else _file_parts(one))
  ]


def read(pattern):
  """Yields the documents of a corpus, empty ones left out.

  Raises:
    UserError: a table without a column of text, or a file that is broken (naming the line).
  """
  return itertools.chain.from_iterable(map(read_part, parts(pattern)))


def read_part(part):
  """Yields the documents of a part. Raises: as `read`."""
  if is_data_set(part.where):
    texts = _rows(part)
  elif part.end is not None:
    texts = _lines(part)
  elif part.where.endswith(schema.SUFFIXES):
    rows = schema.read_rows(part.where, ())
    texts = (text_of(row, place) for place, row in rows)
  else:
    texts = (line for _, line in files.lines(part.where))
  return (text for text in texts if text and not text.isspace())


def paths(pattern):
  """The files that a glob pattern names, sorted. Raises: UserError where there is none."""
  found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
  if not found:
    raise UserError(
      f"{pattern}: no such file; a corpus is text files (.gz too), .jsonl, .csv, .tsv or .parquet with a column "
      f"{' or '.join(FIELDS)}, or a data set as hub:NAME or tfds:NAME"
    )
  return found


def is_data_set(corpus):
  """Whether a corpus is a data set of the hub or of TFDS, and not files."""
  return corpus.partition(":")[0] in _KEYS


def text_of(row, place, column=None):
  """The text of a table's row: of the column named, or of the first of FIELDS there is. Raises: UserError without one."""
  column = column or next((name for name in FIELDS if name in row), None)
  text = row.get(column)
  if isinstance(text, bytes):
    text = text.decode("utf-8")
  if not isinstance(text, str):
    raise UserError(
      f"{place}: expected text in a column {' or '.join(FIELDS)}, got the columns {', '.join(map(str, row))[:200]}"
    )
  return text


def _file_parts(pattern):
  found = []
  for path in paths(pattern):
    status = os.stat(path)
    version = f"{status.st_size} bytes of {status.st_mtime_ns}"
    if path.endswith(schema.SUFFIXES) or path.endswith(".gz"):
      found.append(Part(path, 0, None, status.st_size, version))
    else:
      edges = [*range(0, max(1, status.st_size), PART_BYTES), status.st_size]
      found += [
        Part(path, begin, end, end - begin, version) for begin, end in zip(edges, edges[1:])
      ]
  return found


def _rows_parts(corpus):
  data, _ = _open(corpus)
  size = len(data)
  version = str(getattr(data, "_fingerprint", len(data)))
  row_bytes = (getattr(data, "dataset_size", None) or size * _ROW_BYTES) / max(1, size)
  edges = [*range(0, max(1, size), PART_ROWS), size]
  return [
    Part(corpus, begin, end, round((end - begin) * row_bytes), version)
    for begin, end in zip(edges, edges[1:])
  ]


def _open(corpus):
  """(the data set, its column of text or None) of a corpus written hub:NAME?... or tfds:NAME?..."""
  prefix, _, rest = corpus.partition(":")
  name, _, query = rest.partition("?")
  options = dict(urllib.parse.parse_qsl(query))
  if not name or not options.keys() <= set(_KEYS[prefix]):
    raise UserError(
      f"{corpus}: expected {prefix}:NAME?split=... with keys of {', '.join(_KEYS[prefix])}, got {rest!r}"
    )
  column = options.pop("column", None)
  return (
    hub.open_hub(name, **options)
    if prefix == "hub"
    else hub.open_tfds(name, options.get("split", "train"))
  ), column


def _rows(part):
  data, column = _open(part.where)
  for number in range(part.begin, part.end):
    yield text_of(data[number], f"{part.where}: row {number + 1}", column)


def _lines(part):
  """The lines of a text file that begin in its bytes from part.begin up to before part.end."""
  with open(part.where, "rb") as file:
    file.seek(max(0, part.begin - 1))
    if part.begin:
      file.readline()  # the rest of a line of the part before, or its line break
    while (place := file.tell()) < part.end and (line := file.readline()):
      try:
        yield line.decode("utf-8").rstrip("\r\n")
      except UnicodeDecodeError as error:
        raise UserError(
          f"{part.where}: expected UTF-8 text, got the byte {line[error.start]:#04x} at byte {place + error.start}; "
          "convert the file to UTF-8"
        ) from error
